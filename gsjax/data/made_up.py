"""Data of the size and layout of published sets, of nothing: what input pipelines are measured with.

Objects are noise about an ellipsoid, pictures a disc with a pattern whose files are as large as those of real
renderings, embeddings unit vectors drawn at random. Nothing can be learned from it. ``stand_in`` gives, for the set
that a config names, one that is made here. Imports no JAX.
"""

import functools
import io
import os
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from gsjax.data import features

NAME = "made_up"
VERSION = 1  # raise it when any of this changes
CATEGORIES = ("blank", "blot")
DIM = 1024  # of EVA-02-CLIP-E, whose space Uni3D and CLIP-GS train into
_PATTERNS = 40  # different pictures of a size: stores find equal ones in a record, and keep one


def picture(height: int, width: int, channels: int, number: int = 0) -> np.ndarray:
    """uint8 [H, W, C]: a patterned disc on white, or with C = 4 on nothing.

    Waves and a grain of a few grey levels: PNG files take 1 to 1.5 bytes a pixel and channel inside the disc.
    """
    rng = np.random.default_rng(number)
    y, x = np.mgrid[:height, :width] / max(height, width)
    shape = np.stack([np.sin(rng.uniform(9, 40) * (x + k * y)) for k in rng.uniform(-2, 2, 3)], -1)
    pixels = 128 + 70 * shape + rng.normal(0, 3, (height, width, 3))
    inside = np.hypot(y - y.max() / 2, x - x.max() / 2)[..., None] < rng.uniform(0.28, 0.4)
    pixels = np.clip(np.where(inside, pixels, 0 if channels == 4 else 255), 0, 255)
    if channels == 4:
        pixels = np.concatenate([pixels, 255 * inside], -1)
    return pixels.astype(np.uint8)


@functools.lru_cache(maxsize=256)
def _png(side: int, channels: int, number: int) -> bytes:
    return features.encode_png(picture(side, side, channels, number))


