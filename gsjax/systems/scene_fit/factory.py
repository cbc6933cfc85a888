"""The data factory: a collection of meshes to a folder of fitted objects, wave by wave.

A wave is B objects of one compiled program (`many`). While it is fitted, the views of the next are
rendered. What is written is what `data.fitted` reads; an interrupted run loses one wave at most, and
running the same command again does the rest. Shards take every n-th object and share the folder.

An object whose gradient is not finite is noted in ``diverged.jsonl`` and fitted once more, at half the
learning rates, after all others; its record then scores ``retried: 1``. A second failure is final.
"""

import dataclasses
import itertools
import json
import pathlib
import time
from collections.abc import Callable, Iterator, Sequence

import jax
import numpy as np
from absl import logging

from gsjax.data import fitted, mesh_views, stream
from gsjax.data.mesh_collections import Item
from gsjax.io import meshes
from gsjax.systems.scene_fit import evaluate, many, model, modelnet, start
from gsjax.systems.scene_fit.recipe import Recipe
from gsjax.systems.scene_fit.state import FitState, Views

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
RECIPES = {"fast": FAST, "paper": PAPER, **modelnet.RECIPES}
DIVERGED = "diverged.jsonl"


@dataclasses.dataclass(frozen=True)
class Plan:
    """How objects are fitted.

    Attributes:
      recipe: constants of the fit.
      views: cameras and look of the training views.
      num_held_out: views between these that are kept for scores.
      batch: objects of a wave.
      mode: of `many.MODES`.
      retried: 1 where these are objects that diverged before; becomes a score.
    """

    recipe: Recipe
    views: mesh_views.ViewRecipe
    num_held_out: int = 6
    batch: int = 8
    mode: str = ""
    retried: int = 0

    def identity(self, collection: str) -> dict:
        """What decides the result; the size of a wave does not. Of the plan of a first attempt."""
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
    """Fits what the folder does not hold yet, then once more what diverged.

    Args:
      items: of this shard.
      folder: where waves are written; `fitted.check_identity` has been called.
      plan: how.
      stop: asked after every wave; True ends the run there.
      mesh: of `many.make_mesh`; None = all devices of this process.

    Returns:
      Counts and rates: fitted, retried (of these), failed, left, seconds, objects_per_minute, psnr
      (mean held-out).
    """
    mesh = many.make_mesh() if mesh is None else mesh
    known = fitted.finished(folder) | set(fitted.failed(folder))
    waiting = [item for item in items if item.number not in known]
    once = diverged(folder)
    tally = _Tally(len(waiting))
    fresh = [item for item in waiting if item.number not in once]
    stopped = _pass(fresh, folder, plan, mesh, stop, tally, _note_diverged)
    once = diverged(folder) - set(fitted.failed(folder))
    again = [item for item in waiting if item.number in once]
    if again and not stopped:
        logging.info("%d objects diverged: once more, at half the learning rates", len(again))
        _pass(again, folder, gentler(plan, len(again)), mesh, stop, tally, _note_failed)
    return tally.result()


def gentler(plan: Plan, count: int) -> Plan:
    """How `count` objects that diverged are tried again: all learning rates halved."""
    rates = [f.name for f in dataclasses.fields(Recipe) if f.name.startswith("lr_")]
    halved = {name: getattr(plan.recipe, name) / 2 for name in rates if name != "lr_means_final"}
    recipe = dataclasses.replace(plan.recipe, **halved)
    return dataclasses.replace(plan, recipe=recipe, batch=min(plan.batch, count), retried=1)


@dataclasses.dataclass
class _Tally:
    """What a run has done so far."""

    waiting: int
    retried: int = 0
    failed: int = 0
    scores: list = dataclasses.field(default_factory=list)
    begin: float = dataclasses.field(default_factory=time.monotonic)

    def log(self) -> None:
        logging.info(
            "%d of %d objects, %d failed, %.1f a minute, held-out PSNR %.2f dB", len(self.scores),
            self.waiting, self.failed, self.result()["objects_per_minute"],
            np.mean(self.scores) if self.scores else 0,
        )  # fmt: skip

    def result(self) -> dict[str, float]:
        seconds, done = time.monotonic() - self.begin, len(self.scores)
        return {
            "fitted": done, "retried": self.retried, "failed": self.failed,
            "left": self.waiting - done - self.failed, "seconds": seconds,
            "objects_per_minute": 60 * done / max(seconds, 1e-9),
            "psnr": float(np.mean(self.scores)) if done else float("nan"),
        }  # fmt: skip


