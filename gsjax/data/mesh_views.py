"""Training views of meshes: where the cameras stand, what the pictures look like, the pictures.

A ``ViewRecipe`` is a whole setting; ``MODELNET10`` and ``OBJAVERSE`` are those of the published
systems, ``orbit`` makes simple ones. Imports JAX: used while a set is built, never while it is read.
The renderer is ``raster/mesh.py``; fitting Gaussians to the views is ``systems/scene_fit``.
"""

import concurrent.futures
import dataclasses
import os

import numpy as np

from gsjax.core import cameras as core_cameras
from gsjax.data import objects_cc0
from gsjax.io import meshes
from gsjax.raster import mesh as mesh_raster

Y_UP, Z_UP = (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)


@dataclasses.dataclass(frozen=True)
class Spiral:
    """Azimuth 360 turns i / V and elevation linear from first to last, over views i of V (degrees)."""

    num_views: int
    turns: float
    elevations: tuple[float, float]

    def angles(self, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Azimuth and elevation, degrees, at positions along the path (view i is at i)."""
        first, last = self.elevations
        fraction = positions / max(self.num_views - 1, 1)
        return 360 * self.turns * positions / self.num_views, first + (last - first) * fraction

    def between(self, num: int) -> tuple[np.ndarray, np.ndarray]:
        """Angles of ``num`` views half-way between neighbours, spread over the path."""
        gaps = max(self.num_views - 1, 1)
        return self.angles(np.floor((np.arange(num) + 0.5) * gaps / num) + 0.5)


@dataclasses.dataclass(frozen=True)
class Rings:
    """``azimuths`` views on each of the circles at ``elevations`` (degrees), one after the other."""

    azimuths: int
    elevations: tuple[float, ...]
    start: float = 0.0

    @property
    def num_views(self) -> int:
        return self.azimuths * len(self.elevations)

    def angles(self, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Azimuth and elevation, degrees, of views (integers)."""
        step = positions % self.azimuths
        ring = (positions // self.azimuths).astype(int)
        return self.start + 360 * step / self.azimuths, np.asarray(self.elevations)[ring]

    def between(self, num: int) -> tuple[np.ndarray, np.ndarray]:
        """Angles of ``num`` views half-way between neighbours on a ring and between rings."""
        levels = np.sort(np.asarray(self.elevations, float))
        middles = (levels[1:] + levels[:-1]) / 2 if len(levels) > 1 else levels
        index = np.arange(num)
        step = np.floor((index + 0.5) * self.azimuths / num) + 0.5
        return self.start + 360 * step / self.azimuths, middles[index % len(middles)]


@dataclasses.dataclass(frozen=True)
class ViewRecipe:
    """Cameras and look of a data set's views.

    Attributes:
      path: angles of the cameras about the up axis.
      radius: distance of the cameras from the origin, in object radii where ``normalize='sphere'``.
      fov: horizontal angle of view, degrees.
      width, height: pixels.
      up: world direction that points up in the pictures.
      normalize: 'sphere' or 'box' as in ``meshes.normalized``; None takes meshes as they are.
      use_colors: False renders every mesh in ``shading.albedo``.
      shading: light, and the colour of meshes that have none.
      background: colour that pictures are laid on where they are used (see ``composite``).
      supersample: samples per pixel along each axis.
    """

    path: Spiral | Rings
    radius: float
    fov: float
    width: int
    height: int
    up: tuple[float, float, float] = Y_UP
    normalize: str | None = "sphere"
    use_colors: bool = True
    shading: mesh_raster.Shading = mesh_raster.Shading()
    background: tuple[float, float, float] = (1.0, 1.0, 1.0)
    supersample: int = 2

    def __post_init__(self):
        if self.path.num_views < 1 or not self.radius > 0 or not 0 < self.fov < 180:
            raise ValueError(
                "ViewRecipe: expected views, a positive radius and 0 < fov < 180, found "
                f"{self.path.num_views} views, radius {self.radius}, fov {self.fov}"
            )
        if min(self.width, self.height) < 1:
            raise ValueError(f"ViewRecipe: expected pixels, found {self.width} x {self.height}")

    @property
    def num_views(self) -> int:
        return self.path.num_views


# Cross-modal self-supervision on ModelNet10: 64 views of 800 x 800 on a spiral, one grey for all
# models. Radius, angle of view, turns and light are not published; the camera is NeRF-synthetic's.
MODELNET10 = ViewRecipe(
    path=Spiral(num_views=64, turns=4, elevations=(-10.0, 70.0)),
    radius=3.2,
    fov=39.6,
    width=800,
    height=800,
    up=Z_UP,
    use_colors=False,
    shading=mesh_raster.Shading(ambient=0.3, diffuse=0.7, albedo=(0.7, 0.7, 0.7)),
)

# CLIP-GS (arXiv 2412.19142): 36 pictures a shape; their size, path and light are not published. From
# radius 2.37 on, 1 / sin(fov / 2), the bounding sphere is whole in every picture. The light stands
# still in the world: Gaussians of SH degree 0 cannot follow one that moves with the camera (which
# cost four low-poly objects 3 to 9 dB).
OBJAVERSE = ViewRecipe(
    path=Rings(azimuths=12, elevations=(-20.0, 10.0, 40.0)),
    radius=2.4,
    fov=50.0,
    width=256,
    height=256,
    shading=mesh_raster.Shading(ambient=0.6, diffuse=0.4, direction=(0.4, 0.8, 0.45)),
)

RECIPES = {"modelnet10": MODELNET10, "objaverse": OBJAVERSE}


def modelnet10(num_views: int = 0, size: int = 0, **changes) -> ViewRecipe:
    """``MODELNET10`` with other numbers of views and pixels where given; ``changes`` are further fields."""
    known = MODELNET10
    path = dataclasses.replace(known.path, num_views=num_views or known.num_views)
    size = size or known.width
    return dataclasses.replace(known, path=path, width=size, height=size, **changes)


def orbit(
    num_views: int, size: int, *, elevation: float = 20.0, radius: float = 2.8, fov: float = 45.0,
    **changes,
) -> ViewRecipe:  # fmt: skip
    """Views on one circle; ``changes`` are further fields of the recipe.

    The default camera just holds the bounding sphere: 1 / sin(fov / 2) = 2.61.
    """
    path = Rings(azimuths=num_views, elevations=(elevation,))
    return ViewRecipe(path=path, radius=radius, fov=fov, width=size, height=size, **changes)


def cameras(recipe: ViewRecipe, up=None) -> tuple[np.ndarray, np.ndarray]:
    """The recipe's training cameras, around the origin.

    Azimuth 0 is the +z side where +y is up and the +x side where +z is, and grows counter-clockwise
    seen from above, as in ``core.cameras``.

    Args:
      recipe: of V views.
      up: [3], default the recipe's.

    Returns:
      viewmats float32 [V, 4, 4] world-to-camera (OpenCV axes), Ks float32 [V, 3, 3] in pixels.
    """
    return _cameras(recipe, recipe.path.angles(np.arange(recipe.num_views, dtype=float)), up)


def held_out_cameras(recipe: ViewRecipe, num: int, up=None) -> tuple[np.ndarray, np.ndarray]:
    """``num`` cameras half-way between training cameras of the recipe, spread over its path.

    Returns:
      viewmats float32 [num, 4, 4] and Ks float32 [num, 3, 3].

    Raises:
      ValueError: fewer than one, or more than there are gaps between training cameras.
    """
    if not 1 <= num <= max(recipe.num_views - 1, 1):
        raise ValueError(
            f"num: expected 1 to {max(recipe.num_views - 1, 1)} (one for each gap between the "
            f"{recipe.num_views} training views), found {num}"
        )
    return _cameras(recipe, recipe.path.between(num), up)


def _cameras(recipe, angles, up):
    up = np.asarray(recipe.up if up is None else up, float)
    if up.shape != (3,) or not np.linalg.norm(up) > 0:
        raise ValueError(f"up: expected a direction of three numbers, found {up.tolist()}")
    up = up / np.linalg.norm(up)
    hint = np.eye(3)[2 if abs(up[2]) < 0.9 else 0]
    front = hint - hint @ up * up
    front /= np.linalg.norm(front)
    side = np.cross(up, front)
    azimuth, elevation = (np.deg2rad(a)[:, None] for a in angles)
    flat = np.cos(azimuth) * front + np.sin(azimuth) * side
    eyes = recipe.radius * (np.cos(elevation) * flat + np.sin(elevation) * up)
    viewmats = np.asarray(core_cameras.look_at(eyes, np.zeros(3), up), np.float32)
    K = core_cameras.intrinsics_from_fov(recipe.fov, recipe.width, recipe.height)
    return viewmats, np.tile(np.asarray(K, np.float32), (len(eyes), 1, 1))


def from_objects_cc0(mesh: objects_cc0.Mesh) -> meshes.Mesh:
    """A mesh of the low-poly collection in the form taken here."""
    rgb = np.round(mesh.rgb * 255).astype(np.uint8)
    return meshes.Mesh(mesh.vertices, mesh.faces, face_rgb=rgb)


def framed(mesh: meshes.Mesh, recipe: ViewRecipe) -> meshes.Mesh:
    """The mesh where the recipe's cameras look for it: Gaussians fitted to the views lie on this."""
    return mesh if recipe.normalize is None else meshes.normalized(mesh, recipe.normalize)


def render_views(
    mesh: meshes.Mesh,
    recipe: ViewRecipe,
    *,
    up=None,
    viewmats: np.ndarray | None = None,
    Ks: np.ndarray | None = None,
) -> dict[str, np.ndarray]:
    """Pictures of one mesh. Meshes of about the same size share one compilation.

    Args:
      mesh: any; it is brought into the recipe's frame first, see ``framed``.
      recipe: the setting.
      up: [3], default the recipe's.
      viewmats: [V, 4, 4], with ``Ks`` [V, 3, 3] other cameras than the recipe's training cameras,
        such as ``held_out_cameras``; in the frame of ``framed``.
      Ks: see viewmats.

    Returns:
      images: uint8 [V, H, W, 4], straight alpha, 0 where nothing is seen.
      depth: float32 [V, H, W] along the optical axis, 0 where nothing is seen.
      viewmats: float32 [V, 4, 4].
      Ks: float32 [V, 3, 3].

    Raises:
      ValueError: only one of viewmats and Ks is given, or their shapes do not fit.
    """
    if (viewmats is None) != (Ks is None):
        raise ValueError("viewmats, Ks: give both or neither")
    if viewmats is None:
        viewmats, Ks = cameras(recipe, up)
    viewmats, Ks = np.asarray(viewmats, np.float32), np.asarray(Ks, np.float32)
    if len(viewmats) != len(Ks) or not len(Ks):
        raise ValueError(f"viewmats, Ks: found {len(viewmats)} and {len(Ks)}, expected as many")
    placed = framed(mesh, recipe)
    looks = {}
    if recipe.use_colors:
        names = ("face_rgb", "vertex_rgb", "uv", "face_texture", "textures")
        looks = {name: getattr(placed, name) for name in names}
    images = np.empty((len(Ks), recipe.height, recipe.width, 4), np.uint8)
    depths = np.empty(images.shape[:3], np.float32)

    def one(i):
        rgba, depth = mesh_raster.render_mesh(
            placed.vertices, placed.faces, viewmats[i : i + 1], Ks[i : i + 1],
            recipe.width, recipe.height,
            supersample=recipe.supersample, shading=recipe.shading, **looks,
        )  # fmt: skip
        images[i], depths[i] = np.round(np.asarray(rgba[0]) * 255), depth[0]

    one(0)  # compiles, if need be, once
    # One core renders one view.
    with concurrent.futures.ThreadPoolExecutor(min(os.cpu_count() or 1, 8)) as pool:
        list(pool.map(one, range(1, len(Ks))))
    return {"images": images, "depth": depths, "viewmats": viewmats, "Ks": Ks}


def composite(images: np.ndarray, background=(1.0, 1.0, 1.0)) -> np.ndarray:
    """uint8 [..., 4] with straight alpha -> uint8 [..., 3] on a colour [3] in [0, 1]."""
    images = np.asarray(images)
    if images.shape[-1:] != (4,) or images.dtype != np.uint8:
        raise ValueError(
            f"images: expected uint8 [..., 4], found {images.dtype} {list(images.shape)}"
        )
    alpha = images[..., 3:].astype(np.float32) / 255
    laid = images[..., :3] * alpha + (1 - alpha) * np.float32(255) * np.float32(background)
    return np.round(laid).astype(np.uint8)


def view_split(num_views: int, every: int = 8) -> tuple[np.ndarray, np.ndarray]:
    """Numbers of training and held-out views where both come from one list: each ``every``-th is held out.

    Raises:
      ValueError: no view would be left to train on.
    """
    if every < 2 or num_views < 2:
        raise ValueError(
            f"view_split: expected at least 2 views and every >= 2, found {num_views} and {every}"
        )
    held = np.arange(every // 2, num_views, every)
    return np.setdiff1d(np.arange(num_views), held), held
