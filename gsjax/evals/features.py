"""Runs a predict function over a whole split and brings the results to the host."""

from collections.abc import Callable

import jax
import numpy as np
from jax.experimental import multihost_utils

from gsjax.data import loader
from gsjax.systems import base


def collect(
    system: base.System,
    predict: Callable,
    variables,
    put_batch: Callable,
    split: str,
    *,
    batch_size: int,
) -> dict[str, np.ndarray]:
    """Outputs of every real example of a split, in order, the same on every process.

    Args:
        system: gives the data.
        predict: jit-compiled ``(variables, batch) -> {field: [B, ...]}``; its output must hold
            ``valid`` [B], by which padding is dropped.
        variables: of the system.
        put_batch: host batch of this process -> global array on the devices.
        split: name of the split.
        batch_size: global; rounded up to a multiple of the number of devices.

    Returns:
        {field: [n, ...]}.

    Raises:
        FloatingPointError: an output is not finite: no metric means anything then.
    """
    devices = jax.device_count()
    batch_size = -(-batch_size // devices) * devices
    parts = []
    for batch in loader.eval_batches(
        system.eval_data(split),
        global_batch=batch_size,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
    ):
        found = to_host(predict(variables, put_batch(batch)))
        keep = found["valid"].astype(bool)
        parts.append({name: x[keep] for name, x in found.items() if name != "valid"})
    found = {name: np.concatenate([p[name] for p in parts]) for name in parts[0]}
    for name, x in found.items():
        bad = np.zeros(0) if x.dtype.kind != "f" else ~np.isfinite(x).reshape(len(x), -1).all(1)
        if bad.any():
            raise FloatingPointError(
                f"split {split!r}: {name!r} of {int(bad.sum())} of {len(x)} examples is not finite; the "
                "model has diverged, or an input is damaged"
            )
    return found


def to_host(outputs):
    """Arrays of a batch as NumPy's, those of all processes."""
    if jax.process_count() > 1:
        outputs = multihost_utils.process_allgather(outputs, tiled=True)
    return jax.tree.map(np.asarray, outputs)


def keep_categories(
    found: dict[str, np.ndarray], class_names, exclude
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Drops objects of excluded categories.

    Returns:
        (what is left, bool [C]: the classes that are left).

    Raises:
        ValueError: an excluded name that is no category, or nothing left.
    """
    unknown = sorted(set(exclude) - set(class_names))
    if unknown:
        raise ValueError(f"exclude: unknown categories {unknown}; known: {', '.join(class_names)}")
    kept = np.asarray([name not in exclude for name in class_names], bool)
    rows = kept[found["category"]] if len(kept) else np.ones(len(found["category"]), bool)
    if not rows.any():
        raise ValueError(f"exclude: no object is left outside {sorted(exclude)}")
    return {name: x[rows] for name, x in found.items()}, kept


def refuse_unknown(name: str, options, known: dict) -> dict:
    """Evaluator options over their defaults.

    Raises:
        ValueError: an option that the evaluator does not have.
    """
    unknown = sorted(set(options) - set(known))
    if unknown:
        raise ValueError(f"eval.evaluators.{name}: unknown {unknown}; known: {sorted(known)}")
    return {**known, **dict(options)}
