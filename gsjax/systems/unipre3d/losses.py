"""Losses of UniPre3D (arXiv 2506.09952), and the picture they compare with; one function a formula.

Pictures are f32 [B, V, H, W, 3] in [0, 1]; ``valid`` bool [B] leaves padding examples out.
"""

import jax
import jax.numpy as jnp

from gsjax.losses import means
from gsjax.metrics import rendering

FOREGROUND = 4.0  # weight of the foreground to that of the background, 4 : 1


def compose(images: jax.Array, background: float) -> tuple[jax.Array, jax.Array]:
    """Pictures over a plain background, and their opacity.

    The released code drops the fourth channel of transparent pictures; here it composes.

    Args:
        images: uint8 [..., H, W, 3 or 4]; the fourth channel is the opacity, colours are straight.
        background: grey value in [0, 1].

    Returns:
        f32 [..., H, W, 3] and [..., H, W, 1]; the opacity of pictures without one is 1.
    """
    x = images.astype(jnp.float32) / 255
    if images.shape[-1] == 3:
        return x, jnp.ones_like(x[..., :1])
    alpha = x[..., 3:]
    return x[..., :3] * alpha + background * (1 - alpha), alpha


def foreground(alpha: jax.Array, threshold: float = rendering.THRESHOLD) -> jax.Array:
    """bool [..., H, W]: pixels of the object. By opacity: by colour its black parts would be lost."""
    return alpha[..., 0] > threshold


def weighted_mse(
    pred: jax.Array, target: jax.Array, is_foreground: jax.Array, valid: jax.Array
) -> jax.Array:
    """Object level: mean of w (I - I*)^2 with w = 8/5 on the object and 2/5 elsewhere (4 : 1).

    Args:
        pred, target: [B, V, H, W, 3].
        is_foreground: bool [B, V, H, W].
        valid: bool [B].
    """
    weight = jnp.where(is_foreground, FOREGROUND, 1.0) * 2 / (1 + FOREGROUND)
    return means.mean_of_valid(weight[..., None] * jnp.square(pred - target), valid)


def mse(pred: jax.Array, target: jax.Array, valid: jax.Array) -> jax.Array:
    """Scene level: mean of (I - I*)^2."""
    return means.mean_of_valid(jnp.square(pred - target), valid)
