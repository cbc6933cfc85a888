"""From a set of Gaussians to patch tokens: activations, grouping, ordering, the two branches.

The GS Tokenizer of CLIP-GS (arXiv 2412.19142). The first half is plain functions on
arrays that do not learn; the second half is the refinement block. Letters: B batch, N Gaussians,
G patches ("groups"), n Gaussians in a patch, O orders, C channels.
"""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from gsjax.core import curves, gaussians, points, rotations, sh
from gsjax.models import linear

ORDERS = ("x", "y", "z", "hilbert", "zorder")
ORDER_MODES = ("random", "fixed", "average", "concat")
GROUPINGS = ("online", "presorted", "cached")
NUM_ATTRIBUTES = 19  # 3 position, 3 colour, 1 opacity, 3 scale, 9 rotation
NUM_POINT_ATTRIBUTES = 6  # position and colour


class Patches(NamedTuple):
    """What the encoder reads.

    Attributes:
        attributes: [B, O, G, n, C] of every Gaussian of every patch, in each of O orders; the
            positions (channels 0:3) relative to the patch's centre.
        centers: [B, G, 3].
        order: int32 [B, O], index into ``ORDERS``.
    """

    attributes: jax.Array
    centers: jax.Array
    order: jax.Array


def attributes(raw: gaussians.RawGaussians) -> jax.Array:
    """The 19 activated channels of the raw 14: [..., N, 19].

    Position as it is; colour in [0, 1]; opacity and scale through a sigmoid, both of the *raw*
    value: sigmoid(log s) = s / (1 + s) is bounded and close to s for small s, whereas the sigmoid of
    an activated scale would squeeze everything into [0.5, 0.6); rotation as a row-major matrix.
    """
    rgb = jnp.clip(sh.sh0_to_rgb(raw.sh[..., 0, :]), 0.0, 1.0)
    matrix = rotations.quat_to_rotmat(raw.quats)
    return jnp.concatenate(
        [
            raw.means,
            rgb,
            jax.nn.sigmoid(raw.logit_opacities)[..., None],
            jax.nn.sigmoid(raw.log_scales),
            matrix.reshape(*matrix.shape[:-2], 9),
        ],
        axis=-1,
    )


def prune(raw: gaussians.RawGaussians, mask: jax.Array, alpha: float) -> jax.Array:
    """Mask [..., N] without Gaussians of opacity below ``alpha``; an object never loses all."""
    if alpha <= 0.0:
        return mask
    kept = mask & (jax.nn.sigmoid(raw.logit_opacities) >= alpha)
    return jnp.where(jnp.any(kept, -1, keepdims=True), kept, mask)


def choose_centers(
    means: jax.Array,
    mask: jax.Array,
    num_group: int,
    *,
    grouping: str = "online",
    skip_near_origin: bool = False,
) -> jax.Array:
    """Indices of the patch centres: int32 [B, G].

    Args:
        means: [B, N, 3].
        mask: [B, N] bool, True for real Gaussians.
        num_group: G.
        grouping: ``online`` samples farthest points; ``presorted`` and ``cached`` take the first G
            valid ones, which are the same points where records are stored in that order (the greedy
            sequence is nested, and rotation, shift and uniform scale do not change it). Where
            Gaussians were pruned by opacity, they are the first of what is left in that order.
        skip_near_origin: for parity with weights trained on PointNet++'s CUDA sampler.
    """
    if grouping == "online":
        return points.farthest_point_sampling(
            means, num_group, mask=mask, skip_near_origin=skip_near_origin
        )
    place = jnp.where(mask, jnp.arange(mask.shape[-1]), mask.shape[-1])
    first = jnp.sort(place, -1)[:, :num_group]
    return jnp.where(first < mask.shape[-1], first, first[:, :1]).astype(jnp.int32)


def order_keys(relative: jax.Array, order: str, bits: int = 10) -> jax.Array:
    """uint32 sort keys [..., n] of the centre-relative positions [..., n, 3] of each patch.

    Quantised to the patch's own bounding box: in a box around the object, the keys of one small
    patch would be almost equal.
    """
    lo, hi = relative.min(-2, keepdims=True), relative.max(-2, keepdims=True)
    cells = curves.quantize(relative, bits, lo, hi)
    if order in ("x", "y", "z"):
        return curves.axis_key(cells, "xyz".index(order), bits)
    return {"hilbert": curves.hilbert_key, "zorder": curves.morton_key}[order](cells, bits)


