"""Posed videos stored one record a scene: picture files, cameras and, where known, depth.

What feed-forward training draws from: chunks of RealEstate10K, ACID and DL3DV are converted once, since random
access to scenes takes the place of shuffling chunks; procedural rooms are cast once. A scene is read as a
``scenes.Scene`` without points; only pictures that are asked for are decoded. Imports no JAX.

    python -m gsjax.data.scene_records CHUNKS/train RECORDS/train --height=360 --width=640 --on_bad=drop
"""

import argparse
import contextlib
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import numpy as np
from absl import logging

from gsjax.data import features, record_shards, view_fit
from gsjax.data.scenes import Scene, View
from gsjax.io import json_text, packed_arrays, scene_chunks

KIND = "posed scenes"


def encode(
    name: str,
    pictures: Sequence[bytes],
    Ks: np.ndarray,
    viewmats: np.ndarray,
    *,
    times: np.ndarray | None = None,
    depths: np.ndarray | None = None,
    neighbours: Sequence[Sequence[int]] | None = None,
) -> bytes:
    """The record of a scene.

    Args:
        name: of the scene.
        pictures: F picture files (JPEG or PNG).
        Ks: [F, 3, 3], normalised.
        viewmats: [F, 4, 4] world to camera.
        times: [F] int64, as the source has them.
        depths: [F, H, W], 0 where unknown; float16 and float32 are kept as they are.
        neighbours: of each frame those that see the same.
    """
    offsets = np.cumsum([0, *map(len, pictures)])
    arrays = {
        "Ks": np.asarray(Ks, np.float64),
        "viewmats": np.asarray(viewmats, np.float64),
        "times": np.arange(len(pictures)) if times is None else np.asarray(times, np.int64),
        "offsets": offsets,
        "pictures": np.frombuffer(b"".join(pictures), np.uint8),
    }
    if depths is not None:
        arrays["depths"] = depths
    near = None if neighbours is None else [[int(f) for f in row] for row in neighbours]
    return packed_arrays.pack({"name": name, "neighbours": near}, arrays)


class RecordScene:
    """A stored scene: a ``scenes.Scene`` but for ``cloud``.

    Attributes:
        name: of the scene.
        normalised_Ks: float64 [F, 3, 3].
        times: int64 [F].

    Raises:
        ValueError: damaged bytes.
    """

    def __init__(self, data: bytes):
        meta, arrays = packed_arrays.unpack(data)
        _check(meta, arrays)
        self.name, self._near = meta["name"], meta["neighbours"]
        self.normalised_Ks, self.times = arrays["Ks"], arrays["times"]
        self._viewmats, self._offsets = arrays["viewmats"], arrays["offsets"]
        self._pictures, self._depths = arrays["pictures"], arrays.get("depths")

    @property
    def num_frames(self) -> int:
        return len(self._viewmats)

    @property
    def viewmats(self) -> np.ndarray:
        return self._viewmats

    def neighbours(self, frame: int) -> np.ndarray | None:
        return None if self._near is None else np.array(self._near[frame], np.int64)

    def view(self, frame: int) -> View:
        """Frame 0 .. F - 1; depth is 0 throughout where the record has none.

        Raises:
            ValueError: the picture is damaged.
        """
        first, last = self._offsets[frame], self._offsets[frame + 1]
        image = scene_chunks.decode_picture(
            self._pictures[first:last], f"{self.name}: frame {frame}"
        )
        size = image.shape[:2]
        depth = np.zeros(size, np.float32)
        if self._depths is not None:
            depth = self._depths[frame].astype(np.float32)
            if depth.shape != size:
                raise ValueError(
                    f"{self.name}: frame {frame}: depth of shape {depth.shape}, picture of {size}"
                )
        K = view_fit.in_pixels(self.normalised_Ks[frame], *size)
        return View(image, depth, None, self._viewmats[frame], K)


