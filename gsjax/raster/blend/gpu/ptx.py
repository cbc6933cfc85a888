"""Warp-level operations of `warp` on the GPU: PTX and LLVM that Pallas embeds.

`arrays` has the same functions on whole arrays, which Pallas can interpret; the kernels
use one module or the other. JAX >= 0.11.

A warpgroup of 128 threads: entry arrays hold number t in thread t, pixel arrays 2t and 2t + 1.
Loops over lists and the sums of a block are per warp and hold no barrier; `sync` and `sync_any` are
for all four warps. No function inserts a barrier of its own.
"""

import jax.numpy as jnp
from jax import lax
from jax.experimental.mosaic.gpu import utils
from jax.experimental.pallas import mosaic_gpu as plgpu
from jaxlib.mlir import ir
from jaxlib.mlir.dialects import arith, llvm, scf, vector

from gsjax.raster.blend.gpu import mlir, moments
from gsjax.raster.blend.gpu import stage as stages
from gsjax.raster.blend.gpu import tile as tile_math

PIXELS = plgpu.Layout.WG_STRIDED((tile_math.PIXELS,), vec_size=2)
ENTRIES = plgpu.Layout.WG_STRIDED((tile_math.THREADS,), vec_size=1)
SCALAR = plgpu.Layout.WG_SPLAT
REF = plgpu.RefType()

_FULL_WARP = "0xffffffff"


# --- barriers and votes -----------------------------------------------------------------------


def sync():
    """All warps have arrived, and see what the others wrote to shared memory."""

    @plgpu.inline_mgpu()
    def barrier(ctx):
        utils.warpgroup_barrier()

    barrier()


def sync_any(flag):
    """Like `sync`; also whether ``flag`` is not 0 in any warp, int32."""

    @plgpu.inline_mgpu(arg_types=(SCALAR,), return_type=[mlir.struct((), jnp.int32, SCALAR)])
    def barrier(ctx, flag):
        text = (
            "{ .reg .pred p, q; setp.ne.b32 p, $1, 0; "
            f"barrier.red.or.pred q, 1, {tile_math.THREADS}, p; selp.b32 $0, 1, 0, q; }}"
        )
        return [mlir.splat(mlir.warp_ptx(text, flag.registers.item(), result=mlir.integer()), True)]

    return barrier(flag)[0]


def any_open(transmittance):
    """Whether a pixel of this warp is open, int32."""

    @plgpu.inline_mgpu(arg_types=(PIXELS,), return_type=[mlir.struct((), jnp.int32, SCALAR)])
    def vote(ctx, transmittance):
        text = (
            "{ .reg .pred p; .reg .f32 m; max.f32 m, $1, $2; setp.gt.f32 p, m, 0f00000000; "
            f"vote.sync.any.pred p, p, {_FULL_WARP}; selp.b32 $0, 1, 0, p; }}"
        )
        return [
            mlir.splat(
                mlir.warp_ptx(text, *mlir.own_numbers(transmittance), result=mlir.integer()), True
            )
        ]

    return vote(transmittance)[0]


def reciprocal(x):
    """1 / x of pixels, to one unit in the last place."""

    @plgpu.inline_mgpu(
        arg_types=(PIXELS,), return_type=[mlir.struct((tile_math.PIXELS,), jnp.float32, PIXELS)]
    )
    def approximate(ctx, x):
        text = "rcp.approx.ftz.f32 $0, $1;"
        numbers = [
            utils.inline_ptx(text, n, result_types=mlir.number()) for n in mlir.own_numbers(x)
        ]
        return [mlir.fragment(numbers, x.layout)]

    return approximate(x)[0]


# --- staging: entry t of a batch belongs to thread t -------------------------------------------


