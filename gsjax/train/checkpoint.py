"""Checkpoints: written in the background, checked when read. The only module that knows orbax.

A checkpoint holds three things: ``state`` (nested dicts of arrays), ``data`` (the input iterator's
state) and ``meta`` (config hash, versions, and shape, type and checksum of every array).

Committing is a rename, so a killed run leaves either a whole checkpoint or a temporary folder that
the next run removes. What a rename cannot guard against is damage afterwards: a truncated file
fails to load, but a flipped bit may load as another number. Hence the checksums.
"""

import contextlib
import dataclasses
import functools
import json
import os
import time
import zlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging
from etils import epath
from jax.experimental import multihost_utils
from orbax.checkpoint import v1 as ocp

from gsjax.train import state as state_lib

FOLDER = "checkpoints"
_TEXT = {"json": "", "crc": 0}


class DamagedCheckpoint(Exception):
    """A checkpoint that cannot be read, or reads as other numbers than were written."""


class NotWritten(RuntimeError):
    """The storage refused a checkpoint: no room left, for one. Those before it are whole."""


@dataclasses.dataclass(frozen=True)
class Restored:
    """What a checkpoint gave back."""

    step: int
    state: Any
    data: dict
    meta: dict


def digests(tree) -> dict[str, str]:
    """64-bit checksum of every leaf, by path; does not depend on how arrays are sharded.

    Each element's bits are mixed with its position by a bijection and summed modulo 2^32, twice
    over. So any change of a single element shows, and processes need no copy of others' shards.
    """
    leaves = state_lib.flat(tree)
    results = {path: _digest(_replicated_like(x))(x) for path, x in leaves.items()}
    return {
        path: "".join(f"{int(word):08x}" for word in np.asarray(value))
        for path, value in results.items()
    }


def _replicated_like(x):
    if isinstance(x.sharding, jax.sharding.NamedSharding):
        return jax.sharding.NamedSharding(x.sharding.mesh, jax.sharding.PartitionSpec())
    return None


@functools.lru_cache
def _digest(sharding):
    def digest(x):
        if x.dtype == jnp.bool_:
            bits = x.astype(jnp.uint32)
        else:
            width = min(x.dtype.itemsize, 4)
            words = {1: jnp.uint8, 2: jnp.uint16, 4: jnp.uint32}[width]
            bits = jax.lax.bitcast_convert_type(x, words).astype(jnp.uint32)
        place = jnp.zeros(bits.shape, jnp.uint32)
        for axis, size in enumerate(bits.shape):
            place = place * jnp.uint32(size) + jax.lax.broadcasted_iota(
                jnp.uint32, bits.shape, axis
            )
        sums = [jnp.sum(_mix(bits + place * odd), dtype=jnp.uint32) for odd in _ODD]
        return jnp.stack(sums)

    return jax.jit(digest, out_shardings=sharding)


_ODD = (np.uint32(0x9E3779B9), np.uint32(0x85EBCA77))


def _mix(h):
    """32-bit finaliser of MurmurHash3 (public domain): a bijection that spreads every bit."""
    h = (h ^ (h >> 16)) * jnp.uint32(0x85EBCA6B)
    h = (h ^ (h >> 13)) * jnp.uint32(0xC2B2AE35)
    return h ^ (h >> 16)


def _pack(value) -> dict:
    text = json.dumps(value, sort_keys=True)
    return {"json": text, "crc": zlib.crc32(text.encode())}


def _unpack(packed, what: str):
    text, crc = packed["json"], packed["crc"]
    if not isinstance(text, str) or zlib.crc32(text.encode("utf-8", "replace")) != int(crc):
        raise DamagedCheckpoint(f"{what}: checksum differs")
    return json.loads(text)


def _layout(tree) -> dict[str, list]:
    return {p: [list(x.shape), str(x.dtype)] for p, x in state_lib.flat(tree).items()}


