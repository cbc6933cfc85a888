"""The LPIPS term that the released code adds late in training; off unless its weight files are named.

Its network and a count of the steps travel with the model's variables, in the collections ``lpips`` and
``lpips_steps``: arrays of that size must not become constants of the compiled step.
"""

import jax
import jax.numpy as jnp

from gsjax.io import weights
from gsjax.metrics import lpips

ARRAYS, STEPS = "lpips", "lpips_steps"  # flax collections


def load(config) -> lpips.Lpips | None:
    """The network, or None where ``config.loss.lpips`` is 0 or absent.

    Raises:
        ValueError: a weight without the two files, files that do not fit, a start out of range, or
            pictures that are too small for the network.
    """
    c = config.loss
    if not c.get("lpips", 0.0):
        return None
    if not c.lpips_backbone or not c.lpips_heads:
        raise ValueError(
            f"loss.lpips: found {c.lpips} without loss.lpips_backbone (torchvision's VGG-16 or AlexNet) "
            "and loss.lpips_heads (weights/v0.1 of LPIPS); no weights ship: name both, or set 0"
        )
    if not 0 <= c.lpips_start <= 1:
        raise ValueError(f"loss.lpips_start: expected a share of the steps, found {c.lpips_start}")
    files = (weights.read_state_dict(path) for path in (c.lpips_backbone, c.lpips_heads))
    return lpips.Lpips.of(*files)


def variables(network: lpips.Lpips | None) -> dict:
    """The collections at the start; {} without the term."""
    if network is None:
        return {}
    return {ARRAYS: network.arrays(), STEPS: dict(count=jnp.zeros((), jnp.int32))}


def term(
    network: lpips.Lpips, held, config, image: jax.Array, target: jax.Array, valid: jax.Array
) -> tuple[jax.Array, dict]:
    """``config.loss.lpips`` x mean LPIPS, 0 before the share ``lpips_start`` of the steps; and the count.

    Args:
        network: its layers; the arrays are those of ``held``.
        held: variables with both collections.
        config: the whole tree.
        image, target: f32 [B, V, H, W, 3].
        valid: bool [B].
    """
    network = network.holding(held[ARRAYS])
    count = held[STEPS]["count"]
    start = config.loss.lpips_start * config.train.num_steps * config.train.accum_steps

    def distance():
        flat = (x.reshape(-1, *x.shape[2:]) for x in (image, target))
        each = network(*flat).reshape(image.shape[:2]).mean(1)
        return jnp.sum(jnp.where(valid, each, 0.0)) / jnp.maximum(jnp.sum(valid), 1)

    value = jax.lax.cond(count >= start, distance, lambda: jnp.zeros((), image.dtype))
    return config.loss.lpips * value, {STEPS: dict(count=count + 1)}