def fetch(stage, row, slot, table, entry, end):
    """Table rows of a batch of list entries, and their slots.

    Args:
      stage: shapes.
      row, slot: int32 lists in global memory; slot may be None.
      table: [R + 1, width] in global memory; the last row stands for entries from ``end`` on.
      entry: first of the batch, below ``end``.
      end: of the tile's list.

    Returns:
      6 + X arrays [128], and slots [128] int32 (None for None).
    """
    count, width = tile_math.GEOMETRY + stage.channels, table.shape[-1]
    nothing = table.shape[0] - 1
    floats = [mlir.struct((tile_math.THREADS,), jnp.float32, ENTRIES)] * count
    ints = [] if slot is None else [mlir.struct((tile_math.THREADS,), jnp.int32, ENTRIES)]

    @plgpu.inline_mgpu(
        arg_types=(REF, SCALAR, SCALAR, REF) + (REF,) * len(ints), return_type=floats + ints
    )
    def gather(ctx, table, entry, end, row, *slot):
        thread, first = mlir.thread_index(), entry.registers.item()
        own = arith.addi(first, thread)
        exists = mlir.less(thread, mlir.integer(stage.batch))
        exists = arith.andi(exists, mlir.less(own, end.registers.item()))
        own = arith.select(exists, own, first)
        index = arith.select(
            exists, llvm.load(mlir.integer(), mlir.word_address(row, own)), mlir.integer(nothing)
        )
        numbers = mlir.load_row(mlir.row_address(table, index, width), count)
        slots = [
            mlir.entry_array(llvm.load(mlir.integer(), mlir.word_address(s, own)), True)
            for s in slot
        ]
        return [mlir.entry_array(n) for n in numbers] + slots

    out = gather(table, entry, end, row, *([] if slot is None else [slot]))
    return out[:count], (out[count] if ints else None)


def put_rows(stage, staged, values):
    """Stores the batch's rows: `stage.values` arrays [128]; row ``batch`` becomes never visible."""

    @plgpu.inline_mgpu(arg_types=(REF,) + (ENTRIES,) * len(values))
    def store(ctx, staged, *values):
        thread = mlir.thread_index()
        with utils.when(mlir.less(thread, mlir.integer(stage.batch))):
            mlir.store_row(
                mlir.row_address(staged, thread, stage.row),
                [mlir.own_numbers(v)[0] for v in values],
            )
        with utils.when(mlir.equals(thread, 0)):
            never = [mlir.number(tile_math.NEVER)] + [mlir.number(0.0)] * (stage.values - 1)
            mlir.store_row(mlir.row_address(staged, mlir.integer(stage.batch), stage.row), never)

    store(staged, *values)


def put_lists(stage, lists, hits):
    """Makes the blocks' lists: entries of the batch that touch the block, in order.

    Args:
      stage: shapes.
      lists: shared memory, stage.lists_shape int32.
      hits: for each block, [128] int32, whether the entry touches it.
    """

    @plgpu.inline_mgpu(arg_types=(REF,) + (ENTRIES,) * len(hits))
    def ballot(ctx, lists, *hits):
        thread, (warp, lane) = mlir.thread_index(), mlir.warp_and_lane()

        def count(bits):
            return utils.inline_ptx("popc.b32 $0, $1;", bits, result_types=mlir.integer())

        with utils.when(mlir.less(warp, mlir.integer(stage.groups))):
            before = utils.inline_ptx("mov.u32 $0, %lanemask_lt;", result_types=mlir.integer())
            text = (
                "{ .reg .pred p; setp.ne.b32 p, $1, 0; "
                f"vote.sync.ballot.b32 $0, p, {_FULL_WARP}; }}"
            )
            for block, hit in enumerate(hits):
                hit = mlir.own_numbers(hit)[0]
                bits = mlir.warp_ptx(text, hit, result=mlir.integer())
                group = arith.addi(mlir.integer(block * stage.groups), warp)
                base = arith.muli(group, mlir.integer(stages.LIST_WORDS))
                total, rank = count(bits), count(arith.andi(bits, before))
                with utils.when(arith.cmpi(arith.CmpIPredicate.ne, hit, mlir.integer(0))):
                    llvm.store(thread, mlir.word_address(lists, arith.addi(base, rank)))
                with utils.when(mlir.less(lane, mlir.integer(stage.unroll - 1))):
                    end = arith.addi(base, arith.addi(total, lane))
                    llvm.store(mlir.integer(stage.batch), mlir.word_address(lists, end))
                last = arith.addi(base, mlir.integer(stages.LIST_WORDS - 1))
                llvm.store(total, mlir.word_address(lists, last))

    ballot(lists, *hits)


# --- walking: each warp its own block's lists --------------------------------------------------


def for_each_hit(stage, staged, lists, step, state):
    """Runs ``step(entry, values, state) -> state`` over the entries that touch the warp's block.

    A warp leaves when none of its pixels is open; state[0] is the transmittance.
    """
    for group in range(stage.groups):
        length = jnp.where(any_open(state[0]) > 0, _length(stage, lists, group), 0)

        def some(carry, group=group):
            position, *state = carry
            entries = _entries(stage, lists, group, position)
            rows = [_staged_row(stage, staged, e) for e in entries]
            for entry, values in zip(entries, rows):
                state = step(entry, values, tuple(state))
            return position + stage.unroll, *state

        carry = lax.while_loop(lambda c: c[0] < length, some, (jnp.int32(0), *state))  # noqa: B023
        state = carry[1:]
    return tuple(state)


