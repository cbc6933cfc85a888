"""Cost volumes by plane sweep: how well a cell's features agree with those of other views at the place
where the cell would be seen if it lay at each of D depths.

UniMatch (arXiv 2211.05783), MVSplat (arXiv 2403.14627, section 3.1), DepthSplat (arXiv 2410.13862).
Nothing of size [.., D, H, W, C] is kept: candidates are taken in chunks, and the warped features of a
chunk are computed again on the way back.
"""

import jax
import jax.numpy as jnp

from gsjax.core import cameras, rays
from gsjax.models.feedforward import views

# Points nearer than this, or behind the camera, land far outside of the picture and see zeros.
MIN_DEPTH = 1e-3
WARP_INTRINSICS = ("both", "reference")


def _per_view(bound: jax.Array, ndim: int) -> jax.Array:
    """[B] or [B, V] with ones behind, for arrays with ``ndim`` axes that start with B, V."""
    bound = jnp.asarray(bound)
    bound = bound[:, None] if bound.ndim == 1 else bound
    return bound.reshape(*bound.shape, *(1,) * (ndim - 2))


def candidates(near: jax.Array, far: jax.Array, count: int, num_views: int) -> jax.Array:
    """Inverse depths from 1 / far to 1 / near in equal steps.

    Args:
        near: [B] or [B, V].
        far: [B] or [B, V].
        count: D.
        num_views: V.

    Returns:
        [B, V, D], growing; the first plane is the farthest.
    """
    low, high = 1 / _per_view(far, 3), 1 / _per_view(near, 3)
    found = low + jnp.linspace(0.0, 1.0, count, dtype=low.dtype) * (high - low)
    return jnp.broadcast_to(found, (found.shape[0], num_views, count))


