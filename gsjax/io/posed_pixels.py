"""Pixels of posed photographs: headers, pictures, masks and depth maps, checked against the sizes.

Takes ``posed.PosedImages`` (which callers reach these functions through) and returns plain arrays.
Pictures are never turned by their EXIF orientation: cameras are estimated from the stored pixels.
"""

import concurrent.futures
import dataclasses
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from gsjax.io import npz, picture_file, posed_checks

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp")
_DEEP_MODES = ("I", "F", "I;16", "I;16B", "I;16L", "I;16N")
_WORKERS = min(8, os.cpu_count() or 1)


def image_header(path: Path) -> tuple[int, int, bool]:
    """(width, height, has alpha) of a picture, decoding nothing.

    Raises:
      FileNotFoundError: no such file.
      ValueError: not a picture, or more than 8 bits a channel.
    """
    with _open(path) as image:
        if image.mode in _DEEP_MODES:
            raise ValueError(
                f"{path}: one channel of more than 8 bits (mode {image.mode}) is no photograph; "
                "convert it to 8-bit RGB"
            )
        return *image.size, image.has_transparency_data


def _open(path: Path) -> Image.Image:
    return picture_file.opened(path, str(path))


def _decode(path: Path, convert: Callable[[Image.Image], Image.Image]) -> Image.Image:
    """The picture, fully decoded; a truncated or damaged file is a ValueError."""
    with _open(path) as image:
        picture_file.load(image, str(path))
        return convert(image)


def _in_parallel(function: Callable, items: Sequence) -> list:
    with concurrent.futures.ThreadPoolExecutor(_WORKERS) as pool:
        return list(pool.map(function, items))


def same_shape(found: tuple[int, int], expected: tuple[int, int]) -> bool:
    """Whether sizes (width, height) differ by one factor, but for rounding to whole pixels."""
    (w, h), (wide, high) = sorted((found, expected))
    if w == wide or h == high:
        return found == expected  # one axis off by a pixel is a crop, not a scale
    # Some factor s has |w - s wide| < 1 and |h - s high| < 1: the two intervals of s overlap.
    return max((w - 1) / wide, (h - 1) / high) < min((w + 1) / wide, (h + 1) / high)


def _check_size(path: Path, found: tuple[int, int], expected: tuple[int, int], kind: str):
    if not same_shape(found, expected):
        turned = found[0] * expected[0] == found[1] * expected[1]
        hint = "it seems to be stored turned by 90 degrees; " if turned else ""
        raise ValueError(
            f"{path}: {kind} of {found[0]} x {found[1]} pixels, but its camera is for "
            f"{expected[0]} x {expected[1]}, which is not the same by one factor in both axes; "
            f"{hint}use the pictures that the cameras were estimated from"
        )


def fit_to_files(posed):
    """``posed`` with ``width``, ``height``, ``Ks`` and ``alpha`` of the stored pictures.

    Sizes may differ from the cameras' by one factor (``images_4``); ``Ks`` scale along.

    Raises:
      FileNotFoundError: missing pictures, masks or depth maps.
      ValueError: unreadable pictures, or sizes of another shape.
    """
    posed_checks.check_files(posed.image_paths, "photographs")
    posed_checks.check_files(posed.mask_paths or (), "photographs", "mask")
    posed_checks.check_files(posed.depth_paths or (), "photographs", "depth")
    headers = _in_parallel(image_header, posed.image_paths)
    for i, path in enumerate(posed.image_paths):
        expected = (int(posed.width[i]), int(posed.height[i]))
        _check_size(path, headers[i][:2], expected, "picture")
    sizes = np.array([header[:2] for header in headers])
    alpha = any(header[2] for header in headers)
    return dataclasses.replace(posed.resized(sizes[:, 0], sizes[:, 1]), alpha=alpha)


def smaller_files(posed, factor: int):
    """``posed`` with the pictures of ``images_<factor>``; None where there is no such folder.

    A picture keeps its name, but may have another extension there.
    """
    paths = []
    for name, path in zip(posed.names, posed.image_paths, strict=True):
        # The folder that names are relative to.
        root = path.parents[len(Path(name).parts) - 1]
        folder = root.with_name(f"{root.name}_{factor}")
        if root.name != "images" or not folder.is_dir():
            return None
        paths.append(with_known_suffix(folder / name))
    return dataclasses.replace(posed, image_paths=tuple(paths))


def with_known_suffix(path: Path) -> Path:
    """``path`` itself if it exists, else the same name with the extension of a picture, if one is.

    Serves file names without extension; the first guess is returned where no file exists.
    """
    if posed_checks.is_file(path):
        return path
    known = path.suffix.lower() in IMAGE_SUFFIXES
    base = path.with_suffix("") if known else path
    guesses = [base.with_name(base.name + s) for s in IMAGE_SUFFIXES]
    guesses += [base.with_name(base.name + s.upper()) for s in IMAGE_SUFFIXES]
    return next(
        (guess for guess in guesses if posed_checks.is_file(guess)), path if known else guesses[0]
    )


