"""A small scene whose Gaussians are known, seen by a ring of cameras."""

import jax
import jax.numpy as jnp
import numpy as np

from gsjax.core import cameras
from gsjax.systems.scene_fit import model, start, state

SIZE, VIEWS = 24, 6


def ball(seed: int, num: int = 60):
    """Points and colours on a ball of radius 0.6."""
    rng = np.random.default_rng(seed)
    points = rng.normal(size=(num, 3))
    points *= 0.6 / np.linalg.norm(points, axis=-1, keepdims=True)
    return points, rng.random((num, 3))


def views(seed: int, alpha: bool = True) -> state.Views:
    """Pictures of opaque Gaussians at `ball(seed)`."""
    points, rgb = ball(seed)
    params, alive = start.from_points(
        points, rgb, len(points), sh_degree=0, opacity=0.95, scale=0.7
    )
    viewmats = cameras.orbit_path(VIEWS, 2.5, elevation_degrees=20.0)
    Ks = jnp.broadcast_to(cameras.intrinsics_from_fov(45.0, SIZE, SIZE), (VIEWS, 3, 3))
    scene = model.activated({k: jnp.asarray(v) for k, v in params.items()}, jnp.asarray(alive))
    image, cover, _ = model.render(scene, viewmats, Ks, SIZE, SIZE, jnp.zeros((VIEWS, 3)))
    image, cover = np.asarray(image), np.asarray(cover)
    if alpha:
        image = np.concatenate([image / np.maximum(cover, 1e-6), cover], -1)
    pixels = (np.clip(image, 0, 1) * 255 + 0.5).astype(np.uint8)
    return state.Views(pixels, np.asarray(viewmats, np.float32), np.asarray(Ks, np.float32))


def first(recipe, seed: int, views: state.Views, used: int | None = None, key: int = 0):
    """State at grey Gaussians in the places of `ball(seed)`, jittered."""
    points, rgb = ball(seed)
    points = points + 0.02 * np.random.default_rng(9).normal(size=points.shape)
    params, alive = start.from_points(
        points, np.full_like(rgb, 0.5), recipe.num_gaussians, sh_degree=recipe.sh_degree,
        opacity=0.5, scale=0.7, used=used,
    )  # fmt: skip
    return state.begin(recipe, params, alive, views.viewmats, jax.random.key(key))
