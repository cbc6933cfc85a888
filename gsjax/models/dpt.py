"""DPT decoders: four maps of a transformer to one dense map (Ranftl et al., arXiv 2103.13413).

Maps are projected, brought to 4, 2, 1 and 1/2 times their size, and fused from coarse to fine by
residual convolutions, each step ending at the next finer map's size. Three readers of that trunk exist:

* Depth Anything V2 (arXiv 2406.09414): a map of any size through two convolutions.
* DepthSplat (arXiv 2410.13862): other networks' maps join the trunk; a correction of the inverse depth
  that starts at zero, or the trunk itself as features.
* VGGT's point head (arXiv 2503.11651): a norm ahead and sine positions after each projection.

Sizes in ``PRESETS``, names of published weights in ``dpt_tables``.
"""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from gsjax.core import resize

HEADS = ("features", "delta", "dense")
LEVELS = 4
# torch's default of convolutions: uniform of variance 1 / (3 fan_in).
_INIT = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")


@dataclasses.dataclass(frozen=True)
class DptConfig:
    """Sizes of a decoder; plain values.

    Attributes:
        features: channels of the trunk.
        channels: of the four projected maps, fine to coarse.
        head: ``features``: the trunk as it is; ``delta``: DepthSplat's correction, two convolutions
            over repeated borders and a 1 x 1; ``dense``: a convolution, the size asked for, and two.
        outputs: channels of ``delta`` and ``dense``.
        hidden: channels before the last convolution: 32 in ``dense``, 16 in ``delta``.
        zero_last: start the last convolution at zero, so that the result is zero.
        norm: LayerNorm of the maps, eps 1e-5, ahead of the projections.
        positions: weight of the sine positions; 0 = none.
        rectified_skip: a residual convolution adds to the rectified input and not to the input. The
            reference of VGGT rectifies in place, so its weights are trained with that.
    """

    features: int
    channels: tuple[int, int, int, int]
    head: str = "features"
    outputs: int = 1
    hidden: int = 32
    zero_last: bool = False
    norm: bool = False
    positions: float = 0.0
    rectified_skip: bool = False

    def __post_init__(self):
        object.__setattr__(self, "channels", tuple(self.channels))
        if self.head not in HEADS:
            raise ValueError(f"head: unknown {self.head!r}; known: {HEADS}")
        if len(self.channels) != LEVELS or min(self.channels) < 1 or self.features < 2:
            raise ValueError(
                f"DptConfig: expected {LEVELS} positive channels and at least 2 features, found "
                f"{self.channels} and {self.features}"
            )
        if self.positions and (self.features % 8 or any(n % 4 for n in self.channels)):
            raise ValueError(
                "DptConfig.positions: channels must be multiples of 4 and features of 8, found "
                f"{self.channels} and {self.features}"
            )


_S, _B = (48, 96, 192, 384), (96, 192, 384, 768)
PRESETS = {
    "depth_anything_vits14": DptConfig(64, _S, "dense"),
    "depth_anything_vitb14": DptConfig(128, _B, "dense"),
    "depth_anything_vitl14": DptConfig(256, (256, 512, 1024, 1024), "dense"),
    "vggt": DptConfig(
        256, (256, 512, 1024, 1024), "dense", 4, norm=True, positions=0.1, rectified_skip=True
    ),
}
for _name, _channels, _narrow, _wide in (
    ("vits14", _S, 32, 64),
    ("vitb14", _B, 48, 96),
    ("vitl14", (128, 256, 512, 1024), 64, 128),
):
    PRESETS[f"depthsplat_depth_{_name}"] = DptConfig(
        _narrow, _channels, "delta", hidden=16, zero_last=True
    )
    PRESETS[f"depthsplat_features_{_name}"] = DptConfig(_wide, _channels)


def preset(name: str) -> DptConfig:
    """The config of a name.

    Raises:
        ValueError: unknown name; the message lists the known ones.
    """
    if name not in PRESETS:
        raise ValueError(f"dpt: unknown {name!r}; known: {sorted(PRESETS)}")
    return PRESETS[name]


class Extra(NamedTuple):
    """Other networks' maps for one level, concatenated before and after its own, then mixed (1 x 1).

    Attributes:
        before, after: arrays [B, h, w, C_i] of the level's size; both may be empty, the mixing stays.
    """

    before: Sequence[jax.Array] = ()
    after: Sequence[jax.Array] = ()


