"""``gsjax reconstruct``: a room on disk to a splat file, the world it lies in, and what is refused."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest
from PIL import Image

from gsjax.cli import main, reconstruct, reconstruct_models, reconstruct_scene
from gsjax.core import gaussians, rays, rotations, sh
from gsjax.data import view_choice
from gsjax.data.rooms import source
from gsjax.io import archive, colmap, formats, ply, posed
from gsjax.models import name_tables
from gsjax.models.feedforward import mvsplat, mvsplat_tables, shared_tables
from gsjax.systems import base
from gsjax.train import trained
from tests.io import posed_scenes
from tests.models.feedforward import test_mvsplat

SIZE = (16, 32)  # of the network's pictures
STORED = (24, 40)  # of the photographs


@pytest.fixture(autouse=True)
def _commands(monkeypatch):
    monkeypatch.setattr(main, "COMMANDS", ("reconstruct", "convert"))  # imports no other


@pytest.fixture(scope="module")
def room():
    """Six frames of a room with exact depth."""
    recipe = source.Recipe(
        num_frames=6, height=STORED[0], width=STORED[1], fov_degrees=70.0, path="glide"
    )
    return source.Rooms(1, seed=3, split="train", recipe=recipe)[0]


@pytest.fixture(scope="module")
def photographs(room, tmp_path_factory):
    """The room as pictures with a transforms.json, as nerfstudio writes it."""
    folder = tmp_path_factory.mktemp("room")
    frames = []
    for i in range(room.num_frames):
        view, name = room.view(i), f"images/{i:03d}.png"
        (folder / "images").mkdir(exist_ok=True)
        Image.fromarray(view.image).save(folder / name)
        matrix = np.linalg.inv(view.viewmat) @ posed_scenes.FLIP
        frames.append(dict(file_path=name, transform_matrix=matrix.tolist()))
    K = view.K
    camera = dict(fl_x=K[0, 0], fl_y=K[1, 1], cx=K[0, 2], cy=K[1, 2], w=STORED[1], h=STORED[0])
    (folder / "transforms.json").write_text(json.dumps(camera | {"frames": frames}))
    return folder


@pytest.fixture(scope="module")
def tiny():
    """MVSplat at a tiny size and random weights."""
    module = mvsplat.MVSplat(test_mvsplat.TINY)
    shapes = shared_tables.abstract_variables(module, module.config.stride)
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda s: rng.normal(0, 0.3, s.shape).astype(np.float32), shapes)
    return module, {"params": params}


@pytest.fixture(scope="module")
def model(tiny):
    sizes = dict(height=SIZE[0], width=SIZE[1], near=1.0)
    return reconstruct_models.from_module(*tiny, name="tiny", **sizes)


def _surfaces(room):
    """A network that knows: one small opaque Gaussian at each pixel's surface, in the pixel's colour."""
    depth_of = {}
    for i in range(room.num_frames):
        view = room.view(i)
        depth_of[view.viewmat[:3, :3].tobytes()] = view.depth

    def predict(batch, scale, depths):
        images, Ks, c2ws = (batch[f"context_{n}"] for n in ("images", "Ks", "c2ws"))
        views, (height, width) = images.shape[1], images.shape[2:4]
        depths = np.stack(depths)[None] * scale
        xy = jnp.broadcast_to(rays.pixel_centers(height, width), (1, views, height, width, 2))
        points = rays.unproject(
            xy.reshape(1, views, -1, 2), jnp.asarray(depths).reshape(1, views, -1), Ks, c2ws
        )
        count = views * height * width
        colours = sh.rgb_to_sh0(jnp.asarray(images, jnp.float32) / 255).reshape(1, count, 1, 3)
        sizes = 0.5 * jnp.asarray(depths).reshape(1, count, 1) / (Ks[0, 0, 0, 0] * width)
        return dict(
            means=points.reshape(1, count, 3), quats=jnp.tile(jnp.eye(4)[0], (1, count, 1)),
            scales=jnp.tile(sizes, (1, 1, 3)), opacities=jnp.full((1, count), 0.95), sh=colours,
        )  # fmt: skip

    return predict


def _views(room, frames, move=(0.0, 0.0, 0.0), scale=1.0):
    """Frames of the room in a world moved and scaled."""
    found = []
    for frame in frames:
        view = room.view(frame)
        viewmat = view.viewmat.copy()
        viewmat[:3, 3] = scale * viewmat[:3, 3] - viewmat[:3, :3] @ np.asarray(move)
        found.append(dataclasses.replace(view, viewmat=viewmat))
    return found


@pytest.mark.parametrize("move, scale", [((0, 0, 0), 1.0), ((4e5, -2e5, 50), 3.0)])
def test_gaussians_lie_in_the_world_of_the_poses(room, move, scale):
    views = _views(room, (0, 3), move, scale)
    depths = [view.depth for view in views]
    seen = {}

    def predict(batch):
        seen.update(batch)
        return _surfaces(room)(batch, 1.0 / 0.35, depths)

    found = reconstruct_scene.reconstruct(views, predict, 0.35 * scale, 7 * scale, unit=1.0)
    # The network's scene: near is its unit, and cameras surround the origin, whatever the world.
    assert float(seen["near"][0]) == pytest.approx(1.0) and float(seen["far"][0]) == pytest.approx(
        20
    )
    np.testing.assert_allclose(seen["context_c2ws"][0, :, :3, 3].mean(0), 0, atol=1e-5)
    place = room.view(0)
    xy = np.asarray(rays.pixel_centers(*STORED)).reshape(-1, 2) * STORED[::-1]
    local = np.linalg.inv(place.K) @ np.concatenate((xy, np.ones((len(xy), 1))), 1).T
    c2w = np.linalg.inv(place.viewmat)
    world = (c2w[:3, :3] @ (local * place.depth.reshape(-1)) + c2w[:3, 3:]).T
    expected = scale * world + np.asarray(move)
    np.testing.assert_allclose(
        found.means[: len(xy)], expected, atol=2e-4 + 4e-7 * np.abs(move).max()
    )
    np.testing.assert_allclose(
        found.scales[: len(xy), 0], 0.5 * scale * place.depth.reshape(-1) / place.K[0, 0], rtol=1e-4
    )


def test_a_network_that_knows_the_depth_shows_the_room_from_other_places(room):
    views = _views(room, (0, 5))
    predict = _surfaces(room)
    g = reconstruct_scene.reconstruct(
        views, lambda b: predict(b, 1.0, [v.depth for v in views]), 0.35, 7.0
    )
    shown = [room.view(i) for i in (0, 3)]
    viewmats, Ks = np.stack([v.viewmat for v in shown]), np.stack([v.K for v in shown])
    drawn = reconstruct_scene.render(g, viewmats, Ks, STORED, 0.35)

    def apart(a, b):
        """Mean difference of blocks of 4 x 4 pixels: so coarse a picture of Gaussians is blurred."""
        a, b = (x.astype(float).reshape(6, 4, 10, 4, 3).mean((1, 3)) for x in (a, b))
        return np.abs(a - b).mean()

    assert apart(drawn[0], shown[0].image) < 0.5 * apart(views[1].image, shown[0].image)
    copies = min(apart(view.image, shown[1].image) for view in views)
    assert apart(drawn[1], shown[1].image) < 0.8 * copies


def _args(*arguments):
    return main._parser().parse_args(["reconstruct", *map(str, arguments)])


def test_photographs_to_a_file_that_says_what_the_network_said(
    photographs, model, tmp_path, capsys
):
    out, check = tmp_path / "made" / "room.ply", tmp_path / "lines.png"
    args = _args(photographs, "--weights", "-", "--out", out, "--check", check, "--trim", 2)
    reconstruct.check_arguments(args)
    images, named = reconstruct.load_cameras(args.images, args.cameras, args.axes)
    assert named is None and len(images) == 6
    assert reconstruct.write(args, images, named, model) == 0
    said = capsys.readouterr().out
    chosen = view_choice.choose(images, 2)
    assert all(images.names[i] in said for i in chosen) and "from the cameras' distance" in said
    # The same by hand.
    bounds = view_choice.bounds(images.subset(chosen))
    views = [reconstruct.load_view(images, i, *SIZE, "cover") for i in chosen]
    g = reconstruct_scene.reconstruct(views, model.predict, bounds.near, bounds.far, unit=1.0)
    g = reconstruct_scene.kept(g, (2, *SIZE), trim=2)
    assert g.num == 2 * 12 * 28 and f"{out}: {g.num} Gaussians" in said
    stored = ply.read(out)
    for name, value in dataclasses.asdict(g.deactivate()).items():
        np.testing.assert_allclose(stored[name], value, rtol=2e-4, atol=2e-5, err_msg=name)
    again = gaussians.RawGaussians(**formats.load_gaussians(out)).activate()
    drawn = [
        reconstruct_scene.render(x, views[0].viewmat[None], views[0].K[None], SIZE, bounds.near)
        for x in (g, again)
    ]
    assert drawn[0].std() > 5 and np.abs(drawn[0].astype(int) - drawn[1]).max() <= 1
    assert Image.open(check).size == (2 * STORED[1], STORED[0])
    assert Image.open(out.with_suffix(".png")).size == (3 * SIZE[1], 2 * SIZE[0])


@pytest.mark.slow
def test_views_size_and_depths_that_are_named(photographs, model, tmp_path, capsys):
    names = [photographs / "images" / f"{i:03d}.png" for i in (4, 1, 2)]
    out = tmp_path / "room.ply"
    args = _args(
        *names, "--weights", "-", "--out", out, "--near", 0.3, "--far", 9, "--size", 8, 16,
        "--preview", "none", "--min-opacity", 0.3,
    )  # fmt: skip
    images, named = reconstruct.load_cameras(args.images, args.cameras, args.axes)
    assert named == [4, 1, 2]
    assert reconstruct.write(args, images, named, model) == 0
    said = capsys.readouterr().out
    assert "3 views of 8 x 16" in said and "depths 0.3 to 9, given" in said
    stored = ply.read(out)
    assert 0 < len(stored["means"]) < 3 * 8 * 16
    assert (1 / (1 + np.exp(-stored["logit_opacities"])) >= 0.3 - 1e-6).all()
    assert not out.with_suffix(".png").exists()
    with pytest.raises(ValueError, match="--size: 12 x 16 must be multiples of 8 for tiny"):
        reconstruct.write(_args(*names, "--weights", "-", "--out", out, "--size", 12, 16),
                          images, named, model)  # fmt: skip


def test_what_is_kept():
    shape = (2, 5, 6)
    count = 2 * 5 * 6
    g = gaussians.Gaussians(
        means=np.arange(count)[:, None] * np.ones(3), quats=np.ones((count, 4)),
        scales=np.ones((count, 3)), opacities=np.linspace(0, 1, count), sh=np.ones((count, 1, 3)),
    )  # fmt: skip
    assert reconstruct_scene.kept(g, shape).num == count
    inner = reconstruct_scene.kept(g, shape, trim=2).means[:, 0]
    assert inner.tolist() == [14, 15, 44, 45]  # row 2, columns 2 and 3 of each view
    assert reconstruct_scene.kept(g, shape, trim=2, min_opacity=0.5).num == 2
    with pytest.raises(ValueError, match="leave none of 60"):
        reconstruct_scene.kept(g, shape, trim=3)
    with pytest.raises(ValueError, match="one Gaussian a pixel"):
        reconstruct_scene.kept(g, (2, 5, 5))


def test_the_camera_halfway_between_two():
    turn = np.asarray(rotations.quat_to_rotmat(rotations.axis_angle_to_quat(
        jnp.array([0.0, 1, 0]), jnp.array(1.0))))  # fmt: skip
    first, second = np.eye(4), np.eye(4)
    second[:3, :3], second[:3, 3] = turn, -turn @ [2.0, 0, 4]
    found = reconstruct_scene.between(first, second)
    half = np.asarray(rotations.quat_to_rotmat(rotations.axis_angle_to_quat(
        jnp.array([0.0, 1, 0]), jnp.array(0.5))))  # fmt: skip
    np.testing.assert_allclose(found[:3, :3], half, atol=1e-6)
    np.testing.assert_allclose(-found[:3, :3].T @ found[:3, 3], [1, 0, 2], atol=1e-6)


def _refused(capsys, *arguments):
    assert main.run(["reconstruct", *map(str, arguments)]) == 2
    lines = capsys.readouterr().err
    assert lines.startswith("gsjax reconstruct: ") and "Traceback" not in lines
    return lines


@pytest.mark.parametrize(
    "extra, message",
    [
        (("--out", "a.splat"), "ends in .ply"),
        (("--check", "a.jpg"), "--check: found 'a.jpg'"),
        (("--views", 1), "at least 2 posed views"),
        (("--near", 3, "--far", 2), "near < far, found 3, 2"),
        (("--near", -1), "--near: found -1"),
        (("--trim", -1), "--trim: found -1"),
        (("--min_opacity", 1), "--min_opacity: found 1"),
    ],
)
def test_options_that_cannot_be_meant(photographs, tmp_path, capsys, extra, message):
    said = _refused(capsys, photographs, "--weights", "w", "--out", tmp_path / "o.ply", *extra)
    assert message in said


def test_cameras_that_cannot_be_used(photographs, model, tmp_path, capsys):
    rest = ("--weights", "w", "--out", tmp_path / "o.ply")
    loose = tmp_path / "loose" / "pictures"
    posed_scenes.picture(loose / "a.png")
    said = _refused(capsys, loose, *rest)
    assert "COLMAP" in said and "automatic_reconstructor" in said and str(loose) in said
    assert "neither a COLMAP model" in _refused(capsys, loose, "--cameras", loose, *rest)
    assert "there is no" in _refused(capsys, tmp_path / "nowhere", *rest)
    written = json.loads((photographs / "transforms.json").read_text())

    def changed(name, pose=None, **keys):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "images").symlink_to(photographs / "images")
        frames = [dict(frame, transform_matrix=pose or frame["transform_matrix"])
                  for frame in written["frames"]]  # fmt: skip
        posed_scenes.write(folder / "transforms.json", {**written, **keys, "frames": frames})
        return folder

    skewed = np.array(written["frames"][0]["transform_matrix"])
    skewed[:3, 0] *= 1.2
    not_rigid = changed("skewed", pose=skewed.tolist())
    assert "is no rotation" in _refused(capsys, not_rigid, *rest)
    lens = changed("lens", camera_model="OPENCV_FISHEYE")
    assert "no pinhole" in _refused(capsys, lens, *rest)
    one = posed.load_posed(photographs)
    args = _args(photographs, *rest)
    with pytest.raises(ValueError, match="at least 2 posed views, found 1"):
        reconstruct.write(args, one, [2], model)
    same = dataclasses.replace(one, viewmats=np.tile(one.viewmats[:1], (6, 1, 1)))
    with pytest.raises(ValueError, match="zero baseline"):
        reconstruct.write(args, same, None, model)
    tele = dataclasses.replace(one, Ks=one.Ks * [8, 8, 1])
    with pytest.raises(ValueError, match="focal lengths are .* another picture size"):
        reconstruct.write(args, tele, None, model)


def test_a_model_of_colmap_beside_the_photographs(room, photographs, tmp_path):
    pytest.importorskip("pycolmap", reason="pycolmap is not installed")
    images = posed.load_posed(photographs)
    place = room.view(2)
    v, u = np.nonzero(place.depth > 0)
    pixels = np.stack((u + 0.5, v + 0.5, np.ones(len(u))))
    local = np.linalg.inv(place.K) @ pixels * place.depth[v, u]
    c2w = np.linalg.inv(place.viewmat)
    points = (c2w[:3, :3] @ local + c2w[:3, 3:]).T
    colmap.write_model(tmp_path / "sparse/0", dataclasses.replace(images, points=points))
    found, named = reconstruct.load_cameras([photographs / "images"], str(tmp_path), None)
    assert named is None and found.names == tuple(f"{i:03d}.png" for i in range(6))
    np.testing.assert_allclose(found.viewmats, images.viewmats, atol=1e-9)
    chosen = found.subset(view_choice.choose(found, 2))
    near, far, how = view_choice.bounds(chosen)
    depths = np.concatenate([room.view(int(n[:3])).depth.ravel() for n in chosen.names])
    assert "sparse points" in how
    assert 0.5 * depths.min() < near < np.median(depths) < far < 1.5 * depths.max()
    files = [photographs / "images" / f"{i:03d}.png" for i in (5, 0)]
    assert reconstruct.load_cameras(files, str(tmp_path), None)[1] == [5, 0]


# --- weights ------------------------------------------------------------------------------------


def test_a_run_is_used_without_what_only_training_opens(monkeypatch):
    config = ml_collections.ConfigDict(
        dict(
            system="pm_loss",
            model=dict(network="mvsplat"),
            data=dict(
                height=16, width=32, near=0.35, fit="crop", context_views=(2, 6),
                teacher=dict(kind="cache", cache="elsewhere"),
            ),
            loss=dict(lpips=0.05, pm=0.005, pm_options={}),
        )
    ).lock()  # fmt: skip
    built = []

    def build(config):
        built.append(config)

        def said(variables, batch):
            return dict(means=variables["params"]["x"] * batch["near"])

        return base.System("pm_loss", {}, None, None, dict(gaussians=said), None, None)

    monkeypatch.setattr(base, "build", build)
    found = trained.Trained("pm_loss", config, {"params/x": np.ones(3)}, 7, None)
    model = reconstruct_models.from_run(found, "folder")
    assert (model.height, model.width, model.fit, model.near, model.views) == (
        16,
        32,
        "crop",
        0.35,
        2,
    )
    assert built[0].data.teacher.kind == "none" and built[0].loss.lpips == built[0].loss.pm == 0
    assert config.data.teacher.kind == "cache"
    np.testing.assert_array_equal(model.predict(dict(near=jnp.array([2.0])))["means"], [2, 2, 2])
    with pytest.raises(ValueError, match="a run of clip_gs; expected one of pm_loss"):
        reconstruct_models.from_run(dataclasses.replace(found, system="clip_gs"), "folder")


@pytest.mark.slow
def test_converted_weights_run(tiny, model, monkeypatch, tmp_path, capsys, photographs):
    numpy = pytest.importorskip("safetensors.numpy", reason="safetensors is not installed")
    module, variables = tiny
    monkeypatch.setitem(mvsplat.PRESETS, "mvsplat", module.config)
    monkeypatch.setitem(reconstruct_models._PUBLISHED, "mvsplat", (*SIZE, 1.0))
    state = name_tables.invert(variables["params"], mvsplat_tables.table(module.config))
    file, out = tmp_path / "released.safetensors", tmp_path / "weights.npz"
    numpy.save_file({f"encoder.{k}": np.ascontiguousarray(v) for k, v in state.items()}, str(file))
    assert main.run(["convert", "mvsplat", str(file), "--out", str(out), "--licence", "MIT"]) == 0
    said = capsys.readouterr().out
    assert "licence: MIT" in said and f"--weights {out}" in said
    stored = archive.read(out)
    assert (stored.kind, stored.config) == ("mvsplat", {"preset": "mvsplat"})
    for path, value in name_tables.flatten(variables).items():
        np.testing.assert_array_equal(stored.arrays[path], value, err_msg=path)
    found = reconstruct_models.load(out)
    assert (found.height, found.width, found.near) == (*SIZE, 1.0)
    images = posed.load_posed(photographs)
    views = [reconstruct.load_view(images, i, *SIZE, "cover") for i in (0, 3)]
    ours, theirs = (
        reconstruct_scene.reconstruct(views, m.predict, 0.4, 8.0, unit=1.0) for m in (model, found)
    )
    np.testing.assert_allclose(ours.means, theirs.means, rtol=1e-5, atol=1e-5)
    # Colours are turned as published weights were trained; the mean colour is the same.
    np.testing.assert_allclose(ours.sh[:, 0], theirs.sh[:, 0], rtol=1e-5, atol=1e-5)
    assert np.abs(ours.sh[:, 1:] - theirs.sh[:, 1:]).max() > 1e-4
    lost = dict(list(state.items())[1:])
    numpy.save_file({k: np.ascontiguousarray(v) for k, v in lost.items()}, str(file))
    assert main.run(["convert", "mvsplat", str(file)]) == 2
    assert f"missing: {next(iter(state))}" in capsys.readouterr().err
    assert main.run(["convert", "mvsplat", str(file), "--arch", "x"]) == 2
    assert main.run(["convert", "depthsplat", str(file), "--arch", "x"]) == 2
    assert "--arch: unknown 'x'; known: small" in capsys.readouterr().err
