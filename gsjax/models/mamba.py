"""The mixer of Mamba (arXiv 2312.00752), in one or two directions.

A mixer stands where attention stands in a Transformer: it reads tokens in their order and is followed
by nothing else. Norms, residuals and the order of tokens belong to the network that uses it.
"""

import dataclasses
import math

import flax.linen as nn
import jax
import jax.numpy as jnp

from gsjax.core import selective_scan
from gsjax.models import linear

BACKWARD = ("none", "channel", "sequence")
# Steps dt that a channel starts with: log-uniform in this range (Mamba, section 3.6).
DT_RANGE = (1e-3, 1e-1)
DT_FLOOR = 1e-4


@dataclasses.dataclass(frozen=True)
class MambaConfig:
    """Sizes of a mixer.

    Attributes:
        width: token dimension.
        state: numbers of state a channel.
        expand: inner channels = expand x width.
        conv: taps of the convolution before the scan.
        dt_rank: rank of the map to step sizes; None = ceil(width / 16).
        backward: the second branch, with weights of its own and the first one's input and output
            projections. 'none'; 'sequence', it reads the tokens from last to first; 'channel'
            (Mamba3D), it reads them in the same order with the order of all 2 x inner projected
            channels reversed, so that the gate and what is gated swap roles. The number of
            parameters is that of 'sequence'.
        chunk: of the scan; None = all tokens at once.
        residual_layers: the output projection starts smaller by its square root (GPT-2's rule).
    """

    width: int
    state: int = 16
    expand: int = 2
    conv: int = 4
    dt_rank: int | None = None
    backward: str = "none"
    chunk: int | None = selective_scan.DEFAULT_CHUNK
    residual_layers: int = 1

    def __post_init__(self):
        for name in ("width", "state", "expand", "conv", "residual_layers"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: expected at least 1, found {getattr(self, name)}")
        for name in ("dt_rank", "chunk"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name}: expected None or at least 1, found {value}")
        if self.backward not in BACKWARD:
            raise ValueError(f"backward: unknown {self.backward!r}; known: {', '.join(BACKWARD)}")

    @property
    def inner(self) -> int:
        """Channels of the scan."""
        return self.expand * self.width

    @property
    def rank(self) -> int:
        """Rank of the map to step sizes."""
        return math.ceil(self.width / 16) if self.dt_rank is None else self.dt_rank


def dt_bias_init(key: jax.Array, shape: tuple[int, ...], dtype=jnp.float32) -> jax.Array:
    """Inverse softplus of steps drawn log-uniformly from ``DT_RANGE``."""
    low, high = (math.log(x) for x in DT_RANGE)
    dt = jnp.maximum(jnp.exp(jax.random.uniform(key, shape, dtype, low, high)), DT_FLOOR)
    return dt + jnp.log(-jnp.expm1(-dt))


def a_log_init(key: jax.Array, shape: tuple[int, ...], dtype=jnp.float32) -> jax.Array:
    """log(1), ..., log(state) for every channel (S4D-real)."""
    return jnp.broadcast_to(jnp.log(jnp.arange(1, shape[-1] + 1, dtype=dtype)), shape)


class Branch(nn.Module):
    """What one direction learns: the convolution and what the scan reads."""

    config: MambaConfig
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, mask: jax.Array | None) -> tuple[jax.Array, ...]:
        """Arguments of the scan.

        Args:
            x: [B, L, inner], 0 at masked tokens.
            mask: bool [B, L] or None.

        Returns:
            u, dt [B, L, inner], a [inner, state], b, c [B, L, state], d [inner]; dt, a, d float32.
        """
        config = self.config
        inner, state, rank = config.inner, config.state, config.rank
        # torch's default for a convolution of so many taps, which Mamba leaves as it is.
        conv_init = _symmetric_uniform(config.conv**-0.5)
        kernel = self.param("conv_kernel", conv_init, (config.conv, inner))
        bias = self.param("conv_bias", conv_init, (inner,))
        a_log = self.param("A_log", a_log_init, (inner, state))
        d = self.param("D", nn.initializers.ones, (inner,))
        x, kernel, bias = nn.dtypes.promote_dtype(x, kernel, bias, dtype=self.dtype)
        u = nn.silu(selective_scan.causal_conv(x, kernel, bias))
        if mask is not None:
            u = jnp.where(mask[..., None], u, 0.0)
        read = linear.Dense(rank + 2 * state, use_bias=False, dtype=self.dtype, name="x_proj")(u)
        dt, b, c = jnp.split(read, [rank, rank + state], -1)
        dt_kernel = self.param("dt_kernel", _symmetric_uniform(rank**-0.5), (rank, inner))
        dt_bias = self.param("dt_bias", dt_bias_init, (inner,))
        dt, dt_kernel = nn.dtypes.promote_dtype(dt, dt_kernel, dtype=self.dtype)
        wide = jnp.promote_types(self.dtype, jnp.float32)
        dt = nn.softplus(jnp.matmul(dt, dt_kernel).astype(wide) + dt_bias)
        return u, dt, -jnp.exp(a_log.astype(wide)), b, c, d


def _symmetric_uniform(bound: float):
    def init(key, shape, dtype=jnp.float32):
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return init


class Mixer(nn.Module):
    """Projection to twice ``inner`` channels, convolution, scan, gate, projection back.

    Masked tokens neither change the state nor are read by the convolution, which sees zeros in their
    places: with all masked tokens at one end, or at both, results are those without them.
    """

    config: MambaConfig
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, mask: jax.Array | None = None) -> jax.Array:
        """Mixes tokens.

        Args:
            x: [B, L, width].
            mask: bool [B, L], True for real tokens; None = all.

        Returns:
            [B, L, width]; 0 at masked tokens.
        """
        config = self.config
        if x.ndim != 3 or x.shape[-1] != config.width:
            raise ValueError(f"x: expected [B, L, {config.width}], found {list(x.shape)}")
        if mask is not None:
            x = jnp.where(mask[..., None], x, 0.0)
        xz = linear.Dense(2 * config.inner, use_bias=False, dtype=self.dtype, name="in_proj")(x)
        views, masks, names = [xz], [mask], ["forward"]
        if config.backward != "none":
            axis = -1 if config.backward == "channel" else -2
            views.append(jnp.flip(xz, axis))
            turned = mask is not None and config.backward == "sequence"
            masks.append(jnp.flip(mask, -1) if turned else mask)
            names.append("backward")
        branches = [
            Branch(config, self.dtype, name=name)(view[..., : config.inner], m)
            for name, view, m in zip(names, views, masks, strict=True)
        ]
        # One scan for all branches: half the programs to compile, twice the work for each step.
        stacked = [jnp.stack(parts) for parts in zip(*branches, strict=True)]
        stacked_mask = None if mask is None else jnp.stack(masks)

        def scan(u, dt, a, b, c, d, mask):
            return selective_scan.selective_scan(u, dt, a, b, c, d, mask=mask, chunk=config.chunk)

        y = jax.vmap(scan)(*stacked, stacked_mask).astype(self.dtype)
        y = y * nn.silu(jnp.stack([view[..., config.inner :] for view in views]))
        total = y[0] if len(views) == 1 else y[0] + jnp.flip(y[1], axis)
        out_init = nn.initializers.variance_scaling(
            1.0 / config.residual_layers, "fan_in", "truncated_normal"
        )
        out = linear.Dense(
            config.width, use_bias=False, kernel_init=out_init, dtype=self.dtype, name="out_proj"
        )
        return out(total)
