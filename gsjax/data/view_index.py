"""Evaluation index files: which frames of each scene are given and which are scored.

JSON ``{scene: {"context": [...], "target": [...]} | null}``, the format that pixelSplat, MVSplat, DepthSplat
and PM-Loss share; null marks scenes without a usable pair. Results are comparable only on the published
files, so those are read and never made again. Imports no JAX.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from gsjax.data.view_samplers import Sample
from gsjax.io import json_text

_VARIANT = re.compile(r"_\d\d$")  # DTU: one scene with several draws, scan1_00 to scan1_03


def read(path) -> dict[str, Sample]:
    """Scene -> its frames, in the order of the file; scenes without any (null) are left out.

    Raises:
        ValueError: no such file, another format, frames that are no numbers from 0 on, or none left.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(
            f"{path}: there is no such evaluation index; get it from the repository whose numbers are "
            "compared (its assets folder)"
        )
    found = json_text.read(path)
    if not isinstance(found, dict):
        raise ValueError(f"{path}: expected {{scene: {{context, target}} or null}}")
    samples = {
        name: _sample(path, name, entry) for name, entry in found.items() if entry is not None
    }
    if not samples:
        raise ValueError(f"{path}: none of its {len(found)} scenes has frames")
    return samples


def _sample(path: Path, name: str, entry) -> Sample:
    lists = []
    for field in ("context", "target"):
        frames = entry.get(field) if isinstance(entry, dict) else None
        fine = isinstance(frames, list) and all(type(f) is int and 0 <= f < 2**63 for f in frames)
        if not fine or not frames:
            raise ValueError(
                f"{path}: scene {name!r}: {field}: expected a list of frame numbers from 0 on, found "
                f"{str(frames)[:60]}"
            )
        lists.append(np.array(frames, np.int64))
    if len(set(lists[0].tolist())) < len(lists[0]):
        raise ValueError(f"{path}: scene {name!r}: context: a frame occurs twice")
    return Sample(*lists)


def scene_of(key: str, known: Sequence[str]) -> str | None:
    """The scene that a key of an index means: itself, or without a suffix _00 to _99; None = absent."""
    if key in known:
        return key
    bare = _VARIANT.sub("", key)
    return bare if bare in known else None


def located(
    samples: Mapping[str, Sample], lengths: Mapping[str, int], *, partial: bool = False
) -> list[tuple[str, str, Sample]]:
    """(key, scene, frames) of all entries whose scene is there, in the order of the index.

    Args:
        samples: of :func:`read`.
        lengths: scene -> number of its frames.
        partial: let scenes be absent, as in a subset for a quick look.

    Raises:
        ValueError: scenes are absent (all of them, or any without ``partial``), or a frame is.
    """
    result, absent = [], []
    for key, sample in samples.items():
        scene = scene_of(key, lengths)
        if scene is None:
            absent.append(key)
            continue
        most = int(max(sample.context.max(), sample.target.max()))
        if most >= lengths[scene]:
            raise ValueError(
                f"index: scene {key!r} names frame {most}, the data has {lengths[scene]} of it; it was "
                "converted with other frames left out"
            )
        result.append((key, scene, sample))
    if not result or (absent and not partial):
        raise ValueError(
            f"index: {len(absent)} of {len(samples)} scenes are not in the data, the first is "
            f"{absent[0]!r}; convert the test split whole, or pass partial=True"
        )
    return result
