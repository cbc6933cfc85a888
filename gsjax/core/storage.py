"""Gaussians in 16 bits a number: half the memory on a device and half the bytes of a transfer.

Centres are fixed-point numbers in the scene's bounding box, all else is half precision of a form in
which it spends its digits well (logarithms of scales, logits of opacities, unit quaternions). With
float16 the errors of one round trip are at most

  means            extent of the box / 131,070 along each axis (and float32 rounding)
  quaternions      2^-12 a component, 0.06 degrees in all
  log_scales       2^-11 relative: scales in [e^-8, e^8] to 0.2 %, in [e^-16, e^16] to 0.4 %
  logit_opacities  2^-11 relative: opacities to 0.0002
  sh               2^-11 relative, below 6e-5 absolute 3e-8

With bfloat16 the last four are eight times larger (scales in [e^-8, e^8] to 1.6 %), with a far larger
range: numbers beyond 65,504 do not fit float16. For files see `gsjax.io`. Master copies that an
optimiser updates belong in float32: steps below the spacing of 16-bit numbers would be lost.
"""

import dataclasses

import jax
import jax.numpy as jnp

from gsjax.core import gaussians, pytrees, rotations

DTYPES = ("float16", "bfloat16")
_STEPS = 2**16 - 1
_INVISIBLE = -6e4  # a logit: opacity 0


@pytrees.register
@dataclasses.dataclass(frozen=True)
class PackedGaussians:
    """What `pack` returns; leading axes [...] are scenes.

    Attributes:
      low: [..., 1, 3] float32, smallest corner of the bounding box of the centres.
      extent: [..., 1, 3] float32, edges of the box.
      means: [..., N, 3] uint16, 0 at the smallest corner and 65,535 at the largest.
      quats: [..., N, 4] unit length, w x y z.
      log_scales: [..., N, 3].
      logit_opacities: [..., N].
      sh: [..., N, K, 3].
    """

    low: jax.Array
    extent: jax.Array
    means: jax.Array
    quats: jax.Array
    log_scales: jax.Array
    logit_opacities: jax.Array
    sh: jax.Array

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays."""
        return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(self))


def pack(
    g: gaussians.Gaussians | gaussians.RawGaussians, dtype: str = "float16"
) -> PackedGaussians:
    """Rounds Gaussians to 16 bits a number; see the module for the errors.

    Args:
      g: leading axes [...]. Gaussians whose centre is not finite become invisible.
      dtype: 'float16' or 'bfloat16', of all but the centres.

    Raises:
      ValueError: another dtype.
    """
    if jnp.dtype(dtype).name not in DTYPES:
        raise ValueError(f"dtype: found {dtype!r}, expected one of {DTYPES}")
    raw = g.deactivate() if isinstance(g, gaussians.Gaussians) else g
    means = raw.means.astype(jnp.float32)
    finite = jnp.all(jnp.isfinite(means), -1, keepdims=True)
    low = jnp.min(jnp.where(finite, means, jnp.inf), -2, keepdims=True, initial=jnp.inf)
    high = jnp.max(jnp.where(finite, means, -jnp.inf), -2, keepdims=True, initial=-jnp.inf)
    low, high = (jnp.where(jnp.isfinite(x), x, 0.0) for x in (low, high))
    extent = high - low
    fraction = jnp.where(finite, means - low, 0.0) / jnp.where(extent > 0, extent, 1.0)
    logits = jnp.where(finite[..., 0], raw.logit_opacities, _INVISIBLE)
    return PackedGaussians(
        low=low,
        extent=extent,
        means=jnp.round(jnp.clip(fraction, 0.0, 1.0) * _STEPS).astype(jnp.uint16),
        quats=rotations.quat_normalize(raw.quats).astype(dtype),
        log_scales=raw.log_scales.astype(dtype),
        logit_opacities=logits.astype(dtype),
        sh=raw.sh.astype(dtype),
    )


def unpack(packed: PackedGaussians, dtype: str = "float32") -> gaussians.RawGaussians:
    """Raw Gaussians in floating type ``dtype``."""
    wide = jnp.result_type(jnp.float32, dtype)  # 65,535 is no float16
    means = packed.means.astype(wide) / _STEPS * packed.extent + packed.low
    return gaussians.RawGaussians(
        means=means.astype(dtype),
        quats=packed.quats.astype(dtype),
        log_scales=packed.log_scales.astype(dtype),
        logit_opacities=packed.logit_opacities.astype(dtype),
        sh=packed.sh.astype(dtype),
    )
