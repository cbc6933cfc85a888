"""Mesh files of every format, what is refused and why, normalisation, surface samples."""

import builtins
import dataclasses

import numpy as np
import pytest
from PIL import Image

from gsjax.io import meshes

OFF_COUNTS = {  # name: vertices, faces of the headers (all triangles)
    "bathtub_0001": (3514, 3546),
    "bathtub_0002": (700, 664),
    "bathtub_0003": (14963, 19985),
    "bathtub_0004": (2842, 3519),
    "bathtub_0005": (18472, 30734),
    "chair_0001": (2382, 2234),
    "chair_0002": (192, 96),
}
TEXTURED = {"avocado": 1, "boombox": 1, "flight_helmet": 6, "spot": 1, "water_bottle": 1}
SQUARE = np.float32([[0, 0, 0], [2, 0, 0], [2, 1, 0], [0, 1, 0]])
HALVES = np.array([[0, 1, 2], [0, 2, 3]])


def _picture():
    return np.random.default_rng(0).integers(0, 256, (6, 4, 3), dtype=np.uint8)


def _trimesh():
    return pytest.importorskip("trimesh", reason="needs the extra gsjax[mesh]")


@pytest.mark.parametrize("header", ["OFF\n4 1 0", "OFF4 1 0", "OFF 4 1 0"])
def test_off_with_any_header_and_polygons_is_read(tmp_path, header):
    _trimesh()
    rows = "\n".join(" ".join(str(x) for x in row) for row in SQUARE)
    path = tmp_path / "square.off"
    path.write_text(f"{header}\n{rows}\n4 0 1 2 3\n")
    mesh = meshes.read(path)
    np.testing.assert_array_equal(mesh.vertices, SQUARE)
    assert mesh.faces.shape == (2, 3) and mesh.faces.dtype == np.int32
    assert mesh.area == pytest.approx(2.0)
    assert mesh.face_rgb is None and mesh.textures == ()


@pytest.mark.parametrize("suffix", [".off", ".obj", ".ply", ".stl", ".glb"])
def test_every_format_gives_the_same_surface(tmp_path, suffix):
    trimesh = _trimesh()
    box = trimesh.creation.box((1, 2, 3))
    path = tmp_path / f"box{suffix}"
    box.export(path)
    mesh = meshes.read(path)
    assert len(mesh.faces) == 12 and mesh.area == pytest.approx(22.0)
    expected = np.sort(box.triangles.reshape(12, 9).round(5), axis=0)
    np.testing.assert_allclose(
        np.sort(mesh.vertices[mesh.faces].reshape(12, 9), axis=0), expected, atol=1e-5
    )


def test_colours_per_vertex_and_per_face_survive(tmp_path):
    trimesh = _trimesh()
    rgb = np.random.default_rng(1).integers(0, 256, (4, 3), dtype=np.uint8)
    trimesh.Trimesh(SQUARE, HALVES, vertex_colors=rgb, process=False).export(tmp_path / "a.ply")
    np.testing.assert_array_equal(meshes.read(tmp_path / "a.ply").vertex_rgb, rgb)
    sides = trimesh.Trimesh(SQUARE, HALVES, face_colors=rgb[:2], process=False)
    sides.export(tmp_path / "b.ply")
    np.testing.assert_array_equal(meshes.read(tmp_path / "b.ply").face_rgb, rgb[:2])


def _write_obj(folder, picture_name="paint.png", with_picture=True):
    if with_picture:
        Image.fromarray(_picture()).save(folder / picture_name)
    (folder / "m.mtl").write_text(f"newmtl paint\nKd 1 1 1\nmap_Kd {picture_name}\n")
    points = "".join(f"v {x} {y} {z}\n" for x, y, z in SQUARE)
    corners = "vt 0 0\nvt 1 0\nvt 1 1\nvt 0 1\n"
    text = f"mtllib m.mtl\n{points}{corners}usemtl paint\nf 1/1 2/2 3/3\nf 1/1 3/3 4/4\n"
    (folder / "m.obj").write_text(text)
    return folder / "m.obj"


def test_an_obj_brings_its_texture(tmp_path):
    _trimesh()
    mesh = meshes.read(_write_obj(tmp_path))
    np.testing.assert_array_equal(mesh.textures[0], _picture())
    np.testing.assert_array_equal(mesh.face_texture, [0, 0])
    np.testing.assert_allclose(mesh.uv, mesh.vertices[:, :2] / (2, 1))


