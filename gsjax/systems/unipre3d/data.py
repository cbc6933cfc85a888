"""What UniPre3D reads: points and posed pictures of a prepared set, or of one made in memory.

The synthetic source draws coloured ellipsoids analytically; it needs no files and serves tests.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from gsjax.data import examples, pictures, shapenet_records, view_examples

CHANNELS = 4  # of pictures: colour and opacity
_STRANGERS = 1  # seed of who is shown whose pictures


@dataclasses.dataclass(frozen=True)
class Source:
    """Examples and the facts about them.

    Attributes:
        train: ``() -> grain.MapDataset`` of training examples.
        evaluate: ``split -> grain.MapDataset``, fixed views and points.
        class_names: categories in label order.
        part_names: of part labels; entry 0 is 'no label'.
        uids: ``split -> names of its objects``, or None.
    """

    train: Callable[[], Any]
    evaluate: Callable[[str], Any]
    class_names: tuple[str, ...]
    part_names: tuple[str, ...] = ("",)
    uids: Callable[[str], list[str]] | None = None


def batch_spec(config) -> dict[str, jax.ShapeDtypeStruct]:
    """One example: ``{field: ShapeDtypeStruct}``; the first ``data.references`` views are those."""
    d = config.data
    views = d.references + d.targets
    spec = dict(
        index=((), np.int32),
        valid=((), np.bool_),
        category=((), np.int32),
        xyz=((d.num_points, 3), np.float32),
        rgb=((d.num_points, 3), np.float32),
        parts=((d.num_points,), np.int32),
        mask=((d.num_points,), np.bool_),
        images=((views, d.view_size, d.view_size, CHANNELS), np.uint8),
        viewmats=((views, 4, 4), np.float32),
        Ks=((views, 3, 3), np.float32),
    )
    return {name: jax.ShapeDtypeStruct(*item) for name, item in spec.items()}


def load(config) -> Source:
    """The source that ``config.data.name`` names; prepares the data set if absent.

    Raises:
        ValueError: settings that do not go together.
    """
    d = config.data
    if config.model.fusion == "none" and d.references:
        raise ValueError(
            f"data.references: found {d.references} with model.fusion='none', which reads no "
            "picture; set it to 0"
        )
    if config.model.fusion != "none" and not d.references:
        raise ValueError("data.references: found 0; fusion reads at least one picture")
    kinds = dict(synthetic=_synthetic, shapenet_renders=_renders, shapes=without_data)
    return kinds.get(d.name, _stored)(config)


def without_data(config) -> Source:
    """For programs that only compile; both levels."""
    del config
    return Source(train=examples.absent, evaluate=examples.absent, class_names=())


def _stored(config) -> Source:
    from gsjax.data import prepare, store

    folder = prepare.ensure({**config.data.to_dict(), "alpha": True})

    @functools.cache
    def records(split):
        return view_examples.open_records(folder, split, pictures.memory_of(config.data))

    return Source(
        **_datasets(config, records),
        class_names=tuple(store.category_names(folder)),
        part_names=tuple(store.part_names(folder)),
        uids=functools.partial(store.read_uids, folder),
    )


def _renders(config) -> Source:
    """The released data's layout, read as it is: points without colours, one picture a view."""
    d = config.data
    if not d.source:
        raise ValueError(
            "data.source: the set shapenet_renders is read from a folder that holds image/<synset>/<model>; "
            "name it with --config.data.source=FOLDER"
        )

    @functools.cache
    def opened(split):
        return shapenet_records.open_split(d.source, split, d.view_size, pictures.memory_of(d))

    datasets = _datasets(config, lambda split: opened(split)[0])
    return Source(**datasets, class_names=opened("train")[1])


