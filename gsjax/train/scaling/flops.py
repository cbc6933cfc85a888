"""Floating-point operations of a traced program, counted in its jaxpr: loop bodies as often as they run.

``compiled.cost_analysis()`` counts a loop's body once and says nothing of library calls; a jaxpr knows every
``scan``'s length. Counted is what the program asks for: recomputation of ``jax.checkpoint`` included, what XLA later
removes or merges, too.
"""

import dataclasses
import math
from collections.abc import Iterator

import jax
import jax.numpy as jnp

# What a product runs on: tensor cores at bfloat16 or TF32, or float32 without them.
PRODUCTS = ("bf16", "tf32", "fp32", "fp64", "int")
KINDS = (*PRODUCTS, "other")  # other: one operation an element of arithmetic outside products

_HIGHEST = jax.lax.Precision.HIGHEST
# One operation for each element of the result ...
_BY_RESULT = frozenset(
    "abs acos acosh add add_any and asin asinh atan atan2 atanh cbrt ceil clamp cos cosh digamma div eq erf erf_inv erfc "
    "exp exp2 expm1 floor ge gt integer_pow is_finite le lgamma log log1p logistic lt max min mul ne neg nextafter "
    "not or pow rem round rsqrt select_n sign sin sinh sqrt square sub tan tanh xor".split()
)
# ... or of the operand.
_BY_OPERAND = frozenset(
    "argmax argmin cumlogsumexp cummax cummin cumprod cumsum reduce_and reduce_max reduce_min reduce_or "
    "reduce_prod reduce_sum reduce_window_sum reduce_window_max scatter-add".split()
)
# Their jaxprs say how two elements meet.
_COMBINERS = frozenset(
    "reduce reduce_window scatter scatter-add scatter-mul scatter-min scatter-max scatter_add scatter_mul scatter_min "
    "scatter_max sort select_and_scatter custom_lin".split()
)


@dataclasses.dataclass
class Count:
    """Operations by kind, of the whole program over all devices.

    Attributes:
        by_kind: {kind of ``KINDS``: operations}; a multiplication and an addition are two.
        unknown_loops: ``while`` loops of unknown length, whose bodies count once.
        opaque: {name: executions} of kernels that a jaxpr does not show (``pallas_call`` and the like).
    """

    by_kind: dict[str, float] = dataclasses.field(default_factory=lambda: dict.fromkeys(KINDS, 0.0))
    unknown_loops: int = 0
    opaque: dict[str, int] = dataclasses.field(default_factory=dict)

    @property
    def products(self) -> float:
        """Of matrix products and convolutions."""
        return sum(self.by_kind[kind] for kind in PRODUCTS)

    @property
    def total(self) -> float:
        """Of everything."""
        return sum(self.by_kind.values())

    def add(self, other: "Count", times: float = 1) -> None:
        """Adds another count, ``times`` over."""
        for kind, value in other.by_kind.items():
            self.by_kind[kind] += value * times
        self.unknown_loops += other.unknown_loops
        for name, value in other.opaque.items():
            self.opaque[name] = self.opaque.get(name, 0) + int(value * times)


def count(jaxpr) -> Count:
    """Operations of a jaxpr.

    Args:
        jaxpr: Jaxpr or ClosedJaxpr, as ``jax.make_jaxpr(f)(x)`` or ``jax.jit(f).trace(x).jaxpr`` give it. Shapes are
            those of global arrays; the body of a ``shard_map``, written for one device, counts for each.
    """
    total = Count()
    for equation in getattr(jaxpr, "jaxpr", jaxpr).eqns:
        total.add(_equation(equation))
    return total


def _equation(equation) -> Count:
    name, params = equation.primitive.name, equation.params
    if name == "dot_general":
        return _product(equation, _of_dot(equation))
    if name == "conv_general_dilated":
        return _product(equation, _of_convolution(equation))
    if name == "scan":
        return _times(count(params["jaxpr"]), params["length"])
    if name == "while":
        found = count(params["body_jaxpr"])
        found.add(count(params["cond_jaxpr"]))
        found.unknown_loops += 1
        return found
    if name == "cond":
        return max(map(count, params["branches"]), key=lambda c: c.total)
    if name == "shard_map":
        # The name depends on JAX's version; of nested ones, those that become manual here.
        axes = params["newly_manual_axes" if "newly_manual_axes" in params else "manual_axes"]
        sizes = (params["mesh"].shape[axis] for axis in axes)
        return _times(count(params["jaxpr"]), math.prod(sizes))
    if "pallas_call" in name or name in ("ffi_call", "mosaic_gpu", "core_map"):
        return Count(opaque={_called(params) or name: 1})
    if name not in _COMBINERS and (inner := list(_inner(params))):
        # pjit, remat, custom_jvp_call, custom_vjp_call: one jaxpr each, the forward one.
        return count(inner[0])
    return _elementwise(equation)


def _times(found: Count, times: int) -> Count:
    total = Count()
    total.add(found, times)
    return total


def _called(params) -> str:
    info = params.get("name_and_src_info")
    return str(getattr(info, "name", "") or params.get("name") or params.get("target_name") or "")


def _inner(params) -> Iterator:
    for name in ("jaxpr", "call_jaxpr", "fun_jaxpr"):
        if hasattr(params.get(name), "eqns"):
            yield params[name]


def _product(equation, operations: float) -> Count:
    found = Count()
    found.by_kind[_runs_on(equation)] = operations
    return found


def _runs_on(equation) -> str:
    """The kind of a product, on GPUs: float32 is TF32 unless the highest precision is asked for."""
    dtypes = [v.aval.dtype for v in equation.invars]
    if not all(jnp.issubdtype(d, jnp.inexact) for d in dtypes):
        return "int"
    wide = max(d.itemsize // (2 if jnp.issubdtype(d, jnp.complexfloating) else 1) for d in dtypes)
    if wide <= 2:
        return "bf16"
    if wide == 8:
        return "fp64"
    precision = equation.params.get("precision")
    pair = precision if isinstance(precision, tuple) else (precision, precision)
    return "fp32" if _HIGHEST in pair else "tf32"


def _of_dot(equation) -> float:
    (left, _), _ = equation.params["dimension_numbers"]
    shape = equation.invars[0].aval.shape
    contracted = math.prod(shape[axis] for axis in left)
    return 2.0 * math.prod(equation.outvars[0].aval.shape) * contracted


def _of_convolution(equation) -> float:
    """Two a window's element, input channel of the group and result; zeros of padding count as numbers do.

    Those that a dilated operand would hold in between (the gradient of a strided convolution) do not.
    """
    params, kernel = equation.params, equation.invars[1].aval.shape
    spec = params["dimension_numbers"].rhs_spec  # (features out, features in, space ...)
    window = math.prod(kernel[axis] for axis in spec[1:])
    full = 2.0 * math.prod(equation.outvars[0].aval.shape) * window
    return full / math.prod(params["lhs_dilation"])


def _elementwise(equation) -> Count:
    found = Count()
    name = equation.primitive.name
    of = equation.outvars if name in _BY_RESULT else equation.invars if name in _BY_OPERAND else ()
    if of:
        place = -1 if name == "scatter-add" else 0
        found.by_kind["other"] = float(math.prod(getattr(of[place].aval, "shape", ())))
    return found
