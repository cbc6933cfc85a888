"""The mesh renderer against a slow float64 one, analytic spheres, and edges that faces share."""

import numpy as np
import pytest

from gsjax.core import cameras
from gsjax.raster import mesh
from tests.raster import mesh_reference

SIZE = 20


def _camera(size=SIZE, radius=3.0, fov=45.0, **kwargs):
    viewmats = np.asarray(cameras.orbit_path(1, radius, **kwargs))
    return viewmats, np.asarray(cameras.intrinsics_from_fov(fov, size, size))[None]


def _front(size, focal=None, origin=(0.0, 0.0, 0.0)):
    """A camera at ``origin`` that looks along +z, x right, y down."""
    viewmat = np.eye(4)[None]
    viewmat[0, :3, 3] = -np.asarray(origin)
    focal = size / 2 if focal is None else focal
    return viewmat, np.array([[[focal, 0, size / 2], [0, focal, size / 2], [0, 0, 1.0]]])


def _soup(seed, count=14, spread=0.8):
    rng = np.random.default_rng(seed)
    centres = rng.uniform(-spread, spread, (count, 1, 3))
    vertices = (centres + rng.normal(0, 0.5, (count, 3, 3))).reshape(-1, 3)
    return rng, vertices.astype(np.float32), np.arange(3 * count).reshape(-1, 3)


def _sphere(rings, radius=1.0):
    """A closed sphere without seams: poles, and rings of 2 x rings vertices."""
    theta = np.linspace(0, np.pi, rings + 1)[1:-1]
    phi = 2 * np.pi * np.arange(2 * rings) / (2 * rings)
    t, p = np.meshgrid(theta, phi, indexing="ij")
    body = np.stack((np.sin(t) * np.cos(p), np.cos(t), np.sin(t) * np.sin(p)), -1).reshape(-1, 3)
    vertices = radius * np.concatenate((body, [[0, 1, 0], [0, -1, 0]]))
    around, faces = 2 * rings, []
    for j in range(around):
        k = (j + 1) % around
        for i in range(rings - 2):
            a, b, c, d = (r * around + q for r in (i, i + 1) for q in (j, k))
            faces += [(a, b, d), (a, d, c)]
        last = (rings - 2) * around
        faces += [(len(body), k, j), (len(body) + 1, last + j, last + k)]
    return vertices, np.array(faces)


