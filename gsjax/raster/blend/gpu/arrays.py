"""The operations of `ptx` on whole arrays, for Pallas' interpreter: what the PTX means.

Same names, arguments and results; tests run the kernels with this module. The four warps of a tile
run as one, so a walk visits every entry of the batch and leaves alone the blocks that it misses. An
``entry`` of a walk is therefore a pair: its number, and whether it counts at each pixel.
"""

import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl

from gsjax.raster.blend.gpu import stage as stages
from gsjax.raster.blend.gpu import tile as tile_math


def sync():
    """Nothing: warps do not run apart here."""


def sync_any(flag):
    """See `ptx.sync_any`."""
    return flag


def any_open(transmittance):
    """See `ptx.any_open`."""
    return (jnp.max(transmittance) > 0).astype(jnp.int32)


def reciprocal(x):
    """See `ptx.reciprocal`."""
    return 1.0 / x


def fetch(stage, row, slot, table, entry, end):
    """See `ptx.fetch`."""
    own = jnp.arange(tile_math.THREADS, dtype=jnp.int32)
    exists = _exists(stage, entry, end)
    own = jnp.where(exists, entry + own, entry)
    index = jnp.where(exists, row[...][own], table.shape[0] - 1)
    values = table[...][index]
    count = tile_math.GEOMETRY + stage.channels
    return [values[:, k] for k in range(count)], None if slot is None else slot[...][own]


def _exists(stage, entry, end):
    own = jnp.arange(tile_math.THREADS, dtype=jnp.int32)
    return (own < stage.batch) & (entry + own < end)


def put_rows(stage, staged, values):
    """See `ptx.put_rows`."""
    rows = jnp.stack(values, 1)[: stage.batch]
    never = jnp.where(jnp.arange(rows.shape[1]) == 0, tile_math.NEVER, 0.0)
    rows = jnp.concatenate([rows, never[None]])
    staged[...] = jnp.pad(rows, ((0, 0), (0, stage.row - rows.shape[1]))).reshape(-1)


def put_lists(stage, lists, hits):
    """See `ptx.put_lists`; here a list is one flag an entry."""
    flags = jnp.stack(hits)[:, : stage.batch].reshape(-1)
    lists[pl.ds(0, stages.BLOCKS * stage.batch)] = flags


def for_each_hit(stage, staged, lists, step, state):
    """See `ptx.for_each_hit`."""
    rows = staged[...].reshape(stage.batch + 1, stage.row)
    flags = lists[pl.ds(0, stages.BLOCKS * stage.batch)].reshape(stages.BLOCKS, stage.batch)
    column, line = tile_math.pixel_offsets(jnp.arange(tile_math.PIXELS, dtype=jnp.int32))
    block = column // 8 + line // 8 * 2

    def one(entry, state):
        counts = flags[block, entry] > 0
        values = [rows[entry, k] for k in range(stage.values)]
        after = step((entry, counts), values, state)
        return tuple(jnp.where(counts, a, s) for a, s in zip(after, state))

    return lax.fori_loop(0, stage.batch, one, tuple(state))


def clear_sums(stage, sums):
    """See `ptx.clear_sums`."""
    sums[...] = jnp.zeros(stage.sums_shape, jnp.float32)


def put_sums(stage, sums, entry, q, shares):
    """See `ptx.put_sums`."""
    entry, counts = entry
    column, line = tile_math.pixel_offsets(jnp.arange(tile_math.PIXELS, dtype=jnp.int32))
    x, y = column.astype(jnp.float32) - 7.5, line.astype(jnp.float32) - 7.5
    q, shares = jnp.where(counts, q, 0.0), [jnp.where(counts, s, 0.0) for s in shares]
    values = [jnp.sum(v) for v in (q, q * x, q * x * x, q * y, q * x * y, q * y * y, *shares)]
    row = jnp.pad(jnp.stack(values), (0, stage.sums_row - stage.sums))
    sums[pl.ds(entry * stage.sums_row, stage.sums_row)] = row


def total_sums(stage, sums):
    """See `ptx.total_sums`."""
    rows = sums[pl.ds(0, stage.batch * stage.sums_row)].reshape(stage.batch, stage.sums_row)
    rows = jnp.pad(rows, ((0, tile_math.THREADS - stage.batch), (0, 0)))
    return [rows[:, k] for k in range(stage.sums)]


def put_gradients(stage, grads, slot, values, entry, end):
    """See `ptx.put_gradients`."""
    place = jnp.where(_exists(stage, entry, end), slot, grads.shape[0])
    grads[...] = grads[...].at[place].set(_padded_rows(grads, values), mode="drop")


def add_gradients(stage, grads, row, values, entry, end):
    """See `ptx.add_gradients`."""
    place = jnp.where(_exists(stage, entry, end), row, grads.shape[0])
    grads[...] = grads[...].at[place].add(_padded_rows(grads, values), mode="drop")


def _padded_rows(grads, values):
    rows = jnp.stack(values, 1)
    return jnp.pad(rows, ((0, 0), (0, grads.shape[1] - rows.shape[1])))


def put_zeros(grads, slot, entry, end):
    """See `ptx.put_zeros`."""
    index = jnp.arange(slot.shape[0])
    place = jnp.where((index >= entry) & (index < end), slot[...], grads.shape[0])
    grads[...] = grads[...].at[place].set(0.0, mode="drop")
