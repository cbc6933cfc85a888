"""COLMAP models: written and read back, every camera model, damaged files, the missing extra."""

import dataclasses
import struct
import sys

import numpy as np
import pytest

from gsjax.io import colmap, posed
from tests.io import posed_scenes


@pytest.fixture
def pycolmap():
    return pytest.importorskip("pycolmap", reason="pycolmap (gsjax[colmap]) is not installed")


def _scene(folder, num=4, points=True):
    """A folder images/ and its cameras, two sizes of picture, with points."""
    rng = np.random.default_rng(0)
    sizes = [(12, 8) if i % 2 else (10, 6) for i in range(num)]
    names = [f"cam{i % 2}/{i:03d}.png" for i in range(num)]
    for name, size in zip(names, sizes, strict=True):
        posed_scenes.picture(folder / "images" / name, size)
    return posed.PosedImages.from_unsorted(
        names=names,
        image_paths=[folder / "images" / name for name in names],
        viewmats=np.linalg.inv(posed_scenes.ring(num)),
        Ks=[[[11.1, 0, w / 2 + 0.3], [0, 12.3, h / 2], [0, 0, 1]] for w, h in sizes],
        width=[w for w, _ in sizes],
        height=[h for _, h in sizes],
        points=rng.normal(size=(7, 3)) if points else None,
        point_colors=rng.integers(0, 256, (7, 3), np.uint8) if points else None,
    )


def _assert_same(found, expected, atol):
    assert found.names == expected.names
    np.testing.assert_allclose(found.viewmats, expected.viewmats, rtol=0, atol=atol)
    np.testing.assert_allclose(found.Ks, expected.Ks, rtol=0, atol=atol)
    np.testing.assert_array_equal(found.width, expected.width)
    np.testing.assert_array_equal(found.height, expected.height)


@pytest.mark.parametrize("binary", [True, False])
def test_round_trip(pycolmap, tmp_path, binary):
    scene = _scene(tmp_path)
    folder = colmap.write_model(tmp_path / "sparse" / "0", scene, binary=binary)
    assert (folder / "cameras.bin").is_file() == binary
    found = posed.load_posed(tmp_path)
    _assert_same(found, scene, 1e-13)
    assert found.image_paths == tuple(path.resolve() for path in scene.image_paths)
    np.testing.assert_allclose(found.points, scene.points, rtol=0, atol=1e-14)
    np.testing.assert_array_equal(found.point_colors, scene.point_colors)
    assert found.points.dtype == np.float64 and found.point_colors.dtype == np.uint8
    assert len(pycolmap.Reconstruction(str(folder)).cameras) == 2  # equal ones are shared


def test_a_model_by_hand(pycolmap, tmp_path):
    """Quaternion w first, world-to-camera: a quarter turn about z and a shift."""
    posed_scenes.picture(tmp_path / "images" / "a.png", (10, 6))
    half = repr(0.5**0.5)
    (tmp_path / "cameras.txt").write_text("# cameras\n3 SIMPLE_PINHOLE 10 6 7.5 5.25 3\n")
    (tmp_path / "images.txt").write_text(f"1 {half} 0 0 {half} 1 2 3 3 a.png\n\n")
    (tmp_path / "points3D.txt").write_text("9 1 2 3 10 20 30 0.5\n4 4 5 6 40 50 60 0.5\n")
    found = colmap.read(tmp_path)
    np.testing.assert_allclose(
        found.viewmats[0, :3, :3], [[0, -1, 0], [1, 0, 0], [0, 0, 1]], atol=1e-15
    )
    assert found.viewmats[0, :3, 3].tolist() == [1, 2, 3] and found.names == ("a.png",)
    assert found.Ks[0].tolist() == [[7.5, 0, 5.25], [0, 7.5, 3], [0, 0, 1]]
    assert found.points.tolist() == [[4, 5, 6], [1, 2, 3]]
    assert found.point_colors.tolist() == [[40, 50, 60], [10, 20, 30]]


def test_fox_goes_out_and_comes_back(pycolmap, gsjax_data, tmp_path):
    source = gsjax_data / "scenes" / "fox"
    if not source.is_dir():
        pytest.skip("scenes/fox is not in GSJAX_DATA")
    scene = posed.load_posed(source)
    for binary in (True, False):
        model = colmap.write_model(tmp_path / str(binary), scene, binary=binary)
        found = colmap.read(model, images=source / "images")
        _assert_same(found, scene, 1e-12)
        assert found.points is None and found.image_paths == scene.image_paths


def test_without_points(pycolmap, tmp_path):
    scene = _scene(tmp_path, points=False)
    colmap.write_model(tmp_path / "sparse", scene)
    found = posed.load_posed(tmp_path)
    assert found.points is None and found.point_colors is None


