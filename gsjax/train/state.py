"""What training carries from step to step, and its plain-dict form for checkpoints."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from gsjax.core import pytrees
from gsjax.systems import base


@pytrees.register
@dataclasses.dataclass(frozen=True)
class TrainState:
    """Everything a step reads and writes.

    Attributes:
        step: int32 [], updates tried so far (skipped ones count).
        params: parameters.
        collections: the system's other flax collections, such as batch statistics.
        opt_state: the optimiser's.
        ema: averaged parameters, or None.
        bad_run: int32 [], non-finite updates in a row up to now.
        bad_total: int32 [], non-finite updates since the start.
    """

    step: jax.Array
    params: Any
    collections: Any
    opt_state: Any
    ema: Any
    bad_run: jax.Array
    bad_total: jax.Array

    def variables(self) -> dict[str, Any]:
        """What prediction uses: the averaged parameters if there are any."""
        return {"params": self.params if self.ema is None else self.ema, **self.collections}


def create(variables: base.Variables, optimizer, *, ema: bool) -> TrainState:
    """Fresh state around freshly initialised (or warm-started) variables.

    Args:
        variables: {'params': ..., other collections}.
        optimizer: :class:`gsjax.train.optim.Optimizer`.
        ema: whether an averaged copy is kept.
    """
    params = variables["params"]
    zero = jnp.zeros((), jnp.int32)
    return TrainState(
        step=zero,
        params=params,
        collections={k: v for k, v in variables.items() if k != "params"},
        opt_state=optimizer.init(params),
        # A copy: a donated buffer may appear only once in the state.
        ema=jax.tree.map(jnp.copy, params) if ema else None,
        bad_run=zero,
        bad_total=jnp.zeros((), jnp.int32),
    )


def flat(tree) -> dict[str, Any]:
    """Leaves by path: {'params/dense/kernel': leaf}."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): x for path, x in leaves}


def nested(leaves: Mapping[str, Any]) -> dict[str, Any]:
    """Inverse of :func:`flat` into plain dicts, whatever containers the leaves came from."""
    result: dict[str, Any] = {}
    for path, leaf in leaves.items():
        *folders, name = path.split("/")
        place = result
        for folder in folders:
            place = place.setdefault(folder, {})
        place[name] = leaf
    return result


def refill(tree, leaves: Mapping[str, Any]):
    """``tree`` with every leaf replaced by the one of the same path."""
    _, treedef = jax.tree_util.tree_flatten(tree)
    return jax.tree_util.tree_unflatten(treedef, [leaves[path] for path in flat(tree)])


def once(function: Callable, *, out_shardings=None) -> Callable:
    """``jax.jit`` of a function that is called once, such as one that draws hundreds of parameters.

    On CPU with little of LLVM's optimisation: for the generators of all those tensors it took minutes, and
    running takes milliseconds either way. (None of it, level 0, gave NaNs in convolutions of JAX 0.10.2.)
    """
    on_cpu = jax.default_backend() == "cpu"
    options = {"xla_backend_optimization_level": 1} if on_cpu else None
    return jax.jit(function, out_shardings=out_shardings, compiler_options=options)