def _stored(tree) -> dict:
    """Path -> leaf of those with elements; orbax refuses the others, whose shape says all."""
    return {p: x for p, x in state_lib.flat(tree).items() if x.size}


def _empty(abstract) -> dict:
    """The leaves that are not stored."""
    return {
        p: jax.device_put(jnp.zeros(x.shape, x.dtype), x.sharding)
        for p, x in state_lib.flat(abstract).items()
        if not x.size
    }


class Checkpoints:
    """The checkpoints of a run folder. Every process calls every method, in the same order."""

    def __init__(self, workdir, *, keep: int):
        """Opens (and creates) ``workdir/checkpoints``.

        Args:
            workdir: local folder, or gs:// or s3:// address.
            keep: newest checkpoints that are kept, at least 1.

        Raises:
            ValueError: ``keep`` below 1.
        """
        if keep < 1:
            raise ValueError(f"train.keep: expected at least 1 checkpoint, found {keep}")
        self._folder = absolute(workdir) / FOLDER
        _quieten()
        policies = ocp.training.save_decision_policies
        self._orbax = ocp.training.Checkpointer(
            self._folder,
            save_decision_policy=policies.AnySavePolicy([policies.FixedIntervalPolicy(1)]),
            preservation_policy=ocp.training.preservation_policies.LatestN(keep),
            cleanup_tmp_directories=True,
        )
        _stop_polling(self._orbax)

    @property
    def steps(self) -> list[int]:
        """Steps on disk, ascending."""
        return [c.step for c in self._orbax.checkpoints]

    def save(self, step: int, state, data: dict, info: dict, *, wait: bool = False) -> None:
        """Writes a checkpoint, by default in the background. Does nothing if the step is there.

        Args:
            step: number of the last finished step.
            state: pytree of arrays; copied before the call returns, so it may be donated after.
            data: the input iterator's state.
            info: plain values for ``meta`` (config hash, versions).
            wait: return only when it is committed.

        Raises:
            NotWritten: this one, or the one begun before it.
        """
        if step not in self.steps:
            meta = {**info, "leaves": _layout(state), "digests": digests(state), "step": step}
            bundle = {
                "state": state_lib.nested(_stored(state)),
                "data": _pack(data),
                "meta": _pack(meta),
            }
            # force: whether to save was decided by the loop. Orbax's own policies skip a save,
            # without an error, while another one is under way.
            with self._writing():
                self._orbax.save_checkpointables_async(step, bundle, force=True)
        if wait:
            self.wait()

    def restore(self, abstract_state) -> Restored | None:
        """The newest sound checkpoint; damaged ones are logged and passed over.

        Damaged checkpoints newer than the one restored are moved to ``checkpoints_damaged``, so
        that their steps can be written again.

        Args:
            abstract_state: ShapeDtypeStructs with shardings, in the structure to return. Device
                counts and meshes may differ from those of the run that saved. Or a function that
                makes it from the layout found, {path: [shape, dtype]}.

        Returns:
            None if there is no checkpoint.

        Raises:
            ValueError: the checkpoint is sound but of another model, or all are damaged.
        """
        damaged = []
        for step in reversed(self.steps):
            try:
                result = self._read(step, abstract_state)
            except DamagedCheckpoint as error:
                logging.error("checkpoint %d is damaged and passed over: %s", step, error)
                damaged.append(step)
                continue
            self._set_aside(damaged)
            return result
        if damaged:
            raise ValueError(
                f"{self._folder}: all checkpoints are damaged ({sorted(damaged)}); restore the "
                "folder from a copy, or remove it to start from the beginning"
            )
        return None

    def _read(self, step: int, abstract_state) -> Restored:
        folder = self._folder / str(step)
        failure, result = None, None
        try:
            meta = read_meta(folder)
            if callable(abstract_state):
                abstract_state = abstract_state(meta["leaves"])
            _check_layout(folder, meta["leaves"], _layout(abstract_state))
            result = self._load(folder, abstract_state, meta)
        except DamagedCheckpoint as error:
            failure = error
        # A file that only some processes fail to read must not make them go different ways.
        if jax.process_count() > 1:
            failed = multihost_utils.process_allgather(np.int32(failure is not None))
            if failed.any() and failure is None:
                failure = DamagedCheckpoint("another process could not read it")
        if failure is not None:
            raise failure
        return result

    def _load(self, folder, abstract_state, meta: dict) -> Restored:
        wanted = {"state": state_lib.nested(_stored(abstract_state)), "data": _TEXT}
        loaded = _load(folder, wanted)
        leaves = _empty(abstract_state) | state_lib.flat(loaded["state"])
        state = state_lib.refill(abstract_state, leaves)
        _check_digests(state, meta["digests"])
        return Restored(meta["step"], state, _unpack(loaded["data"], "data"), meta)

    def _set_aside(self, steps: list[int]) -> None:
        if not steps:
            return
        if jax.process_index() == 0:
            aside = self._folder.parent / f"{FOLDER}_damaged"
            aside.mkdir(parents=True, exist_ok=True)
            for step in steps:
                (self._folder / str(step)).rename(aside / f"{step}-{time.time_ns()}")
        if jax.process_count() > 1:
            multihost_utils.sync_global_devices("gsjax_damaged_checkpoints")
        self._orbax.reload()

    def wait(self) -> None:
        """Returns when nothing is being written any more.

        Raises:
            NotWritten: a checkpoint that was begun.
        """
        with self._writing():
            self._orbax.wait()

    def close(self) -> None:
        """Waits, as :meth:`wait`, and releases threads."""
        with self._writing():
            self._orbax.close()

    @contextlib.contextmanager
    def _writing(self):
        try:
            yield
        except Exception as error:  # the storage layer calls a full disk a ValueError
            said = str(error).splitlines()[0][:300] if str(error) else type(error).__name__
            raise NotWritten(
                f"a checkpoint could not be written to {self._folder} ({said}). Those before it are "
                "whole: make room, or see to the storage, and start again to go on from the newest"
            ) from error