def depthsplat_extras(
    cnn: Sequence[jax.Array],
    multi_view: Sequence[jax.Array],
    depth: jax.Array | None,
    upsample_factor: int,
) -> list[Extra | None]:
    """Which maps join which level in DepthSplat, in the order that its weights expect.

    Args:
        cnn: three maps, fine to coarse, of 64, 96 and 128 channels; at 1/2, 1/4, 1/8 of the picture
            where the coarsest map of the network is at 1/8, else at 1/2, 1/2, 1/4.
        multi_view: one map of each scale, fine to coarse: [1/4 or 1/8] for one scale, [1/2, 1/4] or
            [1/4, 1/8] for two.
        depth: inverse depth [B, h, w, 1] of the last scale; None for the decoder of features.
        upsample_factor: of the last scale to the picture: 2, 4 or 8.

    Returns:
        For ``DPT``: one entry a level; None = the level's own map alone, unmixed.

    Raises:
        ValueError: another number of maps, or a factor that no published model has.
    """
    depth = () if depth is None else (depth,)
    case = (upsample_factor, len(multi_view))
    if len(cnn) != 3 or case not in ((4, 2), (2, 2), (4, 1), (8, 1)):
        raise ValueError(
            "depthsplat_extras: expected three maps of the CNN and (upsample_factor, scales) one of "
            f"(2, 2), (4, 2), (4, 1), (8, 1), found {len(cnn)} and {case}"
        )
    half, middle, coarse = cnn
    if case == (4, 2):
        levels = [
            Extra((half,)),
            Extra((middle,), (multi_view[0], *depth)),
            Extra((coarse,), (multi_view[1],)),
        ]
    elif case == (2, 2):
        levels = [
            Extra((half, middle, multi_view[0], *depth)),
            Extra((coarse,), (multi_view[1],)),
            Extra(),
        ]
    elif case == (4, 1):
        levels = [Extra((half, middle)), Extra((coarse,), (multi_view[0], *depth)), Extra()]
    else:
        levels = [Extra((half,)), Extra((middle,)), Extra((coarse,), (multi_view[0], *depth))]
    return [*levels, None]


