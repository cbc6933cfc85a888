"""Optimisers from the config, with per-parameter groups by regular expression.

Groups are (pattern, lr_scale, decay); the pattern is searched in the parameter's path
'a/b/kernel', and the first match wins: first those of ``config.optim.rules``, then the system's.
"""

import dataclasses
import re
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

from gsjax.systems import base
from gsjax.train import state as state_lib

SCHEDULES = ("cosine", "constant", "steps", "pieces", "onecycle")
Schedule = Callable[[jax.Array], jax.Array]


@dataclasses.dataclass(frozen=True)
class Optimizer:
    """Update rule without the learning rate, the rate, and every parameter's factor on it.

    Attributes:
        transform: gradients -> directions (clipping, moments, weight decay).
        schedule: int32 step [] -> learning rate [].
        scales: tree like the parameters, floats; 0 = frozen.
    """

    transform: optax.GradientTransformation
    schedule: Schedule
    scales: Any

    def init(self, params):
        """Optimiser state; frozen parameters have no moments."""
        return self.transform.init(params)

    def update(self, grads, opt_state, params, step):
        """One update.

        Returns:
            (new parameters, new optimiser state, learning rate []).
        """
        directions, opt_state = self.transform.update(grads, opt_state, params)
        lr = self.schedule(step)

        def leaf(p, d, scale):
            return (p - lr * scale * d).astype(p.dtype) if scale else p

        return jax.tree.map(leaf, params, directions, self.scales), opt_state, lr


def build(config, num_steps: int, params, rules: Sequence[base.ParamRule]) -> Optimizer:
    """Optimiser for a system.

    Args:
        config: the ``optim`` block of ``configs/common.py``.
        num_steps: length of the run, which the cosine ends at.
        params: parameters or their ShapeDtypeStructs.
        rules: the system's groups.

    Raises:
        ValueError: a name is unknown, or a pattern matches no parameter.
    """
    own = tuple(base.ParamRule(*rule) for rule in config.rules)
    scales, decays = groups(params, own + tuple(rules))
    if config.get("wd_all", False):
        decays = jax.tree.map(lambda _: True, decays)
    if config.layer_pattern:
        layers = layer_scales(params, config.layer_pattern, config.layer_decay)
        scales = jax.tree.map(lambda a, b: a * b, scales, layers)
    trainable = jax.tree.map(bool, scales)
    frozen = jax.tree.map(lambda t: not t, trainable)
    # Frozen gradients are zeroed first, so that they do not count in the clipped norm.
    parts = [optax.masked(optax.set_to_zero(), frozen)]
    if config.clip:
        parts.append(optax.clip_by_global_norm(config.clip))
    moments = optax.masked(_moments(config), trainable)
    decay = optax.add_decayed_weights(config.wd, mask=decays) if config.wd else optax.identity()
    # Stochastic gradient descent with decay in its momentum, as in torch; AdamW with decay beside it.
    parts += [decay, moments] if config.name == "sgd" else [moments, decay]
    return Optimizer(optax.chain(*parts), make_schedule(config, num_steps), scales)


def _moments(config) -> optax.GradientTransformation:
    if config.name == "adamw":
        return optax.scale_by_adam(*config.betas, eps=config.eps)
    if config.name == "sgd":
        nesterov = config.get("nesterov", False)
        return optax.trace(config.momentum, nesterov) if config.momentum else optax.identity()
    raise ValueError(f"optim.name: unknown optimiser {config.name!r}; known: adamw, sgd")


def groups(params, rules: Sequence[base.ParamRule]):
    """Learning-rate factor and weight-decay flag of every parameter.

    Biases and tensors of rank <= 1 never decay.

    Returns:
        (tree of floats, tree of bools), shaped like ``params``.

    Raises:
        ValueError: a pattern matches nothing (a renamed module would silently lose its group).
    """
    leaves = state_lib.flat(params)
    for rule in rules:
        if not any(re.search(rule.pattern, path) for path in leaves):
            raise ValueError(
                f"optimiser rule {rule.pattern!r} matches no parameter; correct the pattern or "
                f"remove the rule. Parameters: {', '.join(sorted(leaves)[:8])}"
                f"{', ...' if len(leaves) > 8 else ''}"
            )
    scales, decays = {}, {}
    for path, leaf in leaves.items():
        rule = next((r for r in rules if re.search(r.pattern, path)), base.ParamRule(""))
        scales[path] = float(rule.lr_scale)
        decays[path] = rule.decay and leaf.ndim > 1 and path.rsplit("/", 1)[-1] != "bias"
    return state_lib.refill(params, scales), state_lib.refill(params, decays)


