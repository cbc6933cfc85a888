"""From features to Gaussians: the two-layer head of UniPre3D (arXiv 2506.09952).

Each token gives K Gaussians around its place. Order of a Gaussian's raw channels, as in the released
code: offset 3, opacity 1, scale 3, rotation 4, then SH coefficients, each of 3 colours. The activations
of the released code are options; the defaults are ours: bounded scales with a gradient everywhere,
and an initialisation at which Gaussians are small, faint and where the points are.
"""

import dataclasses
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from gsjax.core import gaussians, rotations, sh
from gsjax.models import linear

SCALE_ACTS = ("sigmoid", "exp", "exp_clip")
INITS = ("sane", "released")


@dataclasses.dataclass(frozen=True)
class HeadConfig:
    """Settings of the head.

    Attributes:
        hidden: width of the hidden layer.
        per_token: K, Gaussians a token.
        sh_degree: of the colour.
        offset_scale: offsets are ``offset_scale * tanh(x)``; 1.0 for objects, 0.2 m for scenes.
        scale_act: 'sigmoid': scale_min + (scale_max - scale_min) sigmoid(x); 'exp' and 'exp_clip'
            (exp(clip(x, -1, 20)): no scale below 0.37) are the released code's first and last.
        scale_min, scale_max: bounds of 'sigmoid', world units.
        scale_init: standard deviation at the start; about 0.7 of the spacing of the Gaussians.
        opacity_init: logit of the opacity at the start.
        spread: the K > 1 Gaussians of a token start this far from it, in all directions.
        init: 'sane' as above; 'released': layers as PyTorch's default, nothing else.
    """

    hidden: int = 128
    per_token: int = 1
    sh_degree: int = 1
    offset_scale: float = 1.0
    scale_act: str = "sigmoid"
    scale_min: float = 0.002
    scale_max: float = 0.3
    scale_init: float = 0.03
    opacity_init: float = -2.0
    spread: float = 0.04
    init: str = "sane"

    def __post_init__(self):
        for name, known in (("scale_act", SCALE_ACTS), ("init", INITS)):
            if getattr(self, name) not in known:
                raise ValueError(
                    f"head.{name}: unknown {getattr(self, name)!r}; known: {', '.join(known)}"
                )
        if self.per_token < 1 or self.hidden < 1:
            raise ValueError(
                f"head: expected per_token and hidden from 1 on, found {self.per_token}, {self.hidden}"
            )
        if not 0 < self.scale_min < self.scale_init < self.scale_max:
            raise ValueError(
                "head: expected 0 < scale_min < scale_init < scale_max, found "
                f"{self.scale_min}, {self.scale_init}, {self.scale_max}"
            )
        if not 0 <= self.spread < self.offset_scale:
            raise ValueError(
                f"head.spread: expected 0 <= spread < offset_scale, found {self.spread} and "
                f"{self.offset_scale}"
            )

    @property
    def channels(self) -> int:
        """Raw numbers of one Gaussian; 23 with degree 1."""
        return 11 + 3 * sh.num_coeffs(self.sh_degree)


class GaussianHead(nn.Module):
    """``Dense -> ReLU -> Dense``, then :func:`activate`."""

    config: HeadConfig

    @nn.compact
    def __call__(self, xyz: jax.Array, feat: jax.Array, mask: jax.Array) -> gaussians.Gaussians:
        """Gaussians [B, M K].

        Args:
            xyz: [B, M, 3] places of the tokens.
            feat: [B, M, C].
            mask: bool [B, M]; Gaussians of masked tokens have opacity 0, which culls them.
        """
        config = self.config
        feat = jnp.where(mask[..., None], feat, 0.0).astype(jnp.float32)
        x = nn.relu(linear.Dense(config.hidden, name="hidden")(feat))
        size = config.per_token * config.channels
        if config.init == "released":
            raw = linear.Dense(size, kernel_init=_TORCH_LINEAR, name="out")(x)
        else:
            raw = linear.Dense(
                size,
                kernel_init=lambda *args: kernel_init(config, *args),
                bias_init=lambda key, shape, dtype=jnp.float32: jnp.asarray(
                    start(config).reshape(shape), dtype
                ),
                name="out",
            )(x)
        raw = raw.reshape(*feat.shape[:-1], config.per_token, config.channels)
        return activate(raw, xyz, mask, config)


# PyTorch's default for linear layers: uniform within 1 / sqrt(fan_in).
_TORCH_LINEAR = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")


def kernel_init(config: HeadConfig, key, shape, dtype=jnp.float32) -> jax.Array:
    """A tenth of the usual kernel, zero for SH beyond degree 0."""
    kernel = 0.1 * nn.linear.default_kernel_init(key, shape, dtype)
    kernel = kernel.reshape(shape[0], config.per_token, config.channels)
    return kernel.at[..., 14:].set(0.0).reshape(shape)


def start(config: HeadConfig) -> np.ndarray:
    """Raw channels [K, channels] of zero features: what the last bias is set to."""
    raw = np.zeros((config.per_token, config.channels))
    if config.per_token > 1:
        raw[:, :3] = np.arctanh(config.spread / config.offset_scale * sphere(config.per_token))
    raw[:, 3] = config.opacity_init
    share = (config.scale_init - config.scale_min) / (config.scale_max - config.scale_min)
    logit = math.log(share / (1 - share))
    raw[:, 4:7] = logit if config.scale_act == "sigmoid" else math.log(config.scale_init)
    raw[:, 7] = 1.0  # the quaternion's real part
    return raw


def sphere(count: int) -> np.ndarray:
    """Unit vectors [count, 3], evenly spread (Fibonacci lattice)."""
    place = np.arange(count) + 0.5
    z = 1 - 2 * place / count
    angle = np.pi * (1 + 5**0.5) * place
    side = np.sqrt(1 - z * z)
    return np.stack([side * np.cos(angle), side * np.sin(angle), z], -1)


def activate(
    raw: jax.Array, xyz: jax.Array, mask: jax.Array, config: HeadConfig
) -> gaussians.Gaussians:
    """Raw channels to Gaussians in the frame of the points.

    Args:
        raw: [B, M, K, channels].
        xyz: [B, M, 3].
        mask: bool [B, M].

    Returns:
        Gaussians with leading axes [B], M K each, those of a token side by side.
    """
    places = jnp.where(mask[..., None], xyz, 0.0)[:, :, None]
    opacities = jax.nn.sigmoid(raw[..., 3])
    coeffs = sh.num_coeffs(config.sh_degree)
    found = dict(
        means=places + config.offset_scale * jnp.tanh(raw[..., :3]),
        quats=rotations.quat_normalize(raw[..., 7:11]),
        scales=activate_scales(raw[..., 4:7], config),
        opacities=jnp.where(mask[..., None], opacities, 0.0),
        sh=raw[..., 11:].reshape(*raw.shape[:-1], coeffs, 3),
    )
    joined = {
        name: x.reshape(x.shape[0], x.shape[1] * x.shape[2], *x.shape[3:])
        for name, x in found.items()
    }
    return gaussians.Gaussians(**joined)


def activate_scales(x: jax.Array, config: HeadConfig) -> jax.Array:
    """Standard deviations [...], world units."""
    if config.scale_act == "sigmoid":
        return config.scale_min + (config.scale_max - config.scale_min) * jax.nn.sigmoid(x)
    return jnp.exp(jnp.clip(x, -1.0, 20.0) if config.scale_act == "exp_clip" else x)
