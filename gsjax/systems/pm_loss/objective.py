"""The loss of a batch: pictures of every depth, PM-Loss on the final one, rival terms, the guard.

    L = sum_i w_i (MSE_i + a LPIPS_i) + b L_pm + c L_depth + e L_smooth,  i over depths, w of the final one 1

(arXiv 2506.05327 and its public code; weights are ``config.loss``). Every term is one number an example, so
that the guard drops examples and not batches.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from gsjax.core import gaussians
from gsjax.io import weights
from gsjax.losses import means
from gsjax.metrics import lpips as lpips_lib
from gsjax.systems.pm_loss import losses, model, photometric, teacher
from gsjax.systems.pm_loss import render as render_lib

LPIPS, GUARD = (
    "lpips",
    "guard",
)  # flax collections: the network's arrays; steps and dropped examples


class Terms(NamedTuple):
    """What the loss is made of, by ``config``.

    Attributes:
        pm: settings of PM-Loss.
        lpips: its network, or None.
    """

    pm: losses.Options
    lpips: lpips_lib.Lpips | None


def build(config) -> Terms:
    """The terms of ``config.loss``.

    Raises:
        ValueError: a term without what it needs: LPIPS its files, PM-Loss a teacher, depth supervision depths.
    """
    c = config.loss
    if c.pm and config.data.teacher.kind == "none":
        raise ValueError(
            f"loss.pm: found {c.pm} without a teacher; set data.teacher.kind, or loss.pm=0"
        )
    if c.depth_l1 and not config.data.depths:
        raise ValueError(
            f"loss.depth_l1: found {c.depth_l1} with data.depths=False; set it to True"
        )
    if not 0 <= c.intermediate <= 1:
        raise ValueError(f"loss.intermediate: expected a weight in [0, 1], found {c.intermediate}")
    return Terms(losses.Options(**c.pm_options.to_dict()), _load_lpips(c))


def _load_lpips(c) -> lpips_lib.Lpips | None:
    if not c.lpips:
        return None
    if not c.lpips_backbone or not c.lpips_heads:
        raise ValueError(
            f"loss.lpips: found {c.lpips} without loss.lpips_backbone (torchvision's VGG-16) and "
            "loss.lpips_heads (weights/v0.1 of LPIPS); no weights ship: name both, or set 0"
        )
    files = (weights.read_state_dict(path) for path in (c.lpips_backbone, c.lpips_heads))
    return lpips_lib.Lpips.of(*files)


def collections(terms: Terms, config) -> dict:
    """What travels with the parameters: arrays of that size must not become constants of the step."""
    held = {}
    if terms.lpips is not None:
        held[LPIPS] = terms.lpips.arrays()
    if config.loss.guard:
        held[GUARD] = dict(steps=jnp.zeros((), jnp.int32), dropped=jnp.zeros((), jnp.int32))
    return held


def loss(terms: Terms, config, module, held, found, images, batch, rng):
    """(loss [], metrics, new collections).

    Args:
        terms: of :func:`build`.
        config: the whole tree.
        module: the network.
        held: variables, with :func:`collections`.
        found: what the network said.
        images: the target pictures f32 [B, T, H, W, 3].
        batch: of ``data.batch_spec``.
        rng: of the step.
    """
    c, valid = config.loss, batch["valid"]
    mean = lambda x: means.mean_of_valid(x, valid)  # noqa: E731
    network = None if terms.lpips is None else terms.lpips.holding(held[LPIPS])
    views = _views(config, found["gaussians"], batch, depth=bool(c.smooth))
    first, facts = _pictures(c, network, views.images, images)
    total = first + _intermediate(config, module, network, found, images, batch)
    metrics = dict(photometric=mean(total), psnr=photometric.psnr(mean(facts["mse"])))
    metrics |= {name: mean(x) for name, x in facts.items()}
    if c.pm:
        centres = found["gaussians"].means.reshape(*found["depths"][-1].shape, 3)
        keys = None
        if terms.pm.query_subsample:
            keys = jax.vmap(lambda i: jax.random.fold_in(rng, i))(batch["index"])
        each, pm = teacher.term(terms.pm, centres, batch, keys)
        total, metrics = total + c.pm * each, metrics | pm | dict(pm=mean(c.pm * each))
    if c.depth_l1:
        each = _depth_l1(c, found, batch)
        total, metrics["depth_l1"] = total + c.depth_l1 * each, mean(each)
    if c.smooth:
        each = photometric.smoothness(
            views.depths, images, batch["near"], batch["far"], order=c.smooth_order,
            sigma=c.smooth_sigma,
        )  # fmt: skip
        total, metrics["smooth"] = total + c.smooth * each, mean(each)
    new = {}
    if c.guard:
        state = held[GUARD]
        bad = photometric.bad(
            first, state["steps"], c.guard, c.guard_start * config.train.accum_steps
        )
        total = jnp.where(bad, photometric.SMALL, 1.0) * total
        count = jnp.sum(bad & valid, dtype=jnp.int32)
        new[GUARD] = dict(steps=state["steps"] + 1, dropped=state["dropped"] + count)
        metrics |= dict(guarded=count, guarded_total=new[GUARD]["dropped"])
    metrics |= _health(found, batch)
    return mean(total), jax.lax.stop_gradient(metrics), new


def _views(config, scene: gaussians.Gaussians, batch, depth: bool) -> render_lib.Views:
    return render_lib.render(
        scene, batch["target_viewmats"], batch["target_Ks"], batch["near"],
        (config.data.height, config.data.width), depth=depth,
        at_once=config.model.views_at_once,
    )  # fmt: skip


def _pictures(c, network, images, target):
    """MSE + weight x LPIPS of each example [B], and both by themselves."""
    error, ignored = photometric.mse(images, target, c.ignore_error)
    facts = dict(mse=photometric.mse(images, target)[0])
    if c.ignore_error:
        facts["ignored"] = ignored
    if network is None:
        return error, facts
    flat = (x.reshape(-1, *x.shape[2:]) for x in (images, target))
    facts["lpips"] = network(*flat).reshape(images.shape[:2]).mean(1)
    return error + c.lpips * facts["lpips"], facts


def _intermediate(config, module, network, found, images, batch):
    """Pictures drawn with earlier depths and all else of the final Gaussians, weighted; [B]."""
    c, earlier = config.loss, found["depths"][:-1]
    total = jnp.zeros(images.shape[0], images.dtype)
    if not c.intermediate:
        return total
    for weight, depths in zip(photometric.step_weights(len(earlier), c.intermediate), earlier):
        scene = model.with_depths(module, found, depths, batch["context_Ks"], batch["context_c2ws"])
        views = _views(config, scene, batch, depth=False)
        total += weight * _pictures(c, network, views.images, images)[0]
    return total


def _depth_l1(c, found, batch):
    """Supervised depth of every depth, weighted as pictures are; [B]."""
    inverses = found["inverse_depths"]
    decay = photometric.step_weights(len(inverses) - 1, c.intermediate) + [1.0]
    each = [
        photometric.inverse_depth_l1(x, batch["context_depths"], batch["near"], batch["far"])
        for x in inverses
    ]
    return sum(weight * x for weight, x in zip(decay, each, strict=True) if weight)


def _health(found, batch) -> dict[str, jax.Array]:
    """What tells early that something is wrong: PM-Loss rewards shrinking, so depth is watched."""
    valid, depths = batch["valid"], found["depths"][-1]
    metrics = dict(
        depth=means.mean_of_valid(depths, valid),
        opacity=means.mean_of_valid(found["gaussians"].opacities, valid),
        views=jnp.asarray(float(depths.shape[1])),
    )
    if "context_depths" in batch:
        true = batch["context_depths"]
        known = true > 0
        error = jnp.where(known, jnp.abs(depths - true) / jnp.where(known, true, 1.0), 0.0)
        axes = (1, 2, 3)
        share = jnp.sum(error, axes) / jnp.maximum(jnp.sum(known, axes), 1)
        metrics["abs_rel"] = means.mean_of_valid(share, valid)
    return metrics
