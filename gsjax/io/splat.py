"""The .splat format: 32 bytes a Gaussian, degree-0 colour, 8-bit colour, opacity and rotation.

Layout, little endian: position 3 x float32; scale 3 x float32, linear; R, G, B, A uint8, A being the
activated opacity; quaternion w, x, y, z uint8 as (v - 128) / 128. There is no header, so only the
size and the plausibility of the values can be checked. Positions and scales survive a round trip
exactly up to the logarithm; colour, opacity and rotation to their 8 bits.
"""

import numpy as np
from etils import epath

from gsjax.io import records

_ROW = np.dtype([("means", "<f4", 3), ("scales", "<f4", 3), ("rgba", "u1", 4), ("quats", "u1", 4)])
# Opacity bytes 0 and 255 have infinite logits; a quarter of a step inside they are finite, round
# back to the same byte, and render alike (alpha is capped at 0.99 and cut below 1/255).
_ALPHA_MARGIN = 0.25 / 255


def read(path: epath.PathLike, *, on_bad_rows: str = "error") -> dict[str, np.ndarray]:
    """Reads a scene.

    Args:
      path: local, or any place that etils.epath reaches (gs://, s3://).
      on_bad_rows: 'error', or 'drop' to leave out rows with NaN, infinities, or scales that are not
        positive or absurd (their number is logged; ``read_counted`` returns it).

    Returns:
      {means [N, 3], quats [N, 4] wxyz of unit length, log_scales [N, 3], logit_opacities [N],
      sh [N, 1, 3]}, float32.

    Raises:
      SplatFormatError: the size is no multiple of 32 bytes, the file is another format, holds zero
        Gaussians, or has unusable rows.
    """
    return read_counted(path, on_bad_rows=on_bad_rows)[0]


def read_counted(
    path: epath.PathLike, *, on_bad_rows: str = "error"
) -> tuple[dict[str, np.ndarray], int]:
    """Like ``read``; also returns how many rows were dropped."""
    source, data = str(path), epath.Path(path).read_bytes()
    if data[:4] in (b"ply\n", b"ply\r"):
        raise records.SplatFormatError(f"{source}: this is a PLY file; name it .ply")
    if len(data) % _ROW.itemsize:
        raise records.SplatFormatError(
            f"{source}: truncated or not a .splat file: {len(data)} bytes is no multiple of "
            f"{_ROW.itemsize}"
        )
    rows = np.frombuffer(data, _ROW)
    alpha = np.clip(rows["rgba"][:, 3] / 255, _ALPHA_MARGIN, 1 - _ALPHA_MARGIN)
    # Zero and negative scales become non-finite logarithms: unusable rows, reported as such.
    with np.errstate(divide="ignore", invalid="ignore"):
        log_scales = np.log(rows["scales"])
    arrays = {
        "means": rows["means"].astype(np.float32),
        "quats": _decode_quats(rows["quats"]),
        "log_scales": log_scales.astype(np.float32),
        "logit_opacities": (np.log(alpha) - np.log1p(-alpha)).astype(np.float32),
        "sh": ((rows["rgba"][:, None, :3] / 255 - 0.5) / records.SH_C0).astype(np.float32),
    }
    return records.clean(arrays, source, on_bad_rows)


def _decode_quats(stored: np.ndarray) -> np.ndarray:
    """uint8 [N, 4] -> unit float32 [N, 4]; the all-128 (zero) quaternion is the identity."""
    quats = (stored.astype(np.float32) - 128) / 128
    quats[(stored == 128).all(axis=1), 0] = 1
    return quats / np.linalg.norm(quats, axis=1, keepdims=True)


def _to_bytes(values: np.ndarray) -> np.ndarray:
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)


def write(path: epath.PathLike, gaussians, *, drop_sh: bool = False):
    """Writes one scene, atomically.

    Args:
      path: target file; its folder must exist.
      gaussians: a ``RawGaussians`` or a mapping with its fields, without leading axes.
      drop_sh: allow the loss of SH coefficients above degree 0, which the format cannot hold.

    Raises:
      ValueError: missing fields, wrong shapes, zero Gaussians, values that ``read`` would refuse,
        or SH above degree 0 without ``drop_sh``.
    """
    arrays = records.as_dict(gaussians)
    records.clean(arrays, f"{path} (not written)", "error")
    if arrays["sh"].shape[1] > 1 and not drop_sh:
        raise ValueError(
            f"sh: .splat holds degree 0 only, found K = {arrays['sh'].shape[1]} coefficients; write "
            f"a .ply, or pass drop_sh=True to lose the view-dependent colour"
        )
    quats = arrays["quats"].astype(np.float64)
    norms = np.linalg.norm(quats, axis=1, keepdims=True)
    quats = np.where(norms > 0, quats / np.where(norms > 0, norms, 1), (1.0, 0.0, 0.0, 0.0))
    alpha = 1 / (1 + np.exp(-np.clip(arrays["logit_opacities"].astype(np.float64), -700, 700)))
    rows = np.empty(len(quats), _ROW)
    rows["means"] = arrays["means"]
    rows["scales"] = np.exp(arrays["log_scales"])
    rows["rgba"][:, :3] = _to_bytes((arrays["sh"][:, 0] * records.SH_C0 + 0.5) * 255)
    rows["rgba"][:, 3] = _to_bytes(alpha * 255)
    rows["quats"] = _to_bytes(quats * 128 + 128)
    records.write_atomically(path, rows.tobytes())
