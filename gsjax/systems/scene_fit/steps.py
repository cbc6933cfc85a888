"""One optimiser step, one refinement, and `advance`: the compiled chunk between two refinements.

All pure, of one scene; `many` maps them over scenes. A chunk is `refine_every` steps, so that
density control sits between chunks and costs nothing within.
"""

import jax
import jax.numpy as jnp
from jax import lax

from gsjax.systems.scene_fit import adjust, default, losses, mcmc, model, optimizer, rows
from gsjax.systems.scene_fit.recipe import Recipe
from gsjax.systems.scene_fit.state import FitState, Views

_BACKGROUNDS = {"white": 1.0, "black": 0.0}
_FILTER_FROZEN = 0.9  # the 3D filter no longer changes in the last tenth of a run


def advance(recipe: Recipe, views: Views, state: FitState, num: int) -> tuple[FitState, dict]:
    """`num` steps, then a refinement if one is due.

    Args:
      recipe: constants, static.
      views: training views.
      state: of one scene.
      num: static; steps of density control are multiples of recipe.refine_every, so chunks should
        end there.

    Returns:
      The state, and float32 [num] each: loss, psnr (of the views of the step).
    """
    if recipe.antialiased:
        frozen = state.step >= _FILTER_FROZEN * recipe.num_steps
        fresh = model.smoothing_filter(state.params["means"], views.viewmats, views.Ks, *views.size)
        state = state._replace(filter3d=jnp.where(frozen, state.filter3d, fresh))
    state, metrics = lax.scan(lambda s, _: one_step(recipe, views, s), state, length=num)
    return refine(recipe, state), metrics


def one_step(recipe: Recipe, views: Views, state: FitState) -> tuple[FitState, dict]:
    """Draws views, follows their gradient, and adds the noise of MCMC."""
    keys = jax.random.split(jax.random.fold_in(_key(state), state.step), 2)
    chosen = view_numbers(recipe, state.step, views.images.shape[0])
    batch = jax.tree.map(lambda x: x[chosen], views)
    probe = jnp.zeros((recipe.views_per_step, state.alive.shape[0], 2))
    values = (state.params, state.views, probe)
    grad = jax.value_and_grad(_loss, argnums=2, has_aux=True)
    (loss, (mse, radii)), grads = grad(recipe, (batch, chosen, keys[0], state), values)
    after = _updated(recipe, state, grads)
    if recipe.strategy == "default":
        stats = default.accumulate(state.stats, grads[2], radii, *views.size)
        after = after._replace(stats=stats)
    else:
        rate = optimizer.lr_means(recipe, state.step, state.scene_scale)
        noisy = mcmc.add_noise(
            keys[1],
            after.params,
            after.alive,
            rate,
            recipe.noise_lr,
            min_opacity=recipe.min_opacity,
        )
        after = after._replace(params=noisy)
    # Parameters, too: a Gaussian that is NaN is culled, and has no gradient that would tell.
    finite = state.ok & _all_finite((loss, grads[0], grads[1], after.params))
    after = jax.tree.map(lambda a, b: jnp.where(finite, a, b), after, state)
    after = after._replace(step=state.step + 1, ok=finite)
    return after, {"loss": loss, "psnr": -10 * jnp.log10(jnp.maximum(mse, 1e-10))}


