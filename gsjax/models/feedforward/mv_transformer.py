"""The multi-view transformer of GMFlow and UniMatch (arXiv 2211.05783), as MVSplat and DepthSplat use it:
windowed attention within each view, then to the same windows of other views."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from gsjax.models import linear
from gsjax.models.feedforward import views, window_attention

# torch's default; Flax has 1e-6.
EPS = 1e-5


def add_position(x: jax.Array, splits: int) -> jax.Array:
    """Sine positions added to maps [..., H, W, C], counted anew in each of the splits^2 windows."""
    height, width, channels = x.shape[-3:]
    position = window_attention.sine_position(height // splits, width // splits, channels)
    return x + jnp.tile(position, (splits, splits, 1)).astype(x.dtype)


class Layer(nn.Module):
    """x + norm(MLP([x, message])) or x + message, where message = norm(merge(attention(x, others))).

    Attributes:
        splits: windows along a side.
        shift: whether windows are shifted.
        expansion: hidden channels of the MLP over those of its input; 0 for no MLP.
        dtype: of computation; norms and softmax are float32.
    """

    splits: int
    shift: bool
    expansion: int
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, source: jax.Array, index: jax.Array | None) -> jax.Array:
        """One attention.

        Args:
            x: [B, V, H, W, C].
            source: [B, V, H, W, C], what keys and values come from.
            index: int [B, V, M], the views whose source each view attends to; None for its own.

        Returns:
            [B, V, H, W, C].
        """
        channels = x.shape[-1]

        def dense(features, name):
            init = nn.initializers.xavier_uniform()
            return linear.Dense(features, False, dtype=self.dtype, kernel_init=init, name=name)

        q = dense(channels, "q")(x)
        # Projected before they are gathered: a view is a neighbour of several.
        k, v = (dense(channels, name)(source) for name in "kv")
        if index is None:
            k, v = k[:, :, None], v[:, :, None]
        else:
            k, v = views.take_views(k, index), views.take_views(v, index)
        q, k, v = (y.reshape(-1, *y.shape[2:]) for y in (q, k, v))
        message = window_attention.window_attention(q, k, v, splits=self.splits, shift=self.shift)
        message = dense(channels, "merge")(message.reshape(x.shape))
        message = nn.LayerNorm(EPS, dtype=self.dtype, name="norm_0")(message)
        if self.expansion:
            hidden = jnp.concatenate((x, message), -1)
            hidden = dense(self.expansion * 2 * channels, "mlp_0")(hidden)
            message = dense(channels, "mlp_1")(nn.gelu(hidden, approximate=False))
            message = nn.LayerNorm(EPS, dtype=self.dtype, name="norm_1")(message)
        return x + message


class Block(nn.Module):
    """Attention within a view, then to its neighbours with an MLP.

    Keys and values of the second are the features before the block: all views advance together.
    """

    splits: int
    shift: bool
    expansion: int
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, index: jax.Array) -> jax.Array:
        y = Layer(self.splits, self.shift, 0, self.dtype, name="self_attention")(x, x, None)
        cross = Layer(self.splits, self.shift, self.expansion, self.dtype, name="cross_attention")
        return cross(y, x, index)


class MultiViewTransformer(nn.Module):
    """Blocks; windows of odd ones are shifted.

    Attributes:
        blocks: how many.
        splits: windows along a side; both sides of the maps must be multiples of it.
        expansion: of the MLP.
        remat: whether a block's activations are computed again on the way back.
        dtype: of computation.
    """

    blocks: int = 6
    splits: int = 2
    expansion: int = 4
    remat: bool = False
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, index: jax.Array) -> jax.Array:
        """Features that know of the other views.

        Args:
            x: [B, V, H, W, C] feature maps; positions are added here.
            index: int [B, V, M] from ``views.neighbours``.

        Returns:
            [B, V, H, W, C].
        """
        x = add_position(x.astype(self.dtype), self.splits)
        block = nn.remat(Block) if self.remat else Block
        for i in range(self.blocks):
            shift = i % 2 == 1
            x = block(self.splits, shift, self.expansion, self.dtype, name=f"block_{i}")(x, index)
        return x
