"""How fast a config's own training data comes: records and MB a second, and the cores that takes::

    python -m gsjax.train.bench_pipeline --config=configs/clip_gs.py
    python -m gsjax.train.bench_pipeline --config=configs/clip_gs.py:paper --made_up=DIR --config.data.memory=0 \\
        --step_seconds=0.25 --hosts=4

Builds the system, reads batches as a training run does (``loop.train_source``), with nothing behind them, and prints one
line of JSON. ``--made_up`` puts data of the right size and layout (``gsjax.data.made_up``) in the place of a set that
is not at hand; ``data.memory=0`` leaves the pictures of one pass undecoded for the next, as it is with more
pictures than fit.

On a machine with other work only ``core_seconds_a_record`` and what is computed from it (``cores_for_twice``) mean
much: seconds on the clock are also the others'. Threads of one process share Python's lock, so more than about
four cores take more processes (one a GPU has as many as a host has GPUs).
"""

import dataclasses
import json
import os
import pathlib
import threading
import time

from absl import app, flags
from ml_collections import config_flags

from gsjax import runtime

runtime.configure_environment()

from gsjax.data import made_up  # noqa: E402  (the environment above must be settled first)
from gsjax.systems import base  # noqa: E402
from gsjax.train import logging as logs  # noqa: E402
from gsjax.train import loop  # noqa: E402

_HOST = 8  # devices of a host in results/scaling.jsonl


def measure(
    config, *, batches: int, warm_up: int = 2, seconds: float = 60.0, hosts: int = 1
) -> dict:
    """Reads until as many examples are made as ``batches`` batches have, fewer where that takes too long.

    Examples are counted as they are made, since buffers hold several batches when the clock starts.

    Args:
        config: the whole tree, of a system with batches.
        batches: to measure on, at least 1.
        warm_up: batches before, which open files.
        seconds: after which no further batch is asked for, once an example is made.
        hosts: read what one of as many processes reads.

    Returns:
        Row of plain values; see the fields' names. ``delivered`` are bytes of the arrays, ``read`` those that system calls
        read (files that are mapped into memory do not show up there), None where the system does not tell.

    Raises:
        ValueError: a system without batches.
    """
    system = base.build(config)
    if not isinstance(system, base.System):
        raise ValueError(f"config.system: {config.system} trains on no batches, it has no pipeline")
    counter = _Counter()
    counted = dataclasses.replace(system, train_data=lambda: counter.watch(system.train_data()))
    source = loop.train_source(config, counted, 0, hosts)
    wanted = batches * config.train.batch_size // hosts
    try:
        for _ in range(warm_up):
            next(source)
        before, start = counter.made, time.perf_counter()
        cpu, read = time.process_time(), _bytes_read()
        delivered = rows = made = 0
        while made < wanted and (not made or time.perf_counter() - start < seconds):
            batch = next(source)
            rows += len(batch["index"])
            delivered += sum(value.nbytes for value in batch.values())
            made = counter.made - before
        wall, cpu = time.perf_counter() - start, time.process_time() - cpu
        read = None if read is None else _bytes_read() - read
    finally:
        source.close()
    return dict(
        system=config.system,
        global_batch=config.train.batch_size,
        hosts=hosts,
        threads=config.data.get("num_threads", 4),
        memory_mb=config.data.get("memory", None),
        records=made,
        records_per_second=_short(made / wall),
        delivered_mb_per_second=_short(delivered / rows * made / wall / 1e6),
        read_mb_per_second=None if read is None else _short(read / wall / 1e6),
        delivered_mb_a_record=_short(delivered / rows / 1e6),
        read_mb_a_record=None if read is None else _short(read / made / 1e6),
        seconds_a_batch=_short(wall / made * config.train.batch_size / hosts),
        core_seconds_a_record=_short(cpu / made),
        cores_used=_short(cpu / wall),
    )


class _Counter:
    """Counts examples as they are made, on whatever thread.

    Attributes:
        made: so far.
    """

    def __init__(self):
        self.made = 0
        self._lock = threading.Lock()

    def watch(self, dataset):
        """The data set, counted; see ``loader.train_iterator`` for those with ``endless``."""
        return (
            _Endless(dataset, self._tick)
            if hasattr(dataset, "endless")
            else dataset.map(self._tick)
        )

    def _tick(self, example):
        with self._lock:
            self.made += 1
        return example


class _Endless:
    """A counted data set that makes its own sequence."""

    def __init__(self, dataset, tick):
        self._dataset, self._tick = dataset, tick

    def __len__(self) -> int:
        return len(self._dataset)

    def endless(self, seed: int, global_batch: int):
        return self._dataset.endless(seed, global_batch).map(self._tick)