def layer_scales(params, pattern: str, decay: float):
    """Factor decay ** (d - j) on block j = 0..d-1 of a stack; 1 outside it.

    Args:
        params: parameters or their ShapeDtypeStructs.
        pattern: regular expression with one group, the block's number.
        decay: factor per block.

    Raises:
        ValueError: the pattern matches no parameter.

    Source: layer-wise decay of BEiT (arXiv 2106.08254), as Uni3D uses it.
    """
    found = {p: re.search(pattern, p) for p in state_lib.flat(params)}
    blocks = {p: int(m.group(1)) for p, m in found.items() if m}
    if not blocks:
        raise ValueError(f"optim.layer_pattern: {pattern!r} matches no parameter")
    depth = max(blocks.values()) + 1
    return state_lib.refill(
        params, {p: decay ** (depth - blocks[p]) if p in blocks else 1.0 for p in found}
    )


def make_schedule(config, num_steps: int) -> Schedule:
    """Linear warm-up ((step + 1) / warmup), then cosine to ``final_scale``, constant, steps, or pieces.

    'onecycle' is :func:`one_cycle`, whose rise is a cosine too, over the share ``config.warmup``.

    'steps' multiplies by ``config.step_factor`` every ``config.step_every`` steps, 'pieces' by
    ``config.piece_factor`` at each of the shares ``config.pieces`` of all steps. ``config.warmup`` below 1
    is a share of ``num_steps``, from 1 on a number of steps.

    Raises:
        ValueError: unknown schedule, negative warm-up, steps or pieces without their numbers.
    """
    if config.schedule not in SCHEDULES:
        raise ValueError(
            f"optim.schedule: unknown schedule {config.schedule!r}; known: {', '.join(SCHEDULES)}"
        )
    ends = [share * num_steps for share in config.get("pieces", ())]
    if config.schedule == "pieces" and not (ends and config.get("piece_factor", 0.0) > 0):
        raise ValueError(
            "optim.schedule='pieces': expected optim.pieces, shares of the run, and optim.piece_factor > 0, "
            f"found {config.get('pieces', ())} and {config.get('piece_factor', 0.0)}"
        )
    every, factor = config.get("step_every", 0), config.get("step_factor", 0.0)
    if config.schedule == "steps" and not (every >= 1 and factor > 0):
        raise ValueError(
            "optim.schedule='steps': expected optim.step_every >= 1 and optim.step_factor > 0, found "
            f"{every} and {factor}"
        )
    if config.warmup < 0:
        raise ValueError(f"optim.warmup: expected >= 0, found {config.warmup}")
    if config.schedule == "onecycle":
        return one_cycle(config.lr, num_steps + config.get("extra_steps", 0), config.warmup)
    warmup = round(config.warmup * num_steps if config.warmup < 1 else config.warmup)

    def schedule(step):
        step = jnp.asarray(step, jnp.float32)
        share = jnp.clip((step - warmup) / max(num_steps - warmup, 1), 0.0, 1.0)
        decayed = config.final_scale + (1 - config.final_scale) * 0.5 * (
            1 + jnp.cos(jnp.pi * share)
        )
        after = decayed if config.schedule == "cosine" else 1.0
        if config.schedule == "steps":
            after = factor ** jnp.floor(step / every)
        if config.schedule == "pieces":
            after = config.piece_factor ** jnp.sum(step >= jnp.asarray(ends, jnp.float32))
        return config.lr * jnp.where(step < warmup, (step + 1) / max(warmup, 1), after)

    return schedule


def one_cycle(
    peak: float, num_steps: int, rise: float, *, start: float = 25.0, end: float = 1e4
) -> Schedule:
    """From peak / start up to the peak and down to peak / start / end, both along half a cosine.

    As torch's OneCycleLR (its ``pct_start``, ``div_factor`` and ``final_div_factor``), whose peak is at step
    rise x num_steps - 1 and whose end is at num_steps - 1; those need not be whole numbers of steps.

    Args:
        peak: highest rate.
        num_steps: of the cycle; public training scripts make it ten longer than the run.
        rise: share of the steps in [0, 1); a rise that ends before step 0 is none.
        start, end: divisors.

    Raises:
        ValueError: a rise out of range.
    """
    if not 0 <= rise < 1:
        raise ValueError(f"optim.warmup: onecycle needs a share in [0, 1), found {rise}")
    top, last = max(rise * num_steps - 1, 0.0), num_steps - 1

    def between(first, second, share):
        return second + 0.5 * (first - second) * (1 + jnp.cos(jnp.pi * jnp.clip(share, 0.0, 1.0)))

    def schedule(step):
        step = jnp.asarray(step, jnp.float32)
        up = between(peak / start, peak, step / top if top else 1.0)
        down = between(peak, peak / start / end, (step - top) / max(last - top, 1.0))
        return jnp.where(step < top, up, down)

    return schedule