def _agree(result, expected, most_doubtful, atol=2e-4):
    rgba, depth, _, doubtful = expected
    assert doubtful.mean() <= most_doubtful
    clear = ~doubtful
    np.testing.assert_allclose(np.asarray(result[0][0])[clear], rgba[clear], atol=atol)
    np.testing.assert_allclose(np.asarray(result[1][0])[clear], depth[clear], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("supersample", [1, pytest.param(2, marks=pytest.mark.slow)])
@pytest.mark.parametrize("colour", ["plain", "face", "vertex", "texture"])
def test_random_triangles_that_pierce_one_another_match_the_definition(colour, supersample):
    rng, vertices, faces = _soup(3)
    viewmats, Ks = _camera(elevation_degrees=25.0, start_degrees=40.0)
    looks = {}
    if colour == "face":
        looks["face_rgb"] = rng.integers(0, 256, faces.shape, dtype=np.uint8)
    if colour in ("vertex", "texture"):
        looks["vertex_rgb"] = rng.integers(0, 256, vertices.shape, dtype=np.uint8)
    if colour == "texture":
        looks["uv"] = rng.uniform(-1, 2, (len(vertices), 2)).astype(np.float32)
        looks["face_texture"] = rng.integers(-1, 2, len(faces))
        looks["textures"] = [
            rng.integers(0, 256, (*shape, 3), dtype=np.uint8) for shape in ((4, 5), (3, 2))
        ]
    result = mesh.render_mesh(
        vertices, faces, viewmats, Ks, SIZE, SIZE, supersample=supersample, **looks
    )
    expected = mesh_reference.render(
        vertices, faces, viewmats[0], Ks[0], SIZE, SIZE, supersample=supersample, **looks
    )
    assert 0.2 < (expected[1] > 0).mean() and len(np.unique(expected[2])) > 6  # they do overlap
    _agree(result, expected, 0.05)


@pytest.mark.slow
def test_a_world_light_and_oblong_pictures_with_skew_match_the_definition():
    _, vertices, faces = _soup(5)
    viewmats, _ = _camera(elevation_degrees=-10.0)
    Ks = np.array([[[22.0, 1.5, 11.0], [0, 18.0, 7.0], [0, 0, 1]]])
    shading = mesh.Shading(ambient=0.1, diffuse=0.8, direction=(1, 2, 0.5), albedo=(0.5, 0.5, 0.5))
    result = mesh.render_mesh(vertices, faces, viewmats, Ks, 23, 17, shading=shading, supersample=1)
    expected = mesh_reference.render(
        vertices, faces, viewmats[0], Ks[0], 23, 17,
        ambient=0.1, diffuse=0.8, light=(1, 2, 0.5), albedo=0.5,
    )  # fmt: skip
    _agree(result, expected, 0.05)


@pytest.mark.parametrize("seed", [0, 1])
def test_faces_through_the_near_plane_are_cut_exactly(seed):
    rng, vertices, faces = _soup(seed, count=16, spread=0.7)
    vertices = vertices * 2  # the camera stands among them
    viewmats, Ks = _front(SIZE)
    uv = rng.uniform(0, 1, (len(vertices), 2)).astype(np.float32)
    textures = [rng.integers(0, 256, (4, 4, 3), dtype=np.uint8)]
    number = np.zeros(len(faces), int)
    for near in (0.05, 0.4):
        result = mesh.render_mesh(
            vertices, faces, viewmats, Ks, SIZE, SIZE,
            uv=uv, textures=textures, near=near, supersample=1,
        )  # fmt: skip
        expected = mesh_reference.render(
            vertices, faces, viewmats[0], Ks[0], SIZE, SIZE,
            uv=uv, textures=textures, face_texture=number, near=near,
        )  # fmt: skip
        depth = vertices[faces][..., 2]
        crossing = (depth.min(1) < near) & (depth.max(1) > near)
        assert (
            crossing.sum() >= 3 and np.isin(np.unique(expected[2]), np.flatnonzero(crossing)).any()
        )
        # Texture changes fast where a face passes close to the camera.
        _agree(result, expected, 0.08, atol=5e-3)


def test_a_floor_under_the_camera_reaches_the_lower_border_and_the_horizon():
    corners = [[-1e3, 1, -1e3], [1e3, 1, -1e3], [1e3, 1, 1e3], [-1e3, 1, 1e3]]
    viewmats, Ks = _front(64)
    rgba, depth = mesh.render_mesh(
        corners, np.array([[0, 1, 2], [0, 2, 3]]), viewmats, Ks, 64, 64, supersample=1
    )
    below = np.arange(64) + 0.5 - 32
    expected = np.where(below > 0, 32 / np.maximum(below, 0.5), 0.0)
    np.testing.assert_array_equal(np.asarray(rgba[0, ..., 3]), np.tile((below > 0)[:, None], 64))
    np.testing.assert_allclose(np.asarray(depth[0]), np.tile(expected[:, None], 64), rtol=1e-4)


def test_texture_is_interpolated_in_perspective():
    # A strip that recedes from depth 1 to 9; u runs along it. Screen-linear u would be far off.
    vertices = np.array([[-1, -1, 1], [-1, 1, 1], [9, 9, 9], [9, -9, 9.0]])
    uv = np.array([[0.0, 0], [0, 1], [1, 1], [1, 0]])
    ramp = np.tile(np.arange(256, dtype=np.uint8)[None, :, None], (2, 1, 3))
    viewmats, Ks = _front(64)
    rgba, depth = mesh.render_mesh(
        vertices, np.array([[0, 1, 2], [0, 2, 3]]), viewmats, Ks, 64, 64,
        uv=uv, textures=[ramp], shading=mesh.UNLIT, supersample=1,
    )  # fmt: skip
    x = (np.arange(64) + 0.5 - 32) / 32
    # On the plane z = 1 + 8 u, x_world = -1 + 10 u = x z.
    u = (1 + x) / (10 - 8 * x)
    expected = np.clip((u * 256 - 0.5) / 255, 0, 1)
    row = np.asarray(rgba[0, 32, :, 0])
    inside = (u > 0.01) & (u < 0.99)
    np.testing.assert_allclose(row[inside], expected[inside], atol=1e-4)
    np.testing.assert_allclose(np.asarray(depth[0, 32]), 1 + 8 * u, rtol=1e-5)
    assert np.abs(u - (1 + x) / 2).max() > 0.25  # what screen-linear interpolation would give


def _coverage(vertices, faces, size, viewmats, Ks):
    """How many faces cover each pixel, each rendered alone."""
    total = np.zeros((size, size))
    for face in faces:
        rgba, _ = mesh.render_mesh(vertices, face[None], viewmats, Ks, size, size, supersample=1)
        total += np.asarray(rgba[0, ..., 3])
    return total


@pytest.mark.slow
def test_faces_around_a_point_share_each_pixel_without_holes_or_double_hits():
    # Vertices and edges go through pixel centres on purpose: a centre at (8, 8) + 0.5.
    size, viewmats_Ks = 16, _front(16, focal=1.0)
    viewmats, Ks = viewmats_Ks
    Ks[0, :2, 2] = 0.0  # pixel coordinates = world x, y at depth 1
    rim = np.array(
        [(0, 0), (8.5, -3), (18, 0), (20, 8.5), (17, 17), (8.5, 20), (-1, 18), (-4, 8.5)]
    )
    rim = np.concatenate((rim, [(-2, 4.5)]))
    vertices = np.concatenate((np.array([[8.5, 8.5]]), rim))
    vertices = np.concatenate((vertices, np.ones((len(vertices), 1))), -1)
    count = len(rim)
    faces = np.array([(0, 1 + i, 1 + (i + 1) % count) for i in range(count)])
    rng = np.random.default_rng(0)
    for _ in range(3):  # windings and corner orders must not matter
        mixed = np.array([rng.permutation(face) for face in faces])
        np.testing.assert_array_equal(_coverage(vertices, mixed, size, viewmats, Ks), 1.0)


def test_random_triangulations_tile_the_picture_exactly_once():
    from scipy import spatial

    size, rng = 32, np.random.default_rng(1)
    viewmats, Ks = _front(size, focal=1.0)
    Ks[0, :2, 2] = 0.0
    inner = rng.integers(0, 2 * size, (12, 2)) / 2  # half of them on pixel centres
    points = np.unique(
        np.concatenate((inner, [(-5, -5), (size + 5, -5), (-5, size + 5), (size + 5, size + 5)])),
        axis=0,
    )
    depth = rng.uniform(1, 3, (len(points), 1))
    vertices = np.concatenate((points * depth, depth), -1)
    faces = spatial.Delaunay(points).simplices
    covered = _coverage(vertices, faces, size, viewmats, Ks)
    np.testing.assert_array_equal(covered, 1.0)


def test_cuts_of_shared_edges_leave_no_gap_at_the_near_plane():
    rng = np.random.default_rng(2)
    n = 9
    x, z = np.meshgrid(np.linspace(-4, 4, n), np.linspace(-2, 6, n))
    jitter = rng.uniform(-0.3, 0.3, (2, n, n))
    vertices = np.stack((x + jitter[0], np.full_like(x, 0.5), z + jitter[1]), -1).reshape(-1, 3)
    a = (np.arange(n - 1)[:, None] * n + np.arange(n - 1)).reshape(-1)
    faces = np.concatenate(
        (np.stack((a, a + 1, a + n + 1), -1), np.stack((a, a + n + 1, a + n), -1))
    )
    viewmats, Ks = _front(32)
    near = 0.6
    total = np.zeros((32, 32))
    for face in faces:
        rgba, _ = mesh.render_mesh(
            vertices, face[None], viewmats, Ks, 32, 32, supersample=1, near=near
        )
        total += np.asarray(rgba[0, ..., 3])
    below = (np.arange(32) + 0.5 - 16) / 16
    depth = np.where(below > 0, 0.5 / np.maximum(below, 1e-3), np.inf)
    inside = (depth > near) & (depth < 5.0)  # of the part of the floor that surely is covered
    columns = np.abs(below)[None] * depth[:, None] < 3.5
    np.testing.assert_array_equal(total[inside[:, None] & columns], 1.0)
    assert np.all(total[depth < near] == 0) and np.all(total <= 1)


@pytest.mark.parametrize("radius", [1.0, 0.5])
def test_a_sphere_has_its_analytic_silhouette_and_depth(radius):
    size, distance = 128, 3.0
    vertices, faces = _sphere(64, radius)
    viewmats, Ks = _camera(size, distance)
    rgba, depth = mesh.render_mesh(vertices, faces, viewmats, Ks, size, size, supersample=3)
    focal = Ks[0, 0, 0]
    # The outline of a centred sphere is a circle of focal * tan(asin(r / d)).
    outline = focal * radius / np.sqrt(distance**2 - radius**2)
    assert np.asarray(rgba[0, ..., 3]).sum() == pytest.approx(np.pi * outline**2, rel=3e-3)
    ray = np.stack(np.meshgrid(*2 * [(np.arange(size) + 0.5 - size / 2) / focal]), -1)
    square = np.sum(ray**2, -1) + 1
    under = distance**2 - square * (distance**2 - radius**2)
    inside = under > 0.3 * under.max()
    expected = (distance - np.sqrt(np.maximum(under, 0))) / square
    # A pixel is 0.014 wide there and the surface rises with a slope of up to 1.5.
    error = np.asarray(depth[0])[inside] - expected[inside]
    assert np.abs(error).max() < 8e-3 and abs(error.mean()) < 1e-3
    # Head light on a sphere: the middle faces the camera, the rim turns away.
    grey = np.asarray(rgba[0, ..., 0])
    assert grey[size // 2, size // 2] == pytest.approx(0.7, abs=5e-3)
    edge = grey[size // 2, int(size / 2 + outline - 1.5)]
    assert 0.2 < edge < 0.4
    assert np.all(np.asarray(rgba[0])[np.asarray(depth[0]) == 0] == 0)


def test_both_sides_are_drawn_alike():
    _, vertices, faces = _soup(7)
    viewmats, Ks = _camera()
    first = mesh.render_mesh(vertices, faces, viewmats, Ks, SIZE, SIZE)
    second = mesh.render_mesh(vertices, faces[:, ::-1], viewmats, Ks, SIZE, SIZE)
    np.testing.assert_array_equal(first[0][..., 3], second[0][..., 3])
    np.testing.assert_allclose(first[0], second[0], atol=1e-5)


def test_degenerate_faces_draw_nothing_and_harm_nothing():
    _, vertices, faces = _soup(9)
    viewmats, Ks = _camera()
    extra = np.array([[0, 0, 0], [1, 1, 2], [3, 4, 3]])
    line = np.concatenate((vertices, np.float32([[-1, 0, 0], [0, 0, 0], [1, 0, 0]])))
    extra = np.concatenate((extra, [[len(vertices), len(vertices) + 1, len(vertices) + 2]]))
    alone = mesh.render_mesh(line, extra, viewmats, Ks, SIZE, SIZE)
    assert not np.any(np.asarray(alone[0])) and not np.any(np.asarray(alone[1]))
    plain = mesh.render_mesh(vertices, faces, viewmats, Ks, SIZE, SIZE)
    mixed = mesh.render_mesh(line, np.concatenate((faces, extra)), viewmats, Ks, SIZE, SIZE)
    np.testing.assert_array_equal(plain[0], mixed[0])


def test_of_coplanar_faces_the_first_is_seen():
    vertices = np.array([[-1, -1, 2], [1, -1, 2], [0, 1, 2.0]])
    viewmats, Ks = _front(16)
    rgb = np.uint8([[255, 0, 0], [0, 255, 0]])
    for order in (rgb, rgb[::-1]):
        rgba, _ = mesh.render_mesh(
            vertices, np.array([[0, 1, 2], [0, 1, 2]]), viewmats, Ks, 16, 16,
            face_rgb=order, shading=mesh.UNLIT,
        )  # fmt: skip
        seen = np.asarray(rgba[0])[np.asarray(rgba[0, ..., 3]) == 1][:, :3]
        np.testing.assert_array_equal(seen, np.tile(order[0] / np.float32(255), (len(seen), 1)))


@pytest.mark.slow
def test_views_are_independent_padding_is_invisible_and_runs_repeat():
    _, vertices, faces = _soup(11)
    viewmats = np.asarray(cameras.orbit_path(3, 3.0))
    Ks = np.tile(np.asarray(cameras.intrinsics_from_fov(45.0, SIZE, SIZE)), (3, 1, 1))
    rgba, depth = mesh.render_mesh(vertices, faces, viewmats, Ks, SIZE, SIZE)
    for i in range(3):
        one, _ = mesh.render_mesh(vertices, faces, viewmats[i : i + 1], Ks[:1], SIZE, SIZE)
        np.testing.assert_array_equal(one[0], rgba[i])
    again = mesh.render_mesh(vertices, faces, viewmats, Ks, SIZE, SIZE)
    np.testing.assert_array_equal(again[0], rgba)
    np.testing.assert_array_equal(again[1], depth)
    # More faces than a bucket holds, all but the first lot behind the cameras' backs.
    far = np.tile(faces[:1], (1100, 1)) + len(vertices)
    hidden = np.concatenate((vertices, np.tile([[0, 99.0, 0]], (3, 1)) + vertices[:3]))
    many = mesh.render_mesh(hidden, np.concatenate((faces, far)), viewmats, Ks, SIZE, SIZE)
    np.testing.assert_allclose(many[0], rgba, atol=1e-6)


def test_meshes_of_one_bucket_share_a_compilation():
    viewmats, Ks = _camera()
    for count in (3, 14, 40):
        rng, vertices, faces = _soup(count, count=count)
        before = mesh._render._cache_size()
        rgb = rng.integers(0, 256, faces.shape, dtype=np.uint8)
        pictures = [rng.integers(0, 256, (count, 7, 3), dtype=np.uint8)]
        uv = np.zeros((len(vertices), 2))
        mesh.render_mesh(vertices, faces, viewmats, Ks, SIZE, SIZE, face_rgb=rgb)
        mesh.render_mesh(vertices, faces, viewmats, Ks, SIZE, SIZE, uv=uv, textures=pictures)
        mesh.render_mesh(vertices, faces, viewmats, Ks, SIZE, SIZE)
    assert mesh._render._cache_size() == before
    assert [mesh.bucket(n, 4) for n in (0, 1, 4, 5, 8, 9)] == [4, 4, 4, 8, 8, 16]


def test_a_background_gives_an_opaque_picture():
    _, vertices, faces = _soup(13)
    viewmats, Ks = _camera()
    straight, _ = mesh.render_mesh(vertices, faces, viewmats, Ks, SIZE, SIZE)
    laid, _ = mesh.render_mesh(
        vertices, faces, viewmats, Ks, SIZE, SIZE, background=(1.0, 0.5, 0.0)
    )
    rgb, alpha = np.asarray(straight[..., :3]), np.asarray(straight[..., 3:])
    assert np.unique(alpha).tolist() == [0, 0.25, 0.5, 0.75, 1]
    expected = rgb * alpha + (1 - alpha) * np.float32((1, 0.5, 0))
    np.testing.assert_allclose(laid[..., :3], expected, atol=1e-6)
    assert np.all(np.asarray(laid[..., 3]) == 1)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"faces": np.array([[0, 1, 99]])}, r"faces: indices must be in \[0, 42\), found 0 to 99"),
        ({"faces": np.array([[0.0, 1, 2]])}, "faces: expected integers"),
        ({"vertices": np.zeros((4, 2))}, "vertices: expected shape"),
        ({"viewmats": np.eye(4)}, "viewmats, Ks: expected"),
        ({"width": 0}, "width, height, supersample"),
        ({"near": 0.0}, "near: expected a positive depth"),
        ({"face_rgb": np.zeros((2, 3), np.uint8)}, r"face_rgb: expected shape \[14, 3\]"),
        ({"textures": [np.zeros((2, 2, 3), np.uint8)]}, "uv: textures are given"),
        ({"face_texture": np.zeros(14, int)}, "face_texture: expected -1 to -1"),
        (
            {"textures": [np.zeros((2, 2, 3))], "uv": np.zeros((42, 2))},
            r"textures\[0\]: expected uint8",
        ),
        ({"background": (1, 1)}, "background: expected three numbers"),
    ],
)
def test_bad_arguments_are_named(change, message):
    _, vertices, faces = _soup(0)
    viewmats, Ks = _camera()
    arguments = dict(
        vertices=vertices, faces=faces, viewmats=viewmats, Ks=Ks, width=SIZE, height=SIZE
    )
    with pytest.raises(ValueError, match=message):
        mesh.render_mesh(**{**arguments, **change})
