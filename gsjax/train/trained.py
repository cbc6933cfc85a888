"""A finished run without its data set: config, weights, and the towers it was trained with.

``load`` takes a run folder or an archive; ``export`` makes the archive: one ``.npz`` with everything
that inference needs (``io.archive``), which ``config.init_from`` reads, too.
"""

import dataclasses
import hashlib
import json
from collections.abc import Mapping

import jax
import ml_collections
import numpy as np
from etils import epath

from gsjax.io import archive, json_text
from gsjax.train import checkpoint
from gsjax.train import state as state_lib

TOWERS_FILE = "towers.json"  # in a run folder: name, digest, dim, preprocessing of frozen towers
_UNUSED = ("eval", "init_from", "mesh", "mode", "optim", "train")  # parts of a config


@dataclasses.dataclass(frozen=True)
class Trained:
    """What a run learned.

    Attributes:
        system: folder name under ``gsjax.systems``.
        config: the run's; of an archive, the parts that inference needs.
        arrays: {'params/encoder/...': array, 'batch_stats/...': array}.
        step: of the checkpoint.
        towers: ``name, digest, dim, preprocessing`` of the towers it was trained with; None if the
            run does not record them.
    """

    system: str
    config: ml_collections.ConfigDict
    arrays: Mapping[str, np.ndarray]
    step: int
    towers: Mapping | None

    @property
    def digest(self) -> str:
        """Hex SHA-256 of system, architecture and weights, as they are here."""
        plain = json.loads(self.config.to_json_best_effort())
        head = json.dumps([self.system, plain.get("model", {})], sort_keys=True)
        result = hashlib.sha256(head.encode())
        for name in sorted(self.arrays):
            value = np.ascontiguousarray(self.arrays[name])
            result.update(f"{name} {value.dtype.str} {value.shape}".encode())
            result.update(value.tobytes())
        return result.hexdigest()

    def variables(self) -> dict:
        """{'params': ..., other collections}, nested dicts of float32 arrays."""
        return state_lib.nested({k: np.asarray(v, np.float32) for k, v in self.arrays.items()})


def load(path) -> Trained:
    """A run folder, one of its checkpoints, or an archive of :func:`export`.

    The averaged parameters are taken where a run has them.

    Raises:
        ValueError: nothing there that can be used; the message says what is missing.
    """
    return _from_archive(path) if str(path).endswith(".npz") else _from_run(path)


def _from_run(path) -> Trained:
    folder = checkpoint.absolute(path)
    places = (folder, folder.parent, folder.parent.parent)
    home = next((place for place in places if (place / "config.json").exists()), None)
    if home is None:
        raise ValueError(f"run: {folder} has no config.json; name the --workdir of a training run")
    config = ml_collections.ConfigDict(json_text.read(home / "config.json", dict))
    if not isinstance(config.get("system"), str):
        raise ValueError(f"run: {home / 'config.json'} names no system; it is no config of a run")
    loaded = checkpoint.load_variables(path, _abstract(path))
    towers = home / TOWERS_FILE
    return Trained(
        system=config.system,
        config=config,
        arrays={name: np.asarray(value) for name, value in loaded.arrays.items()},
        step=loaded.step,
        towers=json_text.read(towers, dict) if towers.exists() else None,
    )


def _abstract(path) -> dict:
    """Shapes of a run's variables, as its newest readable checkpoint has them."""
    for folder in checkpoint.find(path):
        try:
            leaves = checkpoint.read_meta(folder)["leaves"]
        except checkpoint.DamagedCheckpoint:
            continue  # load_variables logs it
        found = {}
        for name, (shape, kind) in leaves.items():
            if name.startswith(("params/", "collections/")):
                local = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
                struct = jax.ShapeDtypeStruct(tuple(shape), np.dtype(kind), sharding=local)
                found[name.removeprefix("collections/")] = struct
        return state_lib.nested(found)
    raise ValueError(f"{path}: all checkpoints are damaged")


def _from_archive(path) -> Trained:
    stored = archive.read(path)
    if "run" not in stored.config:
        raise ValueError(
            f"run: {path} holds weights of kind {stored.kind!r} but no config of a run; it is no "
            "export of a training run"
        )
    return Trained(
        system=stored.kind,
        config=ml_collections.ConfigDict(stored.config["run"]),
        arrays=stored.arrays,
        step=int(stored.config["step"]),
        towers=stored.config["towers"],
    )


def export(
    trained: Trained, path, *, towers: Mapping | None = None, notes: Mapping | None = None
) -> str:
    """Writes one archive, float16.

    Args:
        trained: of :func:`load`.
        path: target, ``.npz``.
        towers: overrides what the run records.
        notes: JSON values kept beside the weights (recipe, metrics, licence).

    Returns:
        The archive's digest.

    Raises:
        ValueError: a weight that float16 cannot hold.
    """
    arrays = {}
    for name, value in trained.arrays.items():
        with np.errstate(over="ignore"):  # reported below, by name
            arrays[name] = np.asarray(value, np.float16)
        if not np.isfinite(arrays[name]).all():
            raise ValueError(f"export: {name!r} is not finite in float16; train again")
    plain = json.loads(trained.config.to_json_best_effort())
    kept = {name: value for name, value in plain.items() if name not in _UNUSED}
    for private in ("dir", "source", "captions_csv"):  # places on the machine that trained
        if private in kept.get("data", {}):
            kept["data"][private] = ""
    described = dict(run=kept, step=trained.step, towers=towers or trained.towers)
    return archive.save(epath.Path(path), trained.system, described, arrays, notes)
