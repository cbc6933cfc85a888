"""What MVSplat and DepthSplat begin with: pictures to CNN maps, and to features that know of other views."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from gsjax.models.feedforward import cnn, mv_transformer


def check_views(images, Ks, c2ws, near, far, stride: int) -> tuple[int, int, int, int]:
    """(B, V, H, W) of a batch of posed pictures.

    Args:
        images: [B, V, H, W, 3].
        Ks: [B, V, 3, 3].
        c2ws: [B, V, 4, 4].
        near: [B] or [B, V].
        far: [B] or [B, V].
        stride: what both sides must be multiples of.

    Raises:
        ValueError: a shape that does not fit, fewer than two views, or sides that are no multiples.
    """
    if images.ndim != 5 or images.shape[-1] != 3:
        raise ValueError(f"images: expected [B, V, H, W, 3], found {list(images.shape)}")
    batch, views, height, width, _ = images.shape
    for name, array, last in (("Ks", Ks, (3, 3)), ("c2ws", c2ws, (4, 4))):
        if array.shape != (batch, views, *last):
            raise ValueError(
                f"{name}: expected {[batch, views, *last]} for images {list(images.shape)}, found "
                f"{list(array.shape)}"
            )
    for name, array in (("near", near), ("far", far)):
        if array.shape not in ((batch,), (batch, views)):
            raise ValueError(
                f"{name}: expected [{batch}] or [{batch}, {views}], found {list(array.shape)}"
            )
    if views < 2:
        raise ValueError(f"images: matching needs at least 2 posed pictures, found {views}")
    if height % stride or width % stride:
        raise ValueError(
            f"images: sides {height} x {width} must be multiples of {stride}; crop or pad the pictures, "
            "and shift the principal points with them"
        )
    return batch, views, height, width


class Backbone(nn.Module):
    """CNN, positions, multi-view transformer.

    Attributes:
        lowest: pixels a cell of the coarsest map, 4 or 8.
        widths: of the CNN's stages.
        channels: of the coarsest map and of the transformer.
        blocks: of the transformer.
        splits: its windows along a side.
        remat: whether its blocks are computed again on the way back.
        dtype: of computation.
        last_stride: of the CNN's third stage, see ``cnn.Cnn``.
    """

    lowest: int = 4
    widths: tuple[int, int, int] = cnn.WIDTHS
    channels: int = 128
    blocks: int = 6
    splits: int = 2
    remat: bool = False
    dtype: jnp.dtype = jnp.float32
    last_stride: int = 2

    @nn.compact
    def __call__(self, images: jax.Array, index: jax.Array) -> tuple[list[jax.Array], jax.Array]:
        """Features of posed pictures.

        Args:
            images: [B, V, H, W, 3], after ``dinov2.normalise``.
            index: int [B, V, M], neighbours.

        Returns:
            (CNN maps [B, V, h, w, C], the finest first, transformer features [B, V, h, w, channels] of the
            coarsest scale).
        """
        batch, views = images.shape[:2]
        encoder = cnn.Cnn(
            self.lowest, self.widths, self.channels, self.last_stride, self.dtype, name="cnn"
        )
        maps = encoder(images.reshape(-1, *images.shape[2:]))
        maps = [m.reshape(batch, views, *m.shape[1:]) for m in maps]
        transformer = mv_transformer.MultiViewTransformer(
            self.blocks, self.splits, remat=self.remat, dtype=self.dtype, name="transformer"
        )
        return maps, transformer(maps[-1], index)
