"""How many list entries a scene wants, measured outside jit."""

import functools
import math

import jax
import jax.numpy as jnp

from gsjax.raster import arguments, stages
from gsjax.raster.blend import tiles

_ROUND = 1024


def plan_capacity(
    means: jax.Array,
    quats: jax.Array | None,
    scales: jax.Array | None,
    opacities: jax.Array,
    viewmats: jax.Array,
    Ks: jax.Array,
    width: int,
    height: int,
    *,
    covars: jax.Array | None = None,
    rasterize_mode: str = "classic",
    camera_model: str = "pinhole",
    radial_coeffs: jax.Array | None = None,
    tangential_coeffs: jax.Array | None = None,
    near_plane: float = 0.01,
    far_plane: float = 1e10,
    radius_clip: float = 0.0,
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
      means, quats, scales, opacities, viewmats, Ks, width, height: as for `rasterize`.
      covars, rasterize_mode, camera_model, radial_coeffs, tangential_coeffs: likewise.
      near_plane, far_plane, radius_clip, eps2d, tile_size, backend: likewise.
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
    given |= dict(viewmats=viewmats, Ks=Ks, covars=covars)
    given |= dict(radial_coeffs=radial_coeffs, tangential_coeffs=tangential_coeffs)
    for name, value in given.items():
        if isinstance(value, jax.core.Tracer):
            raise ValueError(f"{name}: found a traced array, expected values; plan outside jit")
    if not headroom >= 1:
        raise ValueError(f"headroom: found {headroom}, expected a factor of at least 1")
    options = dict(
        width=width, height=height, render_mode="D", rasterize_mode=rasterize_mode,
        camera_model=camera_model, near_plane=near_plane, far_plane=far_plane,
        radius_clip=radius_clip, eps2d=eps2d, tile_size=tile_size, capacity=limit, backend=backend,
    )  # fmt: skip
    settings, inputs, batch = arguments.prepare(given, options)
    if inputs.means.shape[-2] == 0 or inputs.viewmats.shape[-3] == 0 or 0 in batch:
        return min(_ROUND, limit)
    worst = int(_worst(settings, arguments.join_scenes(inputs, batch)))
    wanted = max(math.ceil(worst * headroom / _ROUND), 1) * _ROUND
    return min(wanted, limit)


@functools.partial(jax.jit, static_argnums=0)
def _worst(settings, inputs):
    """Largest number of box tiles of an image, int32, saturating."""
    grid = tiles.Grid(settings.width, settings.height, settings.tile_size)

    def count(splats):
        low, high = tiles.tile_boxes(splats, grid)
        extent = high - low
        return tiles.saturating_sum(extent[:, 0] * extent[:, 1])

    return jnp.max(jax.vmap(jax.vmap(count))(stages.projected(settings, inputs).splats))
