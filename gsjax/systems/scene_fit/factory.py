"""The data factory: a collection of meshes to a folder of fitted objects, wave by wave.

A wave is B objects of one compiled program (`many`). While it is fitted, the views of the next are
rendered. What is written is what `data.fitted` reads; an interrupted run loses one wave at most, and
running the same command again does the rest. Shards take every n-th object and share the folder.
"""

import dataclasses
import itertools
import time
from collections.abc import Callable, Iterator, Sequence

import jax
import numpy as np
from absl import logging

from gsjax.data import fitted, mesh_views, stream
from gsjax.io import meshes
from gsjax.systems.scene_fit import evaluate, many, model, start
from gsjax.systems.scene_fit.recipe import Recipe
from gsjax.systems.scene_fit.state import Views

# Objaverse recipe (CLIP-GS, arXiv 2412.19142: 5,000 steps, SH 0, Gaussians begin at a cloud of the mesh).
# The mesh is known, so Gaussians begin as opaque discs on it.
PAPER = Recipe(
    strategy="mcmc", num_steps=5_000, num_gaussians=4_096, sh_degree=0, refine_start=500,
    refine_stop=4_000, background="random", lr_means=5e-4, init_opacity=0.9, init_scale=0.6,
    noise_lr=5e3,
)  # fmt: skip
# A tenth of the steps, at higher learning rates.
FAST = dataclasses.replace(
    PAPER, num_steps=500, refine_start=100, refine_stop=400, lr_means=1e-3, lr_sh0=1e-2,
    lr_scales=1e-2, lr_quats=5e-3, noise_lr=0.0,
)  # fmt: skip
RECIPES = {"fast": FAST, "paper": PAPER}


@dataclasses.dataclass(frozen=True)
class Item:
    """An object to fit: its number in the collection, what it is (see `fitted.Fitted`), its mesh."""

    number: int
    about: dict
    mesh: Callable[[], meshes.Mesh]


@dataclasses.dataclass(frozen=True)
class Plan:
    """How objects are fitted.

    Attributes:
      recipe: constants of the fit.
      views: cameras and look of the training views.
      num_held_out: views between these that are kept for scores.
      batch: objects of a wave.
      mode: of `many.MODES`.
    """

    recipe: Recipe
    views: mesh_views.ViewRecipe
    num_held_out: int = 6
    batch: int = 8
    mode: str = ""

    def identity(self, collection: str) -> dict:
        """What decides the result; the size of a wave does not."""
        return {
            "version": fitted.VERSION, "collection": collection,
            "recipe": dataclasses.asdict(self.recipe), "views": repr(self.views),
            "held_out": self.num_held_out,
        }  # fmt: skip


