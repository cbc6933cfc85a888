"""Many scenes on many devices: each device renders the scenes that it holds.

Under jit a batch of scenes may lie sharded over a mesh; the rasterizer's sorts and loops are opaque to
the partitioner, which would gather everything everywhere (`core.by_device`). One scene on
many devices is `sharded`'s subject.
"""

import functools

import jax

from gsjax.core import by_device, gaussians
from gsjax.raster import api


def rasterize_batch(
    scenes: gaussians.Gaussians,
    viewmats: jax.Array,
    Ks: jax.Array,
    width: int,
    height: int,
    *,
    axes: tuple[str, ...] = ("data", "fsdp"),
    backgrounds: jax.Array | None = None,
    **options,
) -> tuple[jax.Array, jax.Array, api.Meta]:
    """`rasterize` of B scenes, the B axis split over the devices of the current mesh.

    Args:
      scenes: leading axis [B], N Gaussians each; coloured by their SH.
      viewmats: [B, C, 4, 4].
      Ks: [B, C, 3, 3].
      width, height: pixels.
      axes: mesh axes that share the scenes. Without a mesh (``jax.set_mesh``), or one that lacks
        them, all is rendered where it is.
      backgrounds: [B, C, 3], or None for black.
      options: of `rasterize`; numbers and names only.

    Returns:
      As `rasterize`: image [B, C, H, W, X], alpha [B, C, H, W, 1], meta.

    Raises:
      ValueError: the devices do not divide B, and what `rasterize` raises.
    """
    render = functools.partial(_render, width, height, scenes.sh_degree, options)
    return by_device.by_device(
        render, scenes, viewmats, Ks, backgrounds, axes=axes, name="viewmats", what="scenes"
    )


def _render(width, height, sh_degree, options, scenes, viewmats, Ks, backgrounds):
    return api.rasterize(
        scenes.means,
        scenes.quats,
        scenes.scales,
        scenes.opacities,
        scenes.sh,
        viewmats,
        Ks,
        width,
        height,
        sh_degree=sh_degree,
        backgrounds=backgrounds,
        **options,
    )