def draw_order(
    draw: jax.Array | None, batch: int, *, mode: str, fixed: str, train: bool
) -> jax.Array:
    """Which orders each object's patches are read in: int32 [B, O] into ``ORDERS``.

    ``random`` draws one an object a step in training and uses ``fixed`` otherwise; ``fixed`` always
    uses that one; ``average`` trains like ``random`` and reads all orders at inference; ``concat``
    reads all orders always. The features of several orders are averaged. ``draw`` [B] is uniform in
    [0, 1).
    """
    if mode == "concat" or (mode == "average" and not train):
        return jnp.broadcast_to(jnp.arange(len(ORDERS), dtype=jnp.int32), (batch, len(ORDERS)))
    if train and mode in ("random", "average"):
        return jnp.floor(draw * len(ORDERS)).astype(jnp.int32)[:, None]
    return jnp.full((batch, 1), ORDERS.index(fixed), jnp.int32)


def sort_within_patches(relative: jax.Array, order: jax.Array, bits: int = 10) -> jax.Array:
    """Permutations int32 [B, O, G, n] that put each patch's Gaussians in the given orders.

    Args:
        relative: [B, G, n, 3].
        order: [B, O] into ``ORDERS``.
        bits: of the key's grid.
    """
    keys = jnp.stack([order_keys(relative, name, bits) for name in ORDERS], 1)  # [B, 5, G, n]
    chosen = jnp.take_along_axis(keys, order[:, :, None, None], 1)
    return jnp.argsort(chosen, -1).astype(jnp.int32)


def kept_patches(draws: jax.Array, rate: float) -> jax.Array:
    """Random subset of an object's patches: int32 [B, max(1, int(G (1 - rate)))], no repeats.

    ``draws`` [B, G] are uniform in [0, 1).
    """
    return jax.lax.top_k(draws, max(1, int(draws.shape[-1] * (1.0 - rate))))[1].astype(jnp.int32)


def gather_patches(
    raw: gaussians.RawGaussians,
    mask: jax.Array,
    centers: jax.Array,
    group_size: int,
    *,
    order: jax.Array | None,
    bits: int = 10,
    neighbours: jax.Array | None = None,
    block: int | None = None,
    method: str = "auto",
    channels: int = NUM_POINT_ATTRIBUTES,
) -> Patches:
    """Collects the Gaussians around each centre, in order.

    Args:
        raw: [B, N, ...] normalised Gaussians.
        mask: [B, N] bool; masked ones enter no patch. An object with fewer than n valid Gaussians
            fills its patches with repeats of the centre.
        centers: int32 [B, G].
        group_size: n.
        order: [B, O] of :func:`draw_order`, all channels; None = as found, the first ``channels``.
        bits: of the sort key's grid.
        neighbours: int32 [B, G, n], searched here if None.
        block, method: of ``points.knn``.
        channels: without an order; 6 are position and colour.
    """
    origin = points.gather(raw.means, centers[:, None])[:, 0]
    if neighbours is None:
        neighbours, _ = points.knn(
            origin, raw.means, group_size, mask=mask, block=block, method=method
        )
    table = attributes(raw)
    if order is None:
        table, neighbours = table[..., :channels], neighbours[:, None]
        order = jnp.zeros((len(table), 1), jnp.int32)
    else:
        relative = points.gather(raw.means, neighbours.reshape(len(table), -1, group_size))
        relative = relative - origin[:, :, None]
        places = sort_within_patches(relative, order, bits)
        neighbours = jnp.take_along_axis(neighbours[:, None], places, -1)
    batch, orders, groups, size = neighbours.shape
    rows = points.gather(table, neighbours.reshape(batch, orders * groups, size))
    rows = rows.reshape(batch, orders, groups, size, -1)
    shift = jnp.pad(origin, ((0, 0), (0, 0), (0, rows.shape[-1] - 3)))
    return Patches(rows - shift[:, None, :, None], origin, order)


def batch_norm(name: str, train: bool, dtype) -> nn.BatchNorm:
    """BatchNorm as in the reference's torch code; under jit its statistics span the global batch."""
    return nn.BatchNorm(
        use_running_average=not train, momentum=0.9, epsilon=1e-5, dtype=dtype, name=name
    )


