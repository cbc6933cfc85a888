"""Pictures as CLIP's image towers take them: short side resized, centre cut out, normalised.

The host part (``crop``) gives bytes, the device part (``normalize``) floats, so that a quarter of the
data travels. Equal to OpenCLIP's evaluation transform (bicubic; resize modes 'shortest' and 'squash')
on PIL images; towers trained with another one need their own. ``Pixels`` are the settings, as the files
that are published beside weights state them (``openclip_pixels``, ``hugging_face_pixels``).
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np

# Of the pictures that OpenAI's CLIP was trained on; LAION's and EVA's towers use them, too.
MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)
NORMS = {"clip": (MEAN, STD), "half": ((0.5,) * 3, (0.5,) * 3)}
RESIZES = ("shortest", "squash")
BACKGROUNDS = {"white": (255, 255, 255), "grey": (128, 128, 128), "black": (0, 0, 0)}
BICUBIC = 3  # PIL's number of it, which Hugging Face's files give
# preprocessor_config.json: what must hold, stated or not; everything else would be another transform.
_HF_FIXED = dict(do_resize=True, resample=BICUBIC, do_rescale=True, do_normalize=True, do_pad=False)


@dataclasses.dataclass(frozen=True)
class Pixels:
    """How a tower takes its pictures.

    Attributes:
        mean, std: a channel, of values from 0 to 1.
        resize: of ``RESIZES``.
    """

    mean: tuple[float, float, float] = MEAN
    std: tuple[float, float, float] = STD
    resize: str = "shortest"

    def describe(self, size: int, background: str) -> str:
        """In words, for caches' keys; ``size`` S, ``background`` a name in ``BACKGROUNDS``."""
        return (
            f"alpha on {background}, {self.resize}, bicubic to {size} px, centre crop, mean "
            f"{self.mean}, std {self.std}"
        )


def openclip_pixels(stated: Mapping, size: int, default: Pixels) -> Pixels:
    """Pixels of ``preprocess_cfg`` in OpenCLIP's open_clip_config.json.

    Args:
        stated: the block.
        size: S, side of the tower's pictures.
        default: of what the block leaves out.

    Raises:
        ValueError: another filter, mode, size or way to resize than are known here.
    """
    if stated.get("interpolation", "bicubic") != "bicubic":
        raise ValueError(f"interpolation {stated['interpolation']!r}; known: 'bicubic'")
    if stated.get("mode", "RGB") != "RGB":
        raise ValueError(f"mode {stated['mode']!r}; known: 'RGB'")
    sizes = _sides(stated.get("size"))
    if sizes not in ((), (size,), (size, size), (3, size, size)):
        raise ValueError(f"size {stated['size']}, but the image tower's positions are for {size}")
    resize = stated.get("resize_mode") or default.resize
    if resize not in RESIZES:
        raise ValueError(f"resize_mode {resize!r}; known: {RESIZES}")
    mean = _channels("mean", stated.get("mean") or default.mean)
    return Pixels(mean, _channels("std", stated.get("std") or default.std, positive=True), resize)


def hugging_face_pixels(stated: Mapping, size: int, default: Pixels) -> Pixels:
    """Pixels of preprocessor_config.json, as transformers' CLIPImageProcessor reads it.

    Args, Raises: as :func:`openclip_pixels`.
    """
    for name, value in _HF_FIXED.items():
        if stated.get(name, value) != value:
            raise ValueError(f"{name} {stated[name]!r}; known: {value!r}")
    scale = stated.get("rescale_factor", 1 / 255)
    if not math.isclose(scale, 1 / 255, rel_tol=1e-6):
        raise ValueError(f"rescale_factor {scale}; known: 1/255")
    wanted = stated.get("size")
    cut = stated.get("do_center_crop", True)
    if wanted is None:
        resize, sides = default.resize, (size,)
    elif isinstance(wanted, Mapping) and {"height", "width"} <= set(wanted):
        resize, sides = "squash", (wanted["height"], wanted["width"])
    else:
        short = wanted.get("shortest_edge") if isinstance(wanted, Mapping) else wanted
        resize, sides = "shortest", (short,)
    cropped = stated.get("crop_size", size) if cut else size
    if isinstance(cropped, Mapping):
        cropped = (cropped.get("height"), cropped.get("width"))
    for name, found in (("size", sides), ("crop_size", _sides(cropped))):
        if set(found) != {size}:
            raise ValueError(f"{name} {stated[name]}, but the image tower takes {size}")
    if resize == "shortest" and not cut:
        raise ValueError("do_center_crop False: only with a size of height and width")
    mean = _channels("image_mean", stated.get("image_mean") or default.mean)
    std = _channels("image_std", stated.get("image_std") or default.std, positive=True)
    return Pixels(mean, std, resize)