def _check(meta: Mapping, arrays: Mapping[str, np.ndarray]) -> None:
    """Raises ValueError unless all parts of a record are there and agree on the number of frames."""
    frames = len(arrays["viewmats"]) if np.ndim(arrays.get("viewmats")) else 0
    shapes = {"Ks": (frames, 3, 3), "viewmats": (frames, 4, 4), "times": (frames,)}
    shapes["offsets"] = (frames + 1,)
    wrong = [n for n, shape in shapes.items() if n not in arrays or arrays[n].shape != shape]
    pictures, depths = arrays.get("pictures"), arrays.get("depths")
    if pictures is None or pictures.dtype != np.uint8 or pictures.ndim != 1:
        wrong.append("pictures")
    elif "offsets" not in wrong:
        places = arrays["offsets"]
        if places.dtype.kind not in "iu" or (np.diff(places.astype(np.int64)) < 0).any():
            wrong.append("offsets")
        elif places[0] != 0 or places[-1] != len(pictures):
            wrong.append("offsets")
    if depths is not None and (depths.ndim != 3 or len(depths) != frames):
        wrong.append("depths")
    near = meta.get("neighbours")
    if near is not None and not (
        isinstance(near, list)
        and len(near) == frames
        and all(type(f) is int and 0 <= f < frames for row in near for f in _listed(row))
    ):
        wrong.append("neighbours")
    if not isinstance(meta.get("name"), str) or "neighbours" not in meta:
        wrong.append("name")
    if wrong:
        raise ValueError(f"data: a damaged record of a scene ({', '.join(wrong)}); make it again")


def _listed(row) -> list:
    return row if isinstance(row, list) else [None]


class SceneRecords:
    """All scenes of a converted set, in its order.

    Args:
        folder: of :func:`convert_chunks` or :func:`store`.

    Raises:
        ValueError: no finished set of scenes.
    """

    def __init__(self, folder):
        self._reader = record_shards.Reader(folder, KIND)

    def __len__(self) -> int:
        return len(self._reader)

    @property
    def names(self) -> list[str]:
        return [entry["key"] for entry in self._reader.entries]

    @property
    def lengths(self) -> list[int]:
        """Frames of each scene, without reading any."""
        where = str(self._reader.folder)
        return [json_text.member(entry, "frames", int, where) for entry in self._reader.entries]

    def place_of(self, name: str) -> int | None:
        """Number of the scene of this name; None = there is none."""
        return self._reader.place_of(name)

    def __getitem__(self, place: int) -> RecordScene:
        return RecordScene(self._reader[place])


def convert_chunks(
    source,
    folder,
    *,
    size: tuple[int, int] | None = None,
    widest: float = 100.0,
    farthest: float = scene_chunks.FARTHEST,
    exclude: Collection[str] = (),
    on_bad: str = "error",
    decode: bool = False,
) -> Mapping[str, int]:
    """Converts one split of chunk files; picture files are kept byte by byte.

    An interrupted conversion goes on where it stopped.

    Args:
        source: folder with ``index.json`` and chunks.
        folder: of the records.
        size: (height, width) that scenes must have; None = any one size a scene.
        widest, farthest, decode: see ``scene_chunks.check_scene``.
        exclude: scenes to leave out, such as the 140 of the DL3DV benchmark from training.
        on_bad: scenes that cannot be used are an 'error', or 'drop'.

    Returns:
        {'kept': scenes, 'excluded': scenes, 'dropped': scenes}.

    Raises:
        ValueError: see ``scene_chunks``; or a scene of the index that its chunk lacks.
        FileExistsError: ``folder`` holds a finished set.
    """
    if on_bad not in ("error", "drop"):
        raise ValueError(f"on_bad: expected 'error' or 'drop', found {on_bad!r}")
    index = scene_chunks.read_index(source)
    chunks: dict[Path, set[str]] = {}
    for scene, path in index.items():
        chunks.setdefault(path, set()).add(scene)
    order = {scene: place for place, scene in enumerate(index)}
    rules = dict(size=size, widest=widest, farthest=farthest, decode=decode)
    identity = {
        "kind": KIND, "source": Path(source).resolve().name, "scenes": len(index), "on_bad": on_bad,
        "exclude": sorted(exclude), **rules,
    }  # fmt: skip
    count = dict(kept=0, excluded=0, dropped=0)
    with record_shards.Writer(folder, identity) as writer:
        for path, wanted in chunks.items():
            for scene in _chosen(path, wanted):
                if scene.key in exclude:
                    count["excluded"] += 1
                    continue
                if scene.key not in writer.written:
                    data = _converted(scene, rules, on_bad)
                    if data is None:
                        count["dropped"] += 1
                        continue
                    frames = len(scene.images)
                    writer.add(scene.key, data, frames=frames, order=order[scene.key])
                count["kept"] += 1
    record_shards.seal(folder, identity, expected=count["kept"], notes=count)
    logging.info("%s: %s", folder, count)
    return count


