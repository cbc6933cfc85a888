"""What makes a run the run it is, so that another one does not go on from its checkpoints.

A checkpoint's ``meta`` keeps the settings that define the state; rhythm, place and layout (``train``,
``eval``, ``mesh``, ``optim``, ``init_from``, threads) may change between two starts of one run.
"""

import json
import os
from collections.abc import Mapping

from absl import logging

from gsjax.train import checkpoint
from gsjax.train import logging as logs

KEY = "defines"  # in the meta of a checkpoint
_BLOCKS = ("system", "seed", "data", "augment", "model", "loss", "fit")
# Where data lie, how they are fetched, and how the same numbers are computed.
_FREE = (
    *("data.dir", "data.num_threads", "data.prefetch", "data.memory", "loss.sharding"),
    *("model.dtype", "model.remat", "model.knn_block", "model.eval_order"),
    "model.embed_dim",  # 0 in a config: filled in from the data when a system is built
)
# What goes with the length of a fit, see systems/scene_fit/presets.py.
_LENGTH = "fit.num_steps"
_SCHEDULE = ("fit.sh_every", "fit.refine_start", "fit.refine_stop", "fit.reset_every")
_MOST_NAMED = 8


def of_config(config) -> dict:
    """{dotted name: plain value} of the settings that define the state of a run.

    A local ``data.source`` is made absolute: the same folder under two names is the same.
    """
    tree = json.loads(config.to_json_best_effort())
    found = _flat({name: tree[name] for name in _BLOCKS if name in tree})
    source = found.get("data.source")
    if isinstance(source, str) and source and "://" not in source:
        found["data.source"] = os.path.abspath(os.path.expanduser(source))
    return {name: value for name, value in found.items() if name not in _FREE}


def info(config) -> dict:
    """What a checkpoint's ``meta`` says of its run: hash, package versions, defining settings."""
    return {
        "config_hash": logs.config_hash(config),
        "versions": logs.versions()["packages"],
        KEY: of_config(config),
    }


def check(workdir, config) -> None:
    """Refuses to train in the folder of another run; settings that may differ only warn.

    Names that only one of the two has are no difference: versions of the package add settings. A fit
    may be made longer, and its schedule with it. Checkpoints without these facts only warn.

    Args:
        workdir: run folder; nothing is written. Nothing happens where it holds no checkpoint.
        config: of the run that is about to go on.

    Raises:
        ValueError: the newest checkpoint is of another run; the message names what differs.
    """
    found = _newest(workdir)
    if found is None:
        return
    folder, meta = found
    expected, there = of_config(config), meta.get(KEY, {})
    names = [n for n in sorted(expected) if n in there and there[n] != expected[n]]
    if _LENGTH in names and expected[_LENGTH] >= meta["step"]:
        names = [n for n in names if n not in (_LENGTH, *_SCHEDULE)]
    if names:
        listed = "; ".join(
            f"{n}: found {there[n]!r}, expected {expected[n]!r}" for n in names[:_MOST_NAMED]
        )
        more = f" and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else ""
        raise ValueError(
            f"{folder}: step {meta['step']} of another run ({listed}{more}). Name another folder for "
            "this run, or delete that one to begin anew"
        )
    if meta.get("config_hash") != logs.config_hash(config):
        logging.warning("the config differs from the one that wrote %s", folder)


def _newest(workdir):
    """(folder, meta) of the newest checkpoint whose meta can be read, or None."""
    if not (checkpoint.absolute(workdir) / checkpoint.FOLDER).is_dir():
        return None
    try:
        folders = checkpoint.find(checkpoint.absolute(workdir) / checkpoint.FOLDER)
    except ValueError:  # begun, nothing saved
        return None
    for folder in folders:
        try:
            return folder, checkpoint.read_meta(folder)
        except checkpoint.DamagedCheckpoint:  # restoring tells of it
            continue
    return None


def _flat(tree: Mapping, prefix: str = "") -> dict:
    found = {}
    for name, value in tree.items():
        if isinstance(value, Mapping):
            found |= _flat(value, f"{prefix}{name}.")
        else:
            found[prefix + name] = value
    return found
