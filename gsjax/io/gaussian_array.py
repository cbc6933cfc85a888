"""The Gaussian table: one object as an array [N, 14] of raw parameters, plain or in a UniGS record.

Columns, as UniGS (arXiv 2502.17860) trains on them: position x y z; colour f_dc_0..2; opacity logit;
log of the three scales; quaternion w x y z. Coefficients above degree 0, where there are any, stand
between colour and opacity, coefficient by coefficient (R, G, B of the first, then of the second), so
that a row has 14, 23, 38, 59 or 86 columns.

``.npy``: the table alone, little endian, float16 to float64. ``.pkl``: a record as UniGS publishes them,
a dict of ``torch.save`` with the table as '3dgs' and label and captions beside it. Both are read
without torch and without running what a file holds: a record is run by ``io.safe_pickle`` and may name
nothing but NumPy arrays.
"""

import dataclasses
import io
import math

import numpy as np
from etils import epath

from gsjax.io import npz, records, safe_pickle, torch_zip

_BASE = 14
WIDTHS = {_BASE + 3 * (count - 1): count for count in records.SH_COUNTS}  # columns -> K
_LAYOUT = "x y z, f_dc_0..2, opacity, scale_0..2, rot_0..3"
_FLOATS = ("f2", "f4", "f8")
_TABLE = "3dgs"  # its key in a record
_MOST_AXES = 32


@dataclasses.dataclass(frozen=True)
class Record:
    """One object of UniGS.

    Attributes:
        table: [N, C] float, columns as in the module's docstring.
        name: the object's id, '' where the record has none.
        label: category as the collection spells it, '' where there is none.
        captions: those written by people first, then the machine's; none twice.
    """

    table: np.ndarray
    name: str
    label: str
    captions: tuple[str, ...]


def read(path: epath.PathLike, *, on_bad_rows: str = "error") -> dict[str, np.ndarray]:
    """Reads the Gaussians of a .npy table or a .pkl record.

    Args:
      path: local, or any place that etils.epath reaches (gs://, s3://).
      on_bad_rows: 'error', or 'drop' to leave out rows with NaN, infinities or absurd scales (their
        number is logged; ``read_counted`` returns it).

    Returns:
      {means [N, 3], quats [N, 4] wxyz, log_scales [N, 3], logit_opacities [N], sh [N, K, 3]},
      float32, as stored (quaternions are not normalised).

    Raises:
      SplatFormatError: another format, a damaged file, a table of another width, zero Gaussians,
        unusable rows, or a record that asks for more than NumPy arrays.
    """
    return read_counted(path, on_bad_rows=on_bad_rows)[0]


def read_counted(
    path: epath.PathLike, *, on_bad_rows: str = "error"
) -> tuple[dict[str, np.ndarray], int]:
    """Like ``read``; also returns how many rows were dropped."""
    if epath.Path(path).suffix.lower() == ".pkl":
        table = read_record(path).table
    else:
        table = _read_npy(epath.Path(path).read_bytes(), str(path))
    return records.clean(from_table(table, str(path)), str(path), on_bad_rows)


def from_table(table: np.ndarray, source: str = "table") -> dict[str, np.ndarray]:
    """The scene of a table [N, C], as ``read`` returns it; rows are not judged.

    Raises:
      SplatFormatError: no matrix of floats, or a width that is none of ``WIDTHS``.
    """
    if table.ndim != 2 or table.shape[1] not in WIDTHS or table.dtype.kind != "f":
        raise records.SplatFormatError(
            f"{source}: found an array of shape {table.shape}, {table.dtype}; expected floats "
            f"[N, {_BASE}] with the columns {_LAYOUT}, or {sorted(WIDTHS)[1:]} columns where SH "
            f"coefficients above degree 0 follow f_dc"
        )
    # Doubles beyond float32 become infinite here and are then reported as unusable rows.
    with np.errstate(over="ignore"):
        table = table.astype(np.float32)
    count = WIDTHS[table.shape[1]]
    opacity = 3 + 3 * count
    return {
        "means": table[:, :3].copy(),
        "quats": table[:, opacity + 4 :].copy(),
        "log_scales": table[:, opacity + 1 : opacity + 4].copy(),
        "logit_opacities": table[:, opacity].copy(),
        "sh": table[:, 3:opacity].reshape(len(table), count, 3).copy(),
    }


