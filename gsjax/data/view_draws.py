"""How an example draws its frames from a scene: ``view_samplers`` bound to what a scene knows.

A draw is called with (scene, step, rng) once the other options are bound (``functools.partial``). Imports no
JAX.
"""

from collections.abc import Callable

import numpy as np

from gsjax.data import view_samplers
from gsjax.data.view_samplers import Sample

# (scene, step, rng) -> Sample
Draw = Callable[[object, int, np.random.Generator], Sample]
_TRIES = 8  # of a draw, until the context cameras stand apart


def bounded(scene, step, rng, *, gaps, num_targets, margin=0) -> Sample:
    """Two context views; see ``view_samplers.bounded``."""
    return view_samplers.bounded(
        scene.viewmats, step, rng, gaps=gaps, num_targets=num_targets, margin=margin
    )


def many(
    scene, step, rng, *, gaps, views: tuple[int, int], num_targets, seed: int, reach: int = 0
) -> Sample:
    """V context views, V uniform in ``views`` and one for a step; see ``view_samplers.bounded_many``."""
    return view_samplers.bounded_many(
        scene.viewmats, step, rng, gaps=gaps, num_targets=num_targets, most_context=views[1],
        num_context=view_samplers.views_at(step, seed, *views), reach=reach,
    )  # fmt: skip


def extrapolation(scene, step, rng, *, gap, reach, num_targets=0, num_context=2) -> Sample:
    """Targets outside the interval of the context views; see ``view_samplers.extrapolation``."""
    del step
    return view_samplers.extrapolation(
        scene.viewmats, rng, gap=gap, reach=reach, num_targets=num_targets, num_context=num_context
    )


def paired(scene, step, rng, *, num_context=2, num_targets=1) -> Sample:
    """Views that are known to see the same things; see ``view_samplers.paired``.

    Raises:
        ValueError: the scene does not know which.
    """
    del step
    if scene.neighbours(0) is None:
        raise ValueError(f"{scene.name}: it does not say which frames see the same; use bounded")
    return view_samplers.paired(
        scene.neighbours, scene.num_frames, rng, num_context=num_context, num_targets=num_targets
    )


def cached(
    scene,
    step,
    rng,
    *,
    teacher,
    views: tuple[int, int],
    num_targets,
    seed: int,
    draw: Draw | None = None,
) -> Sample:
    """Context views that a cache of pointmaps holds (``pointmap_cache.CachedTeacher``).

    Of tuples, a random one with the step's V, and targets from the interval it spans. Of windows, a random
    one, and ``draw`` on its frames.

    Raises:
        ValueError: the cache has none for the scene.
    """
    if teacher.mode == "tuple":
        wanted = view_samplers.views_at(step, seed, *views)
        found = teacher.sets(scene.name, wanted)
    else:
        found = teacher.sets(scene.name)
    if not found:
        raise ValueError(
            f"{scene.name}: the cache of pointmaps holds none of it with the views asked for {views}; run "
            "the teacher on it, or leave it out"
        )
    held = np.array(found[int(rng.integers(len(found)))])
    if teacher.mode == "tuple":
        return Sample(held, view_samplers.targets_between(held, num_targets, rng))
    if draw is None:
        raise ValueError("draw: expected how to draw inside windows, found None")
    inside = draw(_Window(scene, held), step, rng)
    return Sample(held[inside.context], held[inside.target])


class _Window:
    """Some frames of a scene, numbered from 0."""

    def __init__(self, scene, frames: np.ndarray):
        self._scene, self._frames = scene, frames
        self.name, self.num_frames = scene.name, len(frames)

    @property
    def viewmats(self) -> np.ndarray:
        return self._scene.viewmats[self._frames]

    def neighbours(self, frame: int) -> np.ndarray | None:
        near = self._scene.neighbours(int(self._frames[frame]))
        return None if near is None else np.flatnonzero(np.isin(self._frames, near))


def apart(scene, draw: Draw, step: int, rng: np.random.Generator) -> Sample:
    """Frames whose context cameras do not coincide; a few draws are made.

    Raises:
        ValueError: every draw has a zero baseline.
    """
    for left in reversed(range(_TRIES)):
        sample = draw(scene, step, rng)
        try:
            view_samplers.check_baseline(scene.viewmats, sample.context, scene.name)
        except ValueError:
            if not left:
                raise
            continue
        return sample
    raise AssertionError("unreachable")
