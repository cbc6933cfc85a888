"""``gsjax fit`` and ``gsjax fit-objects`` as a user calls them."""

import json
import signal

import jax
import numpy as np
import pytest
from PIL import Image

from gsjax.cli import fit, main
from gsjax.data import fitted
from gsjax.io import formats
from gsjax.systems.scene_fit import data, many
from gsjax.train import checkpoint, identity
from tests.systems.scene_fit import scenes

STOPPED = 42


@pytest.fixture(autouse=True)
def _signals_as_before():
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


def _call(*arguments) -> int:
    return main.run([str(x) for x in arguments])


# --- fit ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    """Six RGBA pictures of a ball and their transforms.json (camera to world, OpenGL axes)."""
    folder, views = tmp_path_factory.mktemp("photographs"), scenes.views(0)
    frames = []
    for number, (image, viewmat) in enumerate(zip(views.images, views.viewmats, strict=True)):
        Image.fromarray(image).save(folder / f"{number:03d}.png")
        matrix = np.linalg.inv(viewmat) @ np.diag([1.0, -1.0, -1.0, 1.0])
        frames.append({"file_path": f"{number:03d}.png", "transform_matrix": matrix.tolist()})
    K = views.Ks[0].tolist()
    camera = dict(fl_x=K[0][0], fl_y=K[1][1], cx=K[0][2], cy=K[1][2], w=scenes.SIZE, h=scenes.SIZE)
    (folder / "transforms.json").write_text(json.dumps(camera | {"frames": frames}))
    return folder


def _fit(source, out, *extra):
    sizes = ("--size", "quick", "--num_steps", 200, "--num_gaussians", 80, "--test_every", 3)
    return _call("fit", source, "--out", out, *sizes, *extra)