@functools.cache
def _quieten() -> None:
    """Orbax tells dozens of INFO lines a save; warnings still come through."""
    logging.get_absl_logger().addFilter(
        lambda r: r.levelno >= logging.converter.STANDARD_WARNING or "/orbax/" not in r.pathname
    )


def _stop_polling(checkpointer) -> None:
    """Keeps orbax from asking for preemption with step numbers of its own.

    Every save would call ``reached_preemption_sync_point(step)``, which expects one growing
    counter; ours also counts evaluation batches (see preemption.py).
    """
    manager = getattr(checkpointer, "_manager", None)
    if hasattr(manager, "reached_preemption"):
        manager.reached_preemption = lambda step: False


def _load(folder, wanted: dict, **options) -> dict:
    context = ocp.Context()
    context.pytree.loading.partial_load = options.get("partial", False)
    try:
        with context:
            return ocp.load_checkpointables(folder, wanted)
    except Exception as error:  # orbax and its storage layer raise many kinds
        text = str(error).splitlines()[0][:200] if str(error) else ""
        raise DamagedCheckpoint(f"{type(error).__name__}: {text}") from error


def read_meta(folder) -> dict:
    """The ``meta`` part of one checkpoint.

    Raises:
        DamagedCheckpoint: it cannot be read.
    """
    return _unpack(_load(folder, {"meta": _TEXT})["meta"], "meta")


def _check_layout(folder, found: dict, expected: dict) -> None:
    if found == expected:
        return
    lines = [f"missing: {p}" for p in sorted(expected.keys() - found.keys())]
    lines += [f"not in this model: {p}" for p in sorted(found.keys() - expected.keys())]
    lines += [
        f"{p}: found {found[p]}, expected {expected[p]}"
        for p in sorted(found.keys() & expected.keys())
        if found[p] != expected[p]
    ]
    more = f" and {len(lines) - 5} more" if len(lines) > 5 else ""
    raise ValueError(
        f"{folder}: the checkpoint is of another model or optimiser ({'; '.join(lines[:5])}{more})."
        " Use another --workdir; --config.init_from loads the parameters that fit"
    )


