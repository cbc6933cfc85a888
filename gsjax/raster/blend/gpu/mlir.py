"""Shorthands for emitting MLIR inside a Mosaic GPU kernel: constants, lanes, addresses, rows, PTX.

Used by `ptx`, whose functions are the operations of the kernels. Together they hold all
that depends on JAX's unstable interfaces to embedded code (`plgpu.inline_mgpu`,
`jax.experimental.mosaic.gpu.utils`). JAX >= 0.11.
"""

import jax.experimental.mosaic.gpu as mgpu
import numpy as np
from jax.experimental.mosaic.gpu import utils
from jax.experimental.pallas import mosaic_gpu as plgpu
from jaxlib.mlir import ir
from jaxlib.mlir.dialects import arith, llvm, vector

from gsjax.raster.blend.gpu import tile as tile_math

_DYNAMIC = -(2**31)  # LLVM's mark for an index given as a value


def integer(value=None):
    """An int32 constant, or the type."""
    kind = ir.IntegerType.get_signless(32)
    return kind if value is None else arith.constant(kind, value)


def number(value=None):
    """A float32 constant, or the type."""
    kind = ir.F32Type.get()
    return kind if value is None else arith.constant(kind, ir.FloatAttr.get(kind, value))


def less(a, b):
    return arith.cmpi(arith.CmpIPredicate.slt, a, b)


def equals(a, value):
    return arith.cmpi(arith.CmpIPredicate.eq, a, integer(value))


def thread_index():
    return utils.thread_idx()


def warp_and_lane():
    thread = thread_index()
    return arith.shrui(thread, integer(5)), arith.andi(thread, integer(31))


def own_numbers(array):
    """This thread's numbers of an array."""
    numbers = []
    for register in array.registers.flat:
        if isinstance(register.type, ir.VectorType):
            count = ir.VectorType(register.type).shape[0]
            numbers += [vector.extract(register, [], [k]) for k in range(count)]
        else:
            numbers.append(register)
    return numbers


def fragment(numbers, layout, is_signed=None):
    """Array of which this thread holds ``numbers``."""
    kind = ir.VectorType.get((len(numbers),), numbers[0].type)
    register = np.array([vector.from_elements(kind, numbers)], dtype=object)
    return mgpu.FragmentedArray(_registers=register, _layout=layout, _is_signed=is_signed)


def entry_array(own, is_signed=None):
    """[128] array of which this thread holds one number."""
    layout = mgpu.WGStridedFragLayout((tile_math.THREADS,), 1)
    return fragment([own], layout, is_signed)


def splat(value, is_signed=None):
    """Scalar of a warp as an array without axes."""
    return mgpu.FragmentedArray.splat(value, (), is_signed=is_signed)


def struct(shape, dtype, layout):
    return plgpu.ShapeDtypeStruct(shape, dtype, layout)


def element_address(pointer, indices, kind=None):
    """Address of an element; the last index may be a Python integer."""
    dynamic = [i for i in indices if not isinstance(i, int)]
    static = [i if isinstance(i, int) else _DYNAMIC for i in indices]
    flags = llvm.GEPNoWrapFlags.none
    return llvm.getelementptr(pointer.type, pointer, dynamic, static, kind or number(), flags)


def row_address(ref, index, width):
    """Address of row ``index``; the product is taken in 64 bits where the memory is global."""
    kind = ir.Type.parse(f"!llvm.array<{width} x f32>")
    return element_address(utils.memref_ptr(ref), [index], kind)


def word_address(ref, index):
    return element_address(utils.memref_ptr(ref), [index], integer())


def load_row(address, count):
    """``count`` numbers, 16 bytes at a time."""
    kind, numbers = ir.VectorType.get((4,), number()), []
    for k in range(0, count, 4):
        quad = llvm.load(kind, element_address(address, [k]), alignment=16)
        numbers += [vector.extract(quad, [], [i]) for i in range(4)]
    return numbers[:count]


def store_row(address, numbers):
    """The numbers and zeros up to a multiple of four, 16 bytes at a time."""
    numbers = numbers + [number(0.0)] * (tile_math.padded(len(numbers)) - len(numbers))
    kind = ir.VectorType.get((4,), number())
    for k in range(0, len(numbers), 4):
        quad = vector.from_elements(kind, numbers[k : k + 4])
        llvm.store(quad, element_address(address, [k]), alignment=16)


def warp_ptx(text, *operands, result=None):
    """Instructions that involve the other lanes, and so must not move."""
    return utils.inline_ptx(
        text, *operands, result_types=result, has_side_effects=True, convergent=True
    )
