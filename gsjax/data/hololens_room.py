"""A recorded room, ``scenes/hololens_room`` of the test data: posed RGB-D frames with missing depth.

The folder holds ``cameras.json`` (one pinhole camera; a list of frames with ``file_path``,
``depth_path`` and ``camera_to_world`` in OpenCV axes and metres), pictures, depth as uint16
millimetres along the optical axis (0 = missing), and ``pairs.json`` (pairs of frames that see the
same things: the camera moves fast, so neighbours by number need not). The recording has y up; it is
turned so that z is up, as in every scene. Imports no JAX.
"""

import functools
from pathlib import Path

import numpy as np
from absl import logging

from gsjax.data import clouds
from gsjax.data.scenes import View
from gsjax.io import json_text, posed, posed_checks, posed_pixels

SPLITS = ("train", "held_out", "all")
_Y_TO_Z = np.array([[1.0, 0, 0, 0], [0, 0, -1, 0], [0, 1, 0, 0], [0, 0, 0, 1]])


def time_blocks(
    num_frames: int, *, block: int = 12, every: int = 4, gap: int = 1
) -> tuple[np.ndarray, np.ndarray]:
    """Frames for training and held-out ones, by blocks of time.

    Single held-out frames would lie between training frames that look almost alike.

    Args:
        num_frames: F.
        block: frames of a block.
        every: k; the last of every k blocks is held out.
        gap: training frames left out on each side of a held-out block.

    Returns:
        (train, held_out) ascending int64; both have frames.

    Raises:
        ValueError: options out of range, or a recording too short for two blocks.
    """
    if block < 1 or every < 2 or gap < 0:
        raise ValueError(
            f"expected block >= 1, every >= 2 and gap >= 0; found {block=}, {every=}, {gap=}"
        )
    frames = np.arange(num_frames)
    held = frames // block % every == every - 1
    near = np.zeros(num_frames, bool)
    for step in range(-gap, gap + 1):
        near |= np.roll(np.pad(held, gap), step)[gap : gap + num_frames]
    if not held.any() or not (~near).any():
        raise ValueError(
            f"num_frames: {num_frames} frames give no held-out block of {block} in every {every}, or "
            "leave none to train on; choose shorter blocks"
        )
    return frames[~near], frames[held]


class HololensRoom:
    """The recording as a ``scenes.Scene`` of one split.

    Frames whose pose has NaN or infinite entries are dropped. ``cloud()`` is made from training frames
    alone, for every split.

    Args:
        root: folder with ``cameras.json``.
        split: 'train', 'held_out' or 'all'.
        block, every, gap: see :func:`time_blocks`.
        voxel: of the fused cloud, metres.
        stride: every ``stride``-th row and column of a picture goes into the cloud.
        max_depth: metres; depth beyond counts as missing in the cloud.

    Raises:
        FileNotFoundError: no ``cameras.json``, or pictures or depth maps it names are missing.
        ValueError: unknown split, a damaged file, or no frame with a usable pose.
    """

    def __init__(
        self,
        root: str | Path,
        split: str = "train",
        *,
        block: int = 12,
        every: int = 4,
        gap: int = 1,
        voxel: float = 0.02,
        stride: int = 2,
        max_depth: float = 6.0,
    ):
        if split not in SPLITS:
            raise ValueError(f"split: unknown {split!r}; known: {', '.join(SPLITS)}")
        root = Path(root)
        self.name = f"hololens_room/{split}"
        self._posed, self._numbers = _read(root / "cameras.json")
        train, held = time_blocks(len(self._posed), block=block, every=every, gap=gap)
        everything = np.arange(len(self._posed))
        self._train = train
        self._rows = {"train": train, "held_out": held, "all": everything}[split]
        self._pairs = _pairs(root / "pairs.json", self._numbers, self._rows)
        self._fusion = (voxel, stride, max_depth)

    @property
    def num_frames(self) -> int:
        return len(self._rows)

    @property
    def viewmats(self) -> np.ndarray:
        return self._posed.viewmats[self._rows]

    @property
    def frame_numbers(self) -> np.ndarray:
        """Places of this split's frames in ``cameras.json``, int64 [F]."""
        return self._numbers[self._rows]

    def neighbours(self, frame: int) -> np.ndarray | None:
        """Frames of this split that ``pairs.json`` pairs with ``frame``; None without the file."""
        return None if self._pairs is None else self._pairs[frame]

    def view(self, frame: int) -> View:
        """Frame 0 .. F - 1 at its full size; depth is 0 where it was not measured."""
        return self._load(int(self._rows[frame]))

    def _load(self, row: int) -> View:
        one = self._posed.subset([row])
        image, depth = posed_pixels.load_images(one)[0], posed_pixels.load_depths(one)[0]
        return View(image[..., :3], depth, None, self._posed.viewmats[row], self._posed.Ks[row])

    def cloud(self) -> clouds.Cloud:
        """Fused from the training frames; labels are unknown."""
        return self._cloud

    @functools.cached_property
    def _cloud(self) -> clouds.Cloud:
        voxel, stride, max_depth = self._fusion
        return clouds.fuse(
            (self._load(int(row)) for row in self._train), voxel=voxel, stride=stride,
            max_depth=max_depth, least=3,
        )  # fmt: skip


