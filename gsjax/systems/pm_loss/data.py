"""What feed-forward models read: scenes of posed pictures by the name of their set, and the views drawn of them.

Data sets and draws are those of ``gsjax.data.posed_sets`` and ``posed_examples``; here they are chosen by
``config.data``. A split for evaluation is a split of the set, and behind a slash where its targets lie:
'test' or 'test/interpolation' between the context views, 'test/extrapolation' outside, 'test/index' as a file
of frames says (``data.eval.index``).
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from gsjax.data import posed_examples, posed_sets, view_draws, view_index, view_samplers
from gsjax.systems.pm_loss import teacher as teachers

DRAWS = ("many", "bounded", "paired")
PROTOCOLS = ("interpolation", "extrapolation", "index")


@dataclasses.dataclass(frozen=True)
class Source:
    """Examples and the facts about them.

    Attributes:
        train: ``() -> posed_examples.TrainExamples``.
        evaluate: ``split -> grain.MapDataset``, fixed views, no pointmaps.
        uids: ``split -> names of the scenes of its examples``.
    """

    train: Callable[[], Any]
    evaluate: Callable[[str], Any]
    uids: Callable[[str], list[str]]


def batch_spec(config) -> dict[str, jax.ShapeDtypeStruct]:
    """One training example: ``{field: ShapeDtypeStruct}``, see ``posed_examples.batch_spec``.

    Where V changes from step to step (``data.context_views``), that of the least V.
    """
    d = config.data
    fields = posed_examples.batch_spec(
        _spec(d), d.context_views[0], d.target_views, teacher=d.teacher.kind != "none"
    )
    return {name: jax.ShapeDtypeStruct(*field) for name, field in fields.items()}


def load(config) -> Source:
    """The source of ``config.data``; sets are opened (and rooms cast) when first asked for.

    Raises:
        ValueError: settings that do not go together.
    """
    d = config.data
    _check(d)
    spec, teacher = _spec(d), teachers.build(d)
    opened = functools.cache(functools.partial(posed_sets.open_split, d))

    def train():
        draw = _train_draw(d, teacher, config.seed)
        frames = 2 if d.draw == "paired" else _gaps(d).frames
        return posed_examples.TrainExamples(
            opened("train"), spec, draw, seed=config.seed, teacher=teacher, least_frames=frames
        )

    @functools.cache
    def samples(split):
        return _samples(d, opened, split)

    def evaluate(split):
        still = dataclasses.replace(spec, flip=False)
        return posed_examples.eval_examples(opened(_parts(split)[0]), still, samples(split))

    def uids(split):
        scenes = opened(_parts(split)[0])
        return [scenes[place].name for place, _ in samples(split)]

    return Source(train, evaluate, uids)


def _check(d) -> None:
    if d.draw not in DRAWS:
        raise ValueError(f"data.draw: unknown {d.draw!r}; known: {', '.join(DRAWS)}")
    least, most = d.context_views
    if not 2 <= least <= most:
        raise ValueError(
            f"data.context_views: expected 2 <= least <= most, found {tuple(d.context_views)}"
        )
    if d.draw == "bounded" and (least, most) != (2, 2):
        raise ValueError(
            f"data.draw: 'bounded' gives two context views, data.context_views is {(least, most)}; use "
            "'many'"
        )
    if d.draw == "paired" and least != most:
        raise ValueError(
            f"data.draw: 'paired' gives one number of views, data.context_views is {(least, most)}"
        )
    if d.teacher.kind == "cache" and d.draw == "paired":
        raise ValueError("data.draw: 'paired' does not look into caches of pointmaps; use 'many'")


def _spec(d) -> posed_examples.PosedSpec:
    return posed_examples.PosedSpec(
        d.height, d.width, d.near, d.far, fit=d.fit, flip=d.flip, depths=d.depths,
        relative=d.relative,
    )  # fmt: skip


def _gaps(d) -> view_samplers.Gaps:
    return view_samplers.Gaps(tuple(d.gap_start), tuple(d.gap), d.gap_steps)


def _train_draw(d, teacher, seed: int) -> view_draws.Draw:
    """Frames of a training example; those that a cache of pointmaps holds where there is one."""
    views, targets = tuple(d.context_views), d.target_views
    if d.draw == "paired":
        return functools.partial(view_draws.paired, num_context=views[0], num_targets=targets)
    if d.draw == "bounded":
        draw = functools.partial(
            view_draws.bounded, gaps=_gaps(d), num_targets=targets, margin=d.margin
        )
    else:
        draw = functools.partial(
            view_draws.many, gaps=_gaps(d), views=views, num_targets=targets, seed=seed,
            reach=d.reach,
        )  # fmt: skip
    if d.teacher.kind != "cache":
        return draw
    return functools.partial(
        view_draws.cached, teacher=teacher, views=views, num_targets=targets, seed=seed, draw=draw
    )


def _parts(split: str) -> tuple[str, str]:
    """(split of the set, protocol).

    Raises:
        ValueError: unknown protocol.
    """
    name, _, protocol = split.partition("/")
    protocol = protocol or PROTOCOLS[0]
    if protocol not in PROTOCOLS:
        raise ValueError(f"split: unknown {protocol!r} in {split!r}; known: {', '.join(PROTOCOLS)}")
    return name, protocol


def _samples(d, opened, split: str) -> list:
    """(place, frames) of an evaluation split; the training seed has no say in them."""
    name, protocol = _parts(split)
    e, scenes = d.eval, opened(name)
    if protocol == "index":
        if not e.index:
            raise ValueError(
                f"split: {split!r} needs a file of frames; name it with --config.data.eval.index=FILE"
            )
        index = view_index.read(e.index)
        samples = posed_examples.indexed_samples(scenes, index, partial=e.partial)
        return samples[: d.limit] if d.limit else samples
    draw, frames = _eval_draw(d, protocol)
    samples = posed_examples.fixed_samples(
        scenes, draw, seed=d.seed, least_frames=frames, draws=e.draws
    )
    return samples[: d.limit] if d.limit else samples


def _eval_draw(d, protocol: str) -> tuple[view_draws.Draw, int]:
    """Frames of an evaluation example, and how many a scene must have."""
    e = d.eval
    if d.draw == "paired":
        if protocol != "interpolation":
            raise ValueError(
                "split: neighbours in a recording that is read in pairs need not see the same things, so "
                f"there is no {protocol}; leave the slash and what follows it out"
            )
        return functools.partial(
            view_draws.paired, num_context=e.context_views, num_targets=e.target_views
        ), 2
    if protocol == "extrapolation":
        draw = functools.partial(
            view_draws.extrapolation, gap=e.gap[1], reach=e.reach, num_targets=e.target_views,
            num_context=e.context_views,
        )  # fmt: skip
        return draw, e.gap[1] + 2 * e.reach + 1
    gaps = view_samplers.Gaps(tuple(e.gap), tuple(e.gap))
    if e.context_views == 2:
        draw = functools.partial(
            view_draws.bounded, gaps=gaps, num_targets=e.target_views, margin=1
        )
    else:
        draw = functools.partial(
            view_draws.many, gaps=gaps, views=(e.context_views,) * 2, num_targets=e.target_views,
            seed=0,
        )  # fmt: skip
    return draw, gaps.frames


def as_pictures(images: np.ndarray | jax.Array) -> jax.Array:
    """uint8 to f32 in [0, 1]."""
    return images.astype(np.float32) / 255
