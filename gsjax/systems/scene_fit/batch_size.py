"""How many objects a wave should have: as many as fit, unless fewer are as fast."""

import dataclasses
import json
import pathlib
import time

import jax
import jax.numpy as jnp
from absl import logging

from gsjax.core import sh
from gsjax.systems.scene_fit import many, state
from gsjax.systems.scene_fit.recipe import Recipe

FILE = "batch_size.json"
_MEMORY_SHARE = 0.8
_FAST_ENOUGH = 0.95  # of the best rate
_MOST = 256
MOST_IN_SEQUENCE = 16  # a program that fits one after the other gains nothing from more
_STEPS = 50
_CPU_BYTES = 2**31  # a device of a CPU has no memory of its own: a modest share


def choose(plan, folder) -> int:
    """The batch of a `factory.Plan`, measured once a folder and kind of device.

    Powers of two times the devices are timed as long as the compiler says that they fit; the smallest
    within 5 % of the best rate wins.
    """
    path, mesh = pathlib.Path(folder) / FILE, many.make_mesh()
    mode = plan.mode or many.default_mode()
    known = json.loads(path.read_text()) if path.exists() else {}
    name = f"{jax.devices()[0].device_kind} x {mesh.size}"
    if name in known:
        return known[name]["batch"]
    most = MOST_IN_SEQUENCE if mode == "map" else _MOST
    rates = measure(plan.recipe, plan.views, mesh, mode, most)
    if not rates:
        raise ValueError(
            f"no wave of even {mesh.size} objects fits into {limit_bytes()} bytes a device; lower the "
            "number of views, their size, or num_gaussians"
        )
    best = max(rates.values())
    batch = min(size for size, rate in rates.items() if rate >= _FAST_ENOUGH * best)
    logging.info("object-steps a second by batch: %s; chosen %d", rates, batch)
    known[name] = {"batch": batch, "object_steps_per_second": rates}
    path.write_text(json.dumps(known, indent=1))
    return batch


def measure(recipe: Recipe, views, mesh, mode: str, most: int) -> dict[int, float]:
    """Batch -> object-steps a second, for those that fit into memory."""
    recipe = dataclasses.replace(recipe, refine_every=_STEPS)
    size, rates = mesh.size, {}
    while size <= most:
        placed, current = many.place(_dummies(recipe, views, size), mesh)
        program = many.advance.lower(recipe, placed, current, _STEPS, mesh, mode).compile()
        if device_bytes(program) > limit_bytes():
            break
        # Arrays without elements come back on all devices; placed, they go in again.
        current = many.place(jax.block_until_ready(program(placed, current))[0], mesh)
        begin = time.perf_counter()
        jax.block_until_ready(program(placed, current))
        rates[size] = round(size * _STEPS / (time.perf_counter() - begin), 2)
        if len(rates) > 2 and rates[size] < 0.8 * max(rates.values()):
            break
        size *= 2
    return rates


def device_bytes(program) -> int:
    """What one device needs to run a compiled program, arguments included, as the compiler says."""
    stats = program.memory_analysis()
    total = sum(getattr(stats, f"{part}_size_in_bytes") for part in ("argument", "output", "temp"))
    return int(total - stats.alias_size_in_bytes)


def limit_bytes() -> int:
    """Bytes of a device that a wave may take."""
    stats = jax.devices()[0].memory_stats() or {}
    return int(_MEMORY_SHARE * stats.get("bytes_limit", _CPU_BYTES))


def _dummies(recipe, views, count):
    """A wave of made-up objects: a ball of Gaussians, seen as grey by every camera."""
    num, shape = recipe.num_gaussians, (count, views.num_views, views.height, views.width, 4)
    means = jax.random.normal(jax.random.key(0), (num, 3))
    means = means / jnp.linalg.norm(means, axis=-1, keepdims=True) * 0.6
    one = {
        "means": means, "log_scales": jnp.full((num, 3), jnp.log(1.2 / num**0.5)),
        "quats": jnp.zeros((num, 4)).at[:, 0].set(1), "logit_opacities": jnp.zeros(num),
        "sh0": jnp.zeros((num, 1, 3)), "shN": jnp.zeros((num, sh.num_coeffs(recipe.sh_degree) - 1, 3)),
    }  # fmt: skip
    params = jax.tree.map(lambda x: jnp.broadcast_to(x, (count, *x.shape)), one)
    viewmat = jnp.eye(4).at[2, 3].set(views.radius)
    focal = views.width / 2 / jnp.tan(jnp.deg2rad(views.fov) / 2)
    K = jnp.array([[focal, 0, views.width / 2], [0, focal, views.height / 2], [0, 0, 1]])
    repeat = lambda x: jnp.broadcast_to(x, (*shape[:2], *x.shape))  # noqa: E731
    data = state.Views(jnp.full(shape, 128, jnp.uint8), repeat(viewmat), repeat(K))
    alive = jnp.ones((count, num), bool)
    return data, many.begin(recipe, params, alive, data.viewmats, many.keys(0, jnp.arange(count)))