def view_recipe(num_views: int, size: int) -> mesh_views.ViewRecipe:
    """Views on three rings that hold the bounding sphere whole, lit as `mesh_views.OBJAVERSE`."""
    path = mesh_views.Rings(azimuths=num_views // 3, elevations=(-20.0, 10.0, 40.0))
    return dataclasses.replace(
        mesh_views.OBJAVERSE, path=path, radius=2.8, fov=45.0, width=size, height=size
    )


def shard_of(items: Sequence[Item], shard: int, num_shards: int) -> list[Item]:
    """Every num_shards-th object, from the shard's own on.

    Raises:
      ValueError: not 0 <= shard < num_shards.
    """
    if not 0 <= shard < num_shards:
        raise ValueError(f"shard: found {shard} of {num_shards}, expected 0 <= shard < num_shards")
    return list(items[shard::num_shards])


def run(
    items: Sequence[Item],
    folder,
    plan: Plan,
    *,
    stop: Callable[[], bool] = lambda: False,
    mesh: jax.sharding.Mesh | None = None,
) -> dict[str, float]:
    """Fits what the folder does not hold yet.

    Args:
      items: of this shard.
      folder: where waves are written; `fitted.check_identity` has been called.
      plan: how.
      stop: asked after every wave; True ends the run there.
      mesh: of `many.make_mesh`; None = all devices of this process.

    Returns:
      Counts and rates: fitted, failed, left, seconds, objects_per_minute, psnr (mean held-out).
    """
    mesh = many.make_mesh() if mesh is None else mesh
    # Two a device at least: XLA compiles a loop of one in another way, with other roundings.
    batch = -(-max(plan.batch, 2 * mesh.size) // mesh.size) * mesh.size
    known = fitted.finished(folder) | set(fitted.failed(folder))
    waiting = [item for item in items if item.number not in known]
    begin, scores, failures = time.monotonic(), [], 0
    prepared = stream.ordered(waiting, lambda item: _prepare(item, plan), ahead=batch)
    for wave in _waves(prepared, batch):
        sound = []
        for ready in wave:
            if isinstance(ready.views, str):
                fitted.add_failure(folder, ready.item.number, ready.item.about["uid"], ready.views)
                failures += 1
            else:
                sound.append(ready)
        if sound:
            objects = _fit_wave(sound, plan, mesh, batch)
            for ready, result in zip(sound, objects, strict=True):
                if result is None:
                    reason = "diverged: a gradient was not finite"
                    fitted.add_failure(folder, ready.item.number, ready.item.about["uid"], reason)
                    failures += 1
            done = [result for result in objects if result is not None]
            if done:
                fitted.write_wave(folder, done)
                scores += [result.scores["psnr"] for result in done]
        elapsed = time.monotonic() - begin
        logging.info(
            "%d of %d objects, %d failed, %.1f a minute, held-out PSNR %.2f dB", len(scores),
            len(waiting), failures, 60 * len(scores) / elapsed, np.mean(scores) if scores else 0,
        )  # fmt: skip
        if stop():
            break
    seconds = time.monotonic() - begin
    return {
        "fitted": len(scores), "failed": failures,
        "left": len(waiting) - len(scores) - failures, "seconds": seconds,
        "objects_per_minute": 60 * len(scores) / max(seconds, 1e-9),
        "psnr": float(np.mean(scores)) if scores else float("nan"),
    }  # fmt: skip


@dataclasses.dataclass(frozen=True)
class _Ready:
    """An item with its views (or the reason why there are none) and first Gaussians."""

    item: Item
    views: Views | str
    held_out: Views | None = None
    params: dict | None = None
    alive: np.ndarray | None = None


def _prepare(item: Item, plan: Plan) -> _Ready:
    """Renders the views of one object and samples its surface."""
    try:
        mesh = item.mesh()
        train = mesh_views.render_views(mesh, plan.views)
        viewmats, Ks = mesh_views.held_out_cameras(plan.views, plan.num_held_out)
        held_out = mesh_views.render_views(mesh, plan.views, viewmats=viewmats, Ks=Ks)
        placed, recipe = mesh_views.framed(mesh, plan.views), plan.recipe
        points, normals, rgb = meshes.sample_surface(placed, recipe.num_gaussians, item.number)
        params, alive = start.from_points(
            points, rgb, recipe.num_gaussians, sh_degree=recipe.sh_degree,
            opacity=recipe.init_opacity, scale=recipe.init_scale, normals=normals, seed=item.number,
        )  # fmt: skip
    except (ValueError, OSError) as error:
        return _Ready(item, str(error))
    return _Ready(item, _as_views(train), _as_views(held_out), params, alive)


def _as_views(views: dict) -> Views:
    return Views(views["images"], views["viewmats"], views["Ks"])


def _waves(ready: Iterator[_Ready], size: int) -> Iterator[list[_Ready]]:
    while wave := list(itertools.islice(ready, size)):
        yield wave


def _fit_wave(wave: list[_Ready], plan: Plan, mesh, batch: int) -> list[fitted.Fitted | None]:
    """Results of a wave, None for an object that diverged. Short waves are filled up with copies."""
    full = wave + [wave[-1]] * (batch - len(wave))
    numbers = np.array([ready.item.number for ready in full])
    views = _stacked([ready.views for ready in full])
    state = many.begin(
        plan.recipe, _stacked([r.params for r in full]), np.stack([r.alive for r in full]),
        views.viewmats, many.keys(plan.recipe.seed, numbers),
    )  # fmt: skip
    state, _ = many.fit(plan.recipe, views, state, mesh, plan.mode or many.default_mode())
    state = jax.device_get(state)
    return [_result(plan, ready, state, place) for place, ready in enumerate(wave)]


def _stacked(trees):
    return jax.tree.map(lambda *leaves: np.stack(leaves), *trees)


def _result(plan, ready, state, place) -> fitted.Fitted | None:
    one = jax.tree.map(lambda x: x[place], state)
    if not one.ok:
        return None
    scores = evaluate.scores(plan.recipe, one, ready.held_out)
    raw = model.compact(one.params, one.alive, plan.recipe.min_opacity)
    gaussians = {name: np.asarray(getattr(raw, name)) for name in fitted.FIELDS}
    scores["gaussians"] = len(gaussians["means"])
    return fitted.Fitted(ready.item.number, ready.item.about, gaussians, scores)
