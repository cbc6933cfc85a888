"""How many list entries a scene wants, measured outside jit."""

import functools
import math

import jax
import jax.numpy as jnp

from gsjax.raster import arguments, backends, tiles
from gsjax.raster import project as projection

_ROUND = 1024


def plan_capacity(
    means: jax.Array,
    quats: jax.Array,
    scales: jax.Array,
    opacities: jax.Array,
    viewmats: jax.Array,
    Ks: jax.Array,
    width: int,
    height: int,
    *,
    rasterize_mode: str = "classic",
    near_plane: float = 0.01,
    far_plane: float = 1e10,
    eps2d: float = 0.3,
    tile_size: int | None = None,
    backend: str | None = None,
    headroom: float = 1.25,
    limit: int = 2**24,
) -> int:
    """A ``capacity`` with which `rasterize` needs one pass for the worst of the given views.

    Counts every tile of every Gaussian's box, an upper bound of the lists of all backends. Not for
    use inside jit: the answer decides shapes. Rasterizing with less is right too, in more passes.

    Args:
      means, quats, scales, opacities, viewmats, Ks, width, height, rasterize_mode, near_plane,
        far_plane, eps2d, tile_size, backend: as for `rasterize`.
      headroom: factor on the measured count, for Gaussians that will move or grow.
      limit: upper bound of the answer; beyond it, several passes serve better than memory.

    Returns:
      Entries, a multiple of 1,024 (unless limit is not).

    Raises:
      ValueError: an argument has the wrong shape, is traced, or headroom is below 1.

    Example:
      >>> capacity = plan_capacity(means, quats, scales, opacities, viewmats, Ks, 800, 800)
      >>> render = jax.jit(lambda m: rasterize(m, ..., capacity=capacity))
    """
    given = dict(means=means, quats=quats, scales=scales, opacities=opacities)
    given |= dict(viewmats=viewmats, Ks=Ks)
    for name, value in given.items():
        if isinstance(value, jax.core.Tracer):
            raise ValueError(f"{name}: found a traced array, expected values; plan outside jit")
    if not headroom >= 1:
        raise ValueError(f"headroom: found {headroom}, expected a factor of at least 1")
    arrays = tuple(arguments.as_float_arrays(given).values())
    batch, num, cameras = arguments.check_geometry(*arrays)
    arguments.check_settings(
        width, height, rasterize_mode, near_plane, far_plane, eps2d, 0.5, tile_size, limit
    )
    size = tile_size or backends.default_tile_size(backends.choose(backend)[0])
    grid = tiles.Grid(int(width), int(height), int(size))
    if num == 0 or cameras == 0 or 0 in batch:
        return min(_ROUND, limit)
    scenes = [x.reshape(-1, *x.shape[len(batch) :]) for x in arrays]
    options = (float(near_plane), float(far_plane), float(eps2d), rasterize_mode)
    worst = int(_worst(grid, options, *scenes))
    wanted = max(math.ceil(worst * headroom / _ROUND), 1) * _ROUND
    return min(wanted, limit)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _worst(grid, options, means, quats, scales, opacities, viewmats, Ks):
    """Largest number of box tiles of an image, int32, saturating."""
    near_plane, far_plane, eps2d, mode = options

    def one(means, quats, scales, opacities, viewmat, K):
        splats = projection.project(
            means, quats, scales, opacities, viewmat, K, grid.width, grid.height,
            near_plane=near_plane, far_plane=far_plane, eps2d=eps2d, rasterize_mode=mode,
        )  # fmt: skip
        low, high = tiles.tile_boxes(splats, grid)
        extent = high - low
        return tiles.saturating_sum(extent[:, 0] * extent[:, 1])

    per_camera = jax.vmap(one, (None, None, None, None, 0, 0))
    counts = jax.vmap(per_camera)(means, quats, scales, opacities, viewmats, Ks)
    return jnp.max(counts)
