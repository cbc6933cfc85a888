"""Rows of the optimised arrays: which are free, what they hold, and what Adam remembers of them.

A scene of at most N Gaussians is a dict of arrays with N rows and a mask ``alive``, so that shapes
never change while Gaussians come and go. Which rows do so is decided in `mcmc` and `default`.

Fields, all with leading axis N: means [N, 3], log_scales [N, 3], quats [N, 4] (w x y z, any length),
logit_opacities [N], sh0 [N, 1, 3], shN [N, K - 1, 3]; each of Adam's moments is a dict of the same
fields. Scenes in a batch: vmap.
"""

import jax
import jax.numpy as jnp

Params = dict[str, jax.Array]

FIELDS = ("means", "log_scales", "quats", "logit_opacities", "sh0", "shN")
# What a free row holds: an opacity of 2e-9, far under the 1/255 that a renderer draws, and a small
# scale, so that it is culled even where the mask is forgotten, and regularisers see next to nothing.
FREE_LOGIT = -20.0
FREE_LOG_SCALE = -10.0


def check(params: Params, alive: jax.Array) -> int:
    """Returns N, or raises ValueError naming the field that is missing or does not have N rows."""
    missing = [name for name in FIELDS if name not in params]
    if missing:
        raise ValueError(
            f"params: found fields {sorted(params)}, expected {list(FIELDS)}; add {missing}"
        )
    num = jnp.shape(params["means"])[0]
    tails = {"means": (3,), "log_scales": (3,), "quats": (4,), "logit_opacities": (), "sh0": (1, 3)}
    for name, tail in tails.items():
        found = jnp.shape(params[name])
        if found != (num, *tail):
            raise ValueError(
                f"params[{name!r}]: found shape {list(found)}, expected {[num, *tail]}; vmap over "
                "scenes"
            )
    found = jnp.shape(params["shN"])
    if len(found) != 3 or (found[0], found[2]) != (num, 3):
        raise ValueError(f"params['shN']: found shape {list(found)}, expected [{num}, K - 1, 3]")
    if jnp.shape(alive) != (num,):
        raise ValueError(f"alive: found shape {list(jnp.shape(alive))}, expected [{num}]")
    return num


def expand(mask: jax.Array, like: jax.Array) -> jax.Array:
    """A mask [N] with the trailing axes of ``like`` [N, ...], each of length 1."""
    return mask.reshape(mask.shape + (1,) * (like.ndim - mask.ndim))


def take(params: Params, source: jax.Array) -> Params:
    """Row i of the result is row source[i] (int [N], within 0 .. N - 1) of every field."""
    # The indices are in range by construction; the bounds check of a gather would cost a pass.
    return {k: jnp.asarray(x).at[source].get(mode="promise_in_bounds") for k, x in params.items()}


def park(params: Params, free: jax.Array) -> Params:
    """Makes the rows with ``free`` [N] invisible; their other fields stay, finite or not.

    Centres that are not finite move to the origin, so that nothing computed from a free row is NaN.
    """
    means = jnp.where(jnp.isfinite(params["means"]), params["means"], 0.0)
    return params | {
        "means": jnp.where(free[:, None], means, params["means"]),
        "log_scales": jnp.where(free[:, None], FREE_LOG_SCALE, params["log_scales"]),
        "logit_opacities": jnp.where(free, FREE_LOGIT, params["logit_opacities"]),
    }


def zero_moments(moments, reset: jax.Array):
    """Zeroes the rows of optimiser state that belong to Gaussians made anew.

    Args:
      moments: any pytree of arrays with leading axis N, such as Adam's (mu, nu); its leaves without
        that axis (a step count) are returned as they are.
      reset: bool [N].

    Returns:
      The same pytree.
    """
    num = reset.shape[0]

    def clear(x):
        x = jnp.asarray(x)
        if x.ndim == 0 or x.shape[0] != num:
            return x
        return jnp.where(expand(reset, x), jnp.zeros((), x.dtype), x)

    return jax.tree.map(clear, moments)


def zero_opacity_moments(moments):
    """Zeroes all rows of ``logit_opacities`` in every dict of a pytree of moments; the rest stays.

    For `default.reset_opacity`: 3DGS forgets what Adam knew of the opacities, and of nothing else.
    """
    is_fields = lambda x: isinstance(x, dict) and "logit_opacities" in x  # noqa: E731

    def clear(x):
        if not is_fields(x):
            return x
        return x | {"logit_opacities": jnp.zeros_like(x["logit_opacities"])}

    return jax.tree.map(clear, moments, is_leaf=is_fields)