@pytest.mark.slow
def test_fit_stops_in_time_goes_on_and_does_nothing_twice(photographs, tmp_path, capsys):
    assert _fit(photographs, tmp_path, "--time_limit", 1e-9) == STOPPED
    assert "preempted at step 100" in capsys.readouterr().out
    assert not (tmp_path / "scene.ply").exists()
    assert _fit(photographs, tmp_path) == 0
    printed = capsys.readouterr().out
    assert f"{tmp_path}/scene.ply: " in printed and "psnr " in printed
    assert "_image" not in printed  # what pictures that know nothing would score
    assert len(formats.load_gaussians(tmp_path / "scene.ply")["means"]) == 80
    metrics = json.loads((tmp_path / "eval.json").read_text())["metrics"]
    assert metrics["test_psnr"] > 10 and metrics["gaussians"] == 80
    cameras = json.loads((tmp_path / "cameras.json").read_text())
    assert len(cameras["train"]["Ks"]) == 4 and len(cameras["test"]["Ks"]) == 2
    saved = tmp_path / "checkpoints" / "200"
    before = saved.stat().st_mtime_ns
    assert _fit(photographs, tmp_path) == 0
    assert capsys.readouterr().out == printed and saved.stat().st_mtime_ns == before
    assert _fit(photographs, tmp_path, "--seed", 3) == 2
    assert "seed: found 0, expected 3" in _one_line(capsys, "fit")
    assert _fit(photographs, tmp_path / "whole") == 0  # without a stop
    for name in ("scene.ply", "cameras.json", "pictures/held_out.png"):
        assert (tmp_path / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name


def _one_line(capsys, command) -> str:
    """The message of a call that failed: one line on stderr that names the command, no traceback."""
    lines = capsys.readouterr().err.splitlines()
    said = [line for line in lines if line.startswith(f"gsjax {command}: ")]
    assert len(said) == 1 and said[0] == lines[-1] and not any("Traceback" in x for x in lines)
    return said[0]


@pytest.mark.slow
def test_fit_into_the_folder_of_another_scene_is_refused(photographs, tmp_path, capsys):
    first = main._parser().parse_args(["fit", str(tmp_path / "scene_a"), "--out", str(tmp_path)])
    saved = checkpoint.Checkpoints(tmp_path, keep=1)
    facts = identity.info(fit.config_of(first))
    saved.save(3000, {"x": jax.numpy.zeros(2)}, {}, facts, wait=True)
    saved.close()
    assert _call("fit", photographs, "--out", tmp_path) == 2
    said = _one_line(capsys, "fit")
    assert f"data.source: found '{tmp_path / 'scene_a'}', expected '{photographs}'" in said
    assert "fit." not in said and "another folder" in said
    assert not (tmp_path / "config.json").exists() and not (tmp_path / "scene.ply").exists()


@pytest.mark.parametrize(
    "extra, message",
    [
        (("--num_gaussians", -3), "num_gaussians"),
        (("--num_steps", -1), "num_steps"),
        (("--downscale", 0), "downscale"),
        (("--test_every", 1), "every"),
        (("--time_limit", -1), "time_limit"),
    ],
)
def test_fit_names_bad_settings(photographs, tmp_path, capsys, extra, message):
    assert _fit(photographs, tmp_path, *extra) == 2
    assert message in _one_line(capsys, "fit")


def test_fit_names_sources_that_are_none(photographs, tmp_path, capsys):
    assert _fit(tmp_path / "nowhere", tmp_path / "out") == 2
    assert "nowhere" in _one_line(capsys, "fit")
    assert _fit(tmp_path, tmp_path / "out") == 2
    assert str(tmp_path) in _one_line(capsys, "fit")
    (tmp_path / "transforms.json").write_text('{"frames": [')
    assert _fit(tmp_path, tmp_path / "out") == 2
    assert "not readable JSON" in _one_line(capsys, "fit")
    (tmp_path / "empty.obj").write_text("")
    assert _fit(tmp_path / "empty.obj", tmp_path / "out") == 2
    assert "empty.obj" in _one_line(capsys, "fit")
    (tmp_path / "mesh.ply").write_text("ply\n")
    assert _fit(tmp_path / "mesh.ply", tmp_path / "out") == 2
    said = _one_line(capsys, "fit")
    assert "mesh.ply" in said and all(ending in said for ending in data.MESH_SUFFIXES)


@pytest.mark.parametrize("command", ["fit", "fit-objects"])
def test_unknown_choices_and_missing_options_exit_2(command, tmp_path, capsys):
    choice = {"fit": "--strategy", "fit-objects": "--recipe"}[command]
    for arguments in ([], ["--out", str(tmp_path), choice, "none"]):
        with pytest.raises(SystemExit) as error:
            _call(command, tmp_path, *arguments)
        assert error.value.code == 2
        assert ("--out" if not arguments else choice) in capsys.readouterr().err


def test_fit_of_a_loss_that_is_not_finite_is_no_traceback(monkeypatch, tmp_path, capsys):
    from gsjax.train import loop

    def diverging(config, out):
        raise FloatingPointError("the loss is nan at step 100")

    monkeypatch.setattr(loop, "run", diverging)
    assert _fit(tmp_path, tmp_path) == 1
    assert "nan at step 100" in _one_line(capsys, "fit")


# --- fit-objects --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def boxes(tmp_path_factory):
    """Three boxes of different shapes and colours as .npz files in two categories."""
    folder = tmp_path_factory.mktemp("boxes")
    corners = np.stack(np.meshgrid([0, 1], [0, 1], [0, 1], indexing="ij"), -1).reshape(-1, 3) - 0.5
    quads = [(0, 1, 3, 2), (4, 6, 7, 5), (0, 4, 5, 1), (2, 3, 7, 6), (0, 2, 6, 4), (1, 5, 7, 3)]
    faces = np.array([t for a, b, c, d in quads for t in ((a, b, c), (a, c, d))])
    for number, place in enumerate(("flat", "flat", "tall")):
        (folder / place).mkdir(exist_ok=True)
        rgb = np.random.default_rng(number).integers(0, 255, (12, 3)).astype(np.uint8)
        vertices = corners * [1, 0.3 + 0.5 * number, 0.6]
        np.savez(folder / place / f"box_{number}.npz", vertices=vertices, faces=faces, face_rgb=rgb)
    return folder


@pytest.fixture
def one_device(monkeypatch):
    """Waves of this process's first device, whatever number of devices it was started with."""
    mesh = many.make_mesh(jax.devices()[:1])
    monkeypatch.setattr(many, "make_mesh", lambda: mesh)


def _objects(source, out, *extra):
    sizes = "--num_steps 20 --num_gaussians 64 --views 6 --held_out 2 --size 24 --batch 2".split()
    devices = ("--devices", len(jax.devices()))  # a process that has them cannot take others
    return _call("fit-objects", source, "--out", out, *sizes, *devices, *extra)


def _counts(capsys):
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    return result["fitted"], result["failed"], result["left"]


def _waves(folder):
    return {path.name: path.stat().st_mtime_ns for path in folder.glob("wave-*")}


@pytest.mark.slow
def test_fit_objects_fits_all_and_nothing_twice(boxes, one_device, tmp_path, capsys):
    assert _objects(boxes, tmp_path) == 0
    assert _counts(capsys) == (3, 0, 0)
    found = list(fitted.read(tmp_path))
    assert [o.about["category"] for o in found] == ["flat", "flat", "tall"]
    assert all(len(o.gaussians["means"]) > 30 and o.scores["psnr"] > 10 for o in found)
    before = _waves(tmp_path)
    assert _objects(boxes, tmp_path) == 0
    assert _counts(capsys) == (0, 0, 0) and _waves(tmp_path) == before
    # Another number of steps is another data set.
    assert _objects(boxes, tmp_path, "--num_steps", 10) == 2
    assert "recipe" in _one_line(capsys, "fit-objects")


@pytest.mark.slow
def test_shards_and_interrupted_runs_give_the_same_objects(boxes, one_device, tmp_path, capsys):
    shards, pieces = tmp_path / "shards", tmp_path / "pieces"
    for shard, fits in ((1, 1), (0, 2)):
        assert _objects(boxes, shards, "--shard", shard, "--num_shards", 2) == 0
        assert _counts(capsys) == (fits, 0, 0)
    assert _objects(boxes, pieces, "--time_limit", 1e-9) == STOPPED
    assert _counts(capsys) == (2, 0, 1)
    assert _objects(boxes, pieces, "--time_limit", 1e-9) == 0
    assert _counts(capsys) == (1, 0, 0)
    for a, b in zip(fitted.read(shards), fitted.read(pieces), strict=True):
        assert a.number == b.number and a.about == b.about
        for name in fitted.FIELDS:
            np.testing.assert_array_equal(a.gaussians[name], b.gaussians[name])


@pytest.mark.parametrize(
    "extra, message",
    [
        (("--views", 8), "--views: found 8"),
        (("--shard", 2, "--num_shards", 2), "shard: found 2 of 2"),
        (("--numbers", "0,3"), "--numbers: [3]"),
        (("--numbers", "first"), "--numbers: found 'first'"),
        (("--num_gaussians", -1), "--num_gaussians: found -1"),
        (("--held_out", 6), "--held_out: found 6"),
        (("--held_out", 0), "--held_out: found 0"),
        (("--size", -1), "--size: found -1"),
        (("--num_steps", -5), "--num_steps: found -5"),
        (("--batch", -1), "--batch: found -1"),
        (("--limit", -1), "--limit: found -1"),
        (("--time_limit", -1), "--time_limit: found -1"),
    ],
)
def test_fit_objects_names_bad_settings(boxes, one_device, tmp_path, capsys, extra, message):
    assert _objects(boxes, tmp_path / "out", *extra) == 2
    assert message in _one_line(capsys, "fit-objects")
    assert not (tmp_path / "out").exists()


def test_fit_objects_names_sources_that_are_none(tmp_path, one_device, capsys):
    for source in (tmp_path / "nowhere", tmp_path):
        assert _objects(source, tmp_path / "out") == 2
        assert str(source) in _one_line(capsys, "fit-objects")


def test_engines_number_the_shards(monkeypatch):
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "3")
    monkeypatch.setenv("SLURM_ARRAY_TASK_COUNT", "5")
    args = main._parser().parse_args(["fit-objects", "folder", "--out", "out"])
    assert (args.shard, args.num_shards) == (3, 5)
