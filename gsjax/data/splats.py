"""A folder of splat files as inputs of an encoder, and the file of embeddings made from them.

Unlike ``data.folder`` this prepares no set: no captions, no pictures, nothing is kept. Imports no JAX.
"""

import dataclasses
import io
import json
import pathlib
from collections.abc import Mapping

import numpy as np

from gsjax.data import discs, features, transforms
from gsjax.io import formats, json_text, npz

FORMAT = 1
_TIE = 1e-4  # how far from length one a stored vector may be


def find(folder) -> list[str]:
    """Splat files below a folder, as sorted relative names with '/'.

    Raises:
        ValueError: no such folder, or none in it.
    """
    root = pathlib.Path(folder)
    if not root.is_dir():
        raise ValueError(f"folder: {str(folder)!r} is no folder; name one with splat files in it")
    endings = tuple(formats.FORMATS)
    names = sorted(
        path.relative_to(root).as_posix()
        for path in root.rglob("*")
        if path.is_file() and path.name.lower().endswith(endings)
    )
    if not names:
        raise ValueError(f"folder: {str(folder)!r} holds no file of {', '.join(endings)}")
    return names


def stamps(folder) -> dict[str, list[int]]:
    """{name: [bytes, time of change in ns]} of the files of :func:`find`, by which changes show."""
    root = pathlib.Path(folder)
    found = {name: (root / name).stat() for name in find(folder)}
    return {name: [stat.st_size, stat.st_mtime_ns] for name, stat in found.items()}


def load(path, *, up: str = "y", on_bad_rows: str = "error") -> dict[str, np.ndarray]:
    """Raw Gaussians of a file, turned y up, colours of degree 0: ``sh`` [M, 1, 3].

    Args:
        path: of the file.
        up: the file's own up axis, see ``transforms.UP_ROTATIONS``.
        on_bad_rows: 'error' or 'drop'.

    Raises:
        ValueError: the file is bad or empty.
    """
    gaussians = formats.load_gaussians(path, on_bad_rows=on_bad_rows)
    if not len(gaussians["means"]):
        raise ValueError(f"{path}: holds no Gaussians")
    gaussians["sh"] = gaussians["sh"][:, :1]
    return transforms.to_y_up(gaussians, up)


def example(
    gaussians: Mapping[str, np.ndarray], *, num_points: int, anchors: int, prune_alpha: float = 0.0
) -> dict[str, np.ndarray]:
    """A fixed number of Gaussians as evaluation examples have them, see ``data.examples``.

    At most ``2 * num_points`` random ones are looked at, as a prepared set would have stored. The
    draw depends on the number of Gaussians alone, not on a file's name.

    Args:
        gaussians: ``means`` [M, 3], ``quats`` [M, 4], ``log_scales`` [M, 3], ``logit_opacities``
            [M], ``sh`` [M, K, 3].
        num_points: N.
        anchors: how many of the first rows are to be farthest points.
        prune_alpha: Gaussians fainter than this are left out first.

    Returns:
        ``means, quats, log_scales, logit_opacities, sh0`` float32 [N, ...] and ``mask`` bool [N].
    """
    gaussians = transforms.prune(gaussians, prune_alpha)
    count = len(gaussians["means"])
    rng = np.random.default_rng(features.stable_seed("splats", count))
    rows = rng.permutation(count)[: 2 * num_points]
    rows = rows[discs.farthest_point_order(gaussians["means"][rows], anchors)]
    names = ("means", "quats", "log_scales", "logit_opacities")
    kept = {name: gaussians[name][rows] for name in names}
    norm = np.linalg.norm(kept["quats"], axis=-1, keepdims=True)
    kept["quats"] = kept["quats"] / np.maximum(norm, 1e-12)
    kept["sh0"] = gaussians["sh"][rows, 0]
    rows, mask = transforms.choose(len(rows), num_points, rng=rng, short="repeat", anchors=anchors)
    return transforms.to_float32(transforms.take(kept, rows, mask)) | {"mask": mask}


def check_target(path) -> pathlib.Path:
    """Where a gallery is to be written.

    Raises:
        ValueError: another ending than .npz.
    """
    path = pathlib.Path(path)
    if path.suffix != ".npz":
        raise ValueError(f"gallery: {str(path)!r} must end in .npz")
    return path


@dataclasses.dataclass(frozen=True)
class Gallery:
    """Embedded files.

    Attributes:
        names: relative file names.
        embeds: f32 [n, D] unit vectors, in the order of ``names``.
        meta: plain JSON values: ``folder``, ``up``, ``model`` (system, digest, step), ``towers``
            (name, digest, dim, preprocessing), ``data`` (by which towers are found), ``skipped``, ``stamps``.
    """

    names: tuple[str, ...]
    embeds: np.ndarray
    meta: dict

    def save(self, path) -> None:
        """Writes an ``.npz`` without pickle, whole or not at all.

        Raises:
            ValueError: another ending.
        """
        path = check_target(path)
        text = json.dumps(dict(self.meta, format=FORMAT), sort_keys=True)
        buffer = io.BytesIO()
        np.savez(
            buffer,
            names=np.asarray(self.names, np.str_),
            embeds=np.asarray(self.embeds, np.float32),
            meta=np.frombuffer(text.encode(), np.uint8),
        )
        path.parent.mkdir(parents=True, exist_ok=True)
        scratch = path.parent / f".{path.name}.tmp"
        scratch.write_bytes(buffer.getvalue())
        scratch.replace(path)


def read_gallery(path) -> Gallery:
    """Reads what :meth:`Gallery.save` wrote.

    Raises:
        ValueError: no such file, another kind of file, or vectors that are not of length one.
    """
    path = pathlib.Path(path)
    if not path.is_file():
        raise ValueError(f"file: there is no file {path}; make it with `gsjax embed`")
    try:
        stored = npz.read(path, ("names", "embeds", "meta"))
        names, embeds = stored["names"], stored["embeds"]
        meta = json_text.parse(stored["meta"].tobytes(), "meta", dict)
        found = meta.pop("format")
        fine = embeds.ndim == 2 and embeds.dtype.kind == "f" and names.shape == (len(embeds),)
        if found != FORMAT or not fine or names.dtype.kind != "U":
            raise ValueError(f"format {found!r}, shapes {names.shape}, {embeds.shape}")
    except (KeyError, ValueError, OSError) as error:
        raise ValueError(
            f"file: {path} is no file of `gsjax embed`, or is damaged ({error}); make it again"
        ) from None
    if not np.all(np.abs(np.linalg.norm(embeds, axis=-1) - 1) < _TIE):
        raise ValueError(f"file: {path} holds vectors that are not of length one; make it again")
    return Gallery(tuple(str(name) for name in names), embeds, meta)
