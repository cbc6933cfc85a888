"""Picture files that others may have written: opened as a few known formats, decoded, or refused.

Pillow tells a format by the first bytes, not by the name, and knows dozens, some of which start other
programs (EPS runs Ghostscript). Here only those of photographs are tried, and whatever Pillow raises for a
damaged file becomes a ValueError.
"""

import io
from pathlib import Path

import numpy as np

FORMATS = ("PNG", "JPEG", "WEBP", "TIFF", "BMP")


def opened(source: str | Path | bytes, what: str):
    """The picture (``PIL.Image.Image``, to be closed) with its header read and nothing decoded.

    Args:
        source: path, or the file's bytes.
        what: it is, for messages.

    Raises:
        FileNotFoundError: no such file.
        ValueError: none of ``FORMATS``, damaged, or of more pixels than Pillow lets pass (179 million).
    """
    from PIL import Image

    file = io.BytesIO(source) if isinstance(source, bytes) else source
    try:
        return Image.open(file, formats=FORMATS)
    except FileNotFoundError:
        raise
    except Exception as error:  # its decoders fail in many ways, struct.error among them
        raise ValueError(
            f"{what}: not a readable picture ({str(error)[:200]}); known are {', '.join(FORMATS)}"
        ) from error


def decoded(source: str | Path | bytes, what: str, mode: str | None = None) -> np.ndarray:
    """Pixels [H, W] or [H, W, C] of a picture file.

    Args:
        source, what: see :func:`opened`.
        mode: of Pillow, to convert to ('RGB', 'RGBA', 'L'); None = as stored.

    Raises:
        FileNotFoundError: no such file.
        ValueError: as :func:`opened`, or cut short.
    """
    with opened(source, what) as picture:
        load(picture, what)
        return np.asarray(picture if mode is None else picture.convert(mode))


def load(picture, what: str) -> None:
    """Decodes the pixels of what :func:`opened` gave.

    Raises:
        ValueError: cut short or damaged.
    """
    try:
        picture.load()
    except Exception as error:  # see opened
        raise ValueError(
            f"{what}: truncated or damaged picture ({str(error)[:200]}); copy the file again"
        ) from error
