"""Pictures of objects by the package's own rasterizer: one compilation for each shape.

Imports JAX; used when a set is prepared, never while it is read.
"""

import concurrent.futures
import functools
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gsjax.core import cameras
from gsjax.data import features
from gsjax.raster import api

ELEVATIONS = (10.0, 40.0, -20.0)  # degrees; view 0 is the plainest one
FOV = 50.0  # degrees
DISTANCE = 2.4  # in object radii: 1 / sin(FOV / 2) = 2.37 just shows the whole bounding sphere
START = 30.0  # azimuth of view 0: neither side of a box is seen edge-on
RADIUS_QUANTILE = 0.99  # of distances from the centre; a trained scene's floaters do not count
_IMAGES_A_CALL = 48


class View(NamedTuple):
    """Pictures of one object: ``png`` (V files), ``viewmats`` f32 [V, 4, 4], ``Ks`` [V, 3, 3]."""

    png: list[bytes]
    viewmats: np.ndarray
    Ks: np.ndarray


def view_path(num_views: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Cameras around an object of radius 1 at the origin, +y up.

    Azimuths times three elevations; with 36 views 12 azimuths each. Elevations take turns, and
    each begins a third of a step further round, so that few views are still different ones.

    Returns:
        viewmats f32 [V, 4, 4] and Ks f32 [V, 3, 3].

    Raises:
        ValueError: no views, or pictures without pixels.
    """
    if num_views < 1 or size < 1:
        raise ValueError(
            f"views and view_size: expected at least 1, found {num_views} views of {size} pixels"
        )
    rounds = -(-num_views // len(ELEVATIONS))
    step = 360.0 / rounds
    paths = [
        cameras.orbit_path(
            rounds,
            DISTANCE,
            elevation_degrees=elevation,
            start_degrees=START + step * k / len(ELEVATIONS),
        )
        for k, elevation in enumerate(ELEVATIONS)
    ]
    viewmats = np.asarray(jnp.stack(paths, axis=1), np.float32).reshape(-1, 4, 4)[:num_views]
    K = np.asarray(cameras.intrinsics_from_fov(FOV, size, size), np.float32)
    return viewmats, np.broadcast_to(K, (num_views, 3, 3)).copy()


@functools.partial(jax.jit, static_argnames=("size", "sh_degree", "alpha"))
def render_scenes(scenes, viewmats, Ks, size, sh_degree, alpha):
    """uint8 [B, V, size, size, 3] on white; with ``alpha`` [B, V, size, size, 4], straight colours."""
    batch, views = len(scenes["means"]), len(viewmats)
    image, opacity, _ = api.rasterize(
        scenes["means"],
        scenes["quats"],
        jnp.exp(scenes["log_scales"]),
        jax.nn.sigmoid(scenes["logit_opacities"]),
        scenes["sh"],
        jnp.broadcast_to(viewmats, (batch, *viewmats.shape)),
        jnp.broadcast_to(Ks, (batch, *Ks.shape)),
        size,
        size,
        sh_degree=sh_degree,
        backgrounds=jnp.full((batch, views, 3), 0.0 if alpha else 1.0, viewmats.dtype),
    )
    if alpha:  # premultiplied on black -> straight, as PNG has it
        image = jnp.concatenate([image / jnp.maximum(opacity, 1 / 255), opacity], -1)
    return jnp.round(jnp.clip(image, 0, 1) * 255).astype(jnp.uint8)


def bounding_sphere(means: np.ndarray) -> tuple[np.ndarray, float]:
    """Centre [3] and radius that hold nearly all of ``means`` [M, 3]."""
    low, high = np.quantile(
        means.astype(np.float64), [1 - RADIUS_QUANTILE, RADIUS_QUANTILE], axis=0
    )
    centre = (low + high) / 2
    radius = np.quantile(np.linalg.norm(means - centre, axis=-1), RADIUS_QUANTILE)
    return centre, max(float(radius), 1e-6)


class Renderer:
    """Renders objects in batches of one shape each, on two threads.

    Objects are brought to unit radius first, so that one near plane suits all; the cameras handed
    back look at the object in its own units. Pictures are on white, or with ``alpha`` have a fourth
    channel.
    """

    def __init__(self, num_views: int, size: int, alpha: bool = False):
        self.size, self.alpha = size, alpha
        self._viewmats, self._Ks = view_path(num_views, size)
        self._batch = max(1, _IMAGES_A_CALL // num_views)
        self._pool = concurrent.futures.ThreadPoolExecutor(2)

    @property
    def batch(self) -> int:
        """How many objects of one shape go into a call."""
        return self._batch

    def close(self) -> None:
        """Ends the threads."""
        self._pool.shutdown()

    def submit(self, objects: Sequence[Mapping[str, np.ndarray]]) -> concurrent.futures.Future:
        """Starts rendering up to ``batch`` objects; the future gives a list of :class:`View`.

        Args:
            objects: raw Gaussian arrays with ``sh0`` [M, 3] or ``sh`` [M, K, 3].
        """
        return self._pool.submit(self._work, list(objects))

    def _work(self, objects) -> list[View]:
        spheres = [bounding_sphere(g["means"]) for g in objects]
        count = max(_bucket(len(g["means"])) for g in objects)
        degree = max(_degree(g) for g in objects)
        rows = [_scene(g, s, count, degree) for g, s in zip(objects, spheres)]
        rows += [rows[-1]] * (self._batch - len(rows))
        scenes = {name: np.stack([row[name] for row in rows]) for name in rows[0]}
        images = np.asarray(
            render_scenes(scenes, self._viewmats, self._Ks, self.size, degree, self.alpha)
        )
        return [self._view(images[i], *sphere) for i, sphere in enumerate(spheres)]

    def _view(self, images: np.ndarray, centre: np.ndarray, radius: float) -> View:
        viewmats = self._viewmats.astype(np.float64)
        # With x = centre + radius * u: R u + t, times radius, is R (x - centre) + radius * t.
        viewmats[:, :3, 3] = radius * viewmats[:, :3, 3] - viewmats[:, :3, :3] @ centre
        png = [features.encode_png(image) for image in images]
        return View(png, viewmats.astype(np.float32), self._Ks)


def _bucket(count: int) -> int:
    """Sizes a scene is padded to: three to a factor of two, so few compilations serve all."""
    base = 1 << max(count - 1, 1).bit_length()
    return next(b for b in (base // 2, base * 5 // 8, base * 3 // 4, base) if b >= count)


def _degree(gaussians: Mapping[str, np.ndarray]) -> int:
    if "sh" not in gaussians:
        return 0
    return int(np.sqrt(gaussians["sh"].shape[1])) - 1


def _scene(gaussians, sphere, count: int, degree: int) -> dict[str, np.ndarray]:
    """Float32 arrays of one object at unit radius, padded with transparent Gaussians."""
    centre, radius = sphere
    found = len(gaussians["means"])
    sh = gaussians["sh"] if "sh" in gaussians else gaussians["sh0"][:, None]
    values = {
        "means": (gaussians["means"] - centre) / radius,
        "quats": gaussians["quats"],
        "log_scales": gaussians["log_scales"] - np.log(radius),
        "logit_opacities": gaussians["logit_opacities"],
        "sh": np.pad(sh, ((0, 0), (0, (degree + 1) ** 2 - sh.shape[1]), (0, 0))),
    }
    fill = {"logit_opacities": -30.0, "log_scales": -10.0, "quats": 1.0}
    scene = {}
    for name, value in values.items():
        whole = np.full((count, *value.shape[1:]), fill.get(name, 0.0), np.float32)
        whole[:found] = value
        scene[name] = whole
    return scene
