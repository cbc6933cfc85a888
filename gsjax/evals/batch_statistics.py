"""Running statistics of BatchNorms, measured anew over training batches.

Running statistics are moving averages over what a network saw while it trained. They are off where it
then works on something else: a backbone that was pre-trained with image features mixed in behind its
stem and is applied to points alone, averaged parameters, parameters never trained. Here they are
recomputed without momentum, as population statistics (Wu and Johnson, arXiv 2105.07576, section 3).
Parameters stay as they are.
"""

import functools
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

from gsjax.data import loader
from gsjax.evals import features
from gsjax.systems import base

STATS = "batch_stats"  # flax collection


def reestimate(
    system: base.System,
    variables: base.Variables,
    put_batch,
    *,
    batches: int,
    batch_size: int,
    seed: int = 0,
) -> dict:
    """Variables whose running statistics are those of training batches under ``system.norm_pass``.

    The mean of a norm is the mean over all batches; its variance that of all batches together, the mean
    variance within a batch plus the variance of the batches' means. Every batch weighs the same. As in
    training, a layer's input is normalised by the statistics of the batch at hand. Statistics that the
    pass does not touch (of a fusion, of a head) stay.

    Args:
        system: with ``norm_pass``; batches come from its ``train_data``, shuffled, none padded.
        variables: of the system; left as they are.
        put_batch: host batch of this process -> global array on the devices.
        batches: how many, at least 1.
        batch_size: global; rounded up to a multiple of the number of devices.
        seed: of the shuffle.

    Returns:
        The variables with new statistics, laid out as the old ones.

    Raises:
        ValueError: the system has no ``norm_pass``, one of its norms does not normalise by the batch,
            or ``batches`` is below 1.
        FloatingPointError: a statistic is not finite.
    """
    check(system)
    if batches < 1:
        raise ValueError(f"reestimate_norms: found {batches} batches, expected 1 or more")
    devices = jax.device_count()
    measure = jax.jit(functools.partial(_left_by, system.norm_pass))
    found = []
    with loader.train_iterator(
        system.train_data(),
        seed=seed,
        global_batch=-(-batch_size // devices) * devices,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
        num_threads=0,
    ) as source:
        for _ in range(batches):
            left, momentum = features.to_host(measure(variables, put_batch(next(source))))
            found.append(_moments(left, momentum))
    if not found[0]:
        return dict(variables)
    return {**variables, STATS: _replaced(variables[STATS], _joined(found))}


def check(system: base.System) -> None:
    """Refuses a system whose norms cannot be measured.

    Raises:
        ValueError: it has no ``norm_pass``.
    """
    if system.norm_pass is None:
        raise ValueError(
            f"reestimate_norms: the system {system.name!r} names no pass (System.norm_pass) that its "
            "norms could be measured in; leave the option 0"
        )


def _left_by(norm_pass, variables, batch):
    """Statistics that a pass leaves when they were 0 before, and their derivatives by what they were.

    A norm leaves momentum * old + (1 - momentum) * batch's, so the two give the batch's own, and no
    layer need be asked for its momentum.
    """
    stats = variables.get(STATS, {})

    def run(old):
        return norm_pass({**variables, STATS: old}, batch).get(STATS, {})

    zeros, ones = (jax.tree.map(make, stats) for make in (jnp.zeros_like, jnp.ones_like))
    return jax.jvp(run, (zeros,), (ones,))


def _moments(left, momentum) -> dict[str, dict[str, np.ndarray]]:
    """{path of a norm: {'mean': [C], 'var': [C]}} of one batch.

    Raises:
        ValueError: a norm was not updated.
        FloatingPointError: a statistic is not finite.
    """
    factors, result = dict(_norms(momentum)), {}
    for path, norm in _norms(left):
        # of float32, whose 0.99 is not 1 - 0.01
        factor = np.round(np.float64(factors[path]["mean"]), 6)
        if np.any(factor >= 1):
            # It would have read the 0 of _left_by, and all norms behind it what came of that.
            raise ValueError(
                f"norm_pass: it leaves the norm {path} as it was; every norm must be in training mode, "
                "and only updated ones may be returned"
            )
        result[path] = {k: np.float64(norm[k]) / (1 - factor) for k in ("mean", "var")}
        if not all(np.isfinite(x).all() for x in result[path].values()):
            raise FloatingPointError(
                f"reestimate_norms: the statistics of {path} are not finite; the weights have "
                "diverged, or an input is damaged"
            )
    return result


def _norms(tree, path: str = ""):
    """Yields (path, {'mean', 'var'}) of every norm."""
    if "mean" in tree and "var" in tree:
        yield path, tree
        return
    for name, branch in tree.items():
        if isinstance(branch, Mapping):
            yield from _norms(branch, f"{path}/{name}")


def _joined(found):
    """Moments of all batches together."""
    result = {}
    for path in found[0]:
        means, variances = (np.stack([f[path][k] for f in found]) for k in ("mean", "var"))
        result[path] = dict(mean=means.mean(0), var=variances.mean(0) + means.var(0))
    return result


def _replaced(tree, moments, path: str = ""):
    """The tree of statistics with those of ``moments``, in the old ones' types and layouts."""
    if path in moments:
        return {**tree, **{name: _like(x, tree[name]) for name, x in moments[path].items()}}
    return {
        name: _replaced(branch, moments, f"{path}/{name}")
        if isinstance(branch, Mapping)
        else branch
        for name, branch in tree.items()
    }


def _like(x: np.ndarray, old):
    x = np.asarray(x, old.dtype)
    return jax.device_put(x, old.sharding) if isinstance(old, jax.Array) else x
