"""``gsjax study``: runs what a study still lacks, then prints its table.

A study file exports ``get_study() -> {name, runs, report, against, rows_of, pictures}``; a run is ``{arm, kind, config}`` with
a kind of ``study_kinds``. ``report`` is a table of ``study_report``: 'figures' of each run (the default), 'arms'
with intervals and differences to the arm ``against``, 'few_shot' likewise, 'views', 'transfer', 'posed',
'cross_modal'. Each finished run adds one JSON row to ``results/<name>.jsonl``; rows that are there, or in the
files of the studies ``rows_of``, are not run again.

A run may have ``needs``, other runs whose rows and folders it reads (weights, a chosen learning rate): they
are run first. Those of another study say so (``study=NAME``): their rows go to that study's file. Weights
that other runs started from lie in ``results/backbones``.
"""

import argparse
import functools
import hashlib
import importlib.util
import json
import pathlib
import subprocess
import sys
import time
from typing import Any, NamedTuple

HELP = "run the missing runs of a study and print its table"
EXAMPLES = """
gsjax study configs/studies/pm_loss.py --report          # the table of the rows that are there
gsjax study configs/studies/pm_loss.py                   # runs what is missing first
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", help="a file of configs/studies")
    parser.add_argument("--workdir", default="runs/studies", help="run folders go below this")
    parser.add_argument("--results", default="results", help="folder of the JSON rows")
    parser.add_argument("--only", default="", help="only runs whose 'arm/seed' contains this")
    parser.add_argument("--report", action="store_true", help="run nothing, print the table")
    parser.add_argument(
        "--plot", default="", metavar="PATH",
        help="also draw: a 'transfer' study into a picture file, 'posed' views and clouds into a folder",
    )  # fmt: skip


def run(args: argparse.Namespace) -> int:
    from gsjax.cli import study_report

    study = _load(pathlib.Path(args.file))
    wanted = [_key_of(item) for item in study["runs"]]
    book = _Book(study, pathlib.Path(args.results), pathlib.Path(args.workdir))
    if not args.report:
        for item in study["runs"]:
            if args.only in f"{item['arm']}/{item['config'].seed}":
                book.row(item)
    found = [row for row in book.rows if _key(row) in wanted]
    kind = study.get("report", "figures")
    print(study_report.TABLES[kind](found, study.get("against", "")))
    if args.plot:
        _plot(study, kind, found, book, args.plot)
    return 0


def _plot(study: dict, kind: str, rows: list[dict], book: "_Book", path: str) -> None:
    from gsjax.cli import study_pictures, study_plot

    if kind == "transfer":
        study_plot.transfer(rows, path)
    elif kind == "posed":
        first = {item["arm"]: item for item in reversed(study["runs"])}  # of the first seed
        runs = [(arm, first[arm]["config"], book.folder(first[arm])) for arm in study["pictures"]]
        study_pictures.posed(runs, path)
    else:
        raise ValueError(f"--plot: expected a study of 'transfer' or 'posed', found {kind!r}")


class Needed(NamedTuple):
    """A finished run that another reads."""

    config: Any
    folder: pathlib.Path
    row: dict
    weights: pathlib.Path  # file beside the rows that outlives the folder, once something wrote it


class _Book:
    """The rows of a study and of those it reads; runs what is missing."""

    def __init__(self, study: dict, results: pathlib.Path, workdir: pathlib.Path):
        self._name, self._results, self._workdir = study["name"], results, workdir
        others = sorted({item.get("study", study["name"]) for item in _all_runs(study["runs"])})
        self._files = list(dict.fromkeys((study["name"], *study.get("rows_of", ()), *others)))

    @property
    def rows(self) -> list[dict]:
        """Read anew: other processes may run other parts of the same study."""
        return [row for name in self._files for row in read_rows(self._results / f"{name}.jsonl")]

    def row(self, item: dict) -> dict:
        """The row of a run, which is made if it is missing."""
        key, name = _key_of(item), item.get("study", self._name)
        for row in self.rows:
            if _is_of(row, key, item["config"]):
                return row
        needs = [self._needed(other) for other in item.get("needs", ())]
        print(f"study {name}: {item['arm']}/{item['config'].seed}", flush=True)
        row = _finish(name, item, self.folder(item), needs)
        self._results.mkdir(parents=True, exist_ok=True)
        with (self._results / f"{name}.jsonl").open("a") as file:
            file.write(json.dumps(row, sort_keys=True) + "\n")
        return row

    def _needed(self, item: dict) -> Needed:
        config, folder = item["config"].copy_and_resolve_references(), self.folder(item)
        file = self._results / "backbones" / folder.parent.name / f"{folder.name}.safetensors"
        return Needed(config, folder, self.row(item), file)

    def folder(self, item: dict) -> pathlib.Path:
        """Of a run."""
        arm, seed, digest = _key_of(item)
        return self._workdir / item.get("study", self._name) / f"{_plain(arm)}-{seed}-{digest}"


def _all_runs(runs):
    for item in runs:
        yield item
        yield from _all_runs(item.get("needs", ()))


def _plain(arm: str) -> str:
    """An arm's name as that of a folder."""
    return arm.replace(" ", "_").replace("/", "-")


