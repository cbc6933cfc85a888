"""The record every data set of this package is stored as: fields, types, and how to encode one.

One object is one record: its Gaussians (raw parameters, the first ones in farthest-point order, so
that every prefix of theirs is an even subset), captions, a category, and pictures with their cameras. Tensors are stored
as bytes: half-precision fields really take two bytes a number. Imports no JAX.
"""

import hashlib
import io
from collections.abc import Mapping, Sequence

import numpy as np
import tensorflow_datasets as tfds

from gsjax.io import picture_file

# Field -> (trailing shape, stored type, type handed out). Positions keep 32 bits: 16 would round an
# object of unit size to steps of 5e-4, more than the thickness of its discs.
GAUSSIAN_FIELDS = {
    "means": ((3,), np.float32),
    "quats": ((4,), np.float16),
    "log_scales": ((3,), np.float16),
    "logit_opacities": ((), np.float16),
    "sh0": ((3,), np.float16),
    "parts": ((), np.uint8),
}
SH_C0 = 0.28209479177387814  # 1 / (2 sqrt(pi)), the degree-0 real spherical harmonic


def feature_spec(categories: Sequence[str]) -> tfds.features.FeaturesDict:
    """The fields of a record.

    ``index`` int32 (unique over all splits of the set), ``uid``, ``name``, ``category`` (label of
    ``categories``), ``captions`` (at least one), the Gaussians ``means`` f32 [M, 3], ``quats`` f16
    [M, 4] wxyz, ``log_scales`` f16 [M, 3], ``logit_opacities`` f16 [M], ``sh0`` f16 [M, 3],
    ``parts`` uint8 [M] (0 = no label), ``views`` (V PNG files), ``viewmats`` f32 [V, 4, 4]
    world-to-camera, ``Ks`` f32 [V, 3, 3], ``colored`` (False: the colours mean nothing).
    """
    f = tfds.features
    gaussians = {
        name: f.Tensor(shape=(None, *trailing), dtype=dtype, encoding="bytes")
        for name, (trailing, dtype) in GAUSSIAN_FIELDS.items()
    }
    return f.FeaturesDict(
        {
            "index": f.Scalar(np.int32),
            "uid": f.Text(),
            "name": f.Text(),
            "category": f.ClassLabel(names=list(categories)),
            "captions": f.Sequence(f.Text()),
            "colored": f.Scalar(np.bool_),
            **gaussians,
            "views": f.Sequence(f.Tensor(shape=(), dtype=np.object_)),
            "viewmats": f.Tensor(shape=(None, 4, 4), dtype=np.float32, encoding="bytes"),
            "Ks": f.Tensor(shape=(None, 3, 3), dtype=np.float32, encoding="bytes"),
        }
    )


def encode_gaussians(gaussians: Mapping[str, np.ndarray], uid: str) -> dict[str, np.ndarray]:
    """Gaussian arrays in their stored types.

    Args:
        gaussians: ``means`` [M, 3], ``quats`` [M, 4], ``log_scales`` [M, 3], ``logit_opacities``
            [M], ``sh0`` [M, 3]; ``parts`` [M] may be absent.
        uid: named in errors.

    Raises:
        ValueError: a field is absent, has the wrong shape, or holds values that are not finite.
    """
    count = len(gaussians["means"])
    result = {}
    for name, (trailing, dtype) in GAUSSIAN_FIELDS.items():
        value = gaussians.get(name)
        if value is None and name == "parts":
            value = np.zeros(count, np.uint8)
        if value is None or np.shape(value) != (count, *trailing):
            found = "nothing" if value is None else f"shape {np.shape(value)}"
            raise ValueError(
                f"record {uid!r}: field {name!r} must have shape {(count, *trailing)}, found {found}"
            )
        value = np.ascontiguousarray(value, dtype)
        if not np.isfinite(value).all():
            raise ValueError(
                f"record {uid!r}: field {name!r} holds values that are not finite in {dtype.__name__}; "
                "drop those Gaussians first"
            )
        result[name] = value
    return result


def encode_png(image: np.ndarray) -> bytes:
    """PNG file of an image, uint8 [H, W, 3] or [H, W, 4]."""
    from PIL import Image

    buffer = io.BytesIO()
    # Level 1: pictures of 64 pixels grow by 3 %, and encoding takes half the time of level 6.
    Image.fromarray(image).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def decode_png(data: bytes) -> np.ndarray:
    """Pixels of a PNG (or JPEG) file: uint8 [H, W, C].

    Raises:
        ValueError: the bytes are no picture.
    """
    return picture_file.decoded(data, f"decode_png: {len(data)} bytes that are no picture")


def stable_seed(*parts) -> int:
    """A 63-bit seed from any printable parts: the same in every process and Python version."""
    text = "\x1f".join(str(part) for part in parts)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little") >> 1