def _chosen(path: Path, wanted: set[str]):
    found = [scene for scene in scene_chunks.read(path) if scene.key in wanted]
    if absent := wanted - {scene.key for scene in found}:
        raise ValueError(
            f"{path}: {len(absent)} scenes that {scene_chunks.INDEX} places here are not in it, the first "
            f"is {min(absent)!r}; get the file again"
        )
    return found


def _converted(scene: scene_chunks.ChunkScene, rules: Mapping, on_bad: str) -> bytes | None:
    try:
        cameras = scene_chunks.check_scene(scene, **rules)
    except scene_chunks.SceneChunkError as error:
        if on_bad == "error":
            raise scene_chunks.SceneChunkError(
                f"{error}; pass on_bad='drop' (--on_bad=drop) to leave such scenes out"
            ) from None
        logging.warning("left out: %s", error)
        return None
    pictures = [bytes(image) for image in scene.images]
    return encode(scene.key, pictures, cameras["Ks"], cameras["viewmats"], times=scene.timestamps)


def store(
    scenes: Sequence[Scene],
    folder,
    identity: Mapping,
    *,
    part: tuple[int, int] = (0, 1),
    quiet: bool = False,
) -> None:
    """Stores scenes that are made or read slowly, with their depth; pictures as PNG, nothing is lost.

    Args:
        scenes: random access; views of a scene have one size.
        folder: of the records; an interrupted run goes on.
        identity: plain values that say what the scenes are.
        part: (k, n): store every n-th scene from the k-th on, in one of n processes that run at once. The
            process that finds the set whole seals it.
        quiet: no line a shard.

    Raises:
        ValueError: the folder holds another set, or depth that is NaN or negative.
    """
    identity = {**identity, "kind": KIND, "count": len(scenes)}
    with record_shards.Writer(folder, identity, part=part[0]) as writer:
        for place in range(part[0], len(scenes), part[1]):
            key = f"{place:06d}"
            if key in writer.written:
                continue
            data, frames = _stored(scenes[place])
            writer.add(key, data, frames=frames, order=place)
            if not quiet and place // part[1] % 64 == 63:
                logging.info("%s: scene %d of %d", folder, place + 1, len(scenes))
    if part[1] == 1:
        record_shards.seal(folder, identity, expected=len(scenes))
        return
    with contextlib.suppress(ValueError):  # other parts are still at work: the last one seals
        record_shards.seal(folder, identity, expected=len(scenes))


def _stored(scene: Scene) -> tuple[bytes, int]:
    views = [scene.view(frame) for frame in range(scene.num_frames)]
    for frame, view in enumerate(views):
        view_fit.check_depth(view, f"{scene.name}: frame {frame}")
    Ks = [view_fit.normalised(view.K, *view.image.shape[:2]) for view in views]
    near = [scene.neighbours(frame) for frame in range(len(views))]
    data = encode(
        scene.name, [features.encode_png(np.ascontiguousarray(view.image)) for view in views],
        np.stack(Ks), np.stack([view.viewmat for view in views]),
        depths=np.stack([view.depth for view in views]),
        neighbours=None if any(n is None for n in near) else near,
    )  # fmt: skip
    return data, len(views)


def main(argv: Sequence[str] | None = None) -> None:
    """Converts one split; see ``--help``."""
    parser = argparse.ArgumentParser(
        prog="python -m gsjax.data.scene_records", description=main.__doc__
    )
    parser.add_argument("source", help="folder with index.json and .torch chunks")
    parser.add_argument("out", help="folder of the records")
    parser.add_argument("--height", type=int, default=0, help="of the pictures; 0 = any")
    parser.add_argument("--width", type=int, default=0)
    parser.add_argument("--widest", type=float, default=100.0, help="angle of view, degrees")
    parser.add_argument(
        "--exclude", default="", help="text file: a scene to leave out on each line"
    )
    parser.add_argument("--on_bad", choices=("error", "drop"), default="error")
    parser.add_argument("--decode", action="store_true", help="read every pixel of every picture")
    args = parser.parse_args(argv)
    if bool(args.height) != bool(args.width):
        parser.error("--height and --width go together")
    exclude = Path(args.exclude).read_text().split() if args.exclude else ()
    count = convert_chunks(
        args.source, args.out, size=(args.height, args.width) if args.height else None,
        widest=args.widest, exclude=exclude, on_bad=args.on_bad, decode=args.decode,
    )  # fmt: skip
    print(f"{args.out}: " + ", ".join(f"{number} {what}" for what, number in count.items()))


if __name__ == "__main__":
    main()