def test_a_missing_texture_is_an_error(tmp_path):
    _trimesh()
    with pytest.raises(meshes.MeshFormatError, match="texture paint.png of m.mtl is missing"):
        meshes.read(_write_obj(tmp_path, with_picture=False))
    (tmp_path / "m.mtl").unlink()
    with pytest.raises(meshes.MeshFormatError, match="material library m.mtl is missing"):
        meshes.read(tmp_path / "m.obj")
    np.savez(tmp_path / "n.npz", vertices=SQUARE, faces=HALVES, uv=SQUARE[:, :2],
             face_texture=np.uint8([0, 1]))  # fmt: skip
    Image.fromarray(_picture()).save(tmp_path / "n_tex0.png")
    with pytest.raises(meshes.MeshFormatError, match="texture 1 is missing.*n_tex1.jpg"):
        meshes.read(tmp_path / "n.npz")


def test_parts_of_a_scene_are_placed_and_keep_their_own_look(tmp_path):
    trimesh = _trimesh()
    picture = Image.fromarray(_picture())
    material = trimesh.visual.material.PBRMaterial(baseColorTexture=picture)
    painted = trimesh.Trimesh(SQUARE, HALVES, process=False)
    painted.visual = trimesh.visual.TextureVisuals(uv=SQUARE[:, :2] / (2, 1), material=material)
    plain = trimesh.Trimesh(SQUARE, HALVES, process=False)
    red = trimesh.visual.material.PBRMaterial(baseColorFactor=[255, 0, 0, 255])
    plain.visual = trimesh.visual.TextureVisuals(uv=SQUARE[:, :2], material=red)
    scene = trimesh.Scene()
    scene.add_geometry(painted, node_name="a")
    move = np.eye(4)
    move[:3, 3] = (0, 0, 5)
    scene.add_geometry(plain, node_name="b", transform=move)
    scene.export(tmp_path / "scene.glb")
    mesh = meshes.read(tmp_path / "scene.glb")
    assert len(mesh.faces) == 4 and len(mesh.textures) == 1
    depth = mesh.vertices[mesh.faces][..., 2]
    np.testing.assert_array_equal(mesh.face_texture == 0, depth[:, 0] == 0)
    assert np.all(depth[mesh.face_texture < 0] == 5)
    np.testing.assert_array_equal(mesh.face_rgb[mesh.face_texture < 0], [[255, 0, 0]] * 2)
    np.testing.assert_array_equal(mesh.textures[0], _picture())
    # uv belongs to the corner: the colour at a corner is the picture's there.
    near = mesh.vertices[:, 2] == 0
    np.testing.assert_allclose(mesh.uv[near], mesh.vertices[near, :2] / (2, 1), atol=1e-6)


def test_join_keeps_vertex_colours_beside_face_colours():
    rgb = np.uint8([[0, 0, 0], [9, 9, 9], [20, 20, 20], [30, 30, 30]])
    first = meshes.Mesh(SQUARE, HALVES, vertex_rgb=rgb)
    second = meshes.Mesh(SQUARE, HALVES, face_rgb=np.uint8([[255, 0, 0], [0, 255, 0]]))
    whole = meshes.join([first, second, meshes.Mesh(SQUARE, HALVES)])
    assert whole.face_rgb is None and len(whole.faces) == 6
    corners = whole.vertex_rgb[whole.faces]
    np.testing.assert_array_equal(corners[:2], rgb[HALVES])
    np.testing.assert_array_equal(corners[2], [[255, 0, 0]] * 3)
    np.testing.assert_array_equal(corners[3], [[0, 255, 0]] * 3)
    np.testing.assert_array_equal(corners[4:], np.full((2, 3, 3), 179))
    np.testing.assert_array_equal(whole.vertices[whole.faces[2:4]], SQUARE[HALVES])