def sine_positions(size: tuple[int, int], channels: int, aspect: float) -> np.ndarray:
    """Sine positions of pixel centres in a frame of unit diagonal around the middle.

    Columns span ``aspect / sqrt(aspect^2 + 1)`` either way and rows ``1 / sqrt(aspect^2 + 1)``, taken at
    pixel centres. The first half of the channels belongs to the column, the second to the row; each is
    the sines, then the cosines, of ``place * 100 ** -(i / (channels / 4))``.

    Args:
        size: (h, w) of the map.
        channels: C, a multiple of 4.
        aspect: width over height of the whole picture.

    Returns:
        float32 [h, w, C].
    """
    speeds = 100.0 ** -(np.arange(channels // 4) / (channels // 4))
    diagonal = np.hypot(aspect, 1.0)
    spans = {1: aspect / diagonal, 0: 1.0 / diagonal}
    parts = []
    for axis in (1, 0):
        n = size[axis]
        places = spans[axis] * (2 * np.arange(n) + 1 - n) / n
        waves = np.concatenate(
            [np.sin(np.outer(places, speeds)), np.cos(np.outer(places, speeds))], 1
        )
        waves = waves[None, :] if axis else waves[:, None]
        parts.append(np.broadcast_to(waves, (*size, channels // 2)))
    return np.float32(np.concatenate(parts, -1))


class Upconv(nn.Module):
    """Transposed convolution whose kernel is as large as its stride: no output sees two inputs.

    The kernel lies [k, k, in, out]; output pixel (k i + u, k j + v) is input (i, j) times kernel (u, v).
    """

    features: int
    factor: int
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[B, h, w, C] -> [B, k h, k w, features]."""
        k = self.factor
        init = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform", batch_axis=(0, 1))
        kernel = self.param("kernel", init, (k, k, x.shape[-1], self.features))
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        x, kernel, bias = nn.dtypes.promote_dtype(x, kernel, bias, dtype=self.dtype)
        y = jnp.einsum("bhwi,uvio->bhuwvo", x, kernel) + bias
        return y.reshape(len(x), k * x.shape[1], k * x.shape[2], self.features)


def _conv(features: int, size: int, dtype, name: str, **rest) -> nn.Conv:
    rest = {"padding": size // 2, "kernel_init": _INIT} | rest
    return nn.Conv(features, (size, size), dtype=dtype, name=name, **rest)


def _edge_conv(x: jax.Array, features: int, dtype, name: str) -> jax.Array:
    """3 x 3 over repeated borders."""
    x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="edge")
    return _conv(features, 3, dtype, name, padding="VALID")(x)


class ResidualConv(nn.Module):
    """``x + conv(relu(conv(relu(x))))``; see ``DptConfig.rectified_skip``."""

    config: DptConfig
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[B, h, w, C] -> [B, h, w, C]."""
        y = nn.relu(x)
        skip = y if self.config.rectified_skip else x
        y = _conv(self.config.features, 3, self.dtype, "conv_0")(y)
        return skip + _conv(self.config.features, 3, self.dtype, "conv_1")(nn.relu(y))


class Fusion(nn.Module):
    """A step from coarse to fine: adds the level's map, refines, resizes, mixes channels."""

    config: DptConfig
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, level: jax.Array | None, size: tuple[int, int]) -> jax.Array:
        """x, level: [B, h, w, C] -> [B, *size, C]; the coarsest step has no ``level``."""
        if level is not None:
            x = x + ResidualConv(self.config, self.dtype, name="level")(level)
        x = ResidualConv(self.config, self.dtype, name="refine")(x)
        x = resize.resize(x, size, "corners")
        return _conv(self.config.features, 1, self.dtype, "mix")(x)


class DPT(nn.Module):
    """Four maps of one size to a dense map.

    Attributes:
        config: sizes.
        dtype: of computation and of the result.
    """

    config: DptConfig
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(
        self,
        maps: Sequence[jax.Array],
        extras: Sequence[Extra | None] | None = None,
        size: tuple[int, int] | None = None,
    ) -> jax.Array:
        """The dense map.

        Args:
            maps: four [B, h, w, C], shallow to deep.
            extras: maps to join each level, at 4, 2, 1 and 1/2 times (h, w); None = none. A level is
                mixed by a 1 x 1 convolution if its entry is not None.
            size: (H, W) of the result of head ``dense``, None = 8 times (h, w); others have none.
                The picture's size, if there are sine positions.

        Returns:
            [B, 8 h, 8 w, features] of head ``features``, [B, 8 h, 8 w, outputs] of ``delta``,
            [B, H, W, outputs] of ``dense``.

        Raises:
            ValueError: other numbers of maps, maps of unequal shapes, extras of other sizes, or a
                size for a head that has none.
        """
        c = self.config
        self._check(maps, extras, size)
        if c.norm:  # one for all four maps
            norm = nn.LayerNorm(epsilon=1e-5, dtype=self.dtype, name="norm")
            maps = [norm(x) for x in maps]
        full = 8 * maps[0].shape[1], 8 * maps[0].shape[2]
        size = tuple(size or full)
        aspect = size[1] / size[0]
        levels = []
        for i, x in enumerate(maps):
            x = self._assemble(i, x, aspect)
            if extras is not None and extras[i] is not None:
                x = self._join(i, x, extras[i])
            reduce = _conv(c.features, 3, self.dtype, f"reduce_{i}", use_bias=False)
            levels.append(reduce(x))
        x = None
        for i in reversed(range(LEVELS)):
            target = levels[i - 1].shape[1:3] if i else full
            fusion = Fusion(c, self.dtype, name=f"fuse_{i}")
            x = fusion(levels[i], None, target) if x is None else fusion(x, levels[i], target)
        return self._head(x, size, aspect)

    def _check(self, maps, extras, size):
        shapes = [list(x.shape) for x in maps]
        if len(maps) != LEVELS or len(shapes[0]) != 4 or any(s != shapes[0] for s in shapes):
            raise ValueError(
                f"maps: expected {LEVELS} of one shape [B, h, w, C], shallow to deep, found {shapes}"
            )
        if extras is not None and len(extras) != LEVELS:
            raise ValueError(f"extras: expected {LEVELS} entries or None, found {len(extras)}")
        if size is not None and self.config.head != "dense":
            raise ValueError(
                f"size: head {self.config.head!r} is 8 times its maps; found {tuple(size)}, leave it out"
            )

    def _assemble(self, i: int, x: jax.Array, aspect: float) -> jax.Array:
        """Projects a map and brings it to its level's size."""
        c = self.config
        x = _conv(c.channels[i], 1, self.dtype, f"project_{i}")(x)
        x = self._place(x, aspect)
        if i < 2:
            return Upconv(c.channels[i], 4 >> i, self.dtype, name=f"resize_{i}")(x)
        if i == 2:
            return x
        return _conv(c.channels[i], 3, self.dtype, f"resize_{i}", strides=2)(x)

    def _join(self, i: int, x: jax.Array, extra: Extra) -> jax.Array:
        for other in (*extra.before, *extra.after):
            if other.ndim != 4 or other.shape[:3] != x.shape[:3]:
                raise ValueError(
                    f"extras[{i}]: expected maps [{', '.join(map(str, x.shape[:3]))}, C], found "
                    f"{list(other.shape)}"
                )
        parts = [*extra.before, x, *extra.after]
        x = jnp.concatenate([part.astype(x.dtype) for part in parts], -1)
        return _conv(self.config.channels[i], 1, self.dtype, f"join_{i}")(x)

    def _place(self, x: jax.Array, aspect: float) -> jax.Array:
        """Adds the sine positions, if any."""
        if not self.config.positions:
            return x
        waves = self.config.positions * sine_positions(x.shape[1:3], x.shape[-1], aspect)
        return x + jnp.asarray(waves, x.dtype)

    def _head(self, x: jax.Array, size: tuple[int, int], aspect: float) -> jax.Array:
        c = self.config
        if c.head == "features":
            return x
        zeros = {"kernel_init": nn.initializers.zeros} if c.zero_last else {}
        last = lambda y: _conv(c.outputs, 1, self.dtype, "out_2", **zeros)(y)  # noqa: E731
        half = c.features // 2
        if c.head == "delta":
            x = nn.gelu(_edge_conv(x, half, self.dtype, "out_0"), approximate=False)
            return last(nn.gelu(_edge_conv(x, c.hidden, self.dtype, "out_1"), approximate=False))
        x = resize.resize(_conv(half, 3, self.dtype, "out_0")(x), size, "corners")
        x = self._place(x, aspect)
        return last(nn.relu(_conv(c.hidden, 3, self.dtype, "out_1")(x)))
