"""The Gaussians pytrees: ``RawGaussians`` as files and optimisers hold them, ``Gaussians`` as
renderers want them. Padding, sampling and file formats live elsewhere.

Both are frozen dataclasses whose fields may carry any leading axes (scenes), so they pass through
jit, vmap, grad and device_put like tuples.
"""

import dataclasses

import jax
import jax.numpy as jnp

from gsjax.core import pytrees, rotations, sh


def _check(g: "Gaussians | RawGaussians"):
    """Raises ValueError unless the five fields agree in their leading axes and N."""
    leading = jnp.shape(g.means)[:-1]
    expected = {"means": (*leading, 3), "quats": (*leading, 4)}
    for field in dataclasses.fields(g):
        if field.name in ("scales", "log_scales"):
            expected[field.name] = (*leading, 3)
        elif field.name in ("opacities", "logit_opacities"):
            expected[field.name] = leading
    for name, shape in expected.items():
        found = jnp.shape(getattr(g, name))
        if found != shape or not leading:
            raise ValueError(
                f"{name}: expected shape {list(shape)} after means, found {list(found)}"
            )
    found = jnp.shape(g.sh)
    if found[:-2] != leading or found[-1] != 3:
        raise ValueError(f"sh: expected shape {[*leading, 'K', 3]}, found {list(found)}")
    sh.degree_of(found[-2])


@pytrees.register
@dataclasses.dataclass(frozen=True)
class Gaussians:
    """Activated parameters.

    Attributes:
      means: [..., N, 3] world units.
      quats: [..., N, 4] wxyz, any length (consumers normalise).
      scales: [..., N, 3] standard deviations, world units.
      opacities: [..., N] in [0, 1].
      sh: [..., N, K, 3] colour coefficients, K = (degree + 1)^2.
    """

    means: jax.Array
    quats: jax.Array
    scales: jax.Array
    opacities: jax.Array
    sh: jax.Array

    @property
    def num(self) -> int:
        """N, the Gaussians a scene has."""
        return self.means.shape[-2]

    @property
    def sh_degree(self) -> int:
        return sh.degree_of(self.sh.shape[-2])

    def check(self) -> "Gaussians":
        """Returns self, or raises ValueError naming the field whose shape does not fit."""
        _check(self)
        return self

    def deactivate(self) -> "RawGaussians":
        """The raw form. Scales are floored and opacities clipped just inside (0, 1), so that the
        logarithms and their gradients stay finite; outside that range the gradient is zero."""
        dtype = self.scales.dtype
        floor = float(jnp.finfo(dtype).tiny) ** 0.5
        opacities = jnp.clip(self.opacities, floor, 1 - float(jnp.finfo(dtype).eps))
        return RawGaussians(
            means=self.means,
            quats=self.quats,
            log_scales=jnp.log(jnp.maximum(self.scales, floor)),
            logit_opacities=jnp.log(opacities) - jnp.log1p(-opacities),
            sh=self.sh,
        )


@pytrees.register
@dataclasses.dataclass(frozen=True)
class RawGaussians:
    """Unconstrained parameters, as in the 3DGS PLY.

    Attributes:
      means: [..., N, 3] world units.
      quats: [..., N, 4] wxyz, not normalised.
      log_scales: [..., N, 3] natural logarithm of the standard deviations.
      logit_opacities: [..., N].
      sh: [..., N, K, 3] colour coefficients, K = (degree + 1)^2.
    """

    means: jax.Array
    quats: jax.Array
    log_scales: jax.Array
    logit_opacities: jax.Array
    sh: jax.Array

    @property
    def num(self) -> int:
        """N, the Gaussians a scene has."""
        return self.means.shape[-2]

    @property
    def sh_degree(self) -> int:
        return sh.degree_of(self.sh.shape[-2])

    def check(self) -> "RawGaussians":
        """Returns self, or raises ValueError naming the field whose shape does not fit."""
        _check(self)
        return self

    def activate(self) -> Gaussians:
        """exp of the log-scales, sigmoid of the logits, unit quaternions."""
        return Gaussians(
            means=self.means,
            quats=rotations.quat_normalize(self.quats),
            scales=jnp.exp(self.log_scales),
            opacities=jax.nn.sigmoid(self.logit_opacities),
            sh=self.sh,
        )