def to_table(arrays: dict[str, np.ndarray]) -> np.ndarray:
    """The float32 table [N, C] of a scene as ``read`` returns it; inverse of ``from_table``."""
    sh = arrays["sh"].reshape(len(arrays["means"]), -1)
    opacities = arrays["logit_opacities"][:, None]
    columns = (arrays["means"], sh, opacities, arrays["log_scales"], arrays["quats"])
    return np.concatenate(columns, axis=1).astype(np.float32)


def write(path: epath.PathLike, gaussians):
    """Writes one scene as a .npy table, atomically; SH of every degree is kept.

    Args:
      path: target file; its folder must exist.
      gaussians: a ``RawGaussians`` or a mapping with its fields, without leading axes.

    Raises:
      ValueError: missing fields, wrong shapes, zero Gaussians, values that ``read`` would refuse, or
        another ending than .npy: records are read only.
    """
    if epath.Path(path).suffix.lower() != ".npy":
        raise ValueError(f"path: {path} cannot be written, UniGS records are read only; use .npy")
    arrays = records.as_dict(gaussians)
    records.clean(arrays, f"{path} (not written)", "error")
    stream = io.BytesIO()
    np.lib.format.write_array(stream, to_table(arrays).astype("<f4"), (1, 0), allow_pickle=False)
    records.write_atomically(path, stream.getvalue())


def _read_npy(data: bytes, source: str) -> np.ndarray:
    """The array of a .npy file, checked against its size before any of it is touched."""
    stream = io.BytesIO(data)
    try:
        shape, fortran, dtype = npz.header(stream, source)
    except ValueError as error:
        raise records.SplatFormatError(f"{error}; expected floats [N, {_BASE}]") from None
    if dtype.str[1:] not in _FLOATS:
        raise records.SplatFormatError(
            f"{source}: found an array of {dtype}; expected floats [N, {_BASE}] (arrays of objects "
            "would have to be unpickled and are refused)"
        )
    return _array(data[stream.tell() :], shape, dtype, fortran, source)


def _array(data: bytes, shape, dtype: np.dtype, fortran: bool, source: str) -> np.ndarray:
    expected = math.prod(shape) * dtype.itemsize
    if len(data) != expected:
        raise records.SplatFormatError(
            f"{source}: {'truncated' if len(data) < expected else 'overlong'}: an array of shape "
            f"{tuple(shape)}, {dtype} has {expected} bytes, found {len(data)}"
        )
    return np.frombuffer(data, dtype).reshape(shape, order="F" if fortran else "C")


def read_record(path: epath.PathLike) -> Record:
    """One record of UniGS, with what stands beside the Gaussians.

    The keys are those that UniGS writes: 'name', 'label', 'human_prompt' (a list), 'machine_prompt'
    (a text or a list); others are of no concern, and all but '3dgs' may be absent.

    Raises:
      SplatFormatError: no archive of ``torch.save``, a damaged one, a program that names anything
        but NumPy arrays (nothing of it is run), or no table in it.
    """
    source = str(path)
    data = epath.Path(path).read_bytes()
    try:
        archive = torch_zip.Archive(io.BytesIO(data))
        if "data.pkl" not in archive:
            raise records.SplatFormatError(
                f"{source}: an archive without data.pkl: not a file of torch.save"
            )
        content = safe_pickle.load(io.BytesIO(archive.read("data.pkl")), _names())
    except records.SplatFormatError:
        raise
    except safe_pickle.UnknownNameError as error:
        raise records.SplatFormatError(_refusal(source, error)) from None
    except ValueError as error:
        raise records.SplatFormatError(
            f"{source}: damaged, or no record of UniGS as torch.save writes it since PyTorch 1.6 "
            f"({error})"
        ) from None
    if not isinstance(content, dict) or not isinstance(content.get(_TABLE), _Array):
        found = type(content).__name__
        if isinstance(content, dict):
            found = sorted(str(key)[:40] for key in content)[:12]
        raise records.SplatFormatError(
            f"{source}: found {found}; expected a dict with a NumPy array [N, {_BASE}] as {_TABLE!r}"
        )
    return Record(
        table=content[_TABLE].resolve(source),
        name=_text(content, "name"),
        label=_text(content, "label"),
        captions=_captions(content),
    )