def _read(path: Path) -> tuple[posed.PosedImages, np.ndarray]:
    """Frames with finite poses in the order of their names, and their places in the file."""
    if not path.is_file():
        raise FileNotFoundError(
            f"{path}: no such file; root must be the folder scenes/hololens_room of the test data"
        )
    try:
        meta = json_text.read(path, dict)
        frames = list(meta["frames"])
        poses = [np.asarray(frame["camera_to_world"], np.float64) for frame in frames]
        K = np.array(
            [[meta["fl_x"], 0, meta["cx"]], [0, meta["fl_y"], meta["cy"]], [0, 0, 1]], np.float64
        )
        size = int(meta["w"]), int(meta["h"])
        files = [
            tuple(json_text.member(f, key, str, "frame") for key in ("file_path", "depth_path"))
            for f in frames
        ]
        posed_checks.check_intrinsics(K, *size, path.name)
        scale = float(meta["depth_scale_m"])
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"{path}: damaged, or of another format ({error!r})") from error
    numbers = np.array([i for i, pose in enumerate(poses) if np.isfinite(pose).all()], np.int64)
    if not len(numbers):
        raise ValueError(f"{path}: none of {len(frames)} frames has a finite pose")
    if len(numbers) < len(frames):
        logging.info("%s: %d frames without a pose dropped", path, len(frames) - len(numbers))
    numbers = numbers[np.argsort([files[i][0] for i in numbers], kind="stable")]
    turned = [_Y_TO_Z @ posed_checks.to_rigid(poses[i], files[i][0]) for i in numbers]
    cameras = posed.PosedImages(
        names=tuple(files[i][0] for i in numbers),
        image_paths=tuple(path.parent / files[i][0] for i in numbers),
        depth_paths=tuple(path.parent / files[i][1] for i in numbers),
        viewmats=posed_checks.invert_rigid(np.stack(turned)),
        Ks=np.repeat(K[None], len(numbers), 0),
        width=np.full(len(numbers), size[0]),
        height=np.full(len(numbers), size[1]),
        depth_scale=scale,
    )
    return posed_pixels.fit_to_files(cameras), numbers


def _pairs(path: Path, numbers: np.ndarray, rows: np.ndarray) -> list[np.ndarray] | None:
    """For each frame of a split the frames of it that see the same; None where no file says."""
    if not path.is_file():
        return None
    place = {int(numbers[row]): i for i, row in enumerate(rows)}
    found: list[set] = [set() for _ in rows]
    for pair in json_text.read(path, list):
        one, two = (place.get(json_text.member(pair, key, int, str(path))) for key in "ij")
        if one is not None and two is not None:
            found[one].add(two)
            found[two].add(one)
    return [np.array(sorted(others), np.int64) for others in found]
