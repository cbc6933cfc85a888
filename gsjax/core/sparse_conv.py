"""Convolutions on sets of voxels, by look-up tables of ``core.voxels``.

Features are batches [B, V, C], tables one a cloud [B, ...]. Rows of fillers are read as they are, so
they must be finite and whoever normalises must mask them; no table leads to one.

Submanifold convolution (Graham et al., arXiv 1711.10275): outputs at the input's voxels alone. With
the kernel of a dense convolution flattened, [s, s, s, C, D] -> [s^3, C, D], results at active voxels
are those of the dense one (``core.dense_conv``).

No scatter runs in either direction: a submanifold table mirrored along its offsets is its own
transpose, and strided and inverse convolutions regroup rows by a one-to-one map. These rules are given
as custom VJPs, so forward-mode differentiation is not available.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from gsjax.core.voxels import Parents

FORMS = ("scan", "gather")
_INTERNAL = jnp.float32  # accumulators are at least this wide


def submanifold(
    feat: jax.Array, table: jax.Array, kernel: jax.Array, *, form: str = "scan"
) -> jax.Array:
    """``out[v] = sum_k feat[neighbour k of v] @ kernel[k]``, over neighbours that exist.

    Args:
        feat: [B, V, C].
        table: int32 [B, K, V], ``voxels.neighbours`` or ``voxels.refine`` of mirror-symmetric offsets
            (``voxels.cube``); V where there is no neighbour.
        kernel: [K, C, D].
        form: 'scan' adds one offset after the other: memory of one [B, V, C]; 'gather' collects all
            neighbours into [B, V, K C] and multiplies once.

    Returns:
        [B, V, D] of the type of ``feat``, accumulated in float32 or wider.

    Raises:
        ValueError: other shapes, or an unknown form.
    """
    _check(feat, kernel)
    if form not in FORMS:
        raise ValueError(f"form: unknown {form!r}; known: {', '.join(FORMS)}")
    expected = [feat.shape[0], kernel.shape[0], feat.shape[1]]
    if list(table.shape) != expected:
        raise ValueError(f"table: expected [B, K, V] = {expected}, found {list(table.shape)}")
    return _submanifold(feat, table, kernel, form)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def _submanifold(feat, table, kernel, form):
    rows = _with_zero_row(feat)
    if form == "gather":
        gathered = _all_rows(rows, table)
        flat = kernel.reshape(-1, kernel.shape[-1]).astype(feat.dtype)
        return _matmul(gathered, flat).astype(feat.dtype)

    def add(total, k):
        ids, weights = k
        return total + _matmul(_rows(rows, ids), weights), None

    wide = jnp.promote_types(feat.dtype, _INTERNAL)
    start = jnp.zeros((*feat.shape[:2], kernel.shape[-1]), wide)
    steps = (jnp.moveaxis(table, 1, 0), kernel.astype(feat.dtype))
    return jax.lax.scan(add, start, steps)[0].astype(feat.dtype)


def _forward(feat, table, kernel, form):
    return _submanifold(feat, table, kernel, form), (feat, table, kernel)


def _backward(form, saved, ct):
    feat, table, kernel = saved
    # v is neighbour k of u exactly where u is neighbour K-1-k of v.
    mirrored = jnp.swapaxes(kernel, 1, 2)[::-1]
    feat_ct = _submanifold(ct, table, mirrored, form)
    rows = _with_zero_row(feat)
    if form == "gather":
        kernel_ct = _outer(_all_rows(rows, table), ct).reshape(kernel.shape)
    else:

        def one(_, ids):
            return None, _outer(_rows(rows, ids), ct)

        kernel_ct = jax.lax.scan(one, None, jnp.moveaxis(table, 1, 0))[1]
    return feat_ct, None, kernel_ct.astype(kernel.dtype)


_submanifold.defvjp(_forward, _backward)


def strided(feat: jax.Array, family: Parents, kernel: jax.Array) -> jax.Array:
    """2^3 convolution of stride 2: each parent sums over its children.

    Args:
        feat: [B, V, C].
        family: ``voxels.parents`` of each cloud, leaves with a leading axis B.
        kernel: [8, C, D], a dense [2, 2, 2, C, D] kernel flattened.

    Returns:
        [B, P, D] of the type of ``feat``; voxels whose parent found no place add to none.

    Raises:
        ValueError: other shapes.
    """
    _check(feat, kernel)
    _check_family(family, feat.shape[0], feat.shape[1], kernel)
    grouped = _group(feat, family.ids, family.slot, family.children)
    batch, num = grouped.shape[:2]
    flat = kernel.reshape(-1, kernel.shape[-1]).astype(feat.dtype)
    return _matmul(grouped.reshape(batch, num, -1), flat).astype(feat.dtype)


def inverse(coarse: jax.Array, family: Parents, kernel: jax.Array) -> jax.Array:
    """The way back of :func:`strided`: ``out[v] = coarse[parent of v] @ kernel[slot of v]``.

    Args:
        coarse: [B, P, C].
        family: the same as of the strided convolution.
        kernel: [8, C, D].

    Returns:
        [B, V, D] of the type of ``coarse``; zeros for fillers and voxels without a parent.

    Raises:
        ValueError: other shapes.
    """
    _check(coarse, kernel)
    _check_family(family, coarse.shape[0], None, kernel)
    _, width, out = kernel.shape
    flat = jnp.swapaxes(kernel, 0, 1).reshape(width, 8 * out).astype(coarse.dtype)
    children = _matmul(coarse, flat).astype(coarse.dtype)
    grouped = children.reshape(*coarse.shape[:2], 8, out)
    return _ungroup(grouped, family.ids, family.slot, family.children)


@jax.custom_vjp
def _group(feat, ids, slot, children):
    """Rows by parent and slot: [B, V, C] -> [B, P, 8, C], zeros where there is no child."""
    batch, num, _ = children.shape
    rows = _rows(_with_zero_row(feat), children.reshape(batch, -1))
    return rows.reshape(batch, num, 8, -1)


@jax.custom_vjp
def _ungroup(grouped, ids, slot, children):
    """The transpose of :func:`_group`: [B, P, 8, C] -> [B, V, C]."""
    batch, num, _, width = grouped.shape
    rows = _with_zero_row(grouped.reshape(batch, num * 8, width))
    return _rows(rows, jnp.where(ids < num, ids * 8 + slot, num * 8))


_group.defvjp(
    lambda feat, *family: (_group(feat, *family), family),
    lambda family, ct: (_ungroup(ct, *family), None, None, None),
)
_ungroup.defvjp(
    lambda grouped, *family: (_ungroup(grouped, *family), family),
    lambda family, ct: (_group(ct, *family), None, None, None),
)


def _with_zero_row(feat: jax.Array) -> jax.Array:
    """[B, V, C] -> [B, V + 1, C]: what index V reads."""
    return jnp.pad(feat, ((0, 0), (0, 1), (0, 0)))


def _rows(rows: jax.Array, ids: jax.Array) -> jax.Array:
    """rows [B, R, C], ids int32 [B, V] in range -> [B, V, C]."""
    return jax.vmap(lambda r, i: r.at[i].get(mode="promise_in_bounds"))(rows, ids)


def _all_rows(rows: jax.Array, table: jax.Array) -> jax.Array:
    """rows [B, V + 1, C], table int32 [B, K, V] -> [B, V, K C]."""
    batch, count, num = table.shape
    ids = jnp.swapaxes(table, 1, 2).reshape(batch, num * count)
    return _rows(rows, ids).reshape(batch, num, -1)


def _matmul(x: jax.Array, weights: jax.Array) -> jax.Array:
    """x [B, V, C] @ weights [C, D], accumulated and returned in float32 or wider."""
    wide = jnp.promote_types(x.dtype, _INTERNAL)
    return jax.lax.dot_general(x, weights, (((2,), (0,)), ((), ())), preferred_element_type=wide)


def _outer(x: jax.Array, ct: jax.Array) -> jax.Array:
    """x [B, V, C], ct [B, V, D] -> [C, D] summed over all rows, in float32 or wider."""
    wide = jnp.promote_types(x.dtype, _INTERNAL)
    return jax.lax.dot_general(x, ct, (((0, 1), (0, 1)), ((), ())), preferred_element_type=wide)


def _check(feat: jax.Array, kernel: jax.Array):
    if feat.ndim != 3:
        raise ValueError(f"feat: expected [B, V, C], found {list(np.shape(feat))}")
    if kernel.ndim != 3 or kernel.shape[1] != feat.shape[2]:
        raise ValueError(
            f"kernel: expected [K, {feat.shape[2]}, D] for features {list(feat.shape)}, found "
            f"{list(kernel.shape)}"
        )


def _check_family(family: Parents, batch: int, num: int | None, kernel: jax.Array):
    if kernel.shape[0] != 8:
        raise ValueError(f"kernel: expected one matrix a child, 8, found {kernel.shape[0]}")
    shape = list(family.ids.shape)
    if len(shape) != 2 or shape[0] != batch or (num is not None and shape[1] != num):
        wanted = f"[{batch}, {'V' if num is None else num}]"
        raise ValueError(
            f"family.ids: expected {wanted}, found {shape}; make it with jax.vmap of "
            "voxels.parents over the clouds"
        )