def _datasets(config, records) -> dict[str, Callable]:
    """``train`` and ``evaluate`` of a :class:`Source`."""
    d = config.data

    def dataset(split, train):
        return view_examples.view_examples(
            records(split),
            num_points=d.num_points,
            references=d.references,
            targets=d.targets,
            seed=config.seed,
            train=train,
            overlap=d.supervise_reference,
            strangers=_STRANGERS if d.strangers and train else None,
        )

    return dict(train=lambda: dataset("train", True), evaluate=lambda split: dataset(split, False))


# Synthetic ellipsoids -----------------------------------------------------------------------------

_DISTANCE, _FOCAL = 1.3, 1.2  # of cameras from the centre; focal length in picture widths


def synthetic_example(config, index: int, split: str = "train") -> dict:
    """An ellipsoid in two colours, seen from R + T sides."""
    d = config.data
    rng = np.random.default_rng([config.seed, index, len(split)])
    radii = rng.uniform(0.2, 0.5, 3)
    paints = rng.uniform(size=(2, 3))
    points = rng.normal(size=(d.num_points, 3))
    points /= np.linalg.norm(points, axis=-1, keepdims=True)
    views = d.references + d.targets
    viewmats = np.stack([_camera(rng) for _ in range(views)])
    focal, middle = _FOCAL * d.view_size, d.view_size / 2
    K = np.asarray([[focal, 0, middle], [0, focal, middle], [0, 0, 1]])
    xyz = points * radii
    return dict(
        index=np.int32(index),
        valid=np.bool_(True),
        category=np.int32(index % 3),
        xyz=xyz.astype(np.float32),
        rgb=_paint(xyz, paints).astype(np.float32),
        parts=(1 + (xyz[:, 1] > 0)).astype(np.int32),
        mask=np.ones(d.num_points, bool),
        images=np.stack([_picture(m, K, d.view_size, radii, paints) for m in viewmats]),
        viewmats=viewmats.astype(np.float32),
        Ks=np.broadcast_to(K, (views, 3, 3)).astype(np.float32),
    )


def _paint(xyz: np.ndarray, paints: np.ndarray) -> np.ndarray:
    return np.where(xyz[..., 1:2] > 0, paints[0], paints[1])


def _camera(rng) -> np.ndarray:
    """World to camera [4, 4] of a camera that looks at the origin from a random side."""
    back = rng.normal(size=3)
    back[1] *= 0.5
    forward = -back / np.linalg.norm(back)
    right = np.cross(forward, (0.0, 1.0, 0.0))
    right /= np.linalg.norm(right)
    viewmat = np.eye(4)
    viewmat[:3, :3] = np.stack([right, np.cross(forward, right), forward])
    viewmat[2, 3] = _DISTANCE
    return viewmat


def _picture(viewmat, K, size: int, radii, paints) -> np.ndarray:
    """uint8 [size, size, 4]: the ellipsoid's first hits along the pixels' rays."""
    place = np.arange(size) + 0.5
    column, row = np.meshgrid(place, place)
    rays = np.stack(
        [(column - K[0, 2]) / K[0, 0], (row - K[1, 2]) / K[1, 1], np.ones_like(row)], -1
    )
    rotation = viewmat[:3, :3]
    eye = -rotation.T @ viewmat[:3, 3]
    rays = rays @ rotation
    # |(eye + t ray) / radii|^2 = 1
    o, d = eye / radii, rays / radii
    a, b, c = (d * d).sum(-1), (d * o).sum(-1), (o * o).sum() - 1
    root = b * b - a * c
    hit = root > 0
    t = (-b - np.sqrt(np.where(hit, root, 0))) / a
    rgb = _paint(eye + t[..., None] * rays, paints)
    picture = np.concatenate([rgb, hit[..., None]], -1) * hit[..., None]
    return np.round(255 * picture).astype(np.uint8)


def _synthetic(config) -> Source:
    @functools.cache
    def dataset(split):
        count = config.data.num_objects
        return examples.in_memory([synthetic_example(config, i, split) for i in range(count)])

    return Source(
        train=lambda: dataset("train"),
        evaluate=dataset,
        class_names=("one", "two", "three"),
        part_names=("", "lower", "upper"),
    )