def read_rows(path: pathlib.Path) -> list[dict]:
    """Rows of a results file; none if it does not exist."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def _load(path: pathlib.Path) -> dict:
    if not path.is_file():
        raise ValueError(f"study file: {path} does not exist; studies lie in configs/studies")
    if len(path.resolve().parents) < 3:
        raise ValueError(f"study file: {path} does not lie in a configs/studies")
    root = str(path.resolve().parents[2])
    if root not in sys.path:  # study files import configs
        sys.path.insert(0, root)
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_study()


def config_hash(config) -> str:
    """Of every setting that can change a result: where things lie does not count."""
    plain = json.loads(config.to_json_best_effort())
    for name in ("dir", "source", "num_threads", "prefetch", "memory"):
        plain.get("data", {}).pop(name, None)
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()[:16]


def _key_of(item: dict) -> tuple:
    return item["arm"], item["config"].seed, config_hash(item["config"])


def _key(row: dict) -> tuple:
    return row["arm"], row["seed"], row["config_hash"]


def _is_of(row: dict, key: tuple, config) -> bool:
    """Whether a row is that of a run.

    Raises:
        ValueError: it is, but of another collection in ``data.source``.
    """
    if _key(row) != key:
        return False
    if row.get("collection") and row["collection"] != collection(config):
        raise ValueError(
            f"results: the row of {row['arm']!r}, seed {row['seed']} is about another collection than "
            "the one in data.source now; give another --results folder"
        )
    return True


def collection(config) -> str:
    """Digest of what ``data.source`` holds; '' where no prepared set is read from one."""
    from gsjax.data import prepare

    data = config.get("data", {})
    if data.get("name") not in prepare.NAMES or not data.get("source"):
        return ""
    return _digest(data.to_json_best_effort(sort_keys=True))


@functools.cache  # the same for most runs of a study, and its files are read for it
def _digest(data: str) -> str:
    import ml_collections

    from gsjax.data import prepare

    plan = prepare.plan(ml_collections.ConfigDict(json.loads(data)))
    identity = json.dumps(plan.identity, sort_keys=True, default=str)
    return hashlib.sha256(identity.encode()).hexdigest()[:16]


def _finish(name: str, item: dict, folder: pathlib.Path, needs: list[Needed]) -> dict:
    """One run from start to row."""
    from gsjax.cli import study_kinds
    from gsjax.train import logging as logs

    began = time.monotonic()
    arm, seed, digest = _key_of(item)
    more = dict(needs=needs) if needs else {}
    config = item["config"].copy_and_resolve_references()  # a run fills in its own
    metrics, outcomes = study_kinds.KINDS[item["kind"]](config, folder, **more)
    return dict(
        study=name,
        arm=arm,
        seed=seed,
        config_hash=digest,
        collection=collection(item["config"]),
        commit=_commit(),
        seconds=round(metrics.get("seconds", time.monotonic() - began), 1),
        versions=logs.versions(),
        metrics=metrics,
        outcomes=outcomes,
    )


def _commit() -> str:
    found = subprocess.run(
        ["git", "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True, check=False
    )
    return found.stdout.strip() or "unknown"