def view_numbers(recipe: Recipe, step: jax.Array, num_views: int) -> jax.Array:
    """int32 [C]: the views of a step, in a new random order every epoch; the same for all scenes."""
    place = step * recipe.views_per_step + jnp.arange(recipe.views_per_step)
    key = jax.random.key(recipe.seed)

    def one(place):
        order = jax.random.permutation(jax.random.fold_in(key, place // num_views), num_views)
        return order[place % num_views]

    return jax.vmap(one)(place)


def _key(state):
    return jax.random.wrap_key_data(state.key)


def _all_finite(tree):
    return jnp.all(jnp.stack([jnp.all(jnp.isfinite(x)) for x in jax.tree.leaves(tree)]))


def _loss(recipe, fixed, values):
    """Loss, and mean squared error of the pixels that count and radii [C, N, 2]."""
    (batch, chosen, key, state), (params, of_views, probe) = fixed, values
    width, height = batch.images.shape[2], batch.images.shape[1]
    backgrounds = _backgrounds(recipe, key)
    target = _target(batch.images, backgrounds)
    scene = model.activated(
        params, state.alive, sh_active=jnp.minimum(state.step // recipe.sh_every, recipe.sh_degree),
        filter3d=state.filter3d if recipe.antialiased else None,
    )  # fmt: skip
    viewmats = batch.viewmats
    if recipe.lr_pose:
        viewmats = adjust.moved(viewmats, of_views["pose"][chosen])
    with_depth = recipe.depth_reg > 0 and batch.depths is not None
    probes = {"absgrad_probe" if recipe.absgrad else "means2d_probe": probe}
    image, alpha, meta = model.render(
        scene, viewmats, batch.Ks, width, height, backgrounds,
        rasterize_mode="antialiased" if recipe.antialiased else "classic",
        render_mode="RGB+ED" if with_depth else "RGB",
        **(probes if recipe.strategy == "default" else {}),
    )  # fmt: skip
    color = image[..., :3]
    if recipe.lr_exposure:
        color = adjust.exposed(color, of_views["exposure"][chosen])
    loss = losses.photometric(color, target, batch.masks, ssim=recipe.ssim)
    if recipe.opacity_reg or recipe.scale_reg:
        opacity, scale = losses.regularizers(scene.opacities, scene.scales, state.alive)
        loss += recipe.opacity_reg * opacity + recipe.scale_reg * scale
    if with_depth:
        depth = losses.disparity(image[..., 3], batch.depths, alpha[..., 0], state.scene_scale)
        loss += recipe.depth_reg * depth
    error = jnp.mean((jnp.clip(color, 0, 1) - target) ** 2, -1)
    kept = jnp.ones_like(error) if batch.masks is None else batch.masks.astype(error.dtype)
    mse = jnp.sum(error * kept) / jnp.maximum(jnp.sum(kept), 1)
    return loss, (mse, meta["radii"])


def _backgrounds(recipe, key):
    if recipe.background == "random":
        return jax.random.uniform(key, (recipe.views_per_step, 3))
    return jnp.full((recipe.views_per_step, 3), _BACKGROUNDS[recipe.background])


def _target(images, backgrounds):
    """uint8 [C, H, W, 3 or 4] -> [C, H, W, 3] on the backgrounds [C, 3]."""
    images = images.astype(jnp.float32) / 255
    if images.shape[-1] == 3:
        return images
    alpha = images[..., 3:]
    return images[..., :3] * alpha + backgrounds[:, None, None] * (1 - alpha)


def _updated(recipe, state, grads):
    values = state.params | state.views
    direction, opt = optimizer.adam(recipe).update(grads[0] | grads[1], state.opt, values)
    rates = optimizer.learning_rates(recipe, state.step, state.scene_scale)
    values = {name: x - rates[name] * direction[name] for name, x in values.items()}
    return state._replace(
        params={k: values[k] for k in state.params},
        opt=opt,
        views={k: values[k] for k in state.views},
    )


# Density control ----------------------------------------------------------------------------------


def refine(recipe: Recipe, state: FitState) -> FitState:
    """What is due after state.step steps."""
    step, key = state.step, jax.random.fold_in(_key(state), 2**30 + state.step)
    if recipe.strategy == "mcmc":
        due = (step > recipe.refine_start) & (step < recipe.refine_stop)
        due = due & (step % recipe.refine_every == 0) & state.ok
        return lax.cond(due, lambda s: _refine_mcmc(recipe, s, key), lambda s: s, state)
    config = default_config(recipe)
    due = default.refine_due(step, config) & state.ok
    state = lax.cond(due, lambda s: _refine_default(config, s, key), lambda s: s, state)
    due = default.reset_due(step, config) & state.ok
    return lax.cond(due, lambda s: _reset_opacity(config, s), lambda s: s, state)


def default_config(recipe: Recipe) -> default.DefaultConfig:
    """Constants of the default strategy."""
    return default.DefaultConfig(
        grow_grad2d=recipe.grow_grad, prune_opacity=recipe.min_opacity,
        refine_start=recipe.refine_start, refine_stop=recipe.refine_stop,
        refine_every=recipe.refine_every, reset_every=recipe.reset_every,
    )  # fmt: skip


def _refine_mcmc(recipe, state, key):
    keys = jax.random.split(key)
    params, alive, moved = mcmc.relocate(
        keys[0], state.params, state.alive, state.active, recipe.min_opacity
    )
    target = mcmc.next_active(state.active, recipe.num_gaussians)
    params, alive, active, new = mcmc.grow(
        keys[1], params, alive, state.active, target, recipe.min_opacity
    )
    return _replaced(state._replace(params=params, alive=alive, active=active), moved | new)


def _refine_default(config, state, key):
    params, alive, stats, reset, dropped = default.refine(
        key, state.params, state.alive, state.stats, config, state.step, state.scene_scale
    )
    state = state._replace(params=params, alive=alive, stats=stats, dropped=dropped)
    return _replaced(state, reset)


def _reset_opacity(config, state):
    params = default.reset_opacity(state.params, state.alive, config.reset_value)
    mu, nu = (rows.zero_opacity_moments(x) for x in (state.opt.mu, state.opt.nu))
    return state._replace(params=params, opt=state.opt._replace(mu=mu, nu=nu))


def _replaced(state, reset):
    """Forgets what Adam knew of new rows."""

    def cleared(moments):
        kept = {k: moments[k] for k in state.views}
        return rows.zero_moments({k: moments[k] for k in state.params}, reset) | kept

    mu, nu = cleared(state.opt.mu), cleared(state.opt.nu)
    return state._replace(opt=state.opt._replace(mu=mu, nu=nu))
