"""The console script as a user calls it."""

import sys

import numpy as np
import pytest
from PIL import Image

from gsjax.cli import main
from gsjax.io import formats


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


def test_render_depth_is_brightest_in_the_middle_of_a_ball(splat, tmp_path):
    out = tmp_path / "depth.png"
    assert main.run(["render", str(splat), "--out", str(out), "--size", "48", "--depth"]) == 0
    picture = np.asarray(Image.open(out))[..., 0].astype(int)
    assert picture[24, 24] > 200 and picture[0, 0] == 0


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
        (["--out", "x.bmp"], "--out"),
        (["--out", "x.gif", "--fps", "0"], "--fps"),
        (["--out", "x.mp4", "--size", "47"], "even number"),
    ],
)
def test_bad_arguments_are_named(splat, capsys, extra, message):
    assert main.run(["render", str(splat), *extra]) == 2
    assert message in capsys.readouterr().err


def test_a_missing_file_is_no_traceback(tmp_path, capsys):
    assert main.run(["info", str(tmp_path / "none.ply")]) == 2
    assert "none.ply" in capsys.readouterr().err
