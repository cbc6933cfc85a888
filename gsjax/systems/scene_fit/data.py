"""What is fitted: photographs, or views of a mesh, as arrays of one size, held-out ones apart."""

import dataclasses
import pathlib

import numpy as np

from gsjax.data import mesh_views
from gsjax.io import meshes, posed
from gsjax.systems.scene_fit import factory
from gsjax.systems.scene_fit.state import Views

MESH_SUFFIXES = (".obj", ".off", ".glb", ".stl", ".npz")


@dataclasses.dataclass(frozen=True)
class Scene:
    """Training and held-out views of one scene.

    Attributes:
      name: of the source.
      train, test: `Views` of numpy arrays.
      points, rgb: [M, 3] a point cloud, colours in [0, 1], or None.
      normals: [M, 3] of the surface that the points lie on, or None.
      names: of the held-out pictures.
    """

    name: str
    train: Views
    test: Views
    points: np.ndarray | None
    rgb: np.ndarray | None
    normals: np.ndarray | None
    names: tuple[str, ...]


def load(config) -> Scene:
    """The scene of a config's ``data`` block.

    Raises:
      ValueError: what `io.posed` and `io.meshes` raise; pictures of several sizes; masks or depth
        maps asked for that are not there.
    """
    source = pathlib.Path(config.source)
    if not config.source:
        return _procedural(config)
    if source.suffix.lower() in MESH_SUFFIXES:
        return from_mesh(meshes.read(source), source.stem, config)
    if source.is_file() and source.suffix.lower() != ".json":
        raise ValueError(
            f"data.source: found the file {source}, expected a mesh ({', '.join(MESH_SUFFIXES)}), a "
            "JSON file of cameras, or a folder of photographs with their cameras; convert the mesh"
        )
    return _photographs(config)


def _photographs(config) -> Scene:
    found = posed.load_posed(
        config.source, downscale=config.downscale, axes=config.axes or None
    )  # fmt: skip
    train, test = posed.holdout(found, config.test_every)
    rgb = None if found.points is None else np.full(found.points.shape, 0.5)
    if found.point_colors is not None:
        rgb = found.point_colors / 255.0
    return Scene(
        pathlib.Path(config.source).name, _views(found, train), _views(found, test), found.points,
        rgb, None, tuple(found.names[i] for i in test),
    )  # fmt: skip


def _views(found: posed.PosedImages, chosen) -> Views:
    if not len(chosen):
        empty = np.zeros((0, int(found.height[0]), int(found.width[0]), 3), np.uint8)
        return Views(empty, np.zeros((0, 4, 4), np.float32), np.zeros((0, 3, 3), np.float32))
    part = found.subset(chosen)
    images = posed.load_images(part)
    sizes = sorted({image.shape[:2] for image in images})
    if len(sizes) > 1:
        raise ValueError(
            f"images: found {len(sizes)} sizes (height, width), {sizes[:3]}; a fit needs one, bring "
            "them to it"
        )
    masks = None if part.mask_paths is None else np.stack(posed.load_masks(part))
    depths = None if part.depth_paths is None else np.stack(posed.load_depths(part))
    return Views(
        np.stack(images),
        part.viewmats.astype(np.float32),
        part.Ks.astype(np.float32),
        masks,
        depths,
    )


def from_mesh(mesh: meshes.Mesh, name: str, config) -> Scene:
    """Views around a mesh, held-out ones between them, and points sampled on its surface."""
    recipe = mesh_recipe(config)
    train = mesh_views.render_views(mesh, recipe)
    cameras = mesh_views.held_out_cameras(recipe, config.test_views)
    test = mesh_views.render_views(mesh, recipe, viewmats=cameras[0], Ks=cameras[1])
    placed = mesh_views.framed(mesh, recipe)
    points, normals, rgb = meshes.sample_surface(placed, config.points, config.seed)
    names = tuple(f"{name}-{i:02d}" for i in range(config.test_views))
    return Scene(name, _rendered(train), _rendered(test), points, rgb, normals, names)


def mesh_recipe(config) -> mesh_views.ViewRecipe:
    """Cameras and look of a config's ``data`` block: views on rings at three elevations."""
    if config.recipe:
        known = mesh_views.RECIPES
        if config.recipe not in known:
            raise ValueError(f"data.recipe: found {config.recipe!r}, known: {sorted(known)}")
        return known[config.recipe]
    if config.views % 3:
        raise ValueError(f"data.views: found {config.views}, expected a multiple of 3 rings")
    return factory.view_recipe(config.views, config.view_size)


def _rendered(views) -> Views:
    return Views(views["images"], views["viewmats"], views["Ks"])


def _procedural(config) -> Scene:
    """An embedded scene: a checkered torus beside a ball and a box, nothing to download."""
    parts = (
        _patch(lambda u, v: _torus(u, v), (48, 24), ((200, 60, 40), (240, 200, 60))),
        _patch(lambda u, v: _ball(u, v), (32, 16), ((40, 90, 200), (230, 230, 240))),
        _patch(lambda u, v: _slab(u, v), (12, 12), ((60, 140, 80), (30, 60, 50))),
    )
    vertices, faces, colors, offset = [], [], [], 0
    for points, index, rgb in parts:
        vertices.append(points)
        faces.append(index + offset)
        colors.append(rgb)
        offset += len(points)
    mesh = meshes.Mesh(
        np.concatenate(vertices).astype(np.float32), np.concatenate(faces).astype(np.int32),
        face_rgb=np.concatenate(colors).astype(np.uint8),
    )  # fmt: skip
    return from_mesh(mesh, "procedural", config)


def _patch(surface, size, colors):
    """A grid over [0, 1]^2, checkered by 4 x 4 cells: vertices, faces, colours of the faces."""
    across, down = size
    u, v = np.meshgrid(np.linspace(0, 1, across + 1), np.linspace(0, 1, down + 1), indexing="ij")
    index = np.arange(u.size).reshape(u.shape)
    a, b, c, d = index[:-1, :-1], index[1:, :-1], index[1:, 1:], index[:-1, 1:]
    faces = np.stack([np.stack([a, b, c], -1), np.stack([a, c, d], -1)], 2).reshape(-1, 3)
    cell = (np.arange(across)[:, None] // 4 + np.arange(down) // 4) % 2
    rgb = np.asarray(colors)[np.repeat(cell.ravel(), 2)]
    return surface(u.ravel() * 2 * np.pi, v.ravel() * 2 * np.pi), faces, rgb


def _torus(u, v):
    ring = 0.7 + 0.22 * np.cos(v)
    return np.stack([ring * np.cos(u), 0.22 * np.sin(v) + 0.1, ring * np.sin(u)], -1)


def _ball(u, v):
    polar = v / 2
    unit = np.stack([np.sin(polar) * np.cos(u), np.cos(polar), np.sin(polar) * np.sin(u)], -1)
    return 0.3 * unit + [0.0, 0.35, 0.0]


def _slab(u, v):
    return np.stack([u / np.pi - 1, np.full_like(u, -0.2), v / np.pi - 1], -1)
