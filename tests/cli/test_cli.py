"""The console script as a user calls it."""

import sys

import numpy as np
import pytest
from PIL import Image

from gsjax.cli import main, render
from gsjax.io import formats, ply


@pytest.fixture
def splat(tmp_path):
    """A ball of 200 red Gaussians, as a .ply file."""
    rng = np.random.default_rng(0)
    n = 200
    means = rng.normal(size=(n, 3)).astype(np.float32)
    quats = np.tile(np.array([1.0, 0, 0, 0], np.float32), (n, 1))
    sh = np.zeros((n, 1, 3), np.float32)
    sh[..., 0], sh[..., 1:] = 1.7, -1.7
    path = tmp_path / "ball.ply"
    formats.save_gaussians(
        path,
        dict(
            means=means / np.linalg.norm(means, axis=1, keepdims=True),
            quats=quats,
            log_scales=np.full((n, 3), -2.0, np.float32),
            logit_opacities=np.full(n, 4.0, np.float32),
            sh=sh,
        ),
    )
    return path


def test_info_lists_versions_and_backends(capsys):
    assert main.run(["info"]) == 0
    printed = capsys.readouterr().out
    assert "jax " in printed and "xla_loop" in printed and "devices: " in printed


def test_info_describes_a_file(splat, capsys):
    assert main.run(["info", str(splat)]) == 0
    assert "200 Gaussians, SH degree 0" in capsys.readouterr().out


def test_render_writes_the_object_on_its_background(splat, tmp_path):
    out = tmp_path / "ball.png"
    arguments = ["render", str(splat), "--out", str(out), "--views", "2", "--size", "48"]
    assert main.run(arguments) == 0
    picture = np.asarray(Image.open(out))
    assert picture.shape == (48, 96, 3)
    np.testing.assert_array_equal(picture[0, 0], 255)
    center = picture[24, 24].astype(int)
    assert center[0] > 200 and center[1] < 60


@pytest.mark.slow
def test_render_depth_is_brightest_in_the_middle_of_a_ball(splat, tmp_path):
    out = tmp_path / "depth.png"
    assert main.run(["render", str(splat), "--out", str(out), "--size", "48", "--depth"]) == 0
    picture = np.asarray(Image.open(out))[..., 0].astype(int)
    assert picture[24, 24] > 200 and picture[0, 0] == 0


def _thin(splat):
    """Gaussians far thinner than a pixel, so that the 2D filter fades them."""
    scene = formats.load_gaussians(splat)
    scene["log_scales"][:] = -5.0
    return scene


def _rendered(path, out, *extra):
    assert main.run(["render", str(path), "--out", str(out), "--size", "32", *extra]) == 0
    return np.asarray(Image.open(out)).astype(int)


@pytest.mark.slow
def test_render_draws_antialiased_what_was_trained_so(splat, tmp_path):
    scene, out = _thin(splat), tmp_path / "a.png"
    said, plain, flagged = tmp_path / "said.ply", tmp_path / "plain.ply", tmp_path / "flag.spz"
    formats.save_gaussians(plain, scene)
    formats.save_gaussians(said, scene, comments=[ply.ANTIALIASED])
    formats.save_gaussians(flagged, scene, antialiased=True)
    classic = _rendered(plain, out)
    filtered = _rendered(plain, out, "--antialiased")
    assert np.abs(classic - filtered).mean() > 2  # two pictures indeed
    np.testing.assert_array_equal(_rendered(said, out), filtered)
    np.testing.assert_array_equal(_rendered(said, out, "--no-antialiased"), classic)
    # SPZ rounds the scene; it is near the filtered picture and far from the other.
    near, far = (np.abs(_rendered(flagged, out) - p).mean() for p in (filtered, classic))
    assert near < 0.3 * far
    assert not render.trained_antialiased(tmp_path / "none.splat")


def _spoilt(splat):
    """The ball with one Gaussian whose place is NaN (as no writer of ours would have it)."""
    data = bytearray(splat.read_bytes())
    start = data.index(b"end_header\n") + len(b"end_header\n")
    data[start : start + 4] = np.float32("nan").tobytes()
    splat.write_bytes(data)


def test_bad_rows_are_refused_with_a_remedy_that_the_commands_have(splat, tmp_path, capsys):
    _spoilt(splat)
    out = str(tmp_path / "a.png")
    commands = (["info", str(splat)], ["render", str(splat), "--out", out, "--size", "16"])
    for command in commands:
        assert main.run(command) == 2
        assert "--drop_bad_rows" in capsys.readouterr().err
        assert main.run([*command, "--drop_bad_rows"]) == 0
        assert "199 " in capsys.readouterr().out


def test_info_names_all_formats_that_it_reads(capsys):
    with pytest.raises(SystemExit):
        main.run(["info", "--help"])
    shown = capsys.readouterr().out
    assert all(ending in shown for ending in formats.FORMATS | formats.NAMED_FORMATS)


def _stripes(splat):
    """Colours the ball's half at negative x blue, so that a turn of it shows."""
    scene = formats.load_gaussians(splat)
    left = scene["means"][:, 0] < 0
    scene["sh"][left] = np.array([-1.7, -1.7, 1.7], np.float32)
    formats.save_gaussians(splat, scene)


def test_render_writes_a_turntable_gif(splat, tmp_path):
    _stripes(splat)
    out, strip = tmp_path / "ball.gif", tmp_path / "ball.png"
    orbit = ["render", str(splat), "--views", "4", "--size", "48", "--azimuth", "0"]
    assert main.run([*orbit, "--out", str(out), "--fps", "10"]) == 0
    assert main.run([*orbit, "--out", str(strip)]) == 0
    stills = np.asarray(Image.open(strip)).astype(int)
    with Image.open(out) as video:
        assert video.n_frames == 4 and video.info["duration"] == 100 and video.info["loop"] == 0
        for index in range(4):
            video.seek(index)
            frame = np.asarray(video.convert("RGB")).astype(int)
            still = stills[:, 48 * index : 48 * (index + 1)]
            # 256 colours shared by all frames.
            assert frame.shape == (48, 48, 3) and np.abs(frame - still).mean() < 6
            assert index != 1 or np.abs(frame - stills[:, :48]).mean() > 20


def test_render_writes_a_turntable_mp4(splat, tmp_path):
    imageio = pytest.importorskip("imageio.v2", reason="mp4 needs gsjax[video]")
    pytest.importorskip("imageio_ffmpeg", reason="mp4 needs gsjax[video]")
    _stripes(splat)
    out, strip = tmp_path / "ball.mp4", tmp_path / "ball.png"
    orbit = ["render", str(splat), "--views", "3", "--size", "48", "--fps", "10"]
    assert main.run([*orbit, "--out", str(out)]) == 0
    assert main.run([*orbit, "--out", str(strip)]) == 0
    with imageio.get_reader(out) as reader:
        frames = np.stack([frame for frame in reader.iter_data()]).astype(int)
        assert reader.get_meta_data()["fps"] == 10
    assert frames.shape == (3, 48, 48, 3)
    stills = np.stack(np.split(np.asarray(Image.open(strip)).astype(int), 3, axis=1))
    # H.264 halves the resolution of colour, which shows at the ball's edge.
    assert np.abs(frames - stills).mean() < 12
    assert np.abs(frames[1] - stills[0]).mean() > 20


@pytest.mark.slow
def test_the_missing_video_extra_is_named(splat, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    out = tmp_path / "ball.mp4"
    assert main.run(["render", str(splat), "--out", str(out), "--size", "16"]) == 2
    assert "pip install 'gsjax[video]'" in capsys.readouterr().err and not out.exists()


@pytest.mark.parametrize(
    "extra, message",
    [
        (["--size", "0"], "--size"),
        (["--fov", "180"], "--fov"),
        (["--distance", "nan"], "--distance"),
        (["--distance", "0"], "--distance"),
        (["--azimuth", "inf"], "--azimuth"),
        (["--background", "255", "255", "255"], "--background: found 255 255 255"),
        (["--background", "nan", "0", "0"], "--background"),
        (["--out", "x.bmp"], "--out"),
        (["--out", "x.gif", "--fps", "0"], "--fps"),
        (["--out", "x.mp4", "--size", "47"], "even number"),
    ],
)
def test_bad_arguments_are_named(splat, capsys, extra, message):
    assert main.run(["render", str(splat), *extra]) == 2
    assert message in capsys.readouterr().err


def test_paths_that_cannot_be_used_are_no_traceback(splat, tmp_path, capsys):
    (tmp_path / "folder.ply").mkdir()
    (tmp_path / "folder.png").mkdir()
    out = ["render", str(splat), "--size", "16", "--out"]
    for arguments, name in (
        (["info", str(tmp_path / "folder.ply")], "folder.ply"),
        (["info", str(splat / "inside.ply")], "inside.ply"),
        ([*out, str(tmp_path / "folder.png")], "folder.png"),
        ([*out, str(splat / "a.png")], "ball.ply"),
    ):
        assert main.run(arguments) == 2
        said = capsys.readouterr().err.splitlines()
        assert len(said) == 1 and said[0].startswith(f"gsjax {arguments[0]}: ") and name in said[0]


def test_a_missing_file_is_no_traceback(tmp_path, capsys):
    assert main.run(["info", str(tmp_path / "none.ply")]) == 2
    assert "none.ply" in capsys.readouterr().err
