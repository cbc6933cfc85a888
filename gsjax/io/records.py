"""What every splat file format shares: the in-memory record, its checks, and atomic writing.

A scene is a dict of float32 NumPy arrays that fits ``gsjax.RawGaussians(**d)``:
``means`` [N, 3], ``quats`` [N, 4] wxyz, ``log_scales`` [N, 3], ``logit_opacities`` [N],
``sh`` [N, K, 3] with K = (degree + 1)^2. Nothing here imports JAX.
"""

import contextlib
import os
import uuid
from collections.abc import Mapping

import numpy as np
from absl import logging
from etils import epath

FIELDS = ("means", "quats", "log_scales", "logit_opacities", "sh")
# Standard deviations outside e^-50 .. e^20 world units (2e-22 .. 5e8) are no geometry: most often
# the file stores something else in these columns, or was damaged.
LOG_SCALE_RANGE = (-50.0, 20.0)
SH_COUNTS = (1, 4, 9, 16, 25)
SH_C0 = 0.28209479177387814
# Opacity bytes 0 and 255 have infinite logits; a quarter of a step inside they are finite, round
# back to the same byte, and render alike (alpha is capped at 0.99 and cut below 1/255).
_ALPHA_MARGIN = 0.25 / 255


class SplatFormatError(ValueError):
    """A file is not what its format promises: damaged, incomplete, or another kind of file."""


def limit_degree(arrays: dict[str, np.ndarray], degree: int, what: str, drop_sh: bool) -> None:
    """Cuts ``sh`` of :func:`as_dict`'s result to what a format holds, in place.

    Args:
      arrays: a scene.
      degree: the largest SH degree of the format.
      what: the format, for the message.
      drop_sh: allow the loss.

    Raises:
      ValueError: coefficients would be lost without ``drop_sh``.
    """
    held, found = (degree + 1) ** 2, arrays["sh"].shape[1]
    if found > held and not drop_sh:
        raise ValueError(
            f"sh: {what} holds degree {degree} at most, found K = {found} coefficients; write a plain "
            f".ply, or pass drop_sh=True to lose those above {held}"
        )
    arrays["sh"] = arrays["sh"][:, :held]


def as_dict(gaussians) -> dict[str, np.ndarray]:
    """A checked float32 copy of a scene given as a mapping or as a ``RawGaussians``.

    Raises:
      ValueError: a field is missing or its shape does not fit.
    """
    arrays = {}
    for name in FIELDS:
        value = (
            gaussians.get(name)
            if isinstance(gaussians, Mapping)
            else getattr(gaussians, name, None)
        )
        if value is None:
            raise ValueError(
                f"gaussians: field {name!r} is missing; expected raw Gaussians with {list(FIELDS)}"
            )
        arrays[name] = np.array(value, np.float32)
    means = arrays["means"]
    num = means.shape[0] if means.ndim else 0
    shapes = {"means": (num, 3), "quats": (num, 4), "log_scales": (num, 3)}
    shapes["logit_opacities"] = (num,)
    for name, shape in shapes.items():
        if arrays[name].shape != shape:
            raise ValueError(
                f"{name}: expected shape {list(shape)} (one scene), found "
                f"{list(arrays[name].shape)}"
            )
    sh = arrays["sh"].shape
    if len(sh) != 3 or sh[0] != num or sh[1] not in SH_COUNTS or sh[2] != 3:
        raise ValueError(
            f"sh: expected shape [{num}, K, 3] with K one of {SH_COUNTS}, found {list(sh)}"
        )
    return arrays


