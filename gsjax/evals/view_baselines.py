"""Pictures for a target view that no network made: the nearest context picture, and that picture on a plane.

They see what a model sees, the context views and all cameras, and no target. Names of axes: B batch, V context
views, T targets.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from gsjax.core import cameras, homography, rays


class Views(NamedTuple):
    """Posed views of a batch.

    Attributes:
        viewmats: [B, V, 4, 4] world to camera, rigid.
        Ks: [B, V, 3, 3] in pixels.
    """

    viewmats: jax.Array
    Ks: jax.Array


def of_batch(batch, side: str) -> Views:
    """The 'context' or 'target' cameras of a batch of posed examples, whose intrinsics are normalised."""
    height, width = batch[f"{side}_images"].shape[-3:-1]
    return Views(
        batch[f"{side}_viewmats"], rays.pixel_intrinsics(batch[f"{side}_Ks"], height, width)
    )


def nearest(context: Views, target: Views) -> jax.Array:
    """int [B, T]: the context view whose camera is nearest; of equally near ones the one that looks most alike."""
    return _nearest(context, target, False)


def _nearest(context, target, same):
    here, there = (cameras.camera_centers(x.viewmats) for x in (context, target))
    gaps = jnp.linalg.norm(there[:, :, None] - here[:, None], axis=-1)
    look = jnp.einsum(
        "btc,bvc->btv", target.viewmats[..., 2, :3], context.viewmats[..., 2, :3],
        precision="highest",
    )  # fmt: skip
    gaps = jnp.where(same, jnp.inf, gaps)
    # Within rounding of the least distance.
    close = gaps <= jnp.min(gaps, -1, keepdims=True) * (1 + 1e-4) + 1e-12
    return jnp.argmax(jnp.where(close, look, -jnp.inf), -1)


def take(values: jax.Array, index: jax.Array) -> jax.Array:
    """Views [B, T] of values [B, V, ...]: [B, T, ...]."""
    rows = jnp.arange(values.shape[0])[:, None]
    return values[rows, index]


def plane_depths(
    images: jax.Array, context: Views, near: jax.Array, far: jax.Array, *, count: int
) -> jax.Array:
    """For each context view the depth of the one plane facing it that shows its nearest neighbour best.

    The neighbour's picture is painted on planes at ``count`` depths in equal steps of 1 / depth, and the one
    that gives the least squared error over the whole picture is taken: no depth and no target is used.

    Args:
        images: [B, V, H, W, 3] in [0, 1], V at least 2.
        context: their cameras.
        near, far: [B].
        count: planes.

    Returns:
        [B, V].

    Raises:
        ValueError: a single context view, or fewer than 2 planes.
    """
    num_views, height, width = images.shape[1:4]
    if num_views < 2 or count < 2:
        raise ValueError(
            f"images, count: expected 2 or more context views and planes, found {num_views} views and "
            f"{count} planes"
        )
    other = _nearest(context, context, jnp.eye(num_views, dtype=bool))
    source, matrix, K = (take(x, other) for x in (images, context.viewmats, context.Ks))
    share = jnp.linspace(0.0, 1.0, count, dtype=images.dtype)[:, None]
    depths = 1 / (1 / far + share * (1 / near - 1 / far))  # [count, B]

    def error(depth):
        planes = homography.facing(context.viewmats, depth[:, None])
        shown, _ = homography.warp(
            source, planes, context.viewmats, context.Ks, matrix, K, height=height, width=width
        )
        return jnp.mean(jnp.square(shown - images), (-3, -2, -1))

    best = jnp.argmin(jax.lax.map(error, depths), 0)  # [B, V]
    return jnp.take_along_axis(depths.T, best, 1)


def on_plane(
    images: jax.Array, context: Views, target: Views, depths: jax.Array, *, height: int, width: int
) -> jax.Array:
    """The nearest context picture, painted on a plane facing its camera and seen from the targets.

    Args:
        images: [B, V, h, w, 3].
        context, target: cameras.
        depths: [B, V] of the planes.
        height, width: of the target pictures.

    Returns:
        [B, T, H, W, 3]; what the picture does not cover repeats its border.
    """
    index = nearest(context, target)
    matrix, K, depth = (take(x, index) for x in (*context, depths))
    planes = homography.facing(matrix, depth)
    found, _ = homography.warp(
        take(images, index), planes, target.viewmats, target.Ks, matrix, K, height=height,
        width=width,
    )  # fmt: skip
    return found
