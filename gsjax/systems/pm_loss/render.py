"""Gaussians to the views that are compared with: colour, depth and opacity.

The public code rescales the world by 1 / near, so that the fixed cull distance of its rasterizer, 0.2, lies
at 0.2 near; so does this. It takes the field of view alone from the intrinsics; here the principal point
counts too. Background black.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp

from gsjax.core import gaussians, rays
from gsjax.raster import batched

CULL = 0.2  # of near


class Views(NamedTuple):
    """What T cameras see.

    Attributes:
        images: f32 [B, T, H, W, 3], not clamped.
        depths: f32 [B, T, H, W], expected depth along the optical axis over the opacity, world units; 0
            where nothing is; None unless asked for.
        alphas: f32 [B, T, H, W].
    """

    images: jax.Array
    depths: jax.Array | None
    alphas: jax.Array


def render(
    scene: gaussians.Gaussians,
    viewmats: jax.Array,
    Ks: jax.Array,
    near: jax.Array,
    size: tuple[int, int],
    *,
    depth: bool = False,
    at_once: int = 0,
) -> Views:
    """Views of a batch of scenes, each device those of its scenes.

    Args:
        scene: leading axis [B].
        viewmats: [B, T, 4, 4] world to camera.
        Ks: [B, T, 3, 3] normalised.
        near: [B], world units.
        size: (height, width).
        depth: whether depths are wanted.
        at_once: views of a scene held in memory together; the others wait, and all are rendered again on
            the way back. 0 = all.

    Raises:
        ValueError: ``at_once`` does not divide T.
    """
    count = viewmats.shape[1]
    if at_once < 0 or (at_once and count % at_once):
        raise ValueError(
            f"at_once: expected 0 or a divisor of the {count} views, found {at_once}; see "
            "model.views_at_once"
        )
    height, width = size
    scale = 1 / near
    scene = dataclasses.replace(
        scene,
        means=scene.means * scale[:, None, None],
        scales=scene.scales * scale[:, None, None],
    )
    shift = viewmats[..., :3, 3:] * scale[:, None, None, None]
    viewmats = jnp.concatenate(
        [jnp.concatenate([viewmats[..., :3, :3], shift], -1), viewmats[..., 3:, :]], -2
    )
    Ks = rays.pixel_intrinsics(Ks, height, width)

    def some(viewmats, Ks):
        image, alpha, _ = batched.rasterize_batch(
            scene, viewmats, Ks, width, height, near_plane=CULL,
            render_mode="RGB+ED" if depth else "RGB",
        )  # fmt: skip
        return image, alpha[..., 0]

    if at_once and at_once < count:
        groups = (_grouped(x, at_once) for x in (viewmats, Ks))
        found = jax.lax.map(jax.checkpoint(lambda x: some(*x)), tuple(groups))
        image, alpha = (_joined(x) for x in found)
    else:
        image, alpha = some(viewmats, Ks)
    depths = image[..., 3] * near[:, None, None, None] if depth else None
    return Views(image[..., :3], depths, alpha)


def _grouped(x, size: int):
    """[B, T, ...] to [T / size, B, size, ...]."""
    return jnp.moveaxis(x.reshape(x.shape[0], -1, size, *x.shape[2:]), 1, 0)


def _joined(x):
    """The way back."""
    x = jnp.moveaxis(x, 0, 1)
    return x.reshape(x.shape[0], -1, *x.shape[3:])
