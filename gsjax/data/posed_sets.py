"""Posed videos by the name of their set, for feed-forward splatting: rooms, a recording, converted chunks.

Procedural rooms are cast once and kept as records under the cache folder; several processes may share the work:

    python -m gsjax.data.posed_sets --count=4000 --size=64 --part=0/2 &
    python -m gsjax.data.posed_sets --count=4000 --size=64 --part=1/2

Imports no JAX.
"""

import argparse
import contextlib
import dataclasses
import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path

from gsjax.data import hololens_room, record_shards, scene_records, scene_sets, scenes, store
from gsjax.data.rooms import layout
from gsjax.data.rooms import source as rooms_source

NAMES = ("rooms", "hololens_room", "records")
# Of rooms: those of 'test' have unseen seeds and hold families of things that no training room has;
# 'test_seen' has unseen seeds alone.
SPLITS = ("train", "test", "test_seen")
_FAMILIES = {"train": layout.SEEN, "test": layout.UNSEEN, "test_seen": layout.SEEN}


def recipe(*, height: int = 64, width: int = 64, num_frames: int = 12, supersample: int = 2):
    """Glides through rooms at training size: square pixels, every frame overlapping every other."""
    return rooms_source.Recipe(
        num_frames=num_frames, width=width, height=height, path="glide", supersample=supersample
    )


def rooms(
    count: int,
    *,
    seed: int,
    split: str,
    recipe: rooms_source.Recipe,
    cache: str = "",
    part: tuple[int, int] = (0, 1),
) -> scene_records.SceneRecords:
    """Rooms of a split with exact depth, made unless they are there.

    Args:
        count: rooms.
        seed: of the set.
        split: of ``SPLITS``; it decides the families of things (in place of the recipe's).
        recipe: how they are recorded.
        cache: folder; '' = $GSJAX_CACHE or ~/.cache/gsjax.
        part: (k, n): make the k-th of n parts, in n processes at once; the set can be opened when all have
            ended.

    Raises:
        ValueError: unknown split, or other parts are not finished.
    """
    if split not in _FAMILIES:
        raise ValueError(f"split: unknown {split!r}; known: {', '.join(SPLITS)}")
    recipe = dataclasses.replace(recipe, families=_FAMILIES[split])
    folder, identity = _place(count, seed, split, recipe, cache)
    if not record_shards.is_finished(folder):
        source = rooms_source.Rooms(count, seed=seed, split=split, recipe=recipe)
        with contextlib.suppress(FileExistsError):  # another process finished it just now
            scene_records.store(source, folder, identity, part=part)
    return scene_records.SceneRecords(folder)


def _place(count, seed, split, recipe, cache) -> tuple[Path, dict]:
    identity = dict(
        rooms=scene_sets.VERSION, seed=seed, split=split, count=count, **recipe.identity()
    )
    # The cloud is not stored.
    identity = {k: v for k, v in identity.items() if k not in ("num_points", "points_from")}
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]
    return Path(os.fspath(store.cache_root(cache))) / "posed_rooms" / digest, identity


def open_split(data_config, split: str) -> Sequence:
    """Scenes of a split of the set that ``data.name`` names.

    Args:
        data_config: with ``name``, ``dir``, ``source``, ``seed``, ``height``, ``width``; for rooms
            ``num_objects`` (training rooms), ``num_test``, ``num_frames`` and ``supersample``. The
            recording has 'train' and 'test' (held-out stretches of time), ``records`` what lies below
            ``source``.
        split: of ``SPLITS``, or a folder below ``source``.

    Raises:
        ValueError: unknown set or split, or files that are absent.
    """
    d = data_config
    if d.name == "rooms":
        how = recipe(
            height=d.height, width=d.width, num_frames=d.num_frames, supersample=d.supersample
        )
        count = d.num_objects if split == "train" else d.num_test or d.num_objects // 8 or 1
        return rooms(count, seed=d.seed, split=split, recipe=how, cache=d.dir)
    if d.name == "hololens_room":
        sides = {"train": "train", "test": "held_out"}
        if split not in sides:
            raise ValueError(f"split: unknown {split!r}; known: {', '.join(sides)}")
        root = d.source or scene_sets.default_source(d.name, "scenes")
        return scenes.Kept([hololens_room.HololensRoom(root, sides[split])])
    if d.name == "records":
        if not d.source:
            raise ValueError(
                "data.source: the set records is read from a folder with a folder for each split, as "
                "`python -m gsjax.data.scene_records` makes them; name it with --config.data.source=FOLDER"
            )
        return scene_records.SceneRecords(Path(d.source) / split)
    raise ValueError(f"data.name: unknown set {d.name!r}; known: {', '.join(NAMES)}")


def main(argv: Sequence[str] | None = None) -> None:
    """Casts rooms and keeps them; see ``--help``."""
    parser = argparse.ArgumentParser(
        prog="python -m gsjax.data.posed_sets", description=main.__doc__
    )
    parser.add_argument("--count", type=int, default=1000, help="rooms")
    parser.add_argument("--split", choices=SPLITS, default="train")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--size", type=int, default=64, help="pixels a side")
    parser.add_argument("--num_frames", type=int, default=12)
    parser.add_argument("--supersample", type=int, default=2, help="rays along a pixel's side")
    parser.add_argument("--dir", default="", help="cache folder")
    parser.add_argument(
        "--part", default="0/1", help="k/n: the k-th of n processes that share the work"
    )
    args = parser.parse_args(argv)
    k, n = (int(number) for number in args.part.split("/"))
    how = recipe(
        height=args.size, width=args.size, num_frames=args.num_frames, supersample=args.supersample
    )
    try:
        found = rooms(
            args.count, seed=args.seed, split=args.split, recipe=how, cache=args.dir, part=(k, n)
        )
        print(f"{len(found)} rooms of split {args.split}")
    except ValueError as error:
        if n == 1:
            raise
        print(f"part {args.part} ended: {error}")


if __name__ == "__main__":
    main()
