"""`rasterize`: 3D Gaussians to images, differentiable in every input. The public function.

Stages: arguments -> project (per scene and camera) -> features (colours, SH, depth) -> blend (a
backend, all images at once) -> compose (background, expected depth, meta).
"""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from gsjax.core import cameras as camera_math
from gsjax.core import sh
from gsjax.raster import arguments, backends
from gsjax.raster import project as projection
from gsjax.raster.backends import BACKENDS
from gsjax.raster.capacity import plan_capacity

__all__ = ["BACKENDS", "Meta", "plan_capacity", "rasterize"]


@jax.tree_util.register_pytree_node_class
class Meta(dict):
    """A dict whose 'backend' and 'tile_size' are static, so that it passes through jit and vmap."""

    STATIC = ("backend", "tile_size")

    def tree_flatten(self):
        keys = tuple(sorted(k for k in self if k not in self.STATIC))
        static = tuple((k, self[k]) for k in self.STATIC if k in self)
        return tuple(self[k] for k in keys), (keys, static)

    @classmethod
    def tree_unflatten(cls, aux, values):
        keys, static = aux
        return cls(zip(keys, values, strict=True)) | dict(static)

    def __or__(self, other):
        return type(self)({**self, **other})


class _Settings(NamedTuple):
    """Static arguments."""

    width: int
    height: int
    sh_degree: int | None
    render_mode: str
    rasterize_mode: str
    near_plane: float
    far_plane: float
    eps2d: float
    max_alpha: float
    tile_size: int
    capacity: int | None
    backend: str


class _Inputs(NamedTuple):
    """Arrays with the scene axes joined to one, S; None where absent."""

    means: jax.Array
    quats: jax.Array
    scales: jax.Array
    opacities: jax.Array
    colors: jax.Array | None
    viewmats: jax.Array
    Ks: jax.Array
    backgrounds: jax.Array | None
    means2d_probe: jax.Array | None


