"""``gsjax cost``: what a run will take and cost, from figures that are given or were measured, no others.

Nothing here guesses how fast a chip is: a second a step is named by the user (a compiled estimate, a
figure of a colleague) or read from a run of the same batch on the same kind and number of devices.
"""

import argparse
import json
import math
import pathlib
import statistics
from typing import NamedTuple

HELP = "multiply a run's steps by seconds and price, before a launch in a cloud"
ABOUT = """Multiplies the steps of a config by the seconds of a step and the price of an hour. Seconds come from
--seconds_per_step, or from the metrics of a run of the same batch on the same devices (--measured): a
short one on the machine in question, such as --config.train.num_steps=50, is enough."""
EXAMPLES = """
gsjax cost --config clip_gs:paper --accelerator h100:8 --price 2.5 --seconds_per_step 0.4
gsjax cost --config clip_gs:paper --accelerator h100:8 --price 2.5 --measured runs/fifty_steps
"""
_SKIPPED = 3  # first rows of a run: caches are still cold


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", required=True, metavar="NAME[:ARG]", help="as of gsjax train")
    parser.add_argument(
        "--accelerator", required=True, metavar="KIND[:COUNT]", help="what is rented: h100:8"
    )
    parser.add_argument("--price", type=float, required=True, help="of one of them for an hour")
    seconds = parser.add_mutually_exclusive_group(required=True)
    seconds.add_argument("--seconds_per_step", type=float, help="of the whole batch on all of them")
    seconds.add_argument("--measured", metavar="RUN", help="run folder whose steps were timed")
    parser.set_defaults(takes_rest=True)  # --config.A.B=VALUE


class Measured(NamedTuple):
    """Timed steps of a run."""

    seconds: float  # median of a step
    rows: int
    devices: list[str]  # kinds, one a device
    batch_size: int


def run(args: argparse.Namespace) -> int:
    from gsjax.cli import train

    kind, count = accelerator(args.accelerator)
    if not (args.price >= 0 and math.isfinite(args.price)):
        raise ValueError(f"--price: found {args.price:g}, expected 0 or more an hour")
    config = train.read(args.config, args.rest)
    steps = config.fit.num_steps if "fit" in config else config.train.num_steps
    if args.measured:
        found = measured(args.measured)
        _check_same(found, kind, count, config.train.get("batch_size", 0), args.measured)
        seconds, source = found.seconds, f"median of {found.rows} rows of {args.measured}"
    else:
        seconds, source = args.seconds_per_step, "as given"
        if not (seconds > 0 and math.isfinite(seconds)):
            raise ValueError(f"--seconds_per_step: found {seconds:g}, expected above 0")
    hours = steps * seconds / 3600
    print(f"{args.config} on {count} x {kind}")
    print(f"  {steps} steps x {seconds:.4g} s ({source}) = {hours:.4g} hours")
    print(f"  {hours:.4g} h x {count} x {args.price:g} = {hours * count * args.price:.4g}")
    print(
        "  not in it: machines that start, compiling, evaluation, checkpoints, steps repeated after a\n"
        "  preemption, storage and transfer of the data"
    )
    return 0


def accelerator(text: str) -> tuple[str, int]:
    """(kind, count) of 'h100:8' or 'h100'.

    Raises:
        ValueError: no kind, or a count below 1.
    """
    kind, given, count = text.partition(":")
    if not kind or (given and not (count.isdigit() and int(count) > 0)):
        raise ValueError(f"--accelerator: found {text!r}, expected KIND or KIND:COUNT, e.g. h100:8")
    return kind, int(count) if given else 1


def measured(folder) -> Measured:
    """Timed steps of a run folder.

    Raises:
        ValueError: it holds no config, or too few rows with times.
    """
    folder = pathlib.Path(folder)
    texts = {}
    for name in ("config.json", "versions.json", "metrics.jsonl"):
        if not (folder / name).is_file():
            raise ValueError(f"--measured: {folder} has no {name}; name the --workdir of a run")
        texts[name] = (folder / name).read_text()
    rows = [json.loads(line) for line in texts["metrics.jsonl"].splitlines()]
    times = [row["step_seconds"] for row in rows if "step_seconds" in row][_SKIPPED:]
    if not times:
        raise ValueError(
            f"--measured: {folder} has no timed steps past the first {_SKIPPED}; train a little longer, "
            "with a smaller --config.train.log_every"
        )
    train = json.loads(texts["config.json"])["train"]
    devices = json.loads(texts["versions.json"])["devices"]
    return Measured(statistics.median(times), len(times), devices, train.get("batch_size", 0))


def _check_same(found: Measured, kind: str, count: int, batch_size: int, folder: str) -> None:
    """Raises ValueError where the measured seconds say nothing about what is asked for."""
    differences = []
    if any(kind.lower() not in device.lower() for device in found.devices):
        differences.append(f"devices {sorted(set(found.devices))} for {kind!r}")
    if len(found.devices) != count:
        differences.append(f"{len(found.devices)} devices for {count}")
    if found.batch_size != batch_size:
        differences.append(f"batch_size {found.batch_size} for {batch_size}")
    if differences:
        raise ValueError(
            f"--measured: {folder} is of another setting ({', '.join(differences)}), and its seconds do "
            "not carry over; measure there, or give --seconds_per_step"
        )
