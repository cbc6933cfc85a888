"""Photographs with known cameras: the record every reader fills, and their pixels.

``load_posed`` recognises what a path holds (COLMAP, nerfstudio or Blender) and ``load_images``,
``load_masks`` and ``load_depths`` read the pixels. Coordinates are the file's own world; lens
distortion is refused, not removed. Imports no JAX.
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from gsjax.io import posed_checks, posed_pixels


@dataclasses.dataclass(frozen=True, eq=False)
class PosedImages:
    """V photographs with their pinhole cameras, in the order of their names.

    Attributes:
      names: unique, ascending; relative to the folder of the photographs, with extension.
      image_paths: the files.
      viewmats: [V, 4, 4] float64, world-to-camera, OpenCV axes (x right, y down, z forward).
      Ks: [V, 3, 3] float64, pixels, pixel centres at +0.5 (the picture's corner is 0, 0).
      width: [V] int64, pixels.
      height: [V] int64, pixels.
      mask_paths: the files whose non-zero pixels count, or None.
      depth_paths: the files of depth along the optical axis, or None.
      points: [M, 3] float64 in the world, or None.
      point_colors: [M, 3] uint8, or None.
      splits: {'train' | 'val' | 'test': int64 indices}, or None where the source has none.
      alpha: the photographs have an (unpremultiplied) alpha channel.
      depth_scale: world units of one unit of the depth files.
      applied_transform: [4, 4] motion that the source says was already applied to cameras and
        points, or None; its inverse leads back to the first world.
    """

    names: tuple[str, ...]
    image_paths: tuple[Path, ...]
    viewmats: np.ndarray
    Ks: np.ndarray
    width: np.ndarray
    height: np.ndarray
    mask_paths: tuple[Path, ...] | None = None
    depth_paths: tuple[Path, ...] | None = None
    points: np.ndarray | None = None
    point_colors: np.ndarray | None = None
    splits: Mapping[str, np.ndarray] | None = None
    alpha: bool = False
    depth_scale: float = 1e-3
    applied_transform: np.ndarray | None = None

    def __post_init__(self):
        num = len(self.names)
        posed_checks.check_names(self.names, "names")
        if list(self.names) != sorted(self.names):
            raise ValueError(
                "names: expected ascending order; build with PosedImages.from_unsorted"
            )
        expected = {
            "viewmats": (num, 4, 4), "Ks": (num, 3, 3), "width": (num,), "height": (num,)
        }  # fmt: skip
        for name, shape in expected.items():
            found = np.shape(getattr(self, name))
            if found != shape:
                raise ValueError(
                    f"{name}: expected shape {list(shape)} for {num} names, found {list(found)}"
                )
        for name in ("image_paths", "mask_paths", "depth_paths"):
            paths = getattr(self, name)
            if paths is not None and len(paths) != num:
                raise ValueError(
                    f"{name}: expected one for each of the {num} names, found {len(paths)}"
                )
        self._check_points()
        for i, name in enumerate(self.names):
            posed_checks.to_rigid(self.viewmats[i], name)
            posed_checks.check_intrinsics(self.Ks[i], self.width[i], self.height[i], name)
        for name, indices in (self.splits or {}).items():
            if len(indices) and not (0 <= np.min(indices) and np.max(indices) < num):
                raise ValueError(f"splits[{name!r}]: expected indices in 0 .. {num - 1}")

    def _check_points(self):
        points, colors = self.points, self.point_colors
        if points is not None and (points.ndim != 2 or points.shape[1] != 3):
            raise ValueError(f"points: expected shape [M, 3], found {list(points.shape)}")
        if points is not None and not np.isfinite(points).all():
            bad = (~np.isfinite(points).all(axis=1)).sum()
            raise ValueError(f"points: {bad} of {len(points)} are NaN or infinite; remove them")
        if colors is not None and (points is None or colors.shape != points.shape):
            found = None if points is None else list(points.shape)
            raise ValueError(
                f"point_colors: expected the shape of points, {found}, found {list(colors.shape)}"
            )

    def __len__(self) -> int:
        return len(self.names)

    @classmethod
    def from_unsorted(cls, *, names, splits=None, **fields) -> "PosedImages":
        """Like the constructor, from photographs in any order; ``splits`` index that order."""
        posed_checks.check_names(names, "names")
        order = sorted(range(len(names)), key=lambda i: names[i])
        place = np.argsort(order)
        for name in ("image_paths", "mask_paths", "depth_paths"):
            if fields.get(name) is not None:
                if len(fields[name]) != len(names):
                    raise ValueError(
                        f"{name}: expected one for each of the {len(names)} names, found "
                        f"{len(fields[name])}"
                    )
                fields[name] = tuple(fields[name][i] for i in order)
        for name, dtype in _ARRAYS.items():
            array = np.asarray(fields[name], dtype)
            if len(array) != len(names):
                raise ValueError(
                    f"{name}: expected one for each of the {len(names)} names, found {len(array)}"
                )
            fields[name] = array[order]
        if splits is not None:
            splits = {name: np.sort(place[np.asarray(i, int)]) for name, i in splits.items()}
        return cls(names=tuple(names[i] for i in order), splits=splits, **fields)

    @property
    def centers(self) -> np.ndarray:
        """Positions of the cameras in the world, [V, 3]."""
        return posed_checks.invert_rigid(self.viewmats)[:, :3, 3]

    def subset(self, indices) -> "PosedImages":
        """The photographs of these indices, ascending, without splits."""
        keep = np.unique(np.asarray(indices, int))
        if not len(keep) or keep[0] < 0 or keep[-1] >= len(self):
            raise ValueError(f"indices: expected some of 0 .. {len(self) - 1}, found {indices}")
        pick = lambda paths: None if paths is None else tuple(paths[i] for i in keep)  # noqa: E731
        return dataclasses.replace(
            self,
            names=pick(self.names),
            splits=None,
            **{n: pick(getattr(self, n)) for n in ("image_paths", "mask_paths", "depth_paths")},
            **{name: getattr(self, name)[keep] for name in _ARRAYS},
        )

    def resized(self, width, height) -> "PosedImages":
        """The same cameras at another picture size; ``Ks`` scale so that corners stay corners.

        Args:
          width: pixels, a number or [V].
          height: pixels, a number or [V].
        """
        width, height = (np.broadcast_to(x, (len(self),)).astype(np.int64) for x in (width, height))
        ratio = np.stack([width / self.width, height / self.height, np.ones(len(self))], axis=1)
        return dataclasses.replace(self, width=width, height=height, Ks=self.Ks * ratio[:, :, None])


_ARRAYS = {"viewmats": np.float64, "Ks": np.float64, "width": np.int64, "height": np.int64}


def load_posed(
    path: str | Path, *, downscale: int = 1, axes: str | None = None, check_axes: bool = True
) -> PosedImages:
    """Reads photographs' cameras from whatever ``path`` holds; opens the pictures' headers only.

    Recognised, in this order: a folder with ``sparse/0``, ``sparse``, or itself a COLMAP model
    (``colmap.read``); a JSON file; a folder with ``transforms.json`` (``nerf_json.read``),
    ``transforms_train.json`` (``nerf_json.read_blender``) or ``cameras.json``.

    Args:
      path: folder or JSON file.
      downscale: k > 1 takes ``images_<k>`` beside ``images`` where it exists; otherwise
        ``load_images`` will average k x k pixels. ``Ks`` follow.
      axes: of the cameras in JSON files, 'opengl' or 'opencv'; by default what the file's
        ``convention`` says, else 'opengl'.
      check_axes: refuse scenes that lie behind the cameras (``check_points_in_front``).

    Returns:
      Cameras that fit the stored pictures: where these have another size than the file says, by
      the same factor in both axes, ``Ks`` and sizes were scaled.

    Raises:
      FileNotFoundError: nothing known at ``path``, or files it names are missing.
      ValueError: anything else that is wrong; the readers and ``posed_checks`` say what.
    """
    # The readers import this module for PosedImages.
    from gsjax.io import colmap, nerf_json  # noqa: PLC0415

    path = Path(path)
    if not isinstance(downscale, int) or downscale < 1:
        raise ValueError(f"downscale: expected a whole number from 1 up, found {downscale!r}")
    names = ("transforms.json", "transforms_train.json", "cameras.json")
    if (model := colmap.find_model(path)) is not None:
        if axes not in (None, "opencv"):
            raise ValueError(f"axes: COLMAP models have OpenCV axes, found {axes!r}; leave it out")
        posed = colmap.read(model)
    elif path.is_file() and path.suffix == ".json":
        posed = nerf_json.read(path, axes=axes)
    elif found := next((name for name in names if (path / name).is_file()), None):
        blender = found == "transforms_train.json"
        posed = (
            nerf_json.read_blender(path, axes=axes)
            if blender
            else nerf_json.read(path / found, axes=axes)
        )
    else:
        raise FileNotFoundError(
            f"{path}: {'no such file or folder' if not path.exists() else 'not recognised'}; "
            f"expected a folder with a COLMAP model (sparse/0, cameras.bin or cameras.txt) or one "
            f"of {', '.join(names)}, or the path of such a JSON file"
        )
    if check_axes:
        check_points_in_front(posed, source=str(path))
    small = None if downscale == 1 else posed_pixels.smaller_files(posed, downscale)
    posed = posed_pixels.fit_to_files(posed if small is None else small)
    if downscale > 1 and small is None:
        size = [np.maximum(np.rint(x / downscale), 1) for x in (posed.width, posed.height)]
        posed = posed.resized(*size)
    return posed


def check_points_in_front(posed: PosedImages, source: str = "posed"):
    """Raises ValueError where the scene lies behind the cameras: the wrong axes convention."""
    posed_checks.check_points_in_front(posed.viewmats, posed.points, source)


def holdout(posed: PosedImages, every: int = 8) -> tuple[np.ndarray, np.ndarray]:
    """Indices for training and for testing, disjoint and ascending.

    The file's own splits win: 'train', and 'test' (or 'val' where there is no 'test'); without
    'train' all that no split names. Otherwise every ``every``-th photograph by name is held out,
    beginning with the first, as the Mip-NeRF 360 figures do; 0 holds out none.

    Returns:
      (train [T] int64, test [U] int64).

    Raises:
      ValueError: ``every`` is 1 or negative, nothing is left to train on, or a photograph is in
        both splits.
    """
    everything = np.arange(len(posed))
    if posed.splits:
        none = np.zeros(0, np.int64)
        test = np.asarray(posed.splits.get("test", posed.splits.get("val", none)))
        named = np.concatenate([none, *posed.splits.values()])
        train = np.asarray(posed.splits.get("train", np.setdiff1d(everything, named)))
        both = np.intersect1d(train, test)
        if len(both):
            raise ValueError(
                f"splits: in train and test alike: "
                f"{posed_checks.first_few([posed.names[i] for i in both])}; test views would be "
                "trained on, correct the lists of the file"
            )
    else:
        if every < 0 or every == 1:
            raise ValueError(f"every: expected 0 (hold out none) or 2 and more, found {every}")
        held = everything % every == 0 if every else np.zeros(len(posed), bool)
        train, test = everything[~held], everything[held]
    if not len(train):
        raise ValueError(f"holdout: none of the {len(posed)} photographs is left to train on")
    return train, test


load_images = posed_pixels.load_images
load_masks = posed_pixels.load_masks
load_depths = posed_pixels.load_depths