def test_smaller_pictures_scale_the_intrinsics(pycolmap, tmp_path):
    scene = _scene(tmp_path)
    colmap.write_model(tmp_path / "sparse" / "0", scene)
    for name, w, h in zip(scene.names, scene.width, scene.height, strict=True):
        posed_scenes.picture(tmp_path / "images_2" / name, (w // 2, h // 2))
    found = posed.load_posed(tmp_path, downscale=2)
    assert found.image_paths[0].relative_to(tmp_path.resolve()).parts[0] == "images_2"
    np.testing.assert_allclose(found.Ks[:, :2], scene.Ks[:, :2] / 2)


def test_masks_beside_the_photographs(pycolmap, tmp_path):
    scene = _scene(tmp_path)
    colmap.write_model(tmp_path / "sparse" / "0", scene)
    for i, name in enumerate(scene.names):
        size = (scene.width[i], scene.height[i])
        posed_scenes.picture(tmp_path / "masks" / (f"{name}.png" if i else name), size)
    found = colmap.read(tmp_path)
    assert [path.name for path in found.mask_paths[:2]] == ["000.png", "002.png.png"]
    found.mask_paths[3].unlink()
    with pytest.raises(FileNotFoundError, match="1 of 4 mask files are missing"):
        colmap.read(tmp_path)


def _text_model(folder, camera):
    posed_scenes.picture(folder / "images" / "a.png", (10, 6))
    (folder / "cameras.txt").write_text(f"1 {camera}\n")
    (folder / "images.txt").write_text("1 1 0 0 0 0 0 0 1 a.png\n\n")
    (folder / "points3D.txt").write_text("")
    return folder


@pytest.mark.parametrize(
    "camera, expected",
    [
        ("SIMPLE_PINHOLE 10 6 7 5 3", (7, 7, 5, 3)),
        ("PINHOLE 10 6 7 8 5 3", (7, 8, 5, 3)),
        ("SIMPLE_RADIAL 10 6 7 5 3 0", (7, 7, 5, 3)),
        ("RADIAL 10 6 7 5 3 1e-8 0", (7, 7, 5, 3)),
        ("OPENCV 10 6 7 8 5 3 0 0 -1e-9 0", (7, 8, 5, 3)),
        ("FULL_OPENCV 10 6 7 8 5 3 0 0 0 0 0 0 0 0", (7, 8, 5, 3)),
    ],
)
def test_models_that_are_pinholes(pycolmap, tmp_path, camera, expected):
    found = colmap.read(_text_model(tmp_path, camera)).Ks[0]
    assert tuple(found[[0, 1, 0, 1], [0, 1, 2, 2]]) == expected


@pytest.mark.parametrize(
    "camera, message",
    [
        ("SIMPLE_RADIAL 10 6 7 5 3 0.1", "SIMPLE_RADIAL has lens distortion .k1 = 0.1"),
        ("RADIAL 10 6 7 5 3 0 0.2", "k2 = 0.2"),
        ("OPENCV 10 6 7 8 5 3 0 0 0 0.02", "p2 = 0.02.*radial_coeffs.*colmap image_undistorter"),
        ("FULL_OPENCV 10 6 7 8 5 3 0 0 0 0 0 0 0 5", "k6 = 5"),
        ("OPENCV_FISHEYE 10 6 7 8 5 3 0 0 0 0", "OPENCV_FISHEYE is no pinhole; undistort"),
        ("LYTRO 10 6 7 8 5 3", "unknown camera model LYTRO; known are .'SIMPLE_PINHOLE'"),
        ("PINHOLE 10 6", "truncated: camera line"),
        ("PINHOLE 10 6 -7 8 5 3", "positive focal lengths.*fx -7"),
    ],
)
def test_models_that_are_refused(pycolmap, tmp_path, camera, message):
    with pytest.raises(ValueError, match=message):
        colmap.read(_text_model(tmp_path, camera))


@pytest.mark.parametrize("name", ["cameras", "images", "points3D"])
def test_truncated_files(pycolmap, tmp_path, name):
    colmap.write_model(tmp_path / "sparse" / "0", _scene(tmp_path))
    path = tmp_path / "sparse" / "0" / f"{name}.bin"
    whole = path.read_bytes()
    for data in (whole[:-5], whole[:20], b""):
        path.write_bytes(data)
        with pytest.raises(ValueError, match=f"{name}.bin: truncated: {len(data)} bytes"):
            colmap.read(tmp_path)
    path.write_bytes(whole + b"xyz")
    with pytest.raises(ValueError, match=f"{name}.bin: 3 bytes longer than its"):
        colmap.read(tmp_path)
    path.unlink()
    if name != "cameras":
        with pytest.raises(
            FileNotFoundError, match=f"1 of 3 model files are missing: .*{name}.bin"
        ):
            colmap.read(tmp_path)


def test_unknown_number_of_a_camera_model(pycolmap, tmp_path):
    colmap.write_model(tmp_path / "sparse" / "0", _scene(tmp_path))
    path = tmp_path / "sparse" / "0" / "cameras.bin"
    data = bytearray(path.read_bytes())
    struct.pack_into("<i", data, 12, 77)
    path.write_bytes(data)
    with pytest.raises(ValueError, match="unknown camera model number 77; known are"):
        colmap.read(tmp_path)


def test_the_table_of_models_is_pycolmaps(pycolmap):
    for number, (name, params) in enumerate(colmap._BINARY_MODELS.items()):
        assert int(getattr(pycolmap.CameraModelId, name)) == number
        camera = pycolmap.Camera.create_from_model_name(1, name, 10.0, 10, 6)
        assert len(camera.params) == params, name


def test_nothing_registered(pycolmap, tmp_path):
    folder = _text_model(tmp_path, "PINHOLE 10 6 7 8 5 3")
    (folder / "images.txt").write_text("")
    with pytest.raises(ValueError, match="none of its 0 photographs has a pose"):
        colmap.read(folder)


def test_missing_photographs_and_folders(pycolmap, tmp_path):
    scene = _scene(tmp_path)
    colmap.write_model(tmp_path / "sparse" / "0", scene)
    scene.image_paths[1].unlink()
    with pytest.raises(FileNotFoundError, match="1 of 4 image files are missing: .*002.png"):
        colmap.read(tmp_path)
    (tmp_path / "images").rename(tmp_path / "photos")
    with pytest.raises(FileNotFoundError, match="no folder of photographs at .*pass images="):
        colmap.read(tmp_path)
    with pytest.raises(FileNotFoundError, match="images: no folder"):
        colmap.read(tmp_path, images=tmp_path / "images")
    with pytest.raises(FileNotFoundError, match="no COLMAP model; expected cameras.bin"):
        colmap.read(tmp_path / "photos")


def test_names_with_spaces_need_the_binary_format(pycolmap, tmp_path):
    scene = _scene(tmp_path, num=1)
    path = scene.image_paths[0]
    scene = dataclasses.replace(scene, names=("cam0/a b.png",))
    with pytest.raises(ValueError, match="no room for spaces, found 'cam0/a b.png'"):
        colmap.write_model(tmp_path / "sparse" / "0", scene, binary=False)
    path.rename(path.with_name("a b.png"))
    colmap.write_model(tmp_path / "sparse" / "0", scene)
    assert colmap.read(tmp_path).names == scene.names


def test_names_with_spaces_in_the_text_format_are_named(pycolmap, tmp_path):
    folder = _text_model(tmp_path, "PINHOLE 10 6 7 8 5 3")
    for name in ("a b.png", "c.png"):
        posed_scenes.picture(folder / "images" / name, (10, 6))
    pose = "1 0 0 0 0 0 0 1"
    lines = f"# list\n1 {pose} c.png\n\n2 {pose} a b.png\n1.5 2.5 -1 3.5 4.5 -1 5.5 6.5 -1 7 8 -1\n"
    (folder / "images.txt").write_text(lines)
    with pytest.raises(ValueError, match="images.txt: .*spaces in names, found 'a b.png'; .*BIN"):
        colmap.read(folder)
    (folder / "images.txt").write_text(lines.replace("a b.png", "a.png"))
    assert colmap.read(folder).names == ("a.png", "c.png")


def test_skew_is_not_lost(pycolmap, tmp_path):
    scene = _scene(tmp_path)
    scene.Ks[2, 0, 1] = 0.5
    with pytest.raises(ValueError, match="Ks: 'cam1/001.png' has skew 0.5"):
        colmap.write_model(tmp_path / "out", scene)


def test_points_behind_all_cameras_are_noticed(pycolmap, tmp_path):
    scene = _scene(tmp_path, num=8)
    scene.viewmats[:] = posed_scenes.FLIP @ scene.viewmats
    colmap.write_model(tmp_path / "sparse" / "0", scene)
    with pytest.raises(ValueError, match="the scene's points lie behind 8 of 8 cameras"):
        posed.load_posed(tmp_path)
    with pytest.raises(ValueError, match="axes: COLMAP models have OpenCV axes, found 'opengl'"):
        posed.load_posed(tmp_path, axes="opengl")


def test_the_missing_extra_is_named(tmp_path, monkeypatch):
    (tmp_path / "cameras.bin").write_bytes(b"")
    monkeypatch.setitem(sys.modules, "pycolmap", None)
    with pytest.raises(ImportError, match=r"pip install 'gsjax\[colmap\]'"):
        posed.load_posed(tmp_path)
