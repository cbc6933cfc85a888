"""Pairs of a batch whose rows may lie on several devices, and how the rows meet.

A loss over pairs compares every object with the counterparts of all others. :func:`pairs` brings
its inputs into one form, :func:`by_rows` gives each device its rows, and :func:`around` is the walk
by which chunks visit all devices without ever being gathered.

Not here: what is computed when two rows meet (``log_sums.py``, ``soft_sums.py``).
"""

import functools
import math
import typing
from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp


class Pairs(typing.NamedTuple):
    """Objects and their counterparts, both in the same type, float32 or wider.

    a: [B, D]. b: [B, K, D]. valid_a: bool [B]. valid_b: bool [B, K]. group: integers [B]; objects
    of one group are not negatives of each other.
    """

    a: jax.Array
    b: jax.Array
    valid_a: jax.Array
    valid_b: jax.Array
    group: jax.Array


def pairs(
    a: jax.Array,
    b: jax.Array,
    valid_a: jax.Array | None = None,
    valid_b: jax.Array | None = None,
    ids: jax.Array | None = None,
) -> Pairs:
    """The inputs of a loss, checked, widened and with masks where none were given.

    Args:
        a: [B, D] unit vectors.
        b: [B, K, D] unit vectors.
        valid_a, valid_b: bool [B] and [B, K]; None = all.
        ids: integers [B]; None = every object is a group of its own.

    Raises:
        ValueError: shapes that do not agree.
    """
    if a.ndim != 2 or b.ndim != 3 or (a.shape[0], a.shape[1]) != (b.shape[0], b.shape[2]):
        raise ValueError(
            f"a, b: found shapes {a.shape} and {b.shape}; expected [B, D] and [B, K, D] "
            "(give one caption an object a slot axis: text[:, None])"
        )
    num, slots = b.shape[:2]
    valid_a = jnp.ones(num, bool) if valid_a is None else valid_a
    valid_b = jnp.ones((num, slots), bool) if valid_b is None else valid_b
    group = jnp.arange(num, dtype=jnp.uint32) if ids is None else ids
    check_shape("valid_a", valid_a, (num,))
    check_shape("valid_b", valid_b, (num, slots))
    check_shape("ids", group, (num,))
    dtype = jnp.result_type(jnp.float32, a, b)
    return Pairs(a.astype(dtype), b.astype(dtype), valid_a, valid_b, group)


def check_shape(name: str, array: jax.Array, expected: tuple[int, ...]) -> None:
    """Raises ValueError where ``array``, one value a pair or an object, has another shape."""
    if array.shape != expected:
        raise ValueError(
            f"{name}: found shape {array.shape}; expected {expected}, one value for each of the "
            "batch's objects (or objects and slots): broadcast it before the call"
        )


def by_rows(
    local: Callable,
    forms: Mapping[str, Callable],
    rows: Sequence[jax.Array],
    scalars: Sequence[jax.Array],
    *,
    sharding: str,
    axes: tuple[str, ...],
    mesh=None,
):
    """``local(form, *rows, *scalars)``, on every device with its own rows of the batch.

    Args:
        local: takes one of ``forms``, this device's part of ``rows`` and all of ``scalars``; what
            it returns has the rows on its leading axis.
        forms: function by name of sharding; those other than ``none`` run under ``jax.shard_map``
            and take the keywords ``axes`` (mesh axes) and ``shards`` (devices along them).
        rows: arrays [B, ...].
        scalars: arrays that every device holds whole.
        sharding: key of ``forms``; falls back to ``none`` where ``axes`` span one device.
        axes: mesh axes over which the batch is sharded; those absent from the mesh are ignored.
        mesh: a ``jax.sharding.Mesh``; None = the one entered with ``jax.set_mesh``.

    Returns:
        The outputs of ``local`` for the global batch, [B, ...].

    Raises:
        ValueError: an unknown sharding, or a batch that the devices along ``axes`` do not divide.
    """
    if sharding not in forms:
        raise ValueError(f"sharding: unknown {sharding!r}; known: {tuple(forms)}")
    mesh = jax.sharding.get_abstract_mesh() if mesh is None else mesh
    axes = tuple(axis for axis in axes if axis in mesh.axis_names)
    shards = math.prod(mesh.shape[axis] for axis in axes)
    if sharding == "none" or shards == 1:
        return local(forms["none"], *rows, *scalars)
    num = rows[0].shape[0]
    if num % shards:
        raise ValueError(
            f"contrastive loss: batch {num} is not divisible by the {shards} devices along mesh "
            f"axes {axes}; choose a batch size that is a multiple of {shards}"
        )
    form = functools.partial(forms[sharding], axes=axes, shards=shards)
    split, copied = jax.sharding.PartitionSpec(axes), jax.sharding.PartitionSpec()
    return jax.shard_map(
        functools.partial(local, form),
        mesh=mesh,
        in_specs=(split,) * len(rows) + (copied,) * len(scalars),
        out_specs=split,
    )(*rows, *scalars)


def around(axes: tuple[str, ...], shards: int, meet: Callable, own, traveller):
    """Passes ``traveller`` through all devices and home again.

    Args:
        axes: mesh axes of the enclosing ``jax.shard_map``.
        shards: devices along them.
        meet: (own, traveller) -> (own, traveller), at every stop, at home first.
        own: pytree of arrays that stays on its device.
        traveller: pytree of arrays that moves to the next device after each stop.

    Returns:
        (own, traveller) after ``shards`` stops; the traveller is at home.
    """
    turn = [(i, (i + 1) % shards) for i in range(shards)]

    def step(carry, _):
        own, traveller = meet(*carry)
        return (own, jax.tree.map(lambda x: jax.lax.ppermute(x, axes, turn), traveller)), None

    return jax.lax.scan(step, (own, traveller), length=shards)[0]