def test_npz_is_read_without_trimesh_and_others_name_the_extra(tmp_path, monkeypatch):
    np.savez(tmp_path / "m.npz", vertices=SQUARE, faces=HALVES)
    (tmp_path / "m.off").write_text("OFF\n0 0 0\n")
    genuine = builtins.__import__

    def refuse(name, *args, **kwargs):
        if name.split(".")[0] == "trimesh":
            raise ImportError("no trimesh")
        return genuine(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", refuse)
    assert len(meshes.read(tmp_path / "m.npz").faces) == 2
    with pytest.raises(ImportError, match=r"pip install 'gsjax\[mesh\]'"):
        meshes.read(tmp_path / "m.off")


@pytest.mark.parametrize(
    "content, message",
    [
        ("OFF\n3 0 0\n0 0 0\n1 0 0\n0 1 0\n", ""),
        ("OFF\n3 1 0\n0 0 0\n1 0 0\n0 1 0\n3 0 1 7\n", ""),
        ("OFF\n3 1 0\n0 0 0\nnan 0 0\n0 1 0\n3 0 1 2\n", "not finite"),
        ("no mesh at all", ""),
        ("", ""),
    ],
)
def test_bad_off_files_are_refused_with_their_name(tmp_path, content, message):
    _trimesh()
    path = tmp_path / "bad.off"
    path.write_text(content)
    with pytest.raises(meshes.MeshFormatError, match=f"bad.off.*{message}"):
        meshes.read(path)


def test_unknown_and_absent_files_are_told_apart(tmp_path):
    with pytest.raises(meshes.MeshFormatError, match="unknown extension '.fbx'.*'.glb'"):
        meshes.read(tmp_path / "a.fbx")
    with pytest.raises(FileNotFoundError, match="a.off"):
        meshes.read(tmp_path / "a.off")
    np.savez(tmp_path / "a.npz", verts=SQUARE)
    with pytest.raises(meshes.MeshFormatError, match="lacks vertices, faces"):
        meshes.read(tmp_path / "a.npz")


@pytest.mark.parametrize(
    "change, message",
    [
        ({"faces": np.zeros((0, 3), int)}, "faces: expected at least one, found none"),
        ({"faces": np.array([[0, 1, 4]])}, r"faces: indices must be in \[0, 4\), found 0 to 4"),
        ({"faces": np.array([[0, -1, 2]])}, "found -1 to 2"),
        ({"faces": np.array([[0, 1, 2, 3]])}, "split larger polygons"),
        ({"vertices": SQUARE + np.inf}, "vertices: 4 of 4 rows are not finite"),
        ({"uv": np.zeros((3, 2))}, r"uv: expected shape \[4, 2\], found \[3, 2\]"),
        ({"face_rgb": np.zeros((2, 3))}, "face_rgb: expected uint8"),
        ({"face_texture": np.array([0, 0])}, "names texture 0, found 0 textures"),
        ({"textures": (_picture(),)}, "uv: faces have textures"),
        (
            {"textures": (_picture()[..., 0],), "uv": SQUARE[:, :2]},
            r"textures\[0\]: expected uint8",
        ),
    ],
)
def test_bad_meshes_are_named(change, message):
    with pytest.raises(ValueError, match=message):
        meshes.Mesh(**{"vertices": SQUARE, "faces": HALVES, **change})


def test_normalized_centres_the_box_and_scales_what_faces_use():
    stray = np.concatenate((SQUARE + 10, [[500, 0, 0]]))
    mesh = meshes.Mesh(stray, HALVES, face_rgb=np.uint8([[1, 2, 3]] * 2))
    for how, size in (("sphere", np.sqrt(5) / 2), ("box", 2.0)):
        result = meshes.normalized(mesh, how)
        np.testing.assert_allclose(result.vertices[:4], (SQUARE - (1, 0.5, 0)) / size, atol=1e-6)
        np.testing.assert_array_equal(result.face_rgb, mesh.face_rgb)
    with pytest.raises(ValueError, match="'sphere' or 'box', found 'cube'"):
        meshes.normalized(mesh, "cube")
    point = dataclasses.replace(mesh, vertices=np.ones((5, 3)))
    with pytest.raises(ValueError, match="all vertices coincide"):
        meshes.normalized(point)


def test_surface_samples_lie_on_faces_by_area_with_their_colours():
    vertices = np.float32([[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 2]])
    faces = np.array([[0, 1, 2], [0, 2, 3]])
    rgb = np.uint8([[255, 0, 0], [0, 0, 51]])
    mesh = meshes.Mesh(vertices, faces, face_rgb=rgb)
    points, normals, found = meshes.sample_surface(mesh, 3000, seed=4)
    first = found[:, 0] == 1
    assert first.mean() == pytest.approx(1 / 3, abs=1e-3)
    assert np.all(points[first][:, 2] == 0) and np.all(points[~first][:, 0] == 0)
    np.testing.assert_allclose(normals[first], np.tile([0, 0, 1], (first.sum(), 1)), atol=1e-6)
    np.testing.assert_allclose(found[~first], np.tile([0, 0, 0.2], ((~first).sum(), 1)))
    np.testing.assert_allclose(points[first].mean(0), [1 / 3, 1 / 3, 0], atol=0.02)
    again = meshes.sample_surface(mesh, 3000, seed=4)
    np.testing.assert_array_equal(points, again[0])
    assert not np.array_equal(points, meshes.sample_surface(mesh, 3000, seed=5)[0])
    with pytest.raises(ValueError, match="num: expected at least 1"):
        meshes.sample_surface(mesh, 0, seed=0)
    flat = meshes.Mesh(vertices, np.array([[0, 1, 1]]))
    with pytest.raises(ValueError, match="no face with an area"):
        meshes.sample_surface(flat, 5, seed=0)


def test_surface_samples_take_vertex_and_texture_colours():
    position = np.uint8(SQUARE * (100, 200, 0))
    mesh = meshes.Mesh(SQUARE, HALVES, vertex_rgb=position)
    points, _, rgb = meshes.sample_surface(mesh, 200, seed=0)
    np.testing.assert_allclose(rgb, points * (100, 200, 0) / 255, atol=1e-5)
    ramp = np.tile(np.arange(256, dtype=np.uint8)[::-1, None, None], (1, 3, 3))  # grows upwards
    mesh = meshes.Mesh(SQUARE, HALVES, uv=SQUARE[:, :2], textures=(ramp,))
    points, _, rgb = meshes.sample_surface(mesh, 200, seed=0)
    inside = (points[:, 1] > 0.01) & (points[:, 1] < 0.99)
    expected = (points[:, 1] * 256 - 0.5) / 255
    np.testing.assert_allclose(rgb[inside, 0], expected[inside], atol=1e-4)
    plain = meshes.sample_surface(meshes.Mesh(SQUARE, HALVES), 5, seed=0, plain=(0.1, 0.2, 0.3))
    np.testing.assert_allclose(plain[2], np.tile(np.float32([0.1, 0.2, 0.3]), (5, 1)))


def test_real_off_files_have_the_counts_of_their_headers(gsjax_data):
    _trimesh()
    folder = gsjax_data / "modelnet10_partial" / "off"
    if not folder.is_dir():
        pytest.skip("modelnet10_partial is absent")
    paths = sorted(folder.glob("*.off"))
    assert len(paths) == 9
    for path in paths:
        mesh = meshes.read(path)
        if path.stem in OFF_COUNTS:
            points, faces = OFF_COUNTS[path.stem]
            # A face of more than three corners becomes several.
            assert len(mesh.vertices) == points and len(mesh.faces) >= faces
        ball = meshes.normalized(mesh)
        used = ball.vertices[np.unique(ball.faces)]
        assert np.linalg.norm(used, axis=-1).max() == pytest.approx(1, abs=1e-5)
        np.testing.assert_allclose(used.min(0), -used.max(0), atol=1e-5)


@pytest.mark.parametrize("name, pictures", TEXTURED.items())
def test_real_textured_meshes_are_whole(gsjax_data, name, pictures):
    path = gsjax_data / "meshes_textured" / f"{name}.npz"
    if not path.exists():
        pytest.skip("meshes_textured is absent")
    mesh = meshes.read(path)
    assert len(mesh.textures) == pictures and mesh.face_texture.max() == pictures - 1
    assert np.ptp(mesh.vertices, axis=0).max() == pytest.approx(1, abs=1e-4)
    _, normals, rgb = meshes.sample_surface(mesh, 2000, seed=0)
    np.testing.assert_allclose(np.linalg.norm(normals, axis=-1), 1, atol=1e-5)
    assert rgb.min() >= 0 and rgb.max() <= 1 and rgb.std() > 0.05
    if name == "avocado":  # mostly green skin and flesh
        assert np.mean(rgb[:, 1] > rgb[:, 2] + 0.1) > 0.7