class _JoinedDense(nn.Module):
    """Dense on the concatenation (global; local) of a patch vector and its members' vectors.

    One kernel [2C, F] as in the reference, but the global half is multiplied once a patch and not
    once a member.
    """

    features: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, overall: jax.Array, local: jax.Array) -> jax.Array:
        """overall: [..., C], local: [..., n, C] -> [..., n, F]."""
        width = local.shape[-1]
        shape = (2 * width, self.features)
        kernel = self.param("kernel", nn.linear.default_kernel_init, shape)
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        overall, local, kernel, bias = nn.dtypes.promote_dtype(
            overall, local, kernel, bias, dtype=self.dtype
        )
        whole = linear.product(overall, kernel[:width]) + bias
        return linear.product(local, kernel[width:]) + whole[..., None, :]


class PointBranch(nn.Module):
    """Uni3D's patch encoder (arXiv 2310.06773): a small PointNet; invariant to order in a patch."""

    hidden: tuple[int, int, int]
    enc_dim: int
    width: int
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """x: [B, G, n, C] -> [B, G, width]."""
        h = linear.Dense(self.hidden[0], dtype=self.dtype, name="first_0")(x)
        h = nn.relu(batch_norm("first_bn", train, self.dtype)(h))
        h = linear.Dense(self.hidden[1], dtype=self.dtype, name="first_1")(h)
        h = _JoinedDense(self.hidden[2], self.dtype, name="second_0")(h.max(-2), h)
        h = nn.relu(batch_norm("second_bn", train, self.dtype)(h))
        h = linear.Dense(self.enc_dim, dtype=self.dtype, name="second_1")(h).max(-2)
        return linear.Dense(self.width, dtype=self.dtype, name="encoder2trans")(h)


class _Conv3(nn.Module):
    """Convolution of kernel 3 and padding 1 along the members of a patch, without bias.

    Written as one matrix product over the three neighbours: the library convolution's backward pass
    is several times slower on CPU. The kernel [3, C, F] is laid out as ``flax.linen.Conv``'s.
    """

    features: int
    stride: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """x: [..., n, C] -> [..., ceil(n / stride), F]."""
        width, size = x.shape[-1], x.shape[-2]
        shape = (3, width, self.features)
        kernel = self.param("kernel", nn.linear.default_kernel_init, shape)
        x, kernel = nn.dtypes.promote_dtype(x, kernel, dtype=self.dtype)
        x = jnp.pad(x, [(0, 0)] * (x.ndim - 2) + [(1, 1), (0, 0)])
        taps = [x[..., i : i + size : self.stride, :] for i in range(3)]
        return linear.product(jnp.concatenate(taps, -1), kernel.reshape(3 * width, self.features))


class GaussianBranch(nn.Module):
    """All attributes through four [1x3 conv, BN, ReLU] along the patch's order, then pooling.

    Widths and pooling are not in the paper. With ``zero_init`` a learned gate per channel starts at
    zero, so that a fresh model equals its point branch; a zero BN scale would not do, since the
    gradient of the ReLU behind it is zero there.
    """

    widths: tuple[int, int, int]
    width: int
    pool: str = "mean"
    zero_init: bool = True
    order_indicator: bool = True
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, order: jax.Array, train: bool) -> jax.Array:
        """x: [B, O, G, n, 19], order: [B, O] -> [B, G, width], averaged over the orders."""
        if self.order_indicator:
            shape = (len(ORDERS), x.shape[-1])
            scale = self.param("order_scale", nn.initializers.ones, shape)[order]
            shift = self.param("order_shift", nn.initializers.zeros, shape)[order]
            x = x * scale[:, :, None, None] + shift[:, :, None, None]
        strides = (1, 1, 2, 2)
        for i, (features, stride) in enumerate(zip((*self.widths, self.width), strides)):
            x = _Conv3(features, stride, self.dtype, name=f"conv_{i}")(x)
            x = nn.relu(batch_norm(f"bn_{i}", train, self.dtype)(x))
        x = x.max(-2) if self.pool == "max" else x.mean(-2)
        if self.zero_init:
            x = x * self.param("gate", nn.initializers.zeros, (self.width,)).astype(x.dtype)
        return x.mean(1)
