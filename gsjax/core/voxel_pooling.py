"""From voxels to their parents by maximum, and from parents back to voxels.

Batches [B, ...] over families of ``voxels.parents``. Voxels and parents are one-to-one with the
slots of ``Parents.children``, so both directions, and their gradients, only gather; being custom VJPs
they leave out forward-mode differentiation. Learned versions are the strided and inverse
convolutions of ``core.sparse_conv``.
"""

import jax
import jax.numpy as jnp

from gsjax.core.voxels import Parents

NONE = 8  # slot of a parent without children


def maximum(feat: jax.Array, family: Parents, mask: jax.Array | None = None) -> jax.Array:
    """Each parent's maximum over its children, channel by channel.

    The gradient goes to the child that attains it; of several, to the one of the lowest slot.

    Args:
        feat: [B, V, C], finite where valid.
        family: of each cloud, leaves with a leading axis B.
        mask: bool [B, V], children that count; None = all.

    Returns:
        [B, P, C]; 0 for parents without children that count.

    Raises:
        ValueError: other shapes.
    """
    _check(feat, family, "V", family.ids.shape[-1])
    if mask is None:
        mask = jnp.ones(feat.shape[:2], bool)
    elif mask.shape != feat.shape[:2]:
        raise ValueError(f"mask: expected {list(feat.shape[:2])}, found {list(mask.shape)}")
    return _maximum(feat, mask, family.ids, family.slot, family.children)


@jax.custom_vjp
def _maximum(feat, mask, ids, slot, children):
    return _maximum_and_slot(feat, mask, children)[0]


def _maximum_and_slot(feat, mask, children):
    low = jnp.asarray(-jnp.inf, feat.dtype)
    rows = _with_row(jnp.where(mask[..., None], feat, low), low)
    shape = (*children.shape[:2], feat.shape[-1])
    best, chosen = jnp.full(shape, low), jnp.full(shape, NONE, jnp.int8)
    for i in range(8):  # one slot at a time: [B, P, 8, C] would be four times the finer level
        row = _rows(rows, children[..., i])
        better = row > best
        best = jnp.where(better, row, best)
        chosen = jnp.where(better, jnp.int8(i), chosen)
    return jnp.where(chosen == NONE, 0, best), chosen


def _maximum_forward(feat, mask, ids, slot, children):
    best, chosen = _maximum_and_slot(feat, mask, children)
    return best, (chosen, ids, slot)


def _maximum_backward(saved, ct):
    chosen, ids, slot = saved
    chosen = _rows(_with_row(chosen, NONE), ids)
    ct = _rows(_with_row(ct, 0), ids)
    return jnp.where(chosen == slot[..., None], ct, 0), None, None, None, None


_maximum.defvjp(_maximum_forward, _maximum_backward)


def expand(coarse: jax.Array, family: Parents) -> jax.Array:
    """Every voxel gets its parent's features.

    Args:
        coarse: [B, P, C].
        family: of each cloud, leaves with a leading axis B.

    Returns:
        [B, V, C]; 0 for fillers and for voxels whose parent found no place.

    Raises:
        ValueError: other shapes.
    """
    _check(coarse, family, "P", family.children.shape[-2])
    return _expand(coarse, family.ids, family.children)


@jax.custom_vjp
def _expand(coarse, ids, children):
    return _rows(_with_row(coarse, 0), ids)


def _expand_backward(children, ct):
    rows = _with_row(ct, 0)
    # Up to eight terms are added: in float32 at least.
    wide = jnp.promote_types(ct.dtype, jnp.float32)
    total = sum(_rows(rows, children[..., i]).astype(wide) for i in range(8))
    return total.astype(ct.dtype), None, None


_expand.defvjp(
    lambda coarse, ids, children: (_expand(coarse, ids, children), children), _expand_backward
)


def any_child(mask: jax.Array, family: Parents) -> jax.Array:
    """Which parents have a child of which something holds: bool [B, V] -> bool [B, P]."""
    found = _rows(_with_row(mask[..., None], False), family.children.reshape(mask.shape[0], -1))
    return jnp.any(found.reshape(family.children.shape), -1)


def _with_row(x: jax.Array, value) -> jax.Array:
    """[B, V, C] -> [B, V + 1, C]: what index V reads."""
    return jnp.pad(x, ((0, 0), (0, 1), (0, 0)), constant_values=value)


def _rows(rows: jax.Array, ids: jax.Array) -> jax.Array:
    """rows [B, R, C], ids int32 [B, M] in range -> [B, M, C]."""
    return jax.vmap(lambda r, i: r.at[i].get(mode="promise_in_bounds"))(rows, ids)


def _check(feat: jax.Array, family: Parents, letter: str, num: int):
    batch = family.ids.shape[0]
    if family.ids.ndim != 2 or family.children.ndim != 3:
        raise ValueError(
            f"family.ids: expected [B, V], found {list(family.ids.shape)}; make it with jax.vmap of "
            "voxels.parents over the clouds"
        )
    if feat.ndim != 3 or feat.shape[:2] != (batch, num):
        raise ValueError(
            f"features: expected [B, {letter}, C] with [B, {letter}] = {[batch, num]}, found "
            f"{list(feat.shape)}"
        )
