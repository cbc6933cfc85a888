"""Many small scenes at once: one compiled program, all scenes in lock step, no exchange between devices.

Scenes share the recipe, the size of their pictures, their number of views and of rows, and see the
same view slots at the same steps; everything random comes from a scene's own key. So a scene's
result depends on neither its neighbours nor the number of devices. One whose gradient is not finite
stays as it was before that step (`FitState.ok`) while the others go on.

`mode` says how the scenes of one device are laid out: 'map' fits them one after the other within the
program (the same arithmetic as a single fit, hence the same bits, from two scenes a device on: of a
loop over one XLA makes something else; for CPU, where a small scene fills a core), 'vmap' side by side (accelerators, which one small scene does not fill).
"""

import functools

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from gsjax.systems.scene_fit import state as states
from gsjax.systems.scene_fit import steps
from gsjax.systems.scene_fit.recipe import Recipe

AXIS = "objects"
MODES = ("map", "vmap")


def default_mode() -> str:
    """'map' on CPU, 'vmap' elsewhere."""
    return "map" if jax.default_backend() == "cpu" else "vmap"


def make_mesh(devices=None) -> Mesh:
    """All devices of this process along one axis of objects."""
    devices = jax.local_devices() if devices is None else devices
    auto = (jax.sharding.AxisType.Auto,)
    return jax.make_mesh((len(devices),), (AXIS,), axis_types=auto, devices=devices)


def keys(seed: int, numbers) -> jax.Array:
    """One key a scene from its number in the collection: the same in every wave and shard."""
    return jax.vmap(lambda n: jax.random.fold_in(jax.random.key(seed), n))(jnp.asarray(numbers))


def begin(recipe: Recipe, params: dict, alive, viewmats, keys: jax.Array) -> states.FitState:
    """`state.begin` of B scenes: params of [B, N, ...], alive [B, N], viewmats [B, V, 4, 4], keys [B]."""
    return jax.vmap(functools.partial(states.begin, recipe))(params, alive, viewmats, keys)


@functools.partial(jax.jit, static_argnames=("recipe", "num", "mesh", "mode"), donate_argnums=2)
def advance(
    recipe: Recipe, views: states.Views, state: states.FitState, num: int, mesh: Mesh, mode: str
) -> tuple[states.FitState, dict]:
    """`steps.advance` of B scenes.

    Args:
      recipe: constants.
      views: leaves with a leading axis B, a multiple of the devices.
      state: leaves with a leading axis B; donated.
      num: steps.
      mesh: of `make_mesh`.
      mode: of `MODES`.

    Returns:
      The states, and metrics [B, num].

    Raises:
      ValueError: unknown mode, or the devices do not divide B.
    """
    if mode not in MODES:
        raise ValueError(f"mode: found {mode!r}, expected one of {', '.join(MODES)}")
    count = state.step.shape[0]
    if count % mesh.size:
        raise ValueError(
            f"state: found {count} scenes, expected a multiple of the {mesh.size} devices; repeat "
            "the last scene and drop its copies"
        )

    def one(views, state):
        return steps.advance(recipe, views, state, num)

    def share(views, state):
        if mode == "vmap":
            return jax.vmap(one)(views, state)
        return jax.lax.map(lambda scene: one(*scene), (views, state))

    split = P(AXIS)
    return jax.shard_map(
        share, mesh=mesh, in_specs=(split, split), out_specs=split, check_vma=False
    )(views, state)


def place(tree, mesh: Mesh):
    """Arrays with a leading axis of scenes, split over the devices."""
    return jax.device_put(tree, NamedSharding(mesh, P(AXIS)))


def fit(
    recipe: Recipe, views: states.Views, state: states.FitState, mesh: Mesh, mode: str
) -> tuple[states.FitState, dict]:
    """All steps of B scenes; metrics of the last chunk."""
    views, state, metrics = place(views, mesh), place(state, mesh), {}
    for _ in range(0, recipe.num_steps, recipe.refine_every):
        left = recipe.num_steps - int(state.step[0])
        num = min(recipe.refine_every, left)
        state, metrics = advance(recipe, views, state, num, mesh, mode)
        state = place(state, mesh)  # arrays without elements come back in another layout
    return state, metrics
