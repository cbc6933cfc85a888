"""What a fit carries from step to step, and what it is fitted to."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from gsjax.systems.scene_fit import adjust, default, model, optimizer, rows
from gsjax.systems.scene_fit.recipe import Recipe


class Views(NamedTuple):
    """V photographs of one scene, all of one size.

    Attributes:
      images: uint8 [V, H, W, 3], or 4 with straight alpha.
      viewmats: [V, 4, 4] world to camera, OpenCV axes.
      Ks: [V, 3, 3] pixels.
      masks: bool [V, H, W], True where pixels count, or None.
      depths: [V, H, W] world units, 0 = unknown, or None.
    """

    images: jax.Array
    viewmats: jax.Array
    Ks: jax.Array
    masks: jax.Array | None = None
    depths: jax.Array | None = None

    @property
    def size(self) -> tuple[int, int]:
        """Width and height."""
        return self.images.shape[-2], self.images.shape[-3]

    def halved(self) -> "Views":
        """At half resolution: means of 2 x 2 pixels; an odd last row or column is left out.

        Colours count as much as their alpha: what a transparent pixel stores is seen nowhere.
        """
        width, height = (n // 2 * 2 for n in self.size)

        def half(x):
            x = jnp.asarray(x)[:, :height, :width]
            return x.reshape(-1, height // 2, 2, width // 2, 2, *x.shape[3:])

        images = half(self.images).astype(jnp.float32)
        if images.shape[-1] == 4:
            alpha = images[..., 3:]
            cover = jnp.sum(alpha, (2, 4))
            rgb = jnp.sum(images[..., :3] * alpha, (2, 4)) / jnp.where(cover > 0, cover, 1)
            images = jnp.concatenate([rgb, cover / 4], -1)
        else:
            images = jnp.mean(images, (2, 4))
        images = (images + 0.5).astype(jnp.uint8)
        factor = jnp.array([[0.5, 0.5, 0.5], [0.5, 0.5, 0.5], [1, 1, 1]], self.Ks.dtype)
        masks = None if self.masks is None else jnp.all(half(self.masks), (2, 4))
        depths = None if self.depths is None else half(self.depths)[:, :, 0, :, 0]
        return Views(images, self.viewmats, self.Ks * factor, masks, depths)


class FitState(NamedTuple):
    """A scene in the making; every leaf is an array.

    Attributes:
      params: fields of N rows, see `rows`.
      alive: bool [N].
      active: int32 [] rows in use (MCMC).
      opt: Adam's state of `params` and of `views`.
      views: {'pose' [V, 9], 'exposure' [V, 3, 4]}, see `adjust`.
      stats: what the default strategy gathers.
      filter3d: [N], see `model.smoothing_filter`; zeros without antialiasing.
      scene_scale: [] world units.
      step: int32 [] steps done.
      dropped: int32 [] Gaussians that found no free row at the last refinement.
      ok: bool []; False froze the fit: a gradient was not finite.
      key: uint32 key data of everything random.
    """

    params: rows.Params
    alive: jax.Array
    active: jax.Array
    opt: optax.ScaleByAdamState
    views: dict[str, jax.Array]
    stats: default.Stats
    filter3d: jax.Array
    scene_scale: jax.Array
    step: jax.Array
    dropped: jax.Array
    ok: jax.Array
    key: jax.Array


def begin(recipe: Recipe, params, alive, viewmats, key: jax.Array) -> FitState:
    """The state before the first step.

    Args:
      recipe: constants.
      params, alive: from `start`, N rows.
      viewmats: [V, 4, 4] of the training views.
      key: of this scene; fold its number in, so that results do not depend on its neighbours.
    """
    params = {k: jnp.asarray(v, jnp.float32) for k, v in params.items()}
    alive = jnp.asarray(alive)
    num = rows.check(params, alive)
    views = adjust.zeros(viewmats.shape[0])
    opt = optimizer.adam(recipe).init(params | views)
    return FitState(
        params=params, alive=alive, active=jnp.sum(alive, dtype=jnp.int32), opt=opt, views=views,
        stats=default.Stats.empty(num), filter3d=jnp.zeros(num),
        scene_scale=jnp.asarray(model.scene_scale(viewmats), jnp.float32), step=jnp.int32(0),
        dropped=jnp.int32(0), ok=jnp.array(True), key=jax.random.key_data(key),
    )  # fmt: skip