def _list_base(stage, group):
    """First word of this warp's list."""
    warp, _ = mlir.warp_and_lane()
    first = arith.muli(warp, mlir.integer(stage.groups * stages.LIST_WORDS))
    return arith.addi(first, mlir.integer(group * stages.LIST_WORDS))


def _length(stage, lists, group):
    @plgpu.inline_mgpu(arg_types=(REF,), return_type=[mlir.struct((), jnp.int32, SCALAR)])
    def load(ctx, lists):
        last = arith.addi(_list_base(stage, group), mlir.integer(stages.LIST_WORDS - 1))
        return [mlir.splat(llvm.load(mlir.integer(), mlir.word_address(lists, last)), True)]

    return load(lists)[0]


def _entries(stage, lists, group, position):
    """The next `stage.unroll` entries of this warp's list, in one load."""
    result = [mlir.struct((), jnp.int32, SCALAR)] * stage.unroll

    @plgpu.inline_mgpu(arg_types=(REF, SCALAR), return_type=result)
    def load(ctx, lists, position):
        word = mlir.word_address(
            lists, arith.addi(_list_base(stage, group), position.registers.item())
        )
        if stage.unroll == 1:
            return [mlir.splat(llvm.load(mlir.integer(), word), True)]
        kind = ir.VectorType.get((stage.unroll,), mlir.integer())
        entries = llvm.load(kind, word, alignment=4 * stage.unroll)
        return [mlir.splat(vector.extract(entries, [], [k]), True) for k in range(stage.unroll)]

    return load(lists, position)


def _staged_row(stage, staged, entry):
    result = [mlir.struct((), jnp.float32, SCALAR)] * stage.values

    @plgpu.inline_mgpu(arg_types=(REF, SCALAR), return_type=result)
    def load(ctx, staged, entry):
        address = mlir.row_address(staged, entry.registers.item(), stage.row)
        return [mlir.splat(n) for n in mlir.load_row(address, stage.values)]

    return load(staged, entry)


# --- gradients ---------------------------------------------------------------------------------


class _Lane:
    """The arithmetic of one lane, for `moments`."""

    const = staticmethod(mlir.number)
    add = staticmethod(arith.addf)
    multiply = staticmethod(arith.mulf)
    select = staticmethod(arith.select)
    integer = staticmethod(mlir.integer)
    equals = staticmethod(mlir.equals)
    both = staticmethod(arith.andi)
    either = staticmethod(arith.ori)

    @staticmethod
    def plus(integer, number):
        return arith.addi(integer, mlir.integer(number))

    @staticmethod
    def less(integer, number):
        return mlir.less(integer, mlir.integer(number))

    @staticmethod
    def to_float(integer):
        return arith.sitofp(mlir.number(), integer)

    @staticmethod
    def split(number):
        """High part of 11 significant bits, and the rest."""
        bits = arith.andi(utils.bitcast(number, mlir.integer()), mlir.integer(-(2**13)))
        high = utils.bitcast(bits, mlir.number())
        return high, arith.subf(number, high)

    @staticmethod
    def mma(a, b, d):
        text = (
            "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 "
            "{$0,$1,$2,$3}, {$4,$5,$6,$7}, {$8,$9}, {$10,$11,$12,$13};"
        )
        bits = [utils.bitcast(n, mlir.integer()) for n in (*a, *b)]
        return list(mlir.warp_ptx(text, *bits, *d, result=[mlir.number()] * 4))


def clear_sums(stage, sums):
    """Zeros in all rows of sums."""

    @plgpu.inline_mgpu(arg_types=(REF,))
    def clear(ctx, sums):
        step = 4 * tile_math.THREADS
        own = arith.muli(mlir.thread_index(), mlir.integer(4))
        for k in range(0, stage.sums_shape[0], step):
            mlir.store_row(
                mlir.element_address(utils.memref_ptr(sums), [arith.addi(own, mlir.integer(k))]),
                [mlir.number(0.0)],
            )

    clear(sums)


