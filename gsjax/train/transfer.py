"""Moving a pre-trained backbone, and nothing else, into another model.

Backbones are pre-trained by one system and used by another; both keep it under ``backbone``. Every
array must fit, both ways: what is missing, left over or of another shape is named in one error. A
file of `gsjax export-backbone` holds the same arrays with what made them.
"""

import json
from collections.abc import Mapping

import numpy as np
from etils import epath

from gsjax.io import json_text, safetensors_file, weights
from gsjax.train import state as state_lib
from gsjax.train import trained

NAME = "backbone"
_ABOUT = "gsjax_backbone"  # key of the file's metadata
# Fields of config.model that must agree between two models, or arrays of equal shape mean other things.
SETTINGS = ("backbone", "backbone_size", "backbone_changes", "features")


def is_backbone(path: str) -> bool:
    """Whether a variable ('params/backbone/...', 'batch_stats/backbone/...') belongs to the backbone."""
    return path.split("/")[1:2] == [NAME]


def read(path) -> tuple[dict[str, np.ndarray], dict]:
    """Arrays of a pre-trained backbone and what is known of it.

    Args:
        path: run folder, checkpoint or exported run of a system with a backbone, or a
            ``.safetensors`` of :func:`export`.

    Returns:
        {'params/backbone/...': array}, and its settings as plain values.

    Raises:
        ValueError: there is no backbone in it.
    """
    if str(path).endswith(".safetensors"):
        metadata = weights.read_metadata(path)
        if _ABOUT not in metadata:
            raise ValueError(
                f"{path}: holds no backbone of this package (no {_ABOUT!r} in its header); write one "
                "with `gsjax export-backbone`"
            )
        return weights.read_state_dict(path), json_text.parse(
            metadata[_ABOUT], f"{path}: {_ABOUT}", dict
        )
    run = trained.load(path)
    arrays = {name: value for name, value in run.arrays.items() if is_backbone(name)}
    if not arrays:
        raise ValueError(f"{path}: the system {run.system!r} has no backbone")
    plain = json.loads(run.config.to_json_best_effort())
    about = dict(system=run.system, step=run.step, model=plain["model"])
    return arrays, about


def export(path, out) -> dict:
    """Writes the backbone of a run as safetensors; returns what :func:`read` tells of it.

    Raises:
        ValueError: as :func:`read`.
    """
    arrays, about = read(path)
    safetensors_file.save_arrays(epath.Path(out), arrays, {_ABOUT: json.dumps(about)})
    return about


def backbone_arrays(variables, path, model_config) -> dict[str, np.ndarray]:
    """The backbone of ``path`` by the variables' own names and types.

    Args:
        variables: of the model that is filled; arrays or ShapeDtypeStructs, nested.
        path: see :func:`read`.
        model_config: ``config.model`` of that model.

    Raises:
        ValueError: another backbone, or arrays that are missing, left over or of another shape.
    """
    arrays, about = read(path)
    _check_settings(path, about["model"], model_config)
    wanted = {name: x for name, x in state_lib.flat(variables).items() if is_backbone(name)}
    wrong = [f"{name}: missing there" for name in sorted(wanted.keys() - arrays.keys())]
    wrong += [f"{name}: not in this model" for name in sorted(arrays.keys() - wanted.keys())]
    wrong += [
        f"{name}: found {np.shape(arrays[name])}, expected {tuple(wanted[name].shape)}"
        for name in sorted(wanted.keys() & arrays.keys())
        if np.shape(arrays[name]) != tuple(wanted[name].shape)
    ]
    if wrong or not wanted:
        listed = "; ".join(wrong[:8]) or "this model has no backbone"
        more = f"; and {len(wrong) - 8} more" if len(wrong) > 8 else ""
        raise ValueError(f"{path}: its backbone does not fit: {listed}{more}")
    return {name: np.asarray(arrays[name], wanted[name].dtype) for name in wanted}


def _check_settings(path, found: Mapping, expected) -> None:
    expected = json.loads(expected.to_json_best_effort())
    wrong = [
        f"model.{name}: found {found.get(name)}, expected {expected.get(name)}"
        for name in SETTINGS
        if found.get(name) != expected.get(name)
    ]
    if wrong:
        raise ValueError(f"{path}: a backbone pre-trained with other settings; " + "; ".join(wrong))
