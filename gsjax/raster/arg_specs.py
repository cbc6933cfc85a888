"""Scenes and sizes that tests and the benchmark share: seeded random ones and real splat files.

Arrays are numpy, named as the arguments of `api.rasterize`. Real files are read from a data folder
given by the caller; nothing here downloads or needs one.
"""

import dataclasses
import math
import pathlib

import numpy as np


@dataclasses.dataclass(frozen=True)
class ArgSpec:
    """A scene seen by one camera.

    Attributes:
      name: row of a table.
      file: below the data folder; '' for a random cloud of `num` small Gaussians.
      size: pixels, width and height.
      num: Gaussians, about.
      opacity: factor on all opacities.
      channels: of the colours; other than 3 means random ones.
    """

    name: str
    file: str
    size: int
    num: int
    opacity: float = 1.0
    channels: int = 3


_FILES = {
    "boot 10k": ("splats/10k/boot_10k.splat", 10_000),
    "boot 100k": ("splats/100k/boot_100k.splat", 100_000),
    "capture 115k": ("splats/captures/academic_tarot_cards.splat", 115_000),
}

ARG_SPECS = tuple(
    ArgSpec(f"{name} @ {size}", file, size, num)
    for size in (256, 800)
    for name, (file, num) in _FILES.items()
)

# What a rasterizer may be slow at: nothing that closes a pixel, many channels, many Gaussians.
HARD_SPECS = (
    ArgSpec("boot 100k @ 800, o x 0.2", *_FILES["boot 100k"][:1], 800, 100_000, opacity=0.2),
    ArgSpec("boot 10k @ 256, C = 32", *_FILES["boot 10k"][:1], 256, 10_000, channels=32),
    ArgSpec("boot 10k @ 256, C = 64", *_FILES["boot 10k"][:1], 256, 10_000, channels=64),
    ArgSpec("random 1M @ 800", "", 800, 1_000_000),
)


def load(spec: ArgSpec, root: pathlib.Path | None) -> dict[str, np.ndarray]:
    """Arguments of `rasterize` for a spec: means, quats, scales, opacities, colors, viewmats, Ks.

    root: the data folder; None, or one without the file, gives a random cloud of the same size.
    """
    path = None if root is None else pathlib.Path(root) / spec.file
    if spec.file and path is not None and path.is_file():
        scene = read_splat(path)
        viewmat, K = look_camera(scene["means"], spec.size, spec.size)
        scene |= dict(viewmats=viewmat[None], Ks=K[None])
    else:
        scale = 0.6 / math.sqrt(spec.num)
        scene = random_scene(spec.num, spec.num, spec.size, spec.size, scale=scale)
    if spec.channels != 3:
        shape = len(scene["means"]), spec.channels
        scene["colors"] = np.random.default_rng(0).uniform(size=shape).astype(np.float32)
    return scene | dict(opacities=scene["opacities"] * np.float32(spec.opacity))


def read_splat(path: pathlib.Path) -> dict[str, np.ndarray]:
    """A .splat file (32 bytes a Gaussian) as float32 arrays, colours in [0, 1].

    Enough for known good files; `gsjax.io.splat` is the reader with checks.
    """
    rows = np.frombuffer(pathlib.Path(path).read_bytes(), np.uint8).reshape(-1, 32)
    floats = rows[:, :24].copy().view(np.float32)
    rgba = rows[:, 24:28].astype(np.float32) / 255
    quats = (rows[:, 28:32].astype(np.float32) - 128) / 128
    return dict(
        means=floats[:, :3].copy(),
        quats=quats,
        scales=floats[:, 3:6].copy(),
        opacities=rgba[:, 3].copy(),
        colors=rgba[:, :3].copy(),
    )


def look_camera(
    means: np.ndarray, width: int, height: int, *, distance: float = 2.2, fov: float = 40.0,
    azimuth: float = 0.6, elevation: float = 0.25,
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """A camera that frames a cloud whose up is -y.

    Args:
      means: [N, 3]; framed by its 1 % to 99 % box.
      width, height: pixels.
      distance: in half diagonals of the box.
      fov: horizontal angle of view, degrees.
      azimuth, elevation: radians.

    Returns:
      viewmat [4, 4] and K [3, 3], float32.
    """
    low, high = np.percentile(means, 1, axis=0), np.percentile(means, 99, axis=0)
    center, radius = (low + high) / 2, np.linalg.norm(high - low) / 2
    ring = np.cos(elevation) * np.array([np.sin(azimuth), 0, np.cos(azimuth)])
    eye = center + distance * radius * (ring - [0, np.sin(elevation), 0])
    forward = (center - eye) / np.linalg.norm(center - eye)
    right = np.cross(forward, [0.0, -1.0, 0.0])
    right /= np.linalg.norm(right)
    viewmat = np.eye(4)
    viewmat[:3, :3] = np.stack([right, np.cross(forward, right), forward])
    viewmat[:3, 3] = -viewmat[:3, :3] @ eye
    focal = 0.5 * width / np.tan(np.radians(fov) / 2)
    K = np.array([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]])
    return viewmat.astype(np.float32), K.astype(np.float32)


def random_scene(
    seed: int, num: int, width: int, height: int, *, cameras: int = 1, channels: int = 3,
    scale: float = 0.08, sh_degree: int | None = None,
) -> dict[str, np.ndarray]:  # fmt: skip
    """A cloud of translucent Gaussians around the origin and cameras three units off, float32.

    Args:
      seed: of everything.
      num: Gaussians.
      width, height: pixels.
      cameras: on a ring.
      channels: of the colours.
      scale: median standard deviation, world units; the cloud's own is 0.6.
      sh_degree: colours become SH coefficients [num, K, 3] of this degree.
    """
    rng = np.random.default_rng(seed)
    scene = dict(
        means=0.6 * rng.normal(size=(num, 3)),
        quats=rng.normal(size=(num, 4)),
        scales=scale * np.exp(0.7 * rng.normal(size=(num, 3))),
        opacities=rng.uniform(0.05, 1.0, num),
        colors=rng.uniform(size=(num, channels)),
    )
    if sh_degree is not None:
        scene["colors"] = 0.4 * rng.normal(size=(num, (sh_degree + 1) ** 2, 3))
    box = np.array([[-1.0, -1.0, -1.0], [1.0, 1.0, 1.0]])
    views = [
        look_camera(box, width, height, distance=1.8, azimuth=2 * np.pi * i / cameras + 0.3)
        for i in range(cameras)
    ]
    scene["viewmats"] = np.stack([v for v, _ in views])
    scene["Ks"] = np.stack([k for _, k in views])
    scene["Ks"][:, :2, 2] += rng.normal(size=(cameras, 2))  # principal point off the middle
    return {k: v.astype(np.float32) for k, v in scene.items()}