def needs(row: dict, step_seconds: float) -> dict:
    """What steps of that length ask of a host, against a row of :func:`measure`.

    Returns:
        ``needed_records_per_second``; ``ratio`` of what was measured to it; ``cores_for_twice``: cores of this
        kind that make records at twice that rate, if they shared the work without loss.
    """
    if not step_seconds > 0:
        raise ValueError(f"step_seconds: expected a time above 0, found {step_seconds}")
    needed = row["global_batch"] / row["hosts"] / step_seconds
    return dict(
        step_seconds=_short(step_seconds),
        needed_records_per_second=_short(needed),
        ratio=_short(row["records_per_second"] / needed),
        cores_for_twice=_short(2 * needed * row["core_seconds_a_record"]),
    )


def estimated_step(path: pathlib.Path, name: str, paper: bool) -> dict | None:
    """Step of one host of eight H100s from ``gsjax.train.scaling``'s file, or None without such a row.

    Args:
        path: the file of rows.
        name: stem of the config's file.
        paper: whether the config is at ``:paper`` size.

    Returns:
        ``step_seconds``: the shortest estimate, in which all communication is hidden; ``batch`` of that step.
    """
    from gsjax.train.scaling import estimate, rows

    found = []
    for row in rows.read(path):
        config = row["config"].split()[0]
        if (
            pathlib.PurePath(config.partition(":")[0]).stem != name
            or row["status"] != rows.COMPILED
        ):
            continue
        same = paper == ("paper" in config.partition(":")[2].split(","))
        if same and row["devices"] == _HOST and row["fsdp"] == 1 and row["target"] == "h100":
            found.append(row)
    if not found:
        return None
    return dict(step_seconds=estimate.times(found[-1]).overlapped, batch=found[-1]["batch"])


def _bytes_read() -> int | None:
    """Bytes that this process has read by system calls; the page cache counts."""
    try:
        lines = pathlib.Path("/proc/self/io").read_text().splitlines()
    except OSError:
        return None
    return int(dict(line.split(": ") for line in lines)["rchar"])


def _short(value: float) -> float:
    return float(f"{value:.4g}")


# Command line -------------------------------------------------------------------------------------


def _define_flags():
    return dict(
        config=config_flags.DEFINE_config_file("config", None, "Config file[:argument]."),
        batches=flags.DEFINE_integer("batches", 30, "Batches to measure on."),
        warm_up=flags.DEFINE_integer("warm_up", 2, "Batches before that."),
        seconds=flags.DEFINE_float("seconds", 60.0, "No batch is begun after this."),
        hosts=flags.DEFINE_integer("hosts", 1, "Processes that share a batch; one's part is read."),
        made_up=flags.DEFINE_string("made_up", "", "Folder for made-up data to read instead."),
        objects=flags.DEFINE_integer("objects", 32, "Objects or scenes to make up."),
        step_seconds=flags.DEFINE_float(
            "step_seconds", 0.0, "Of a training step; 0 = as --scaling says, where it does."
        ),
        scaling=flags.DEFINE_string("scaling", "results/scaling.jsonl", "Estimates of steps."),
    )


def _main(argv, options) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"unknown arguments {argv[1:]}; settings look like --config.x=y")
    config, name = options["config"].value, config_flags.get_config_filename(flags.FLAGS["config"])
    file, _, argument = name.partition(":")
    if options["made_up"].value:
        made = made_up.stand_in(config.data, options["made_up"].value, options["objects"].value)
        config.data.update_from_flattened_dict(made)
    chosen = {key: options[key].value for key in ("batches", "warm_up", "seconds", "hosts")}
    row = dict(config=name, made_up=bool(options["made_up"].value)) | measure(config, **chosen)
    if options["step_seconds"].value:
        row |= needs(row, options["step_seconds"].value)
    else:
        paper = "paper" in argument.split(",")
        step = estimated_step(
            pathlib.Path(options["scaling"].value), pathlib.PurePath(file).stem, paper
        )
        if step is not None:
            host = row | dict(global_batch=step["batch"], hosts=1)
            row |= needs(host, step["step_seconds"]) | dict(step="estimate of one host of 8 H100s")
    facts = logs.versions()
    row |= dict(cpus=os.cpu_count(), load=os.getloadavg()[0], python=facts["python"])
    row |= {name: facts["packages"][name] for name in ("grain", "numpy")}
    print(json.dumps(row))


def main() -> None:
    """Reads the flags and prints the row."""
    options = _define_flags()
    flags.mark_flag_as_required("config")
    app.run(lambda argv: _main(argv, options))


if __name__ == "__main__":
    main()
