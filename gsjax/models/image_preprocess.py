"""Pictures as CLIP's image towers take them: short side resized, centre cut out, normalised.

The host part (``crop``) gives bytes, the device part (``normalize``) floats, so that a quarter of the
data travels. Equal to OpenCLIP's evaluation transform (bicubic; resize modes 'shortest' and 'squash')
on PIL images; towers trained with another one need their own.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

# Of the pictures that OpenAI's CLIP was trained on; LAION's and EVA's towers use them, too.
MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)
NORMS = {"clip": (MEAN, STD), "half": ((0.5,) * 3, (0.5,) * 3)}
RESIZES = ("shortest", "squash")
BACKGROUNDS = {"white": (255, 255, 255), "grey": (128, 128, 128), "black": (0, 0, 0)}


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