def rasterize(
    means: jax.Array,
    quats: jax.Array,
    scales: jax.Array,
    opacities: jax.Array,
    colors: jax.Array | None,
    viewmats: jax.Array,
    Ks: jax.Array,
    width: int,
    height: int,
    *,
    sh_degree: int | None = None,
    render_mode: str = "RGB",
    rasterize_mode: str = "classic",
    backgrounds: jax.Array | None = None,
    near_plane: float = 0.01,
    far_plane: float = 1e10,
    eps2d: float = 0.3,
    max_alpha: float = 0.99,
    tile_size: int | None = None,
    capacity: int | None = None,
    backend: str | None = None,
    means2d_probe: jax.Array | None = None,
) -> tuple[jax.Array, jax.Array, Meta]:
    """Renders C views of each scene. Names, shapes and defaults are those of gsplat.

    Works under jit, grad, vmap and shard_map; gradients reach every array, camera poses and
    intrinsics included. Leading axes ``...`` are scenes, the same in every array.

    Args:
      means: [..., N, 3] centres in world units.
      quats: [..., N, 4] rotations (w, x, y, z), normalised inside.
      scales: [..., N, 3] standard deviations in world units.
      opacities: [..., N] in [0, 1].
      colors: [..., N, X] or per view [..., C, N, X] values of any kind; or, with sh_degree, SH
        coefficients [..., N, K, 3], coloured as max(SH + 0.5, 0). May be None for 'D' and 'ED'.
      viewmats: [..., C, 4, 4] world to camera, OpenCV axes.
      Ks: [..., C, 3, 3] intrinsics in pixels; pixel (i, j) has its centre at (i + 0.5, j + 0.5).
      width, height: pixels.
      sh_degree: 0 to 4, at most the stored one.
      render_mode: 'RGB' (colors), 'D' (depth, sum of weight times z), 'ED' (expected depth, D /
        alpha), 'RGB+D', 'RGB+ED' (depth last).
      rasterize_mode: 'classic', or 'antialiased' (Mip-Splatting's 2D filter).
      backgrounds: [..., C, X] seen where alpha is below 1; that of depth is 0.
      near_plane, far_plane: Gaussians outside are culled by the depth of their centre.
      eps2d: low-pass added to the 2D variances, pixels squared.
      max_alpha: upper bound of a Gaussian's alpha. 0.99 as 3DGS and gsplat's main branch; gsplat
        1.5.3 has 0.999.
      tile_size: pixels along a tile; None = the backend's choice.
      capacity: entries of the tile lists held at once; None = the backend's choice. Scenes that need
        more are rendered in several passes: it decides memory and speed, never the image. See
        `plan_capacity`.
      backend: one of BACKENDS; None = xla_loop on CPU, xla_group elsewhere.
      means2d_probe: [..., C, N, 2] zeros, added to means2d: the gradient by it is the gradient by
        means2d, which density control looks at.

    Returns:
      image [..., C, H, W, X'], alpha [..., C, H, W, 1], and meta: radii [..., C, N, 2] int32 (0 =
      culled), means2d [..., C, N, 2], depths [..., C, N], num_pairs, num_passes, overflow (0 for
      backends with passes) and num_culled_nonfinite, int32 [..., C]; backend and tile_size as used.

    Raises:
      ValueError: an argument has the wrong shape or an unknown name.
      NotImplementedError: the backend is not part of this version.

    References:
      3D Gaussian Splatting, arXiv 2308.04079; Mip-Splatting, arXiv 2311.16493; gsplat, arXiv
      2409.06765.
    """
    names = (means, quats, scales, opacities, colors, viewmats, Ks, backgrounds, means2d_probe)
    inputs = _Inputs(*arguments.as_float_arrays(_Inputs(*names)._asdict()).values())
    batch, num, cameras = arguments.check_geometry(*inputs[:4], inputs.viewmats, inputs.Ks)
    sizes = (batch, num, cameras)
    arguments.check_colors(inputs.colors, sh_degree, render_mode, *sizes)
    channels = 3 if sh_degree is not None or colors is None else inputs.colors.shape[-1]
    arguments.check_extras(inputs.backgrounds, inputs.means2d_probe, channels, render_mode, *sizes)
    arguments.check_settings(
        width, height, rasterize_mode, near_plane, far_plane, eps2d, max_alpha, tile_size, capacity
    )
    name, _ = backends.choose(backend)
    settings = _Settings(
        int(width), int(height), sh_degree, render_mode, rasterize_mode, float(near_plane),
        float(far_plane), float(eps2d), float(max_alpha),
        int(tile_size or backends.default_tile_size(name)),
        None if capacity is None else int(capacity), name,
    )  # fmt: skip
    scenes = math.prod(batch)
    joined = jax.tree.map(lambda x: x.reshape(scenes, *x.shape[len(batch) :]), inputs)
    out = _render(settings, joined)
    return jax.tree.map(lambda x: x.reshape(*batch, *x.shape[1:]), out)


@functools.partial(jax.jit, static_argnums=0)
def _render(settings: _Settings, inputs: _Inputs):
    """All stages behind the checks; one leading scene axis."""
    good, inputs = _drop_nonfinite(settings, inputs)
    splats, nonfinite = _project(settings, inputs, good)
    features = _features(settings, inputs, splats)
    features = jnp.where(good[..., None], features, 0.0)

    def join(x):  # [S, C, ...] -> [I, ...]
        return x.reshape(x.shape[0] * x.shape[1], *x.shape[2:])

    blend = backends.load(settings.backend).blend
    color, transmittance, stats = blend(
        jax.tree.map(join, splats),
        join(features),
        width=settings.width,
        height=settings.height,
        max_alpha=settings.max_alpha,
        tile_size=settings.tile_size,
        capacity=settings.capacity,
    )
    views = splats.depths.shape[:2]
    color, transmittance, stats = jax.tree.map(
        lambda x: x.reshape(*views, *x.shape[1:]), (color, transmittance[..., None], stats)
    )
    image, alpha = _compose(settings, color, transmittance, inputs.backgrounds)
    meta = dict(radii=splats.radii, means2d=splats.means2d, depths=splats.depths, **stats)
    meta["num_culled_nonfinite"] = jnp.sum(nonfinite, -1, dtype=jnp.int32)
    static = dict(backend=settings.backend, tile_size=settings.tile_size)
    return image, alpha, Meta(meta | static)


