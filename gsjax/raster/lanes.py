"""One image on several devices: lanes of tile rows, for CPU cores as devices.

Lane l of L owns the tile rows y with y mod L = l, bins only those and blends them with `xla_loop`.
Projection and colours are split over Gaussians and gathered; the transpose of the gather sums the
gradients of all lanes. Rows are interleaved so that the lanes have about equal work.

For fewer images than cores. With as many images as cores, ``jax.shard_map`` over images (data
parallelism) is the better choice: nothing is gathered and no depth order computed twice.

JAX must have been told of the cores: ``jax.config.update("jax_num_cpu_devices", 2)`` at start, then
``mesh = jax.make_mesh((2,), ("tiles",), axis_types=(jax.sharding.AxisType.Auto,))``.
"""

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from gsjax.raster import project as projection
from gsjax.raster import xla_loop
from gsjax.raster import xla_loop_bin as binning


def rasterize_lanes(
    means: jax.Array,
    quats: jax.Array,
    scales: jax.Array,
    opacities: jax.Array,
    colors: jax.Array,
    viewmats: jax.Array,
    Ks: jax.Array,
    width: int,
    height: int,
    *,
    mesh: Mesh,
    axis: str = "tiles",
    backgrounds: jax.Array | None = None,
    rasterize_mode: str = "classic",
    near_plane: float = 0.01,
    far_plane: float = 1e10,
    eps2d: float = 0.3,
    max_alpha: float = 0.99,
    tile_size: int | None = None,
    capacity: int | None = None,
) -> tuple[jax.Array, jax.Array, dict[str, jax.Array]]:
    """`api.rasterize` of one scene with the tile rows split over a mesh axis.

    Args:
      means: [N, 3], quats: [N, 4], scales: [N, 3], opacities: [N]: as in `api.rasterize`.
      colors: [N, X] values of any kind.
      viewmats: [C, 4, 4], Ks: [C, 3, 3]: cameras.
      width, height: pixels.
      mesh: devices; other axes than `axis` hold copies.
      axis: mesh axis of the lanes.
      backgrounds: [C, X] or None.
      rasterize_mode, near_plane, far_plane, eps2d, max_alpha, tile_size: as in `api.rasterize`.
      capacity: pairs of a pass of one lane; None is a share of `xla_loop.default_capacity`.

    Returns:
      image [C, H, W, X], alpha [C, H, W, 1], and num_pairs, num_passes, overflow: int32 [C, L].

    Raises:
      ValueError: the mesh has no such axis, or colors are not [N, X].
    """
    if axis not in mesh.shape:
        raise ValueError(f"axis is {axis!r}, the mesh has {tuple(mesh.shape)}; name one of these")
    if colors.ndim != 2 or colors.shape[0] != means.shape[0]:
        raise ValueError(
            f"colors have shape {colors.shape}, expected ({means.shape[0]}, X); evaluate spherical "
            "harmonics first (gsjax.core.sh.eval_sh)"
        )
    num_lanes = mesh.shape[axis]
    tile_size = xla_loop.DEFAULT_TILE_SIZE if tile_size is None else tile_size
    grid = binning.Grid(width, height, tile_size, num_lanes)
    if capacity is None:
        whole = xla_loop.default_capacity(means.shape[0], width, height, tile_size)
        capacity = -(-whole // num_lanes)
    options = dict(
        near_plane=near_plane, far_plane=far_plane, eps2d=eps2d, rasterize_mode=rasterize_mode
    )

    def one_lane(gaussians, colors, viewmats, Ks):
        def camera(viewmat, K):
            return projection.project(*gaussians, viewmat, K, width, height, **options)

        splats = jax.vmap(camera)(viewmats, Ks)
        splats = splats._replace(radii=splats.radii.astype(splats.means2d.dtype))
        splats, colors = lax.all_gather((splats, colors[None]), axis, axis=1, tiled=True)
        splats = splats._replace(radii=lax.stop_gradient(splats.radii).astype(jnp.int32))
        features = jnp.broadcast_to(colors, (viewmats.shape[0], *colors.shape[1:]))
        lane = jnp.full(viewmats.shape[0], lax.axis_index(axis), jnp.int32)
        out = xla_loop.blend_lane(splats, features, lane, grid, capacity, max_alpha)
        return jax.tree.map(lambda x: x[:, None], out)

    # Opacity 0 is culled. The quaternion and the scales of padding are merely harmless.
    gaussians = tuple(_pad(x, num_lanes) for x in (means, quats, scales, opacities))
    split, lanes = P(axis), P(None, axis)
    color, transmittance, stats = jax.shard_map(
        one_lane, mesh=mesh, in_specs=(split, split, P(), P()), out_specs=lanes
    )(gaussians, _pad(colors, num_lanes), viewmats, Ks)
    color, transmittance = xla_loop.from_tiles(color, transmittance, grid)
    if backgrounds is not None:
        color = color + transmittance[..., None] * backgrounds[:, None, None]
    return color, 1 - transmittance[..., None], stats


def _pad(x, multiple):
    """Zero rows up to a multiple of the number of lanes."""
    return jnp.pad(x, [(0, -x.shape[0] % multiple)] + [(0, 0)] * (x.ndim - 1))
