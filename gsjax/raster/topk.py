"""The Gaussians that contribute most to each pixel: ids and weights, for lifting labels and features.

With ids [..., k] and weights one can look up, per pixel, what any per-Gaussian quantity is made of,
or send 2D labels back to the Gaussians that made them, without rendering one channel a label.
"""

import functools

import jax
import jax.numpy as jnp

from gsjax.raster import arguments, select, stages
from gsjax.raster import project as projection
from gsjax.raster.blend import xla_group_passes as passes


def contributions(
    means: jax.Array,
    quats: jax.Array | None,
    scales: jax.Array | None,
    opacities: jax.Array,
    viewmats: jax.Array,
    Ks: jax.Array,
    width: int,
    height: int,
    k: int,
    **options,
) -> tuple[jax.Array, jax.Array]:
    """The k Gaussians of largest weight (alpha times transmittance) at every pixel.

    The weights are those of `api.rasterize` with the same options: they sum to alpha where no more
    than k Gaussians contribute. Not differentiable. While it runs, a pixel takes 8 k bytes.

    Args:
      means, quats, scales, opacities, viewmats, Ks, width, height: as in `api.rasterize`.
      k: how many, at least 1.
      **options: of `api.rasterize`, those that decide what is seen: covars, rasterize_mode,
        camera_model, radial_coeffs, tangential_coeffs, near_plane, far_plane, radius_clip, eps2d,
        max_alpha; and tile_size, capacity.

    Returns:
      ids [..., C, H, W, k] int32, -1 where fewer contribute, and weights [..., C, H, W, k], largest
      first, 0 where fewer contribute. Of equal weights the nearer Gaussian comes first.

    Raises:
      ValueError: an argument has the wrong shape or an unknown name.
    """
    k = arguments.as_integer("k", k)
    if k < 1:
        raise ValueError(f"k: found {k!r}, expected an integer of at least 1")
    arrays = dict(means=means, quats=quats, scales=scales, opacities=opacities)
    arrays |= dict(viewmats=viewmats, Ks=Ks)
    more, static = arguments.split_options(options, arguments.GEOMETRY_OPTIONS)
    static |= dict(width=width, height=height, render_mode="D", backend="xla_group")
    settings, inputs, batch = arguments.prepare(arrays | more, static)
    out = _contributions(settings, k, arguments.join_scenes(inputs, batch))
    return arguments.split_scenes(out, batch)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _contributions(settings, k, inputs):
    splats = stages.projected(settings, inputs).splats
    views = splats.depths.shape[:2]
    out = top_k(
        jax.tree.map(stages.join_views, splats),
        k,
        width=settings.width,
        height=settings.height,
        max_alpha=settings.max_alpha,
        tile_size=settings.tile_size,
        capacity=settings.capacity,
    )
    return stages.split_views(out, views)


def top_k(
    splats: projection.Splats, k: int, *, width: int, height: int, **options
) -> tuple[jax.Array, jax.Array]:
    """`contributions` of projected Gaussians: ids and weights [I, H, W, k].

    Args:
      splats: one leading axis, I images.
      k: how many.
      width, height: pixels.
      **options: of `select.trace`.
    """
    images, num = splats.depths.shape
    dtype = splats.means2d.dtype

    def begin(shape):
        shape = (*shape[:2], k, *shape[2:])
        return jnp.full(shape, -1, jnp.int32), jnp.zeros(shape, dtype)

    if 0 in (images, num):
        ids, weights = begin((images, height * width))
        return tuple(x.reshape(images, height, width, k) for x in (ids, weights))
    size = dict(width=width, height=height)
    found, grid = select.trace(splats, begin, _insert, **size, **options)
    return tuple(passes.to_image(x, grid) for x in found)


def _insert(state, row, weight, left):
    """Puts one Gaussian into the sorted lists [M, k, P] of every pixel, behind equal weights."""
    del left
    rows, weights = state
    # Empty places weigh 0 and so does a Gaussian that is skipped: it finds no place.
    place = jnp.sum(weights >= weight[:, None], 1, keepdims=True)
    slot = jnp.arange(weights.shape[1])[:, None]

    def put(values, new):
        moved = jnp.concatenate([values[:, :1], values[:, :-1]], 1)
        return jnp.where(slot < place, values, jnp.where(slot == place, new, moved))

    return put(rows, row[:, None, None]), put(weights, weight[:, None])
