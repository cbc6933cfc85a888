"""`rasterize_pixels`: chosen pixels of an image without the rest, for losses on rays or patches.

Only tiles with a chosen pixel are listed, only Gaussians that touch one are sorted, and only the
chosen pixels are blended (`xla_group.blend_pixels`), on every platform.
"""

import functools

import jax
import jax.numpy as jnp

from gsjax.raster import arguments, masks, stages
from gsjax.raster.blend import xla_group


def rasterize_pixels(
    means: jax.Array,
    quats: jax.Array | None,
    scales: jax.Array | None,
    opacities: jax.Array,
    colors: jax.Array | None,
    viewmats: jax.Array,
    Ks: jax.Array,
    width: int,
    height: int,
    pixels: jax.Array,
    **options,
) -> tuple[jax.Array, jax.Array, stages.Meta]:
    """What `api.rasterize` shows at chosen pixels, with the gradients of these pixels.

    Projection and colours are evaluated for all Gaussians as they are for a whole image. Pixels may
    repeat. On GPUs the gradients of pixels in one tile are added in no fixed order.

    Args:
      means, quats, scales, opacities, colors, viewmats, Ks, width, height: as in `api.rasterize`.
      pixels: [..., C, P, 2] integers (column, row); those off the image show the background.
      **options: of `api.rasterize`, all but backend, masks and absgrad_probe; render_mode 'RGB',
        'D', 'ED', 'RGB+D' or 'RGB+ED'.

    Returns:
      colors [..., C, P, X'], alpha [..., C, P, 1], and meta as of `api.rasterize`.

    Raises:
      ValueError: an argument has the wrong shape, type or an unknown name.
    """
    arrays = dict(means=means, quats=quats, scales=scales, opacities=opacities, colors=colors)
    arrays |= dict(viewmats=viewmats, Ks=Ks)
    more, static = arguments.split_options(options, arguments.PIXEL_OPTIONS)
    static |= dict(width=width, height=height, backend="xla_group")
    if str(static.get("render_mode")).endswith(("MD", "FD")):
        raise ValueError(
            f"render_mode: found {static['render_mode']!r}, expected RGB, D, ED, RGB+D or RGB+ED; "
            "for selected depths render the whole image"
        )
    settings, inputs, batch = arguments.prepare(arrays | more, static)
    pixels = _as_pixels(pixels, (*batch, inputs.viewmats.shape[-3]))
    joined = arguments.join_scenes((inputs, pixels), batch)
    return arguments.split_scenes(_render(settings, *joined), batch)


def _as_pixels(pixels, views):
    pixels = jnp.asarray(pixels)
    if not jnp.issubdtype(pixels.dtype, jnp.integer):
        raise ValueError(
            f"pixels: found {pixels.dtype}, expected integers (column, row); floor coordinates first"
        )
    if pixels.ndim != len(views) + 2 or pixels.shape[:-2] != views or pixels.shape[-1] != 2:
        expected = f"[{', '.join(map(str, (*views, 'P', 2)))}]"
        raise ValueError(
            f"pixels: found shape {list(pixels.shape)}, expected {expected}: column and row, for "
            "each camera"
        )
    return pixels.astype(jnp.int32)


@functools.partial(jax.jit, static_argnums=0)
def _render(settings, inputs, pixels):
    scene = stages.projected(settings, inputs)
    views = scene.splats.depths.shape[:2]
    splats, features = jax.tree.map(stages.join_views, (scene.splats, scene.features))
    pixels = stages.join_views(pixels)
    size = settings.width, settings.height, settings.tile_size
    hidden = jax.vmap(lambda s, p: masks.hide(s, masks.around(p, *size), *size))(splats, pixels)
    color, transmittance, stats = xla_group.blend_pixels(
        hidden,
        features,
        pixels,
        width=settings.width,
        height=settings.height,
        max_alpha=settings.max_alpha,
        tile_size=settings.tile_size,
        capacity=settings.capacity,
    )
    blended = stages.split_views((color, transmittance[..., None], stats), views)
    color, transmittance, stats = blended
    color, alpha = stages.compose(settings, color, transmittance, inputs.backgrounds)
    return color, alpha, stages.meta(settings, scene, stats)
