"""Pointmaps of a frozen teacher, computed once and streamed in training.

A teacher's output depends on all views it is given and on their order (the first one is the frame), so what
is stored is the map of a whole set of views: a ``tuple`` of context views drawn ahead with the training sampler
(as the reference computes them), or a ``window`` of 16 to 32 frames that contexts are drawn from (fewer runs,
mostly better geometry, not what PM-Loss (arXiv 2506.05327) does). Frame and scale are the teacher's own: the
registration to the prediction takes them up. Imports no JAX.

A record holds ``points`` float16 [V, h, w, 3] about ``centre`` and in units of ``scale`` (float32, the root mean
square radius of known points), ``conf`` float16 [V, h, w] (0 = unknown), the frames, and whether the teacher saw
the pictures mirrored. Float16 rounds by 5e-4 of the radius at most near it, a fifth of a pixel's footprint.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from gsjax.data import pointmaps, record_shards
from gsjax.io import packed_arrays

KIND = "pointmaps"
MODES = ("tuple", "window")
_LARGEST = 65504.0  # float16


def identity(
    *, mode: str, teacher: str, revision: str, height: int, width: int, fit: str = "cover"
) -> dict:
    """What a cache is: of whose output, over which pictures.

    Args:
        mode: of ``MODES``.
        teacher, revision: name and version of the weights.
        height, width: of the pictures as they are trained on; the maps may be smaller.
        fit: how they were brought to that size, see ``view_fit.fit``.

    Raises:
        ValueError: unknown mode.
    """
    if mode not in MODES:
        raise ValueError(f"mode: unknown {mode!r}; known: {', '.join(MODES)}")
    return dict(
        kind=KIND,
        mode=mode,
        teacher=teacher,
        revision=revision,
        height=height,
        width=width,
        fit=fit,
    )


def encode(
    scene: str,
    frames: Sequence[int],
    points: np.ndarray,
    conf: np.ndarray,
    *,
    flipped: bool = False,
) -> bytes:
    """The record of one run of the teacher.

    Args:
        scene: its name.
        frames: [V], in the order the teacher saw them.
        points: [V, h, w, 3], in any one frame and scale.
        conf: [V, h, w], 0 where a point is unknown; 1 and more from most networks.
        flipped: whether the pictures were mirrored left to right.

    Raises:
        ValueError: shapes that do not fit, confidence that is negative, or a known point or confidence
            that is not finite.
    """
    points, conf = np.asarray(points), np.asarray(conf)
    shape = (len(frames), *points.shape[1:3])
    if points.shape != (*shape, 3) or conf.shape != shape:
        raise ValueError(
            f"points, conf: expected [V, h, w, 3] and [V, h, w] with V = {len(frames)}, found "
            f"{list(points.shape)} and {list(conf.shape)}"
        )
    known = conf > 0
    if not np.isfinite(conf).all() or (conf < 0).any() or not np.isfinite(points[known]).all():
        raise ValueError(
            f"points, conf: {scene!r}, frames {list(frames)}: NaN, infinite or negative values; give such "
            "pixels the confidence 0"
        )
    centre, scale = pointmaps.size_of(points, known)
    unit = np.where(known[..., None], (points - centre) / scale, 0)
    arrays = {
        "points": np.clip(unit, -_LARGEST, _LARGEST).astype(np.float16),
        # A confidence that is known stays known: the smallest normal number of float16.
        "conf": np.where(known, np.clip(conf, 2.0**-14, _LARGEST), 0).astype(np.float16),
        "centre": np.float32(centre),
        "scale": np.float32(scale),
        "frames": np.asarray(frames, np.int64),
    }
    return packed_arrays.pack({"scene": scene, "flipped": bool(flipped)}, arrays)


def decode(data: bytes) -> dict:
    """``scene``, ``frames`` int64 [V], ``flipped``, ``points`` float32 and ``conf`` float32 of a record.

    Raises:
        ValueError: damaged.
    """
    meta, arrays = packed_arrays.unpack(data)
    shapes = {name: value.shape for name, value in arrays.items()}
    maps = shapes.get("conf", ())
    wanted = dict(points=(*maps, 3), conf=maps, centre=(3,), scale=(), frames=maps[:1])
    if len(maps) != 3 or shapes != wanted or {"scene", "flipped"} - set(meta):
        raise ValueError(
            f"data: a damaged record of pointmaps, arrays {shapes}; make the set again"
        )
    points = arrays["points"].astype(np.float32) * arrays["scale"] + arrays["centre"]
    conf = arrays["conf"].astype(np.float32)
    points[conf == 0] = 0
    return dict(meta, frames=arrays["frames"], points=points, conf=conf)


class Writer:
    """Writes a cache; a context manager. An interrupted one goes on: see ``pending``.

    Args:
        folder: of the cache.
        identity: of :func:`identity`.
        part: number of this writer where several work at once.
        shard_records: records a file.
    """

    def __init__(self, folder, identity: Mapping, *, part: int = 0, shard_records: int = 64):
        self._writer = record_shards.Writer(
            folder, identity, part=part, shard_records=shard_records
        )

    def pending(self, scene: str, frames: Sequence[int], flipped: bool = False) -> bool:
        """True if no whole file holds the maps of these views yet."""
        return _key(scene, frames, flipped) not in self._writer.written

    def add(self, scene: str, frames, points, conf, *, flipped: bool = False) -> None:
        """Appends one run of the teacher; arguments as of :func:`encode`."""
        data = encode(scene, frames, points, conf, flipped=flipped)
        listed = [int(f) for f in frames]
        self._writer.add(
            _key(scene, listed, flipped), data, scene=scene, frames=listed, flipped=bool(flipped)
        )

    def __enter__(self):
        self._writer.__enter__()
        return self

    def __exit__(self, *exception):
        self._writer.__exit__(*exception)


def seal(folder, identity: Mapping) -> None:
    """Declares a cache finished, once all its writers have ended."""
    record_shards.seal(folder, identity)


def _key(scene: str, frames: Sequence[int], flipped: bool) -> str:
    return f"{scene}:{','.join(str(int(f)) for f in frames)}" + ":flipped" * bool(flipped)


class CachedTeacher:
    """Maps of a cache, for examples whose context views it holds; see ``pointmaps.DepthTeacher``.

    A map of pictures that were not mirrored serves mirrored examples and the other way round: its columns
    are reversed and its x negated.

    Args:
        folder: of the cache.
        height, width, fit: of the examples' pictures; they must be the cache's.

    Raises:
        ValueError: no finished cache, or one of other pictures.
    """

    def __init__(self, folder, *, height: int, width: int, fit: str = "cover"):
        self._reader = record_shards.Reader(folder, KIND)
        found = self._reader.identity
        self.mode, self.name, self.revision = found["mode"], found["teacher"], found["revision"]
        wanted = dict(height=height, width=width, fit=fit)
        if any(found[key] != value for key, value in wanted.items()):
            was = {key: found[key] for key in wanted}
            raise ValueError(
                f"folder: {folder} holds maps of pictures with {was}, the examples have {wanted}; crop as "
                "the teacher saw them, or run the teacher again"
            )
        self._size = height, width
        self._sets: dict[str, list[tuple[int, tuple[int, ...], bool]]] = {}
        for place, entry in enumerate(self._reader.entries):
            record = place, tuple(entry["frames"]), entry["flipped"]
            self._sets.setdefault(entry["scene"], []).append(record)

    def sets(self, scene: str, num_views: int | None = None) -> list[tuple[int, ...]]:
        """Frames of the scene's tuples or windows, of ``num_views`` frames if given, each once."""
        found = [frames for _, frames, _ in self._sets.get(scene, ())]
        return [f for f in dict.fromkeys(found) if num_views in (None, len(f))]

    def __call__(self, scene: str, frames: np.ndarray, views, flipped: bool):
        """points float32 [V, H, W, 3], conf float32 [V, H, W] of the examples' size.

        Raises:
            ValueError: the cache has no such tuple, or no window with all these frames.
        """
        del views  # the teacher has seen them already
        wanted = tuple(int(f) for f in frames)
        fits = [
            (mirror != flipped, place, held)
            for place, held, mirror in self._sets.get(scene, ())
            if (held == wanted if self.mode == "tuple" else set(wanted) <= set(held))
        ]
        if not fits:
            raise ValueError(
                f"{scene}: the cache holds no {self.mode} with frames {list(wanted)}; draw contexts from "
                "what it holds (CachedTeacher.sets)"
            )
        turn, place, held = min(fits)  # one that needs no mirroring, if there is any
        record = decode(self._reader[place])
        rows = [held.index(frame) for frame in wanted]
        points = pointmaps.resized(record["points"][rows], *self._size)
        conf = pointmaps.resized(record["conf"][rows], *self._size)
        return pointmaps.mirrored(points, conf) if turn else (points, conf)
