"""The 3DGS encoder of CLIP-GS: patches, tokens, transformer, one vector an object.

CLIP-GS (arXiv 2412.19142); the transformer and everything the paper leaves open follow
Uni3D (arXiv 2310.06773), from whose weights the paper starts.
"""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp

from gsjax.core import gaussians
from gsjax.models import linear, transformer
from gsjax.systems.clip_gs import augment, randomness, tokenizer

# What the encoder sees. 'all': the tokenizer's two branches; 'xyz_rgb': the point branch alone;
# 'naive': the point branch on all attributes (the paper's ablation).
ATTRIBUTES = ("all", "xyz_rgb", "naive")


class Encoder(nn.Module):
    """Patches -> embedding [B, D], not normalised."""

    config: transformer.TransformerConfig
    enc_hidden: tuple[int, int, int]
    enc_dim: int
    gs_widths: tuple[int, int, int]
    embed_dim: int
    gaussian_branch: bool = True
    point_channels: int = tokenizer.NUM_POINT_ATTRIBUTES
    pool: str = "mean"
    zero_init_gs: bool = True
    order_indicator: bool = True
    patch_dropout: float = 0.0
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(
        self,
        patches: tokenizer.Patches,
        draws: randomness.Draws | None = None,
        train: bool = False,
    ) -> jax.Array:
        """``draws`` serve patch dropout and stochastic depth; None = neither."""
        tokens, centers = self._tokens(patches, train), patches.centers
        if draws is not None and self.patch_dropout > 0.0:
            kept = tokenizer.kept_patches(draws.patches, self.patch_dropout)[..., None]
            tokens = jnp.take_along_axis(tokens, kept, 1)
            centers = jnp.take_along_axis(centers, kept, 1)
        x = self._sequence(tokens, centers)
        paths = None if draws is None else draws.paths
        x = transformer.Transformer(self.config, self.dtype, name="visual")(x, paths)
        x = transformer.layer_norm("fc_norm", self.dtype)(x[:, 0])
        return linear.Dense(self.embed_dim, dtype=self.dtype, name="trans2embed")(x)

    def _tokens(self, patches, train):
        """The refinement block: sum of the two branches, [B, G, d]."""
        width = self.config.width
        point = tokenizer.PointBranch(
            self.enc_hidden, self.enc_dim, width, self.dtype, name="point_branch"
        )
        # the branch does not see the order, so the first one serves
        tokens = point(patches.attributes[:, 0, ..., : self.point_channels], train)
        if self.gaussian_branch:
            branch = tokenizer.GaussianBranch(
                self.gs_widths,
                width,
                self.pool,
                self.zero_init_gs,
                self.order_indicator,
                self.dtype,
                name="gaussian_branch",
            )
            tokens = tokens + branch(patches.attributes, patches.order, train)
        return tokens

    def _sequence(self, tokens, centers):
        """[class token, patch tokens], each plus its position: [B, 1 + G, d]."""
        width = self.config.width
        cls_token = self.param("cls_token", nn.initializers.zeros, (1, 1, width))
        cls_pos = self.param("cls_pos", nn.initializers.normal(1.0), (1, 1, width))
        pos = nn.gelu(linear.Dense(128, dtype=self.dtype, name="pos_0")(centers), approximate=False)
        pos = linear.Dense(width, dtype=self.dtype, name="pos_1")(pos)
        first = jnp.broadcast_to(
            (cls_token + cls_pos).astype(tokens.dtype), (len(tokens), 1, width)
        )
        return jnp.concatenate([first, tokens + pos], 1)


class ClipGS(nn.Module):
    """The encoder and the learned temperature (and, for the sigmoid loss, bias)."""

    encoder: Encoder
    init_logit_scale: float = math.log(1 / 0.07)
    init_logit_bias: float | None = None

    @nn.compact
    def __call__(
        self,
        patches: tokenizer.Patches,
        draws: randomness.Draws | None = None,
        train: bool = False,
    ) -> tuple[jax.Array, jax.Array, jax.Array | None]:
        """Returns (embedding [B, D], logit scale [], logit bias [] or None)."""
        scale = self.param("logit_scale", nn.initializers.constant(self.init_logit_scale), ())
        bias = None
        if self.init_logit_bias is not None:
            bias = self.param("logit_bias", nn.initializers.constant(self.init_logit_bias), ())
        return self.encoder(patches, draws, train), scale, bias


