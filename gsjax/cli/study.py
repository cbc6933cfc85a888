"""``gsjax study``: runs what a study still lacks, then prints its table.

A study file exports ``get_study() -> {name, runs, report, against, rows_of}``; a run is ``{arm, kind, config}`` with
a kind of ``study_kinds``. ``report`` is a table of ``study_report``: 'figures' of each run (the default), 'arms'
with intervals and differences to the arm ``against``, or 'few_shot' likewise. Each finished run adds one
JSON row to ``results/<name>.jsonl``; rows that are there, or in the files of the studies ``rows_of``, are not
run again.
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

HELP = "run the missing runs of a study and print its table"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", help="a file of configs/studies")
    parser.add_argument("--workdir", default="runs/studies", help="run folders go below this")
    parser.add_argument("--results", default="results", help="folder of the JSON rows")
    parser.add_argument("--only", default="", help="only runs whose 'arm/seed' contains this")
    parser.add_argument("--report", action="store_true", help="run nothing, print the table")


def run(args: argparse.Namespace) -> int:
    from gsjax.cli import study_report

    study = _load(pathlib.Path(args.file))
    folder = pathlib.Path(args.results)
    path = folder / f"{study['name']}.jsonl"
    rows = read_rows(path)
    for other in study.get("rows_of", ()):
        rows += read_rows(folder / f"{other}.jsonl")
    wanted = [_key_of(item) for item in study["runs"]]  # before a run fills its config in
    if not args.report:
        for item, key in zip(study["runs"], wanted):
            name = f"{item['arm']}/{item['config'].seed}"
            if args.only not in name or any(_is_of(row, key, item["config"]) for row in rows):
                continue
            print(f"study {study['name']}: {name}", flush=True)
            rows.append(_finish(study, item, pathlib.Path(args.workdir)))
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("a") as file:
                file.write(json.dumps(rows[-1], sort_keys=True) + "\n")
    found = [row for row in rows if _key(row) in wanted]
    print(study_report.TABLES[study.get("report", "figures")](found, study.get("against", "")))
    return 0


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
    for name in ("dir", "source", "num_threads", "prefetch"):
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


def _finish(study: dict, item: dict, workdir: pathlib.Path) -> dict:
    """One run from start to row."""
    from gsjax.cli import study_kinds
    from gsjax.train import logging as logs

    began = time.monotonic()
    arm, seed, digest = _key_of(item)
    folder = workdir / study["name"] / f"{arm.replace(' ', '_')}-{seed}-{digest}"
    metrics, outcomes = study_kinds.KINDS[item["kind"]](item["config"], folder)
    return dict(
        study=study["name"],
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
