"""Tiny photographs with known cameras, written in the layouts that the readers know."""

import json
from pathlib import Path

import numpy as np
from PIL import Image

FLIP = np.diag([1.0, -1.0, -1.0, 1.0])


def ring(num: int, radius: float = 4.0, height: float = 1.0) -> np.ndarray:
    """Camera-to-world [num, 4, 4], OpenCV axes, around the origin and looking at it; z is up."""
    poses = np.tile(np.eye(4), (num, 1, 1))
    for i, angle in enumerate(np.arange(num) * 2 * np.pi / num):
        center = np.array([radius * np.cos(angle), radius * np.sin(angle), height])
        forward = -center / np.linalg.norm(center)
        right = np.cross(forward, [0, 0, 1.0])
        right /= np.linalg.norm(right)
        poses[i, :3, :3] = np.stack([right, np.cross(forward, right), forward], axis=1)
        poses[i, :3, 3] = center
    return poses


def picture(path: Path, size=(12, 8), seed: int = 0, mode: str = "RGB") -> np.ndarray:
    """Writes noise of size (width, height); returns what was written, uint8 [H, W, C]."""
    channels = {"RGB": 3, "RGBA": 4}[mode]
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], channels), np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return pixels


def nerfstudio(folder: Path, num: int = 5, *, size=(12, 8), **keys) -> Path:
    """A folder with transforms.json (OpenGL axes) and images/; ``keys`` join or replace the file's.

    Frames are written in falling order of their names.
    """
    frames = []
    for i, pose in reversed(list(enumerate(ring(num)))):
        picture(folder / "images" / f"{i:03d}.png", size, seed=i)
        matrix = (pose @ FLIP).tolist()
        frames.append({"file_path": f"images/{i:03d}.png", "transform_matrix": matrix})
    meta = {"fl_x": 10.0, "fl_y": 11.0, "cx": 6.5, "cy": 3.5, "w": 12, "h": 8, "frames": frames}
    return write(folder / "transforms.json", {**meta, **keys})


def blender(folder: Path, counts: dict[str, int], size=(10, 10), angle: float = 0.8):
    """transforms_<split>.json and RGBA pictures, extensions left out, as NeRF-synthetic has them."""
    poses = iter(ring(sum(counts.values())))
    for split, num in counts.items():
        frames = []
        for i in range(num):
            picture(folder / split / f"r_{i}.png", size, seed=i, mode="RGBA")
            matrix = (next(poses) @ FLIP).tolist()
            frames.append({"file_path": f"./{split}/r_{i}", "transform_matrix": matrix})
        write(
            folder / f"transforms_{split}.json",
            {"camera_angle_x": angle, "frames": frames},
        )


def write(path: Path, meta) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(meta))
    return path


def edit(path: Path, change) -> Path:
    """Applies ``change(meta)`` to a JSON file."""
    meta = json.loads(path.read_text())
    change(meta)
    return write(path, meta)