def load_images(posed, *, background: Sequence[float] | None = None) -> list[np.ndarray]:
    """All pictures, at the size that ``posed`` says.

    Args:
      posed: a ``PosedImages``.
      background: RGB in 0 .. 1 to lay pictures with alpha on; None keeps alpha. Pictures without
        alpha are what they are.

    Returns:
      One uint8 [H, W, 3] a picture; [H, W, 4], unpremultiplied, where ``posed.alpha`` and no
      background is given (opaque where a single picture has no alpha). Smaller sizes than stored
      are area averages, weighted by alpha.

    Raises:
      FileNotFoundError: missing pictures; the message names up to three.
      ValueError: truncated or unreadable pictures, a picture of another shape than its camera's or
        smaller than it, or a background that is no colour.
    """
    if background is not None:
        background = np.asarray(background, np.float64)
        if background.shape != (3,) or not ((background >= 0) & (background <= 1)).all():
            raise ValueError(
                f"background: expected three numbers from 0 to 1 (RGB) or None, found {background}"
            )
    posed_checks.check_files(posed.image_paths, "photographs")
    mode = "RGBA" if posed.alpha else "RGB"

    def load(i: int) -> np.ndarray:
        path, size = posed.image_paths[i], (int(posed.width[i]), int(posed.height[i]))
        image_header(path)  # refuses deep pictures, which convert() would clip
        image = _decode(path, lambda image: image.convert(mode))
        _check_size(path, image.size, size, "picture")
        if image.size[0] < size[0] or image.size[1] < size[1]:
            raise ValueError(
                f"{path}: picture of {image.size[0]} x {image.size[1]} pixels, smaller than its "
                f"camera's {size[0]} x {size[1]}; fit the cameras to the files "
                "(posed_pixels.fit_to_files, which load_posed calls)"
            )
        if image.size != size:
            image = image.resize(size, Image.Resampling.BOX)
        array = np.asarray(image)
        return array if background is None or mode == "RGB" else _lay_on(array, background)

    return _in_parallel(load, range(len(posed)))


def _lay_on(rgba: np.ndarray, background: np.ndarray) -> np.ndarray:
    """uint8 [H, W, 4] over a colour in 0 .. 1 -> uint8 [H, W, 3]."""
    alpha = rgba[..., 3:].astype(np.float32) / 255
    mixed = rgba[..., :3] * alpha + np.float32(255) * background.astype(np.float32) * (1 - alpha)
    return np.rint(mixed).astype(np.uint8)


def _nearest(array: np.ndarray, path: Path, posed, i: int, kind: str) -> np.ndarray:
    """[h, w] at the size of picture i; every pixel takes the value at its centre."""
    width, height = int(posed.width[i]), int(posed.height[i])
    if array.ndim != 2:
        raise ValueError(f"{path}: {kind} of shape {list(array.shape)}; expected [H, W]")
    _check_size(path, array.shape[::-1], (width, height), kind)
    rows = ((np.arange(height) + 0.5) * array.shape[0] / height).astype(int)
    columns = ((np.arange(width) + 0.5) * array.shape[1] / width).astype(int)
    return array if array.shape == (height, width) else array[rows[:, None], columns]


def load_masks(posed) -> list[np.ndarray] | None:
    """One bool [H, W] a picture, True where the pixel counts (non-zero); None without masks.

    Raises:
      FileNotFoundError, ValueError: as ``load_images``.
    """
    if posed.mask_paths is None:
        return None
    posed_checks.check_files(posed.mask_paths, "photographs", "mask")

    def load(i: int) -> np.ndarray:
        array = np.asarray(_decode(posed.mask_paths[i], lambda image: image.convert("L")))
        return _nearest(array, posed.mask_paths[i], posed, i, "mask") > 0

    return _in_parallel(load, range(len(posed)))


def load_depths(posed, *, scale: float | None = None) -> list[np.ndarray] | None:
    """One float32 [H, W] a picture: depth along the optical axis, 0 where unknown; None without.

    Args:
      posed: a ``PosedImages`` whose depth files are single-channel PNG (8 or 16 bits) or .npy.
      scale: world units of one unit of the files; by default ``posed.depth_scale``.

    Raises:
      FileNotFoundError, ValueError: as ``load_images``; also a scale that is not positive.
    """
    if posed.depth_paths is None:
        return None
    scale = posed.depth_scale if scale is None else scale
    if not (np.isfinite(scale) and scale > 0):
        raise ValueError(f"scale: expected a positive number of world units, found {scale}")
    posed_checks.check_files(posed.depth_paths, "photographs", "depth")

    def load(i: int) -> np.ndarray:
        path = posed.depth_paths[i]
        if path.suffix == ".npy":
            array = npz.parse(path.read_bytes(), str(path))
            if array.dtype.kind not in "fiu":
                raise ValueError(f"{path}: depth of type {array.dtype}; expected numbers")
        else:
            array = np.asarray(_decode(path, lambda image: image.copy()))
        depth = _nearest(array, path, posed, i, "depth map").astype(np.float32) * np.float32(scale)
        return np.where(np.isfinite(depth) & (depth > 0), depth, np.float32(0))

    return _in_parallel(load, range(len(posed)))