def local_candidates(
    inverse_depths: jax.Array, near: jax.Array, far: jax.Array, *, count: int, step: float
) -> jax.Array:
    """Inverse depths around a first estimate, one set for each cell.

    They run in equal steps from ``count / 2`` steps below the estimate to ``count / 2 - 1`` above, both ends
    kept within [1 / far, 1 / near]. The estimate is a constant for the gradient.

    Args:
        inverse_depths: [B, V, H, W].
        near: [B] or [B, V].
        far: [B] or [B, V].
        count: D, even.
        step: as a fraction of 1 / near - 1 / far.

    Returns:
        [B, V, D, H, W].
    """
    center = jax.lax.stop_gradient(inverse_depths)[:, :, None]
    low, high = 1 / _per_view(far, 5), 1 / _per_view(near, 5)
    width = step * (high - low)
    start = jnp.maximum(center - width * (count // 2), low)
    end = jnp.minimum(center + width * (count // 2 - 1), high)
    fraction = jnp.linspace(0.0, 1.0, count, dtype=center.dtype)[:, None, None]
    return start + fraction * (end - start)


def sweep_lines(
    Ks: jax.Array,
    c2ws: jax.Array,
    index: jax.Array,
    height: int,
    width: int,
    warp_intrinsics: str = "both",
) -> tuple[jax.Array, jax.Array]:
    """The epipolar line of every cell in every neighbour: a cell at depth z lands at z a + b.

    Args:
        Ks: [B, V, 3, 3] in cells of the feature maps.
        c2ws: [B, V, 4, 4], rigid.
        index: int [B, V, M], neighbours.
        height: H.
        width: W.
        warp_intrinsics: 'both': a point is projected with the neighbour's intrinsics; 'reference': with
            those of the view it comes from, as the published code does, which is right only where the
            two are equal.

    Returns:
        (a [B, V, M, H W, 3], b [B, V, M, 3]), homogeneous places in cells, without gradient.

    Raises:
        ValueError: unknown warp_intrinsics.
    """
    if warp_intrinsics not in WARP_INTRINSICS:
        raise ValueError(
            f"warp_intrinsics: unknown {warp_intrinsics!r}; known: {', '.join(WARP_INTRINSICS)}"
        )
    exact = jnp.promote_types(Ks.dtype, jnp.float32)
    Ks, c2ws = (jax.lax.stop_gradient(x).astype(exact) for x in (Ks, c2ws))
    w2cs = views.take_views(cameras.invert_rigid(c2ws), index)
    moves = jnp.einsum("bvmij,bvjk->bvmik", w2cs, c2ws, precision="highest")
    if warp_intrinsics == "both":
        targets = views.take_views(Ks, index)
    else:
        targets = jnp.broadcast_to(Ks[:, :, None], (*index.shape, 3, 3))
    cells = rays.pixel_indices(height, width, exact).reshape(-1, 2)
    directions = rays.camera_directions(Ks[:, :, None], cells)  # [B, V, H W, 3]
    homographies = jnp.einsum(
        "bvmij,bvmjk->bvmik", targets, moves[..., :3, :3], precision="highest"
    )
    a = jnp.einsum("bvmij,bvpj->bvmpi", homographies, directions, precision="highest")
    b = jnp.einsum("bvmij,bvmj->bvmi", targets, moves[..., :3, 3], precision="highest")
    return a, b


def _taps(a: jax.Array, b: jax.Array, depths: jax.Array, height: int, width: int) -> list:
    """Flat cells and weights of bilinear sampling, zeros outside: four pairs [B, V, M, D, H W].

    Args:
        a: [B, V, M, H W, 3].
        b: [B, V, M, 3].
        depths: [B, V, D, P], P = H W or 1.
    """
    depths = depths[:, :, None]
    xyz = [depths * a[..., None, :, i] + b[..., None, None, i] for i in range(3)]
    z = jnp.maximum(xyz[2], MIN_DEPTH)
    # Beyond two cells outside nothing is seen; the bound keeps the integers small.
    x = jnp.clip(xyz[0] / z, -2.0, width + 1.0)
    y = jnp.clip(xyz[1] / z, -2.0, height + 1.0)
    left, top = jnp.floor(x), jnp.floor(y)
    taps = []
    for row, v in ((top, 1 - (y - top)), (top + 1, y - top)):
        for column, u in ((left, 1 - (x - left)), (left + 1, x - left)):
            inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
            cell = jnp.clip(row, 0, height - 1) * width + jnp.clip(column, 0, width - 1)
            taps.append((cell.astype(jnp.int32), jnp.where(inside, u * v, 0.0)))
    return taps


def _agreement(features, a, b, first_row, depths, height, width):
    """[B, V, D, H W] for one chunk of candidates: mean over neighbours of <reference, sample>."""
    batch, count, size, channels = features.shape
    rows = features.reshape(batch, -1, channels)
    reference = features.astype(a.dtype)[:, :, None, None]
    total = 0.0
    for cell, weight in _taps(a, b, depths, height, width):
        # Example by example: devices that hold different examples exchange nothing.
        take = jax.vmap(lambda values, chosen: jnp.take(values, chosen, axis=0, mode="clip"))
        samples = take(rows, first_row + cell)
        total += weight * jnp.sum(reference * samples.astype(a.dtype), axis=-1)
    return jnp.mean(total, axis=2) * channels**-0.5


def cost_volume(
    features: jax.Array,
    inverse_depths: jax.Array,
    Ks: jax.Array,
    c2ws: jax.Array,
    index: jax.Array,
    *,
    chunk: int = 8,
    warp_intrinsics: str = "both",
) -> jax.Array:
    """Correlations with warped neighbours, over sqrt(C), their mean over neighbours.

    Cells lie at whole numbers, 0 to W - 1, when they are unprojected and when they are sampled. What a
    neighbour does not see counts as 0 in the mean. Places carry no gradient, features do.

    Args:
        features: [B, V, H, W, C].
        inverse_depths: [B, V, D], or [B, V, D, H, W] where each cell has its own.
        Ks: [B, V, 3, 3] in cells of the maps (``rays.pixel_intrinsics``).
        c2ws: [B, V, 4, 4], rigid.
        index: int [B, V, M], neighbours (``views.neighbours``).
        chunk: candidates at a time; memory grows with it, the result does not depend on it.
        warp_intrinsics: as for ``sweep_lines``.

    Returns:
        [B, V, H, W, D], float32 at least.

    Raises:
        ValueError: shapes do not fit, chunk under 1, or unknown warp_intrinsics.
    """
    batch, count, height, width, channels = features.shape
    shape = inverse_depths.shape
    if shape[:2] != (batch, count) or (len(shape) != 3 and shape[3:] != (height, width)):
        raise ValueError(
            f"inverse_depths: expected [{batch}, {count}, D] or [{batch}, {count}, D, {height}, "
            f"{width}] after features, found {list(shape)}"
        )
    if chunk < 1:
        raise ValueError(f"chunk: expected at least 1, found {chunk}")
    a, b = sweep_lines(Ks, c2ws, index, height, width, warp_intrinsics)
    planes = shape[2]
    depths = 1 / jax.lax.stop_gradient(inverse_depths).astype(a.dtype)
    depths = depths.reshape(batch, count, planes, -1)
    chunk = min(chunk, planes)
    padding = -planes % chunk  # the last plane again; cut off below
    depths = jnp.pad(depths, ((0, 0), (0, 0), (0, padding), (0, 0)), mode="edge")
    depths = jnp.moveaxis(depths.reshape(batch, count, -1, chunk, depths.shape[-1]), 2, 0)
    flat = features.reshape(batch, count, height * width, channels)
    first_row = (index * (height * width))[..., None, None]

    @jax.checkpoint
    def body(carry, part):
        return carry, _agreement(flat, a, b, first_row, part, height, width)

    _, found = jax.lax.scan(body, None, depths)  # [chunks, B, V, chunk, H W]
    found = jnp.moveaxis(found, 0, 2).reshape(batch, count, -1, height, width)[:, :, :planes]
    return jnp.moveaxis(found, 2, -1)