def _drop_nonfinite(settings, inputs):
    """Which Gaussians [S, C, N] hold only finite numbers, and inputs with ones in place of others.

    Colours count too: a culled Gaussian's NaN would reach gradients through a product with zero.
    """
    geometry = inputs.means, inputs.quats, inputs.scales, inputs.opacities
    good = jax.vmap(projection.finite_rows)(*geometry)[:, None]
    colors = inputs.colors if "RGB" in settings.render_mode else None
    per_view = colors is not None and settings.sh_degree is None and colors.ndim == 4
    if colors is not None:
        axes = tuple(range(3 if per_view else 2, colors.ndim))
        finite = jnp.all(jnp.isfinite(jax.lax.stop_gradient(colors)), axes)
        good = good & (finite if per_view else finite[:, None])
        keep = good if per_view else good[:, 0]
        keep = keep.reshape(keep.shape + (1,) * (colors.ndim - keep.ndim))
        colors = jnp.where(keep, colors, 1.0)
    shape = (*inputs.viewmats.shape[:2], inputs.means.shape[1])
    finite_means = jnp.isfinite(jax.lax.stop_gradient(inputs.means))
    means = jnp.where(jnp.all(finite_means, -1, keepdims=True), inputs.means, 1.0)
    return jnp.broadcast_to(good, shape), inputs._replace(colors=colors, means=means)


def _project(settings, inputs, good):
    """Splats with leading axes [S, C], and [S, C, N] bool: culled because not finite."""

    def one(means, quats, scales, opacities, viewmat, K):
        return projection.project_and_flag(
            means, quats, scales, opacities, viewmat, K, settings.width, settings.height,
            near_plane=settings.near_plane, far_plane=settings.far_plane, eps2d=settings.eps2d,
            rasterize_mode=settings.rasterize_mode,
        )  # fmt: skip

    per_camera = jax.vmap(one, (None, None, None, None, 0, 0))
    geometry = inputs.means, inputs.quats, inputs.scales, inputs.opacities
    splats, nonfinite = jax.vmap(per_camera)(*geometry, inputs.viewmats, inputs.Ks)
    means2d = splats.means2d
    if inputs.means2d_probe is not None:
        means2d = means2d + inputs.means2d_probe
    radii = jnp.where(good[..., None], splats.radii, 0)
    return splats._replace(means2d=means2d, radii=radii), nonfinite | ~good


def _features(settings, inputs, splats):
    """[S, C, N, X'] what is blended."""
    parts = []
    if "RGB" in settings.render_mode:
        parts.append(_colors(settings, inputs, splats.depths.shape))
    if settings.render_mode != "RGB":
        parts.append(splats.depths[..., None])
    return jnp.concatenate(parts, -1)


def _colors(settings, inputs, shape):
    colors = inputs.colors
    if settings.sh_degree is not None:
        centers = camera_math.camera_centers(inputs.viewmats)
        directions = inputs.means[:, None] - centers[:, :, None]
        value = sh.eval_sh(settings.sh_degree, directions, colors[:, None])
        return jnp.maximum(value + 0.5, 0.0)
    per_view = colors if colors.ndim == 4 else colors[:, None]
    return jnp.broadcast_to(per_view, (*shape, colors.shape[-1]))


def _compose(settings, color, transmittance, backgrounds):
    """Background behind the colours, and depth divided by alpha for the expected depth."""
    alpha = 1 - transmittance
    depth = color[..., color.shape[-1] - (settings.render_mode != "RGB") :]
    color = color[..., : color.shape[-1] - depth.shape[-1]]
    if backgrounds is not None:
        color = color + transmittance * backgrounds[:, :, None, None]
    if settings.render_mode.endswith("ED"):
        depth = depth / jnp.maximum(alpha, 1e-10)
    return jnp.concatenate([color, depth], -1), alpha
