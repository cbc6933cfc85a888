"""The parameters of a fit and how they are rendered.

``params`` is a dict of arrays with N rows: means [N, 3], log_scales [N, 3], quats [N, 4],
logit_opacities [N], sh0 [N, 1, 3], shN [N, K - 1, 3]: the unconstrained form that PLY files hold.
``alive`` [N] says which rows are Gaussians; the others are free places, which nobody sees.
"""

import jax
import jax.numpy as jnp
import numpy as np

from gsjax.core import cameras, gaussians, sh
from gsjax.raster import api


def raw(params: dict) -> gaussians.RawGaussians:
    """The scene as ``RawGaussians``, rows that are not alive included."""
    fields = {k: params[k] for k in ("means", "quats", "log_scales", "logit_opacities")}
    return gaussians.RawGaussians(**fields, sh=jnp.concatenate([params["sh0"], params["shN"]], -2))


def visible(params: dict, alive, min_opacity: float) -> np.ndarray:
    """Bool [N]: alive and at least that opaque."""
    floor = -np.inf if min_opacity <= 0 else np.log(min_opacity / (1 - min_opacity))
    return np.asarray(alive) & (np.asarray(params["logit_opacities"]) >= floor)


def compact(params: dict, alive, min_opacity: float = 0.0) -> gaussians.RawGaussians:
    """The Gaussians that are alive and at least that opaque, on the host."""
    kept = visible(params, alive, min_opacity)
    return raw({name: np.asarray(value)[kept] for name, value in params.items()})


def sh_mask(degree: int, active: jax.Array) -> jax.Array:
    """[K - 1] ones for the coefficients of degrees 1 to `active` (int32 []), so that no program changes."""
    levels = np.repeat(np.arange(1, degree + 1), 2 * np.arange(1, degree + 1) + 1)
    return (jnp.asarray(levels, jnp.int32) <= active).astype(jnp.float32)


def activated(params: dict, alive, *, sh_active=None, filter3d=None) -> gaussians.Gaussians:
    """The scene as the rasterizer wants it.

    Args:
      params, alive: see above.
      sh_active: int32 [], the highest SH degree that takes part; None = all.
      filter3d: [N] standard deviation of the 3D smoothing filter (Mip-Splatting, arXiv 2311.16493,
        Eq. 9), None = no filter.
    """
    scene = raw(params).activate()
    scales, opacities, colors = scene.scales, scene.opacities, scene.sh
    if filter3d is not None:
        grown = jnp.sqrt(scales**2 + filter3d[:, None] ** 2)
        opacities = opacities * jnp.prod(scales / grown, -1)
        scales = grown
    if sh_active is not None and colors.shape[-2] > 1:
        mask = sh_mask(sh.degree_of(colors.shape[-2]), sh_active)
        colors = colors.at[..., 1:, :].multiply(mask[:, None])
    opacities = jnp.where(alive, opacities, 0.0)
    return gaussians.Gaussians(scene.means, scene.quats, scales, opacities, colors)


def render(scene: gaussians.Gaussians, viewmats, Ks, width, height, backgrounds, **options):
    """`rasterize` of a scene's SH colours: image [C, H, W, 3 or 4], alpha, meta."""
    return api.rasterize(
        scene.means, scene.quats, scene.scales, scene.opacities, scene.sh, viewmats, Ks, width,
        height, sh_degree=scene.sh_degree, backgrounds=backgrounds, **options,
    )  # fmt: skip


def scene_scale(viewmats) -> jax.Array:
    """1.1 times the largest distance of a camera from the mean one (3DGS, gsplat)."""
    centers = cameras.camera_centers(jnp.asarray(viewmats))
    offsets = centers - jnp.mean(centers, -2, keepdims=True)
    return 1.1 * jnp.max(jnp.linalg.norm(offsets, axis=-1), -1)


def smoothing_filter(means: jax.Array, viewmats: jax.Array, Ks: jax.Array, width, height):
    """[N] sqrt(0.2) times the finest pixel footprint of any view that sees the Gaussian.

    Mip-Splatting, arXiv 2311.16493, Eq. 8 and 9 with s = 0.2, seen = within the image and 15 % around
    it. Gaussians that no view sees get the largest value of the others.
    """
    rotation, shift = viewmats[:, None, :3, :3], viewmats[:, None, :3, 3]
    x, y, z = jnp.moveaxis(jnp.sum(rotation * means[None, :, None, :], -1) + shift, -1, 0)
    depth = jnp.where(z > 0.2, z, 1.0)
    fx, fy, cx, cy = (Ks[:, i, j][:, None] for i, j in ((0, 0), (1, 1), (0, 2), (1, 2)))
    u, v = fx * x / depth + cx, fy * y / depth + cy
    inside = (u >= -0.15 * width) & (u <= 1.15 * width) & (v >= -0.15 * height)
    seen = (z > 0.2) & inside & (v <= 1.15 * height)
    finest = jnp.min(jnp.where(seen, z / fx, jnp.inf), 0)
    largest = jnp.max(jnp.where(jnp.isfinite(finest), finest, 0.0))
    return jnp.sqrt(0.2) * jnp.where(jnp.isfinite(finest), finest, largest)