def _text(content: dict, key: str) -> str:
    value = content.get(key, "")
    return value.strip() if isinstance(value, str) else ""


def _captions(content: dict) -> tuple[str, ...]:
    found: dict[str, None] = {}
    for key in ("human_prompt", "machine_prompt"):
        value = content.get(key)
        value = (value,) if isinstance(value, str) else value
        for text in value if isinstance(value, (list, tuple)) else ():
            if isinstance(text, str) and text.strip():
                found[" ".join(text.split())] = None
    return tuple(found)


# The stand-ins below take the place of NumPy's own constructors: they keep what a program gives them
# and do nothing with it.


class _Dtype(safe_pickle.Buildable):
    """``numpy.dtype(kind, align, copy)`` with its byte order set afterwards."""

    __slots__ = ()

    def resolve(self, source: str) -> np.dtype:
        code = self.args[0] if self.args else None
        order = "="
        if self.state is not None:
            long = type(self.state) is tuple and len(self.state) > 1
            order = self.state[1] if long else None
        if type(code) is not str or type(order) is not str:
            raise records.SplatFormatError(f"{source}: {_TABLE!r} has a damaged type")
        if code not in _FLOATS or order not in ("<", "="):
            raise records.SplatFormatError(
                f"{source}: {_TABLE!r} holds {order!r:.8} {code!r:.8}; expected little-endian "
                f"floats, one of {_FLOATS}"
            )
        return np.dtype("<" + code)


class _Array(safe_pickle.Buildable):
    """``numpy.ndarray`` as ``_reconstruct`` makes it: empty, filled by its state."""

    __slots__ = ()

    def resolve(self, source: str) -> np.ndarray:
        known = type(self.state) is tuple and len(self.state) == 5
        if known:
            _, shape, dtype, fortran, data = self.state
            known = isinstance(dtype, _Dtype) and isinstance(data, bytes)
            known = known and type(shape) is tuple and len(shape) <= _MOST_AXES
            known = known and all(type(n) is int and 0 <= n < 2**63 for n in shape)
        if not known:
            raise records.SplatFormatError(f"{source}: {_TABLE!r} is a damaged NumPy array")
        return _array(data, shape, dtype.resolve(source), fortran is True, source)


class _Encode(safe_pickle.Standin):
    """``_codecs.encode``, by which protocol 2 writes bytes; for that use only."""

    __slots__ = ("known",)  # text -> its bytes: asking again for the same costs no memory

    def __call__(self, text, encoding="utf-8"):
        if type(text) is not str or encoding != "latin1":
            raise safe_pickle.ProgramError("bytes that are not spelt in latin1")
        if text not in self.known:
            self.known[text] = text.encode("latin1")
        return self.known[text]


def _names() -> dict[tuple[str, str], safe_pickle.Standin]:
    """What a program may name; made anew for every program."""
    return {
        ("_codecs", "encode"): _Encode({}),
        ("numpy", "dtype"): safe_pickle.Maker(_Dtype),
        ("numpy", "ndarray"): safe_pickle.Standin(),  # an argument of _reconstruct, never called
        ("numpy.core.multiarray", "_reconstruct"): safe_pickle.Maker(_Array),
        ("numpy._core.multiarray", "_reconstruct"): safe_pickle.Maker(_Array),
    }


def _refusal(source: str, error: safe_pickle.UnknownNameError) -> str:
    if error.module.partition(".")[0] == "torch":
        return (
            f"{source}: the record holds torch tensors; expected {_TABLE!r} as a NumPy array "
            "(tensor.numpy() before torch.save), or the table alone as .npy"
        )
    return (
        f"{source}: the record asks to load {error.module}.{error.name}, which no table needs; "
        "refused, nothing of it was run. Save the table alone, as .npy, and read that"
    )