def transform(g, scale: jax.Array, rotation: jax.Array, translation: jax.Array):
    """Applies the similarity x -> scale * rotation @ x + translation to whole scenes.

    Means move, quaternions turn, (log-)scales grow and SH colours turn with the object, so a
    camera moved along sees the same picture.

    Args:
      g: ``Gaussians`` or ``RawGaussians`` with leading axes [...].
      scale: [...] or scalar, > 0.
      rotation: [..., 3, 3] proper rotation (determinant 1).
      translation: [..., 3].

    Returns:
      The same class as g.
    """
    dtype = g.means.dtype
    scale = jnp.asarray(scale, dtype)[..., None, None]
    rotation = jnp.asarray(rotation, dtype)
    translation = jnp.asarray(translation, dtype)[..., None, :]
    turned = jnp.einsum("...ij,...nj->...ni", rotation, g.means, precision="highest")
    turn = rotations.rotmat_to_quat(rotation)[..., None, :]
    # Normalised first: a zero quaternion stands for the identity, and its product would stay zero.
    moved = {
        "means": scale * turned + translation,
        "quats": rotations.quat_multiply(turn, rotations.quat_normalize(g.quats)),
        "sh": sh.rotate_sh(g.sh, rotation[..., None, :, :]),
    }
    if isinstance(g, RawGaussians):
        moved["log_scales"] = g.log_scales + jnp.log(scale)
    else:
        moved["scales"] = g.scales * scale
    return dataclasses.replace(g, **moved)


def _radius(norms: jax.Array, mask: jax.Array, quantile: float) -> jax.Array:
    """[...] the given quantile (nearest rank) of the valid norms [..., N]."""
    if quantile == 1.0:
        return jnp.max(jnp.where(mask, norms, 0.0), axis=-1)
    ranked = jnp.sort(jnp.where(mask, norms, jnp.inf), axis=-1)
    count = jnp.sum(mask, axis=-1, keepdims=True)
    rank = jnp.ceil(quantile * count).astype(jnp.int32) - 1
    radius = jnp.take_along_axis(ranked, jnp.clip(rank, 0, norms.shape[-1] - 1), axis=-1)[..., 0]
    return jnp.where(jnp.isfinite(radius), radius, 0.0)


def normalize_unit_ball(
    raw: RawGaussians, *, mask: jax.Array | None = None, radius_quantile: float = 1.0
) -> RawGaussians:
    """Moves each scene's mean to the origin and its farthest Gaussian to distance 1.

    Scenes of radius r < 1e-6 get all-zero means and keep their scales. Otherwise ln r leaves the
    log-scales in the same step, so that sizes still match positions.

    Args:
      raw: leading axes [...], N Gaussians.
      mask: bool [..., N]; False marks padding, which counts for neither mean nor radius.
      radius_quantile: in (0, 1]; below 1 the radius is this quantile of the distances, and means
        beyond it are pulled back onto the ball, so that floaters do not shrink the object.

    Returns:
      RawGaussians in the unit ball.

    Raises:
      ValueError: radius_quantile outside (0, 1].
    """
    if not 0.0 < radius_quantile <= 1.0:
        raise ValueError(f"radius_quantile: expected within (0, 1], found {radius_quantile}")
    means = raw.means
    mask = jnp.ones(means.shape[:-1], bool) if mask is None else mask
    count = jnp.maximum(jnp.sum(mask, axis=-1), 1).astype(means.dtype)
    center = jnp.sum(jnp.where(mask[..., None], means, 0.0), axis=-2) / count[..., None]
    means = means - center[..., None, :]
    squared = jnp.sum(means * means, axis=-1)
    norms = jnp.sqrt(jnp.where(squared > 0, squared, 1.0)) * (squared > 0)
    radius = _radius(norms, mask, radius_quantile)
    is_point = radius < 1e-6
    divisor = jnp.where(is_point, 1.0, radius)
    means = means / divisor[..., None, None]
    if radius_quantile < 1.0:
        means = means / jnp.maximum(norms / divisor[..., None], 1.0)[..., None]
    means = jnp.where(is_point[..., None, None], 0.0, means)
    log_scales = raw.log_scales - jnp.log(divisor)[..., None, None]
    return dataclasses.replace(raw, means=means, log_scales=log_scales)
