"""The stages that all rendering functions share: drop what is not finite, project, colour.

Arrays have one scene axis S and, where they depend on the view, one axis of cameras C after it.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from gsjax.core import cameras as camera_math
from gsjax.core import sh
from gsjax.raster import arguments
from gsjax.raster import project as projection


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


class Projected(NamedTuple):
    """What a scene is in its views.

    Attributes:
      splats: leading axes [S, C].
      features: [S, C, N, X'] what is blended.
      nonfinite: [S, C, N] bool, culled because not finite.
    """

    splats: projection.Splats
    features: jax.Array
    nonfinite: jax.Array


def projected(settings: arguments.Settings, inputs: arguments.Inputs) -> Projected:
    """Splats and features of all views; rows that are not finite are culled and harmless."""
    good, inputs = _drop_nonfinite(settings, inputs)
    splats, nonfinite = _project(settings, inputs, good)
    features = _features(settings, inputs, splats)
    return Projected(splats, jnp.where(good[..., None], features, 0.0), nonfinite)


def join_views(x: jax.Array) -> jax.Array:
    """[S, C, ...] -> [I, ...], images as backends take them."""
    return x.reshape(x.shape[0] * x.shape[1], *x.shape[2:])


def split_views(tree, views: tuple[int, int]):
    """Inverse of `join_views` for all arrays of a pytree."""
    return jax.tree.map(lambda x: x.reshape(*views, *x.shape[1:]), tree)


def _geometry(inputs):
    """means, (quats, scales, covars), opacities; None where absent."""
    return inputs.means, (inputs.quats, inputs.scales, inputs.covars), inputs.opacities


def _drop_nonfinite(settings, inputs):
    """Which Gaussians [S, C, N] hold only finite numbers, and inputs with ones in place of others.

    Colours count too: a culled Gaussian's NaN would reach gradients through a product with zero.
    """
    good = jax.vmap(projection.finite_rows)(*jax.tree.leaves(_geometry(inputs)))[:, None]
    colors = inputs.colors if "RGB" in settings.render_mode else None
    per_view = colors is not None and arguments.has_views(settings, colors)
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

    def one(means, shapes, opacities, viewmat, K, radial, tangential):
        quats, scales, covars = shapes
        return projection.project_and_flag(
            means, quats, scales, opacities, viewmat, K, settings.width, settings.height,
            covars=covars, near_plane=settings.near_plane, far_plane=settings.far_plane,
            radius_clip=settings.radius_clip, eps2d=settings.eps2d,
            rasterize_mode=settings.rasterize_mode, camera_model=settings.camera_model,
            radial_coeffs=radial, tangential_coeffs=tangential,
        )  # fmt: skip

    cameras = inputs.viewmats, inputs.Ks, inputs.radial_coeffs, inputs.tangential_coeffs
    per_camera = jax.vmap(one, (None, None, None, 0, 0, 0, 0))
    splats, nonfinite = jax.vmap(per_camera)(*_geometry(inputs), *cameras)
    means2d = splats.means2d
    if inputs.means2d_probe is not None:
        means2d = means2d + inputs.means2d_probe
    radii = jnp.where(good[..., None], splats.radii, 0)
    return splats._replace(means2d=means2d, radii=radii), nonfinite | ~good


def _features(settings, inputs, splats):
    """[S, C, N, X'] what is blended. A selected depth alone blends depth, for want of anything."""
    parts = []
    if "RGB" in settings.render_mode:
        parts.append(_colors(settings, inputs, splats.depths.shape))
    if settings.render_mode not in ("RGB", "RGB+MD", "RGB+FD"):
        parts.append(splats.depths[..., None])
    return jnp.concatenate(parts, -1)


def _colors(settings, inputs, shape):
    per_view = arguments.has_views(settings, inputs.colors)
    colors = inputs.colors if per_view else inputs.colors[:, None]
    if settings.sh_degree is not None:
        centers = camera_math.camera_centers(inputs.viewmats)
        directions = inputs.means[:, None] - centers[:, :, None]
        value = sh.eval_sh(settings.sh_degree, directions, colors)
        return jnp.maximum(value + 0.5, 0.0)
    return jnp.broadcast_to(colors, (*shape, colors.shape[-1]))


def compose(
    settings: arguments.Settings,
    color: jax.Array,
    transmittance: jax.Array,
    backgrounds: jax.Array | None,
    selected: jax.Array | None = None,
) -> tuple[jax.Array, jax.Array]:
    """Background behind the colours, and the depth that the mode asks for.

    Args:
      settings: of the call.
      color: [S, C, ..., X'] blended features, the axes between being pixels.
      transmittance: [S, C, ..., 1].
      backgrounds: [S, C, X] or None.
      selected: [S, C, ..., 1] depth of the selected Gaussian, for 'MD' and 'FD'.

    Returns:
      image [S, C, ..., X''] and alpha [S, C, ..., 1].
    """
    alpha = 1 - transmittance
    parts = []
    if "RGB" in settings.render_mode:
        blended = settings.render_mode in ("RGB+D", "RGB+ED")
        parts.append(color[..., : color.shape[-1] - blended])
        if backgrounds is not None:
            between = (1,) * (color.ndim - 3)
            backgrounds = backgrounds.reshape(*backgrounds.shape[:2], *between, -1)
            parts[0] = parts[0] + transmittance * backgrounds
    if selected is not None:
        parts.append(selected)
    elif settings.render_mode.endswith("ED"):
        parts.append(color[..., -1:] / jnp.maximum(alpha, 1e-10))
    elif settings.render_mode != "RGB":
        parts.append(color[..., -1:])
    return jnp.concatenate(parts, -1), alpha


def meta(settings: arguments.Settings, scene: Projected, stats: dict) -> Meta:
    """What is returned beside the image; stats are those of the backend, [S, C] each."""
    splats = scene.splats
    values = dict(radii=splats.radii, means2d=splats.means2d, depths=splats.depths, **stats)
    values["num_culled_nonfinite"] = jnp.sum(scene.nonfinite, -1, dtype=jnp.int32)
    return Meta(values | dict(backend=settings.backend, tile_size=settings.tile_size))
