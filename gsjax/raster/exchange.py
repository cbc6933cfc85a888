"""What devices tell each other when the Gaussians of one scene are split over them.

For use inside ``jax.shard_map``. Every device projects its share of the Gaussians and owns one strip
of the image, whole rows of tiles. Between the two, projected Gaussians travel:

* `gather`: everyone gets everything. Exact without any bound to choose; (9 + X) floats a Gaussian
  and device.
* `send_needed`: a strip gets only the Gaussians whose box reaches it (Grendel-GS, arXiv 2406.18533),
  through buffers of fixed size; what did not fit is counted.

In both, Gaussians arrive in the order of their global index, so that equal depths sort as on one
device. Gradients travel back the same way. Not here: projection and blending.
"""

import jax
import jax.numpy as jnp
from jax import lax

from gsjax.raster import project as projection

FIXED = 9  # columns of a row before the features


def strip_height(height: int, tile_size: int, num: int) -> int:
    """Pixels of each of `num` strips: whole tile rows, equal for all, the last ones may be empty."""
    rows = -(-height // tile_size)
    return -(-rows // num) * tile_size


def rows_of(splats: projection.Splats, features: jax.Array) -> jax.Array:
    """[..., N, 9 + X]: means2d, conics, opacity, depth, radii, features."""
    dtype = jnp.result_type(splats.means2d, features)
    radii = lax.stop_gradient(splats.radii).astype(dtype)
    single = (splats.opacities[..., None], splats.depths[..., None])
    columns = (splats.means2d, splats.conics, *single, radii, features)
    return jnp.concatenate([x.astype(dtype) for x in columns], -1)


def of_rows(rows: jax.Array) -> tuple[projection.Splats, jax.Array]:
    """Inverse of `rows_of`."""
    means2d, conics, opacities, depths, radii, features = jnp.split(rows, (2, 5, 6, 7, 9), -1)
    radii = lax.stop_gradient(radii).astype(jnp.int32)
    return projection.Splats(means2d, conics, opacities[..., 0], depths[..., 0], radii), features


def gather(rows: jax.Array, axis: str) -> jax.Array:
    """Rows of all devices: [C, N, R] of each -> [C, L N, R]."""
    return lax.all_gather(rows, axis, axis=1, tiled=True)


def send_needed(
    rows: jax.Array, axis: str, strip: int, capacity: int
) -> tuple[jax.Array, jax.Array]:
    """Rows whose box reaches this device's strip, from all devices.

    Args:
      rows: [C, N, 9 + X] of this device.
      axis: name of the mesh axis, L devices.
      strip: pixels of a strip; device l owns image rows from l strip to (l + 1) strip.
      capacity: rows that one device can send to another.

    Returns:
      [C, L capacity, 9 + X]; unused rows are culled Gaussians. And int32 [C]: rows that found no
      place among those sent to this device.
    """
    reached = reaches(rows, strip, lax.axis_size(axis))
    num = rows.shape[1]

    def chosen(mask):
        return jnp.nonzero(mask, size=capacity, fill_value=num)[0]

    index = jax.vmap(jax.vmap(chosen))(reached)  # [C, L, capacity]
    padded = jnp.concatenate([rows, _culled(rows[:, :1])], 1)
    sent = jax.vmap(lambda table, i: table[i])(padded, index)
    dropped = jnp.maximum(jnp.sum(reached, -1, dtype=jnp.int32) - capacity, 0)  # [C, L]
    swap = lambda x: lax.all_to_all(x, axis, split_axis=1, concat_axis=1, tiled=True)  # noqa: E731
    received = swap(sent)
    return received.reshape(rows.shape[0], -1, rows.shape[-1]), jnp.sum(swap(dropped), 1)


def reaches(rows: jax.Array, strip: int, num: int) -> jax.Array:
    """bool [..., L, N]: whose box touches each of `num` strips of `strip` pixels."""
    rows = lax.stop_gradient(rows)[..., None, :, :]
    top = (jnp.arange(num) * strip).astype(rows.dtype)[:, None]
    y, radius_x, radius_y = rows[..., 1], rows[..., 7], rows[..., 8]
    return (radius_x > 0) & (radius_y > 0) & (y + radius_y > top) & (y - radius_y < top + strip)


def onto_strip(splats: projection.Splats, top: jax.Array, strip: int) -> projection.Splats:
    """The same Gaussians in the pixels of an image of `strip` rows that begins at row `top`."""
    shift = jnp.stack([jnp.zeros_like(top), top]).astype(splats.means2d.dtype)
    means2d = splats.means2d - shift
    y = lax.stop_gradient(means2d[..., 1])
    radius = splats.radii[..., 1].astype(y.dtype)
    inside = (y + radius > 0) & (y - radius < strip)
    return splats._replace(means2d=means2d, radii=jnp.where(inside[..., None], splats.radii, 0))


def _culled(like):
    """A row that is never drawn, with harmless numbers."""
    row = jnp.zeros(like.shape[-1], like.dtype).at[jnp.array([2, 4])].set(1.0)
    return jnp.broadcast_to(row, like.shape)