def _sides(stated) -> tuple:
    """(224,) of 224, (224, 224) of [224, 224], () of None."""
    if stated is None:
        return ()
    return tuple(stated) if isinstance(stated, list | tuple) else (stated,)


def _channels(name: str, values, positive: bool = False) -> tuple[float, float, float]:
    """Three finite numbers."""
    numbers = isinstance(values, list | tuple) and all(
        isinstance(x, int | float) and math.isfinite(x) and (x > 0 or not positive) for x in values
    )
    if not numbers or len(values) != 3:
        raise ValueError(f"{name}: expected three {'positive ' * positive}numbers, found {values}")
    return tuple(values)


def composite(picture: np.ndarray, background: Sequence[int] = BACKGROUNDS["white"]) -> np.ndarray:
    """A picture without its alpha channel, laid over a colour.

    Args:
        picture: uint8 [H, W, 3] or [H, W, 4], alpha not premultiplied.
        background: RGB, 0 to 255.

    Returns:
        uint8 [H, W, 3].

    Raises:
        ValueError: another shape or type.
    """
    if (
        picture.ndim != 3
        or picture.shape[-1] not in (3, 4)
        or picture.dtype != np.uint8
        or not picture.size
    ):
        raise ValueError(
            f"picture: expected uint8 [H, W, 3 or 4], found {picture.dtype} {picture.shape}"
        )
    if picture.shape[-1] == 3:
        return picture
    alpha = picture[..., 3:].astype(np.float32) / 255
    color = picture[..., :3] * alpha + np.asarray(background, np.float32) * (1 - alpha)
    return np.round(color).astype(np.uint8)


def crop(
    picture: np.ndarray,
    size: int,
    background: Sequence[int] = BACKGROUNDS["white"],
    resize: str = "shortest",
) -> np.ndarray:
    """Composites, resizes (bicubic) and cuts out the centre.

    Args:
        picture: uint8 [H, W, 3 or 4].
        size: S.
        background: RGB behind transparent pixels.
        resize: 'shortest' brings the short side to S, 'squash' both sides.

    Returns:
        uint8 [S, S, 3].

    Raises:
        ValueError: as :func:`composite`; another way to resize.
    """
    from PIL import Image

    if resize not in RESIZES:
        raise ValueError(f"resize: unknown {resize!r}; known: {RESIZES}")
    picture = composite(picture, background)
    height, width = picture.shape[:2]
    short = min(height, width)
    if resize == "squash":
        height = width = size
    else:  # the long side's length is cut off, not rounded, as torchvision does
        height, width = (size if n == short else int(size * n / short) for n in (height, width))
    if picture.shape[:2] != (height, width):
        image = Image.fromarray(picture).resize((width, height), Image.Resampling.BICUBIC)
        picture = np.asarray(image)
    top, left = (round((n - size) / 2) for n in (height, width))
    return np.ascontiguousarray(picture[top : top + size, left : left + size])


def normalize(
    pixels: jax.Array, mean: Sequence[float] = MEAN, std: Sequence[float] = STD
) -> jax.Array:
    """uint8 [..., 3] to float32 of about zero mean and unit variance a channel."""
    unit = pixels.astype(jnp.float32) / 255
    return (unit - jnp.asarray(mean, jnp.float32)) / jnp.asarray(std, jnp.float32)
