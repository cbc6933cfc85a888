"""What CLIP-GS reads: Gaussians joined with the cached embeddings of frozen towers.

Two sources behind one interface: a prepared data set with its embedding cache, and a synthetic one
made in memory (coloured primitives with random unit vectors as embeddings), which needs neither.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from gsjax.data import examples
from gsjax.systems.clip_gs import augment

_GAUSSIANS = dict(means=(3,), quats=(4,), log_scales=(3,), logit_opacities=(), sh0=(3,))


@dataclasses.dataclass(frozen=True)
class Source:
    """Examples and the facts about them.

    Attributes:
        dim: D, width of the embeddings.
        num_views: V, embedded views an object.
        class_names: categories in label order.
        class_embeds: {template set: [C, D] unit vectors}.
        train: ``() -> grain.MapDataset`` of training examples.
        evaluate: ``split -> grain.MapDataset``, fixed order and fixed subsets.
        records: ``split -> records with uid, captions, views`` for pictures; None if there are none.
        uids: ``split -> names of its objects`` in the order of records; None if there are none.
        towers: name, digest, dim and preprocessing of the towers; None without any.
    """

    dim: int
    num_views: int
    class_names: tuple[str, ...]
    class_embeds: Mapping[str, np.ndarray]
    train: Callable[[], Any]
    evaluate: Callable[[str], Any]
    records: Callable[[str], Any] | None
    uids: Callable[[str], list[str]] | None = None
    towers: Mapping | None = None


def batch_spec(config, source: Source) -> dict[str, jax.ShapeDtypeStruct]:
    """One example: ``{field: ShapeDtypeStruct}``."""
    num = config.data.num_gaussians
    spec = {name: ((num, *tail), np.float32) for name, tail in _GAUSSIANS.items()}
    spec |= dict(
        index=((), np.int32),
        valid=((), np.bool_),
        mask=((num,), np.bool_),
        category=((), np.int32),
        text_embed=((source.dim,), np.float32),
        image_embed=((source.num_views, source.dim), np.float32),
        caption_hash=((), np.uint32),
    )
    if config.model.grouping == "cached":
        spec["neighbours"] = ((config.model.num_group, config.model.group_size), np.int32)
    return {name: jax.ShapeDtypeStruct(*item) for name, item in spec.items()}


def load(config) -> Source:
    """The source that ``config.data.name`` names; prepares data set and embeddings if absent.

    Raises:
        ValueError: embeddings of a width other than ``model.embed_dim``, or fewer views than
            ``data.views_per_step``.
    """
    source = dict(synthetic=_synthetic, shapes=_shapes).get(config.data.name, _stored)(config)
    if config.model.embed_dim not in (0, source.dim):
        raise ValueError(
            f"model.embed_dim: {config.model.embed_dim} found, but the cached embeddings have "
            f"{source.dim} dimensions; set model.embed_dim={source.dim} (or 0: whatever the "
            "cache has), or make the cache with other towers (data.towers)"
        )
    if config.data.views_per_step > source.num_views:
        raise ValueError(
            f"data.views_per_step: {config.data.views_per_step} distinct views asked for, the "
            f"cache holds {source.num_views} an object; lower it or prepare more (data.views)"
        )
    return source


def _stored(config) -> Source:
    from gsjax.data import embed, embeddings, prepare, store

    prepare.settings(config.data)  # an unknown set is called so, not a set without towers
    # Before pictures are rendered, which takes long and is in vain without towers.
    towers = embed.resolve_towers(config.data)
    folder = prepare.ensure(config.data)
    cache = embed.open_cache(folder, config.data, towers)

    def dataset(split, train):
        found = examples.gaussian_examples(
            store.open_split(folder, split),
            num_points=config.data.num_gaussians,
            seed=config.seed,
            train=train,
            # neighbours can be kept only where an object is always the same subset; the first rows
            # of a record are farthest points, and stay so
            subset="prefix" if config.model.grouping == "cached" else "random",
            anchors=config.model.num_group,
            prune_alpha=config.data.prune_alpha,
            uncolored_rgb=augment.NO_COLOR,
        )
        caption = "random" if train else "first"
        return _finish(embeddings.join(found, cache, caption=caption, seed=config.seed), config)

    return Source(
        dim=cache.dim,
        num_views=cache.num_views,
        class_names=tuple(store.category_names(folder)),
        class_embeds=cache.class_embeds,
        train=lambda: dataset("train", True),
        evaluate=lambda split: dataset(split, False),
        records=lambda split: store.open_split(folder, split, ("uid", "captions", "views")),
        uids=functools.partial(store.read_uids, folder),
        towers=dict(
            name=cache.key.tower,
            digest=cache.key.weights,
            dim=cache.dim,
            preprocessing=cache.key.preprocessing,
        ),
    )


def _finish(dataset, config):
    """Adds cached neighbours where the model wants them."""
    if config.model.grouping != "cached":
        return dataset
    if config.data.prune_alpha > 0 or config.data.radius_quantile < 1:
        raise ValueError(
            "model.grouping='cached': neighbours found once do not fit data.prune_alpha > 0 or "
            "data.radius_quantile < 1, which change which Gaussians are near; use 'presorted'"
        )
    return dataset.map(Neighbours(config.model.num_group, config.model.group_size))


class Neighbours:
    """Adds ``neighbours`` [G, n]: around each of the first G Gaussians, itself first.

    Found once an object and kept in memory (2 bytes an entry): distances do not change their order
    under rotation, shift and uniform scale, which is all the augmentation there is.
    """

    def __init__(self, num_group: int, group_size: int):
        self._shape = num_group, group_size
        self._known: dict[int, np.ndarray] = {}

    def __call__(self, example):
        index = int(example["index"])
        if index not in self._known:
            self._known[index] = self._find(example["means"], example["mask"])
        return {**example, "neighbours": self._known[index].astype(np.int32)}

    def _find(self, means, mask):
        groups, size = self._shape
        places = np.flatnonzero(mask)
        means = means[places].astype(np.float64)
        centers = np.where(np.arange(groups) < len(means), np.arange(groups), 0)
        dist2 = np.square(means[centers][:, None] - means[None]).sum(-1)
        count = min(size, len(means))
        near = np.argsort(dist2, -1, kind="stable")[:, :count]
        near = np.concatenate([near, np.repeat(near[:, :1], size - count, 1)], 1)
        kind = np.uint16 if len(mask) <= 1 << 16 else np.int32
        return places[near].astype(kind)


def synthetic_batch(config, rng: np.random.Generator, size: int | None = None) -> dict:
    """A batch [B, ...] of coloured primitives with random unit vectors as embeddings.

    Args:
        config: the whole config; ``model.embed_dim`` and ``data.views`` give D and V.
        rng: NumPy generator.
        size: B, default ``train.batch_size``.
    """
    size = size or config.train.batch_size
    made = [_synthetic_example(config, rng, i) for i in range(size)]
    return {name: np.stack([e[name] for e in made]) for name in made[0]}


def _unit(rng, *shape):
    x = rng.normal(size=shape)
    return (x / np.linalg.norm(x, axis=-1, keepdims=True)).astype(np.float32)


def _synthetic_example(config, rng, index):
    num, dim = config.data.num_gaussians, config.model.embed_dim or 32
    kind = index % 4  # sphere, box surface, disc, rod
    points = _unit(rng, num, 3)
    if kind == 1:
        points = points / np.abs(points).max(-1, keepdims=True)
    elif kind == 2:
        points = points * np.asarray([1.0, 0.05, 1.0])
    elif kind == 3:
        points = points * np.asarray([0.1, 1.0, 0.1])
    points = points * rng.uniform(0.3, 1.0, 3) + rng.normal(size=3)
    color = rng.uniform(size=3)
    text = _unit(rng, dim)
    views = _unit(rng, config.data.views, dim) * 0.5 + text
    example = dict(
        index=np.int32(index),
        valid=np.bool_(True),
        means=points.astype(np.float32),
        quats=rng.normal(size=(num, 4)).astype(np.float32),
        log_scales=rng.normal(-4.0, 0.3, (num, 3)).astype(np.float32),
        logit_opacities=rng.normal(2.0, 1.0, num).astype(np.float32),
        sh0=np.tile((color - 0.5) / 0.2820948, (num, 1)).astype(np.float32),
        mask=np.ones(num, np.bool_),
        category=np.int32(kind),
        text_embed=text,
        image_embed=(views / np.linalg.norm(views, axis=-1, keepdims=True)).astype(np.float32),
        caption_hash=np.uint32(index + 1),
    )
    if config.model.grouping == "cached":
        example = Neighbours(config.model.num_group, config.model.group_size)(example)
    return example


def _shapes(config) -> Source:
    """No data: the width of the embeddings and the number of views are the config's."""
    if not config.model.embed_dim:
        raise ValueError(
            "model.embed_dim: data.name='shapes' has no cached embeddings to take a width from; set it"
        )
    return Source(
        dim=config.model.embed_dim,
        num_views=config.data.views,
        class_names=(),
        class_embeds={},
        train=examples.absent,
        evaluate=examples.absent,
        records=None,
    )


def _synthetic(config) -> Source:
    dim = config.model.embed_dim or 32
    classes = _unit(np.random.default_rng(config.seed), 4, dim)

    @functools.cache
    def dataset(split):
        rng = np.random.default_rng([config.seed, len(split)])
        return examples.in_memory(
            [_synthetic_example(config, rng, i) for i in range(config.data.num_objects)]
        )

    return Source(
        dim=dim,
        num_views=config.data.views,
        class_names=("sphere", "box", "disc", "rod"),
        class_embeds={"name": classes, "short": classes, "modelnet40_64": classes},
        train=lambda: dataset("train"),
        evaluate=dataset,
        records=None,
    )
