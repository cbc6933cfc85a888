"""Image quality over a data set: PSNR and SSIM as mergeable (sum, count) states.

A state from each batch or host is merged and only then divided, so uneven batches and padding do
not bias the mean. The per-image formulas are in ``gsjax.core.image``.
"""

import dataclasses

import jax
import jax.numpy as jnp

from gsjax.core import image, pytrees


@pytrees.register
@dataclasses.dataclass(frozen=True)
class ImageMean:
    """Running mean of a per-image value.

    Attributes:
      total: [] sum of the values.
      count: [] number of images.
    """

    total: jax.Array
    count: jax.Array

    @classmethod
    def of(cls, values: jax.Array, mask: jax.Array | None = None) -> "ImageMean":
        """The state of values [...], without those whose mask (bool, same shape) is False."""
        mask = jnp.ones(values.shape, bool) if mask is None else jnp.asarray(mask, bool)
        if mask.shape != values.shape:
            raise ValueError(
                f"mask: expected one bool an image, shape {list(values.shape)}, "
                f"found {list(mask.shape)}"
            )
        # where, not a product: a padding image may hold NaN.
        total = jnp.sum(jnp.where(mask, values, 0.0))
        return cls(total=total, count=jnp.sum(mask, dtype=total.dtype))

    def merge(self, other: "ImageMean") -> "ImageMean":
        """The state of both sets of images."""
        return ImageMean(self.total + other.total, self.count + other.count)

    def compute(self) -> jax.Array:
        """[] the mean; NaN when no image was counted."""
        return self.total / self.count


@dataclasses.dataclass(frozen=True)
class Psnr:
    """Mean over images of the PSNR in dB (100 dB at most an image); data_range 255 for bytes."""

    data_range: float = 1.0

    def __call__(
        self, pred: jax.Array, target: jax.Array, mask: jax.Array | None = None
    ) -> ImageMean:
        """pred, target [..., H, W, C]; mask bool [...] (True = counts) -> state."""
        return ImageMean.of(image.psnr(pred, target, data_range=self.data_range), mask)


@dataclasses.dataclass(frozen=True)
class Ssim:
    """Mean over images of the SSIM, with the border handling of ``core.image.ssim``.

    As with `Psnr`, images of bytes need a data_range of 255.
    """

    data_range: float = 1.0
    padding: str = "same"

    def __call__(
        self, pred: jax.Array, target: jax.Array, mask: jax.Array | None = None
    ) -> ImageMean:
        """pred, target [..., H, W, C]; mask bool [...] (True = counts) -> state."""
        values = image.ssim(pred, target, data_range=self.data_range, padding=self.padding)
        return ImageMean.of(values, mask)