def bad_rows(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Rows that cannot be used, by reason: {reason: bool [N]}, empty when all are fine."""
    num = len(arrays["means"])
    reasons = {}
    for name in FIELDS:
        finite = np.isfinite(arrays[name].reshape(num, -1)).all(axis=1)
        reasons[f"NaN or infinite {name}"] = ~finite
    low, high = LOG_SCALE_RANGE
    log_scales = arrays["log_scales"]
    absurd = ((log_scales < low) | (log_scales > high)) & np.isfinite(log_scales)
    reasons[f"absurd scales (log outside {low:g} .. {high:g})"] = absurd.any(axis=1)
    return {reason: rows for reason, rows in reasons.items() if rows.any()}


def clean(
    arrays: dict[str, np.ndarray], source: str, on_bad_rows: str
) -> tuple[dict[str, np.ndarray], int]:
    """Applies the policy for unusable rows.

    Args:
      arrays: a scene.
      source: file name for messages.
      on_bad_rows: 'error' or 'drop'.

    Returns:
      The scene without bad rows, and how many were dropped (also logged as a warning).

    Raises:
      SplatFormatError: no Gaussians, none left, or bad rows under 'error'.
      ValueError: unknown policy.
    """
    if on_bad_rows not in ("error", "drop"):
        raise ValueError(f"on_bad_rows: expected 'error' or 'drop', found {on_bad_rows!r}")
    num = len(arrays["means"])
    if num == 0:
        raise SplatFormatError(f"{source}: the file holds zero Gaussians")
    reasons = bad_rows(arrays)
    if not reasons:
        return arrays, 0
    bad = np.logical_or.reduce(list(reasons.values()))
    summary = "; ".join(
        f"{rows.sum()} with {reason}, first at row {rows.argmax()}"
        for reason, rows in reasons.items()
    )
    dropped = int(bad.sum())
    if on_bad_rows == "error":
        raise SplatFormatError(
            f"{source}: {dropped} of {num} Gaussians are unusable ({summary}); "
            "pass on_bad_rows='drop' (--drop_bad_rows of gsjax info, render and view) to leave them out"
        )
    if dropped == num:
        raise SplatFormatError(f"{source}: all {num} Gaussians are unusable ({summary})")
    logging.warning("%s: dropped %d of %d Gaussians (%s)", source, dropped, num, summary)
    return {name: value[~bad] for name, value in arrays.items()}, dropped


def to_bytes(values: np.ndarray) -> np.ndarray:
    """The nearest uint8 of each value, those outside 0 .. 255 clipped (same shape)."""
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)


def opacities_to_bytes(logit_opacities: np.ndarray) -> np.ndarray:
    """Activated opacities in 255ths, uint8, of logits (same shape)."""
    logits = np.clip(np.asarray(logit_opacities, np.float64), -700, 700)
    return to_bytes(255 / (1 + np.exp(-logits)))


def bytes_to_opacities(stored: np.ndarray) -> np.ndarray:
    """Finite float32 logits of uint8 opacities (same shape); the inverse of opacities_to_bytes."""
    alpha = np.clip(stored / 255, _ALPHA_MARGIN, 1 - _ALPHA_MARGIN)
    return (np.log(alpha) - np.log1p(-alpha)).astype(np.float32)


def unit_quats(quats: np.ndarray) -> np.ndarray:
    """Quaternions [N, 4] wxyz at unit length, float64; zero ones become the identity."""
    quats = np.asarray(quats, np.float64)
    norms = np.linalg.norm(quats, axis=1, keepdims=True)
    return np.where(norms > 0, quats / np.where(norms > 0, norms, 1), (1.0, 0.0, 0.0, 0.0))


def warn_clipped(path: epath.PathLike, name: str, values: np.ndarray, low: float, high: float):
    """Logs how many values lie outside low .. high, the range that a format stores."""
    count = int(np.count_nonzero((values < low) | (values > high)))
    if count:
        logging.warning(
            "%s: %d of %d values of %s lie outside the format's range %g .. %g and were clipped",
            path, count, values.size, name, low, high,
        )  # fmt: skip


def write_atomically(path: epath.PathLike, data: bytes):
    """Writes beside the target and renames: readers see the old file or the whole new one."""
    path = epath.Path(path)
    temporary = path.parent / f".{path.name}.{os.getpid()}-{uuid.uuid4().hex[:8]}.tmp"
    try:
        temporary.write_bytes(data)
        temporary.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise
