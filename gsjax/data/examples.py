"""Training and evaluation examples from stored records: fixed shapes, masks, no JAX.

One example is what a system's batch holds for one object, without the frozen towers' embeddings
(``embeddings.join`` adds those). All randomness comes from grain's generator of the example's
place in the sequence, so a resumed run draws what an uninterrupted one would have drawn.
"""

import functools
from collections.abc import Mapping, Sequence

import grain
import numpy as np

from gsjax.data import features, transforms

GAUSSIANS = ("means", "quats", "log_scales", "logit_opacities", "sh0")
DEFAULT_FIELDS = ("index", "uid", "valid", *GAUSSIANS, "mask", "category")
KNOWN_FIELDS = (*DEFAULT_FIELDS, "parts", "colored", "caption", "view", "viewmat", "K")


def gaussian_examples(
    source,
    *,
    num_points: int,
    seed: int,
    train: bool,
    fields: Sequence[str] | None = None,
    subset: str = "random",
    short: str = "repeat",
    anchors: int = 0,
    prune_alpha: float = 0.0,
    uncolored_rgb: float | None = None,
) -> grain.MapDataset:
    """Examples of exactly ``num_points`` Gaussians, in the order of ``source``.

    Fields: ``index`` int32 [] (unique over the data set), ``uid`` str, ``valid`` bool [] (True),
    ``means`` f32 [N, 3] as stored (y up, object units), ``quats`` f32 [N, 4], ``log_scales`` f32
    [N, 3], ``logit_opacities`` f32 [N], ``sh0`` f32 [N, 3], ``mask`` bool [N], ``category`` int32
    []; on request ``parts`` uint8 [N], ``colored`` bool [], ``caption`` str, and one picture
    ``view`` uint8 [H, W, C] with ``viewmat`` f32 [4, 4] and ``K`` f32 [3, 3].

    In training, the subset, the caption and the view are drawn anew for every step; in evaluation
    the subset depends on the uid alone, and caption and view are the first ones.

    Args:
        source: random access to records, ``store.open_split(...)`` with the fields needed.
        num_points: N.
        seed: of the draws.
        train: draw at random, or once and for all.
        fields: which fields the example has; default: all but those "on request".
        subset: 'random', or 'prefix': the first N, which in stored order is a farthest-point
            subset.
        short: what to do with objects of fewer than N Gaussians: 'repeat' or 'pad', see
            ``transforms.choose``.
        anchors: with 'random', how many of the first stored rows are always taken, in their order:
            they stay the farthest-point centres of the subset.
        prune_alpha: Gaussians fainter than this are left out first. Anchors then count from what
            is left.
        uncolored_rgb: grey value given to objects whose colours mean nothing (0.4 in Uni3D, which
            CLIP-GS follows); None = as stored.

    Raises:
        ValueError: unknown field or option, or ``num_points`` below 1.
    """
    fields = DEFAULT_FIELDS if fields is None else tuple(fields)
    unknown = sorted(set(fields) - set(KNOWN_FIELDS))
    if unknown:
        raise ValueError(f"fields: unknown {unknown}; known: {sorted(KNOWN_FIELDS)}")
    if subset not in ("random", "prefix"):
        raise ValueError(f"subset: expected 'random' or 'prefix', found {subset!r}")
    if short not in ("repeat", "pad"):
        raise ValueError(f"short: expected 'repeat' or 'pad', found {short!r}")
    if num_points < 1 or not 0 <= anchors <= num_points:
        raise ValueError(
            f"num_points and anchors: expected num_points >= 1 and anchors within it, found "
            f"{num_points=}, {anchors=}"
        )
    make = functools.partial(
        _example,
        num_points=num_points,
        fields=fields,
        subset=subset,
        short=short,
        anchors=anchors,
        prune_alpha=prune_alpha,
        uncolored_rgb=uncolored_rgb,
    )
    dataset = grain.MapDataset.source(source)
    if train:
        return dataset.random_map(_Train(make), seed=seed)
    return dataset.map(_Eval(make, seed))


def in_memory(examples: Sequence[Mapping]) -> grain.MapDataset:
    """A data set of examples that are already here, in their order."""
    return grain.MapDataset.source(examples)


def absent(*_):
    """Stands for the examples of ``data.name='shapes'``: a step can be traced and compiled, not run.

    Raises:
        ValueError: always.
    """
    raise ValueError(
        "data.name: 'shapes' has no examples, only their shapes, for programs that compile a step and never run "
        "it; name a data set to train on"
    )


class _Train:
    """Draws with the generator of the example's place in the sequence."""

    def __init__(self, make):
        self._make = make

    def __call__(self, record, rng):
        return self._make(record, rng=rng, first=False)


class _Eval:
    """Draws with a generator that depends on the object alone."""

    def __init__(self, make, seed: int):
        self._make, self._seed = make, seed

    def __call__(self, record):
        rng = np.random.default_rng(features.stable_seed("subset", self._seed, record["uid"]))
        return self._make(record, rng=rng, first=True)


def _example(
    record: Mapping,
    *,
    rng: np.random.Generator,
    first: bool,
    num_points: int,
    fields: Sequence[str],
    subset: str,
    short: str,
    anchors: int,
    prune_alpha: float,
    uncolored_rgb: float | None,
) -> dict:
    names = (*GAUSSIANS, "parts") if "parts" in fields else GAUSSIANS
    gaussians = {name: record[name] for name in names}
    if prune_alpha > 0:
        gaussians = transforms.prune(gaussians, prune_alpha)
    rows, mask = transforms.choose(
        len(gaussians["means"]),
        num_points,
        rng=rng if subset == "random" else None,
        short=short,
        anchors=anchors,
    )
    example = transforms.to_float32(transforms.take(gaussians, rows, mask))
    if uncolored_rgb is not None and not record["colored"]:
        example["sh0"] = np.full_like(example["sh0"], (uncolored_rgb - 0.5) / features.SH_C0)
    example["index"] = np.int32(record["index"])
    example["valid"] = np.bool_(True)
    example["category"] = np.int32(record["category"])
    for name in ("uid", "colored"):
        if name in fields:
            example[name] = record[name]
    if "caption" in fields:
        example["caption"] = record["captions"][0 if first else rng.integers(_count(record))]
    if {"view", "viewmat", "K"} & set(fields):
        example.update(_view(record, 0 if first else int(rng.integers(len(record["views"])))))
    return {name: example[name] for name in fields}


def _count(record: Mapping) -> int:
    return len(record["captions"])


def _view(record: Mapping, number: int) -> dict:
    return {
        "view": features.decode_png(record["views"][number]),
        "viewmat": record["viewmats"][number],
        "K": record["Ks"][number],
    }