def _pass(items, folder, plan, mesh, stop, tally, on_divergence) -> bool:
    """All waves of these items; True if `stop` said so.

    on_divergence: (folder, item, tally) -> None, told of every object whose fit was frozen.
    """
    # Two a device at least: XLA compiles a loop of one in another way, with other roundings.
    batch = -(-max(plan.batch, 2 * mesh.size) // mesh.size) * mesh.size
    prepared = stream.ordered(items, lambda item: prepare(item, plan), ahead=batch)
    for wave in _waves(prepared, batch):
        sound = [ready for ready in wave if not isinstance(ready.views, str)]
        for ready in wave:
            if isinstance(ready.views, str):
                fitted.add_failure(folder, ready.item.number, ready.item.about["uid"], ready.views)
                tally.failed += 1
        objects = _fit_wave(sound, plan, mesh, batch) if sound else []
        done = [result for result in objects if result is not None]
        if done:
            fitted.write_wave(folder, done)
            tally.scores += [result.scores["psnr"] for result in done]
            tally.retried += plan.retried * len(done)
        for ready, result in zip(sound, objects, strict=True):
            if result is None:
                on_divergence(folder, ready.item, tally)
        tally.log()
        if stop():
            return True
    return False


def diverged(folder) -> set[int]:
    """Numbers of the objects whose first fit diverged; a line cut short by a kill is left out."""
    path, found = pathlib.Path(folder) / DIVERGED, set()
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            found.add(json.loads(line)["number"])
        except json.JSONDecodeError:
            continue
    return found


def _note_diverged(folder, item, tally) -> None:
    """To be tried again: neither this run nor the next begins with it at the full rates."""
    del tally
    with open(pathlib.Path(folder) / DIVERGED, "a") as file:
        file.write(json.dumps({"number": item.number, "uid": item.about["uid"]}) + "\n")


def _note_failed(folder, item, tally) -> None:
    reason = "diverged twice: a gradient was not finite, nor at half the learning rates"
    fitted.add_failure(folder, item.number, item.about["uid"], reason)
    tally.failed += 1


@dataclasses.dataclass(frozen=True)
class Ready:
    """An item with its views (or the reason why there are none) and first Gaussians."""

    item: Item
    views: Views | str
    held_out: Views | None = None
    params: dict | None = None
    alive: np.ndarray | None = None


def prepare(item: Item, plan: Plan) -> Ready:
    """Renders the views of one object and samples its surface."""
    try:
        mesh = item.mesh()
        train = mesh_views.render_views(mesh, plan.views)
        viewmats, Ks = mesh_views.held_out_cameras(plan.views, plan.num_held_out)
        held_out = mesh_views.render_views(mesh, plan.views, viewmats=viewmats, Ks=Ks)
        placed, recipe = mesh_views.framed(mesh, plan.views), plan.recipe
        used = max(1, round(recipe.num_gaussians * recipe.start_fraction))
        points, normals, rgb = meshes.sample_surface(placed, used, item.number)
        if recipe.strategy == "default":  # the papers' start: balls, not discs
            normals = None
        params, alive = start.from_points(
            points, rgb, recipe.num_gaussians, sh_degree=recipe.sh_degree,
            opacity=recipe.init_opacity, scale=recipe.init_scale, used=used, normals=normals,
            seed=item.number,
        )  # fmt: skip
    except (ValueError, OSError) as error:
        return Ready(item, str(error))
    return Ready(item, _as_views(train), _as_views(held_out), params, alive)


def _as_views(views: dict) -> Views:
    return Views(views["images"], views["viewmats"], views["Ks"])


def _waves(ready: Iterator[Ready], size: int) -> Iterator[list[Ready]]:
    while wave := list(itertools.islice(ready, size)):
        yield wave


def begin(wave: Sequence[Ready], plan: Plan) -> tuple[Views, FitState]:
    """Training views and first states of objects that are ready, with a leading axis of objects."""
    numbers = np.array([ready.item.number for ready in wave])
    views = _stacked([ready.views for ready in wave])
    state = many.begin(
        plan.recipe, _stacked([r.params for r in wave]), np.stack([r.alive for r in wave]),
        views.viewmats, many.keys(plan.recipe.seed, numbers),
    )  # fmt: skip
    return views, state


def _fit_wave(wave: list[Ready], plan: Plan, mesh, batch: int) -> list[fitted.Fitted | None]:
    """Results of a wave, None for an object that diverged. Short waves are filled up with copies."""
    views, state = begin(wave + [wave[-1]] * (batch - len(wave)), plan)
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
    if plan.retried:
        scores["retried"] = plan.retried
    return fitted.Fitted(ready.item.number, ready.item.about, gaussians, scores)
