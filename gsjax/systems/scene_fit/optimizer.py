"""Adam with one learning rate a field, as 3DGS trains (arXiv 2308.04079, Sec. 7, gsplat's presets)."""

import math

import jax
import jax.numpy as jnp
import optax

from gsjax.systems.scene_fit.recipe import Recipe

EPS = 1e-15
_B1, _B2 = 0.9, 0.999


def lr_means(recipe: Recipe, step: jax.Array, scene_scale: jax.Array) -> jax.Array:
    """Learning rate of the means at a step: exponential decay over the run."""
    progress = jnp.minimum(step / recipe.num_steps, 1.0)
    scale = recipe.lr_means * math.sqrt(recipe.views_per_step) * scene_scale
    return scale * recipe.lr_means_final**progress


def learning_rates(recipe: Recipe, step: jax.Array, scene_scale: jax.Array) -> dict:
    """Learning rate of every field; sqrt(C) times larger with C views a step (gsplat)."""
    root = math.sqrt(recipe.views_per_step)
    decay = 0.01 ** jnp.minimum(step / recipe.num_steps, 1.0)
    constant = dict(
        log_scales=recipe.lr_scales, quats=recipe.lr_quats, logit_opacities=recipe.lr_opacities,
        sh0=recipe.lr_sh0, shN=recipe.lr_shN, exposure=recipe.lr_exposure,
    )  # fmt: skip
    rates = {name: jnp.float32(value * root) for name, value in constant.items()}
    rates["pose"] = recipe.lr_pose * root * decay
    return rates | {"means": lr_means(recipe, step, scene_scale)}


def adam(recipe: Recipe) -> optax.GradientTransformation:
    """Adam's direction; with C < 10 views a step its memory shortens C times (gsplat)."""
    views = recipe.views_per_step if recipe.views_per_step < 10 else 1
    return optax.scale_by_adam(
        1 - views * (1 - _B1), 1 - views * (1 - _B2), eps=EPS / math.sqrt(views)
    )
