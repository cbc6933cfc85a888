"""The protocol between a system (a paper) and everything that trains or evaluates it.

``train`` and ``evals`` know systems only through this file. A system folder's ``system.py`` exports
``build(config) -> System``; ``config.system = 'clip_gs'`` resolves to ``gsjax.systems.clip_gs``, and a
dotted name, 'mylab.moments', to a package of one's own (docs/adding_a_system.md).
"""

import dataclasses
import importlib
import pkgutil
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax

Batch = Mapping[str, Any]
Variables = Mapping[str, Any]  # {'params': ..., other flax collections}


@dataclasses.dataclass(frozen=True)
class ParamRule:
    """Optimiser setting for the parameters whose path matches; the first match wins.

    Attributes:
        pattern: regular expression, searched in 'a/b/kernel'.
        lr_scale: factor on the learning rate; 0 freezes.
        decay: whether decoupled weight decay applies.
    """

    pattern: str
    lr_scale: float = 1.0
    decay: bool = True


def _same(params):
    return params


@dataclasses.dataclass(frozen=True)
class System:
    """A trainable system.

    Attributes:
        name: folder name under ``gsjax.systems``.
        batch_spec: one *example* as ``{field: jax.ShapeDtypeStruct}`` (no batch axis).
        init: ``rng -> variables``.
        loss: ``(variables, batch, rng, train) -> (scalar loss, {name: scalar}, new collections)``.
            The batch carries ``index`` [B] int32 (record number; fold it into ``rng`` for
            per-example randomness, so that results do not depend on how the batch is laid out
            over devices) and ``valid`` [B] bool (False = padding, must not count).
        predict_fns: ``{name: (variables, batch) -> {field: [B, ...]}}`` in inference mode.
        train_data: ``() -> grain.MapDataset`` of single examples matching ``batch_spec``.
        eval_data: ``split -> grain.MapDataset``, likewise, in a fixed order.
        param_rules: optimiser groups, first match wins; unmatched parameters get the defaults.
        project_params: applied to the parameters after every update (e.g. clamps).
        info: static facts evaluators need (category names, ...): plain JSON values, but for ``uids``,
            ``split -> names of its objects``.
        show: optional ``(variables, folder) -> None``: writes pictures of what the run learned.
        norm_pass: optional ``(variables, batch) -> {'batch_stats': ...}``: the running statistics that
            one pass of the network behind ``predict_fns['embed']`` leaves, every norm in training
            mode and nothing random, laid out as in ``variables`` (only those that it updates).
    """

    name: str
    batch_spec: Mapping[str, jax.ShapeDtypeStruct]
    init: Callable[[jax.Array], Variables]
    loss: Callable[[Variables, Batch, jax.Array, bool], tuple[jax.Array, dict, dict]]
    predict_fns: Mapping[str, Callable[[Variables, Batch], Mapping[str, jax.Array]]]
    train_data: Callable[[], Any]
    eval_data: Callable[[str], Any]
    param_rules: Sequence[ParamRule] = ()
    project_params: Callable[[Any], Any] = _same
    info: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    show: Callable[[Variables, Any], None] | None = None
    norm_pass: Callable[[Variables, Batch], Mapping[str, Any]] | None = None


@dataclasses.dataclass(frozen=True)
class Procedure:
    """A system that is not trained on batches but advances a state of its own; `train.procedure` runs it.

    Attributes:
        name: folder name under ``gsjax.systems``.
        num_steps: of the whole run.
        begin: ``() -> state``, any pytree of arrays.
        abstract: ``layout -> state`` of ``jax.ShapeDtypeStruct``; the layout is ``{path: [shape,
            dtype]}`` of the leaves of a checkpoint, since shapes may grow while a run goes on.
        advance: ``state -> (state, {name: number})``: a chunk of steps.
        step: ``state -> int``, steps done.
        evaluate: ``state -> {name: number}``.
        finish: ``(state, folder) -> None``: writes the result and pictures into the run folder.
        show: names of metrics for the progress line.
    """

    name: str
    num_steps: int
    begin: Callable[[], Any]
    abstract: Callable[[Mapping[str, list]], Any]
    advance: Callable[[Any], tuple[Any, Mapping[str, Any]]]
    step: Callable[[Any], int]
    evaluate: Callable[[Any], Mapping[str, float]]
    finish: Callable[[Any, Any], None]
    show: Sequence[str] = ()


def build(config) -> System | Procedure:
    """Builds the system that ``config.system`` names.

    Raises:
        ValueError: no such system; the message lists the known ones. Or a package of one's own that
            cannot be found, or without ``build``.
    """
    import gsjax.systems as systems

    known = sorted(m.name for m in pkgutil.iter_modules(systems.__path__) if m.ispkg)
    if config.system in known:
        return importlib.import_module(f"gsjax.systems.{config.system}.system").build(config)
    if "." not in config.system:
        raise ValueError(
            f"config.system: unknown system {config.system!r}; known: {known}, or the dotted name of a "
            "package of your own (docs/adding_a_system.md)"
        )
    name = f"{config.system}.system"
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as error:
        if not f"{name}.".startswith(f"{error.name}."):
            raise  # the package is there, and something that it imports is not
        raise ValueError(
            f"config.system: {config.system!r}: {error}; expected a package with a file system.py, whose "
            "parent folder is on PYTHONPATH"
        ) from error
    if not hasattr(module, "build"):
        raise ValueError(
            f"config.system: {name} exports no build(config) (docs/adding_a_system.md)"
        )
    return module.build(config)