def build(config) -> ClipGS:
    """The module that ``config.model`` and ``config.loss`` describe.

    Raises:
        ValueError: an unknown option.
    """
    m = config.model
    for name, value, known in (
        ("attributes", m.attributes, ATTRIBUTES),
        ("order_mode", m.order_mode, tokenizer.ORDER_MODES),
        ("eval_order", m.eval_order, tokenizer.ORDERS),
        ("grouping", m.grouping, tokenizer.GROUPINGS),
        ("pool", m.pool, ("mean", "max")),
        ("dtype", m.dtype, ("float32", "bfloat16")),
    ):
        if value not in known:
            raise ValueError(f"model.{name}: unknown {value!r}; known: {', '.join(known)}")
    encoder = Encoder(
        transformer.TransformerConfig(
            m.width, m.depth, m.heads, m.hidden, m.mlp, m.drop_path, m.remat
        ),
        enc_hidden=tuple(m.enc_hidden),
        enc_dim=m.enc_dim,
        gs_widths=tuple(m.gs_widths),
        embed_dim=m.embed_dim,
        gaussian_branch=m.attributes == "all",
        point_channels=_point_channels(m),
        pool=m.pool,
        zero_init_gs=m.zero_init_gs,
        order_indicator=m.order_indicator,
        patch_dropout=0.0 if m.early_patch_dropout else m.patch_dropout,
        dtype=jnp.dtype(m.dtype),
    )
    sigmoid = config.loss.kind == "sigmoid"
    return ClipGS(
        encoder,
        init_logit_scale=math.log(10.0) if sigmoid else math.log(1 / 0.07),
        init_logit_bias=-10.0 if sigmoid else None,  # SigLIP's starting point
    )


def raw_gaussians(batch) -> gaussians.RawGaussians:
    """The batch's Gaussians, their colour as the one SH coefficient of degree 0."""
    return gaussians.RawGaussians(
        batch["means"],
        batch["quats"],
        batch["log_scales"],
        batch["logit_opacities"],
        batch["sh0"][..., None, :],
    )


def patchify(
    batch, config, draws: randomness.Draws | None = None, train: bool = False
) -> tokenizer.Patches:
    """Everything before the first learned layer: normalise, augment, group, order.

    Args:
        batch: ``means, quats, log_scales, logit_opacities, sh0, mask`` and, with
            ``model.grouping = 'cached'``, ``neighbours``.
        config: the whole config.
        draws: random numbers; needed in training.
        train: augment and drop patches.
    """
    m = config.model
    mask = batch["mask"]
    raw = raw_gaussians(batch)
    mask = tokenizer.prune(raw, mask, config.data.prune_alpha)
    raw = gaussians.normalize_unit_ball(raw, mask=mask, radius_quantile=config.data.radius_quantile)
    if train and config.data.augment.enable:
        raw = augment.augment(raw, draws, config.data.augment)
    centers = tokenizer.choose_centers(
        raw.means,
        mask,
        m.num_group,
        grouping=m.grouping,
        skip_near_origin=m.skip_near_origin,
    )
    neighbours = batch["neighbours"].astype(jnp.int32) if m.grouping == "cached" else None
    if train and m.early_patch_dropout and m.patch_dropout > 0.0:
        kept = tokenizer.kept_patches(draws.patches, m.patch_dropout)
        centers = jnp.take_along_axis(centers, kept, 1)
        if neighbours is not None:
            neighbours = jnp.take_along_axis(neighbours, kept[..., None], 1)
    order = None
    if m.attributes == "all":
        order = tokenizer.draw_order(
            draws.order if train else None,
            len(mask),
            mode=m.order_mode,
            fixed=m.eval_order,
            train=train,
        )
    return tokenizer.gather_patches(
        raw,
        mask,
        centers,
        m.group_size,
        order=order,
        bits=m.order_bits,
        neighbours=neighbours,
        block=m.knn_block or None,
        method=m.knn,
        channels=_point_channels(m),
    )


def _point_channels(m) -> int:
    naive = m.attributes == "naive"
    return tokenizer.NUM_ATTRIBUTES if naive else tokenizer.NUM_POINT_ATTRIBUTES