@functools.lru_cache(maxsize=64)
def jpeg(height: int, width: int, number: int) -> bytes:
    """A JPEG file of a picture without any blank part: 0.17 bytes a pixel, as photographs of rooms."""
    rng = np.random.default_rng(number)
    coarse = rng.integers(0, 256, (height // 16, width // 16, 3), np.uint8)
    smooth = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
    grain = rng.normal(0, 3, (height, width, 1))
    pixels = np.clip(np.asarray(smooth) + grain, 0, 255).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=80)
    return buffer.getvalue()


def gaussians(count: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Raw arrays of ``count`` Gaussians on an ellipsoid: means, quats, log_scales, logit_opacities, sh0."""
    points = rng.normal(size=(count, 3)).astype(np.float32)
    points /= np.linalg.norm(points, axis=-1, keepdims=True)
    return dict(
        means=points * rng.uniform(0.2, 0.5, 3).astype(np.float32),
        quats=rng.normal(size=(count, 4)).astype(np.float32),
        log_scales=rng.normal(-4, 0.3, (count, 3)).astype(np.float32),
        logit_opacities=rng.normal(2, 1, count).astype(np.float32),
        sh0=rng.normal(size=(count, 3)).astype(np.float32),
    )


# Prepared sets (``prepare``) ----------------------------------------------------------------------


def plan_fields(settings: Mapping) -> dict:
    """Fields of ``build.Plan`` for ``prepare.plan``; ``num_objects`` training objects and one to test on."""
    count, seed = int(settings["num_objects"]), int(settings["seed"])
    stored = int(settings["stored_gaussians"]) or 2 * int(settings["num_gaussians"])
    splits = {"train": count, "test": max(count // 8, 2)}
    return dict(
        identity=dict(splits=splits, seed=seed, gaussians=stored, version=VERSION),
        categories=CATEGORIES,
        parts=("",),
        splits=splits,
        spec=features.feature_spec(CATEGORIES),
        records=functools.partial(_records, settings, splits, stored),
    )


def _records(settings, splits, stored: int, split: str) -> Iterator[dict]:
    views, side = int(settings["views"]), int(settings["view_size"])
    channels = 4 if settings["alpha"] else 3
    viewmats = np.tile(np.eye(4, dtype=np.float32), (views, 1, 1))
    viewmats[:, 2, 3] = 1.3
    K = np.asarray([[1.2 * side, 0, side / 2], [0, 1.2 * side, side / 2], [0, 0, 1]], np.float32)
    for number in range(splits[split]):
        uid = f"{split}-{number:06d}"
        rng = np.random.default_rng(features.stable_seed("made up", settings["seed"], uid))
        yield dict(
            uid=uid,
            name=uid,
            category=number % len(CATEGORIES),
            captions=[f"caption {k} of object {uid}, which does not exist" for k in range(3)],
            colored=True,
            **features.encode_gaussians(gaussians(stored, rng), uid),
            views=[_png(side, channels, (number + v) % _PATTERNS) for v in range(views)],
            viewmats=viewmats,
            Ks=np.tile(K, (views, 1, 1)),
        )


def tower_parts() -> dict:
    """Fields of ``models.towers.Towers``: embeddings are drawn by the sum of what is embedded."""
    return dict(
        name=NAME,
        dim=DIM,
        digest=f"{NAME}-{VERSION}-{DIM}",
        preprocessing="sum of bytes",
        prepare_image=lambda pixels: np.asarray([zlib.crc32(pixels.tobytes()) >> 1], np.int32),
        tokenize=lambda texts: np.asarray([[zlib.crc32(t.encode()) >> 1] for t in texts], np.int32),
        encode_images=_unit_vectors,
        encode_texts=_unit_vectors,
        licence="none needed",
    )


def _unit_vectors(seeds) -> np.ndarray:
    """f32 [B, DIM] of int32 [B, 1]."""
    drawn = [np.random.default_rng(int(seed)).normal(size=DIM) for seed in np.asarray(seeds)[:, 0]]
    return np.stack([x / np.linalg.norm(x) for x in drawn]).astype(np.float32)


# Paired sets (``paired_build``) -------------------------------------------------------------------


def paired_parts(side: str, number: int, d) -> tuple[dict, dict, np.ndarray]:
    """(uid, name and category; raw Gaussians of SH degree 3; views uint8 [V, S, S, 4]) of an object."""
    uid = f"{NAME}-{side}-{number:05d}"
    rng = np.random.default_rng(features.stable_seed(uid, d.seed))
    cloud = gaussians(d.stored_gaussians, rng)
    cloud["logit_opacities"] = np.abs(cloud["logit_opacities"]) + 1  # none is filtered out
    cloud["sh"] = rng.normal(0, 0.1, (d.stored_gaussians, 16, 3)).astype(np.float32)
    made = [picture(d.view_size, d.view_size, 4, k) for k in range(min(_PATTERNS, d.views))]
    views = np.stack([made[(number + v) % len(made)] for v in range(d.views)])
    about = dict(uid=uid, name=uid, category=CATEGORIES[number % len(CATEGORIES)])
    return about, cloud, views


def samples(d, number: int) -> np.ndarray:
    """int32 [K, P]: rows drawn at random, where sets of real objects have farthest-point samples."""
    rng = np.random.default_rng([d.seed, number])
    return rng.integers(d.stored_gaussians, size=(d.samples, d.sample_points), dtype=np.int32)


# Instead of which sets ----------------------------------------------------------------------------

_OBJECT_SETS = ("procedural", "folder", "objects_cc0", "fitted", "meshes")


def stand_in(data_config, folder, count: int) -> dict:
    """Settings of ``config.data`` by which a system reads made-up data in place of the set it names.

    Objects are made when the system is built, scenes here, unless they are there.

    Args:
        data_config: the config's block.
        folder: where the data goes.
        count: objects or scenes to train on.

    Returns:
        {dotted name below ``config.data``: value}.

    Raises:
        ValueError: a set that nothing here stands for.
    """
    from gsjax.data import collections, made_up_scenes

    name, folder = data_config.name, Path(os.fspath(folder)).absolute()
    if name in (*_OBJECT_SETS, *collections.NAMES, NAME):
        changed = dict(name=NAME, dir=str(folder), source="", num_objects=count)
        changed |= {"num_test": 2} if "num_test" in data_config else {}
        return changed | {k: () for k in ("categories", "exclude_categories") if k in data_config}
    if name == "scannet":
        return made_up_scenes.scannet(folder, count)
    if name == "records":
        return made_up_scenes.posed(data_config, folder, count)
    raise ValueError(
        f"data.name: nothing made up stands for {name!r}; known: {', '.join(known_sets())}"
    )


def known_sets() -> Sequence[str]:
    """Names of sets that ``stand_in`` knows."""
    from gsjax.data import collections

    return (*_OBJECT_SETS, *collections.NAMES, "scannet", "records")
