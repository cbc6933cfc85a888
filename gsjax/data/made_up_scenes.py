"""Scenes of the size and layout of ScanNet, and of posed videos with a teacher's pointmaps, of nothing.

See ``made_up``. Imports no JAX.
"""

import io
import shutil
from pathlib import Path

import numpy as np
from PIL import Image

from gsjax.data import made_up, pointmap_cache, record_shards, scene_records

# A scan of ScanNet v2: size of its files, points of the average scene after Pointcept's preprocessing.
SCAN_COLOR, SCAN_DEPTH, SCAN_POINTS, SCAN_FRAMES = (968, 1296), (480, 640), 150_000, 48
# A video of DL3DV-480P, as DepthSplat's chunks have it.
VIDEO_SIZE, VIDEO_FRAMES = (270, 480), 300
_DONE = "made_up.txt"


def scannet(folder: Path, count: int, frames: int = SCAN_FRAMES) -> dict:
    """A ScanNet of ``count`` training scenes and one to validate on; see ``made_up.stand_in``."""
    root = folder / f"scannet-{made_up.VERSION}-{count}-{frames}"
    if not (root / _DONE).exists():
        shutil.rmtree(root, ignore_errors=True)
        for number in range(count + 1):
            split = "val" if number == count else "train"
            _scan(root, split, f"scene{number:04d}_00", frames)
        (root / _DONE).write_text("whole\n")
    return dict(source=str(root / "points"), frames_source=str(root / "frames"))


def _scan(root: Path, split: str, name: str, frames: int) -> None:
    rng = np.random.default_rng(int(name[5:9]))
    points = root / "points" / split / name
    points.mkdir(parents=True)
    # The walls, floor and ceiling of a room of 6 x 5 x 2.6 m.
    size = np.asarray([6.0, 5.0, 2.6])
    coord, axis = rng.uniform(size=(SCAN_POINTS, 3)) * size, rng.integers(3, size=SCAN_POINTS)
    side = rng.integers(2, size=SCAN_POINTS)
    rows = np.arange(SCAN_POINTS)
    coord[rows, axis] = side * size[axis]
    normal = np.zeros((SCAN_POINTS, 3), np.float32)
    normal[rows, axis] = 1 - 2 * side
    arrays = dict(
        coord=coord.astype(np.float32),
        color=rng.integers(0, 256, (SCAN_POINTS, 3)).astype(np.uint8),
        normal=normal,
        segment20=rng.integers(-1, 20, SCAN_POINTS).astype(np.int16),
    )
    for key, value in arrays.items():
        np.save(points / f"{key}.npy", value)
    home = root / "frames" / name
    for kind in ("color", "depth", "pose", "intrinsic"):
        (home / kind).mkdir(parents=True)
    for kind, (height, width) in (("color", SCAN_COLOR), ("depth", SCAN_DEPTH)):
        K = np.eye(4)
        K[:2, :3] = [[0.9 * width, 0, width / 2 - 0.5], [0, 0.9 * width, height / 2 - 0.5]]
        np.savetxt(home / "intrinsic" / f"intrinsic_{kind}.txt", K)
    depths = [_depth_png(number) for number in range(4)]
    for frame in range(frames):
        (home / "color" / f"{frame}.jpg").write_bytes(made_up.jpeg(*SCAN_COLOR, frame % 8))
        (home / "depth" / f"{frame}.png").write_bytes(depths[frame % len(depths)])
        angle = 2 * np.pi * frame / frames
        pose = np.eye(4)  # looks outward from the middle of the room, z up
        forward = np.asarray([np.cos(angle), np.sin(angle), 0])
        pose[:3, :3] = np.stack([np.cross(forward, (0, 0, 1)), (0, 0, -1), forward], -1)
        pose[:3, 3] = size / 2
        np.savetxt(home / "pose" / f"{frame}.txt", pose)


def _depth_png(number: int) -> bytes:
    """uint16 millimetres about 2.4 m, with the noise of a sensor and a border of unknown pixels."""
    rng = np.random.default_rng(number)
    y, x = np.mgrid[: SCAN_DEPTH[0], : SCAN_DEPTH[1]] / SCAN_DEPTH[1]
    depth = 2400 + 200 * np.sin(7 * x + number) + 150 * np.cos(9 * y) + rng.normal(0, 2, x.shape)
    depth[:8], depth[:, :8] = 0, 0
    buffer = io.BytesIO()
    Image.fromarray(depth.astype(np.uint16)).save(buffer, "PNG")
    return buffer.getvalue()


def posed(data_config, folder: Path, count: int, frames: int = VIDEO_FRAMES) -> dict:
    """Records of ``count`` videos a split, and pointmaps of tuples of every V; see ``made_up.stand_in``."""
    d = data_config
    least, most = d.context_views
    root = folder / f"posed-{made_up.VERSION}-{count}-{frames}-{d.height}x{d.width}-{least}-{most}"
    maps = root / "pointmaps"
    if not (root / _DONE).exists():
        shutil.rmtree(root, ignore_errors=True)
        for split in ("train", "test"):
            _videos(root / split, split, count if split == "train" else 1, frames)
        _pointmaps(maps, d, count, frames)
        (root / _DONE).write_text("whole\n")
    cached = {"teacher.cache": str(maps)} if d.teacher.kind == "cache" else {}
    return {"source": str(root), **cached}


def _videos(folder: Path, split: str, count: int, frames: int) -> None:
    height, width = VIDEO_SIZE
    files = [made_up.jpeg(height, width, number) for number in range(16)]
    K = np.asarray([[0.9, 0, 0.5], [0, 0.9 * width / height, 0.5], [0, 0, 1.0]])
    viewmats = np.tile(np.eye(4), (frames, 1, 1))
    viewmats[:, 0, 3] = -0.05 * np.arange(frames)  # a glide to the right
    identity = dict(kind=scene_records.KIND, made_up=made_up.VERSION, split=split)
    with record_shards.Writer(folder, identity, shard_records=8) as writer:
        for number in range(count):
            name = f"{split}-{number:05d}"
            pictures = [files[(number + f) % len(files)] for f in range(frames)]
            data = scene_records.encode(name, pictures, np.tile(K, (frames, 1, 1)), viewmats)
            writer.add(name, data, frames=frames, order=number)
    record_shards.seal(folder, identity)


def _pointmaps(folder: Path, d, count: int, frames: int) -> None:
    identity = pointmap_cache.identity(
        mode="tuple", teacher=made_up.NAME, revision="", height=d.height, width=d.width, fit=d.fit
    )
    least, most = d.context_views
    gap = max(d.gap)
    rng = np.random.default_rng(0)
    y, x = np.mgrid[: d.height, : d.width] / d.width
    with pointmap_cache.Writer(folder, identity) as writer:
        for number in range(count):
            for views in range(least, most + 1):
                first = int(rng.integers(frames - gap))
                held = np.linspace(first, first + gap, views).round().astype(int)
                depth = 3 + rng.normal(0, 0.02, (views, d.height, d.width))
                points = np.stack([x * depth, y * depth, depth], -1)
                conf = np.ones((views, d.height, d.width))
                writer.add(f"train-{number:05d}", held, points, conf)
    pointmap_cache.seal(folder, identity)