def _check_digests(tree, expected: dict[str, str]) -> None:
    wrong = [path for path, value in digests(tree).items() if value != expected[path]]
    if wrong:
        raise DamagedCheckpoint(f"checksum differs in {', '.join(wrong[:5])} ({len(wrong)} arrays)")


def absolute(path) -> epath.Path:
    """The path with the current folder and ``~`` written out, as orbax wants it; gs:// as it is."""
    text = os.fspath(path)
    return epath.Path(text if "://" in text else os.path.abspath(os.path.expanduser(text)))


def find(path) -> list[epath.Path]:
    """Folders of checkpoints, newest first, given one, its run folder or the ``checkpoints`` folder.

    Raises:
        ValueError: there is none.
    """
    path = absolute(path)
    for root in (path / FOLDER, path):
        if root.is_dir():
            steps = sorted((int(p.name) for p in root.iterdir() if p.name.isdigit()), reverse=True)
            if steps:
                return [root / str(step) for step in steps]
    if path.name.isdigit() and path.is_dir():
        return [path]
    raise ValueError(
        f"{path}: no checkpoint found; give a run folder (with {FOLDER}/ in it) or one checkpoint"
    )


@dataclasses.dataclass(frozen=True)
class Loaded:
    """Variables out of another run's checkpoint.

    Attributes:
        step: of the checkpoint.
        arrays: {path: array} of what fits the model.
        missing: paths of the model that were not found.
    """

    step: int
    arrays: dict[str, jax.Array]
    missing: list[str]


def load_variables(path, abstract_variables) -> Loaded:
    """Variables of another run, those whose path and shape fit; averaged parameters are preferred.

    Takes the newest sound checkpoint; damaged ones are logged and passed over.

    Args:
        path: as :func:`find` takes it.
        abstract_variables: ShapeDtypeStructs with shardings.

    Raises:
        ValueError: no sound checkpoint, or nothing in it fits.
    """
    folders = find(path)
    for folder in folders:
        try:
            return _load_variables(folder, abstract_variables)
        except DamagedCheckpoint as error:
            logging.error("%s is damaged and passed over: %s", folder, error)
    raise ValueError(f"{path}: all {len(folders)} checkpoint(s) are damaged; the log says how")


def _load_variables(folder, abstract_variables) -> Loaded:
    meta = read_meta(folder)
    sources = _sources(abstract_variables, meta["leaves"])
    wanted = state_lib.flat(abstract_variables)
    if not sources:
        raise ValueError(f"{folder}: none of its arrays fits a parameter of this model")
    leaves = {source: _as_saved(wanted[p], meta["leaves"][source]) for p, source in sources}
    loaded = _load(folder, {"state": state_lib.nested(leaves)}, partial=True)
    found = state_lib.flat(loaded["state"])
    _check_digests(found, {p: meta["digests"][p] for p in found})
    arrays = {p: found[source].astype(wanted[p].dtype) for p, source in sources}
    return Loaded(meta["step"], arrays, sorted(wanted.keys() - arrays.keys()))


def _as_saved(struct, layout):
    return jax.ShapeDtypeStruct(struct.shape, jnp.dtype(layout[1]), sharding=struct.sharding)


def _sources(abstract_variables, leaves: dict) -> list[tuple[str, str]]:
    """(path in the model, path in the checkpoint) of all arrays that fit."""
    pairs = []
    for path, struct in state_lib.flat(abstract_variables).items():
        kind, _, rest = path.partition("/")
        names = [f"ema/{rest}", path] if kind == "params" else [f"collections/{path}"]
        for name in names:
            if struct.size and name in leaves and leaves[name][0] == list(struct.shape):
                pairs.append((path, name))
                break
    return pairs