def put_sums(stage, sums, entry, q, shares):
    """Stores the sums over this warp's pixels: of q times powers of x and y, and of each share."""

    @plgpu.inline_mgpu(arg_types=(REF, SCALAR) + (PIXELS,) * (1 + len(shares)))
    def products(ctx, sums, entry, q, *shares):
        warp, lane = mlir.warp_and_lane()
        group, quad = arith.shrui(lane, mlir.integer(2)), arith.andi(lane, mlir.integer(3))
        eights = (arith.andi(warp, mlir.integer(1)), arith.shrui(warp, mlir.integer(1)))
        origin = [
            arith.addf(
                arith.sitofp(mlir.number(), arith.muli(n, mlir.integer(8))), mlir.number(-7.5)
            )
            for n in eights
        ]
        tiles = moments.block_sums(
            _Lane, group, quad, origin, mlir.own_numbers(q), [mlir.own_numbers(s) for s in shares]
        )
        index = arith.addi(arith.muli(warp, mlir.integer(stage.batch + 1)), entry.registers.item())
        address = mlir.row_address(sums, index, stage.sums_row)
        for here, place, number in moments.stores(_Lane, group, quad, tiles, len(shares)):
            with utils.when(here):
                llvm.store(number, mlir.element_address(address, [place]))

    products(sums, entry, q, *shares)


def total_sums(stage, sums):
    """Sums over the tile for the entries of a batch: the blocks' rows added in a fixed order.

    Returns: `stage.sums` arrays [128]; arbitrary from entry ``batch`` on.
    """
    result = [mlir.struct((tile_math.THREADS,), jnp.float32, ENTRIES)] * stage.sums

    @plgpu.inline_mgpu(arg_types=(REF,), return_type=result)
    def add(ctx, sums):
        thread = mlir.thread_index()
        entry = arith.select(
            mlir.less(thread, mlir.integer(stage.batch)), thread, mlir.integer(stage.batch)
        )
        total = None
        for block in range(stages.BLOCKS):
            index = arith.addi(entry, mlir.integer(block * (stage.batch + 1)))
            row = mlir.load_row(mlir.row_address(sums, index, stage.sums_row), stage.sums)
            total = row if total is None else [arith.addf(a, b) for a, b in zip(total, row)]
        return [mlir.entry_array(n) for n in total]

    return add(sums)


def put_gradients(stage, grads, slot, values, entry, end):
    """Stores gradient rows of the batch at their slots: 6 + X arrays [128]."""
    width = grads.shape[-1]

    @plgpu.inline_mgpu(arg_types=(REF, ENTRIES, SCALAR, SCALAR) + (ENTRIES,) * len(values))
    def store(ctx, grads, slot, entry, end, *values):
        thread = mlir.thread_index()
        exists = mlir.less(arith.addi(entry.registers.item(), thread), end.registers.item())
        with utils.when(arith.andi(exists, mlir.less(thread, mlir.integer(stage.batch)))):
            row = mlir.row_address(grads, mlir.own_numbers(slot)[0], width)
            mlir.store_row(row, [mlir.own_numbers(v)[0] for v in values])

    store(grads, slot, entry, end, *values)


def add_gradients(stage, grads, row, values, entry, end):
    """Adds gradient rows of the batch to those of their Gaussians, in no fixed order.

    One 16-byte reduction for every four numbers (PTX ISA, red.global.add.v4.f32, sm_90).
    """
    width = grads.shape[-1]

    @plgpu.inline_mgpu(arg_types=(REF, ENTRIES, SCALAR, SCALAR) + (ENTRIES,) * len(values))
    def add(ctx, grads, row, entry, end, *values):
        thread = mlir.thread_index()
        exists = mlir.less(arith.addi(entry.registers.item(), thread), end.registers.item())
        numbers = [mlir.own_numbers(v)[0] for v in values]
        numbers += [mlir.number(0.0)] * (width - len(numbers))
        with utils.when(arith.andi(exists, mlir.less(thread, mlir.integer(stage.batch)))):
            address = mlir.row_address(grads, mlir.own_numbers(row)[0], width)
            for k in range(0, width, 4):
                utils.inline_ptx(
                    "red.global.add.v4.f32 [$0], {$1, $2, $3, $4};",
                    mlir.element_address(address, [k]), *numbers[k : k + 4],
                    has_side_effects=True,
                )  # fmt: skip

    add(grads, row, entry, end, *values)


def put_zeros(grads, slot, entry, end):
    """Zero gradient rows for list entries [entry, end), which no pixel saw."""
    width = grads.shape[-1]

    @plgpu.inline_mgpu(arg_types=(REF, REF, SCALAR, SCALAR))
    def store(ctx, grads, slot, entry, end):
        first = arith.addi(entry.registers.item(), mlir.thread_index())
        loop = scf.ForOp(first, end.registers.item(), mlir.integer(tile_math.THREADS))
        with ir.InsertionPoint(loop.body):
            index = llvm.load(mlir.integer(), mlir.word_address(slot, loop.induction_variable))
            mlir.store_row(mlir.row_address(grads, index, width), [mlir.number(0.0)] * width)
            scf.yield_([])

    store(grads, slot, entry, end)
