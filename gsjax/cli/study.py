"""``gsjax study``: runs what a study still lacks, then prints its table.

A study file exports ``get_study() -> {name, runs, against}``; a run is ``{arm, kind, config}``. Without
``against`` the table shows the figures of each run, else arms with intervals and differences. Each
finished run adds one JSON row to ``results/<name>.jsonl``; rows that are there are not run again.
"""

import argparse
import hashlib
import importlib.util
import json
import pathlib
import subprocess
import sys
import time

HELP = "run the missing runs of a study and print its table"
NEAREST_POINTS = 512  # farthest-point subset that the Chamfer baseline compares


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", help="a file of configs/studies")
    parser.add_argument("--workdir", default="runs/studies", help="run folders go below this")
    parser.add_argument("--results", default="results", help="folder of the JSON rows")
    parser.add_argument("--only", default="", help="only runs whose 'arm/seed' contains this")
    parser.add_argument("--report", action="store_true", help="run nothing, print the table")


def run(args: argparse.Namespace) -> int:
    from gsjax.cli import study_report

    study = _load(pathlib.Path(args.file))
    path = pathlib.Path(args.results) / f"{study['name']}.jsonl"
    rows = read_rows(path)
    wanted = [_key_of(item) for item in study["runs"]]  # before a run fills its config in
    if not args.report:
        for item, key in zip(study["runs"], wanted):
            name = f"{item['arm']}/{item['config'].seed}"
            if args.only not in name or any(_key(row) == key for row in rows):
                continue
            print(f"study {study['name']}: {name}", flush=True)
            rows.append(_finish(study, item, pathlib.Path(args.workdir)))
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("a") as file:
                file.write(json.dumps(rows[-1], sort_keys=True) + "\n")
    found = [row for row in rows if _key(row) in wanted]
    against = study.get("against")
    print(study_report.table(found, against) if against else study_report.figures(found))
    return 0


def read_rows(path: pathlib.Path) -> list[dict]:
    """Rows of a results file; none if it does not exist."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def _load(path: pathlib.Path) -> dict:
    if not path.is_file():
        raise ValueError(f"study file: {path} does not exist; studies lie in configs/studies")
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


def _finish(study: dict, item: dict, workdir: pathlib.Path) -> dict:
    """One run from start to row."""
    from gsjax.train import logging as logs

    began = time.monotonic()
    arm, seed, digest = _key_of(item)
    folder = workdir / study["name"] / f"{arm.replace(' ', '_')}-{seed}-{digest}"
    metrics, outcomes = _KINDS[item["kind"]](item["config"], folder)
    return dict(
        study=study["name"],
        arm=arm,
        seed=seed,
        config_hash=digest,
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


def _train(config, folder):
    from gsjax.systems import base
    from gsjax.train import loop

    system = base.build(config)
    loop.run(config, folder, system=system)
    return _measure(config, system, loop.load_for_inference(config, folder, system))


def _untrained(config, folder):
    import jax

    from gsjax.systems import base

    system = base.build(config)
    return _measure(config, system, jax.jit(system.init)(jax.random.key(config.seed)))


def _measure(config, system, variables):
    """(metrics, per-object outcomes) of the config's evaluators."""
    from gsjax.train import loop, sharding

    details = {}
    mesh = sharding.make_mesh(config.mesh.data, config.mesh.fsdp)
    metrics = loop.evaluate(config, system, variables, mesh, details=details)
    retrieval, classes = details["retrieval"], details["zero_shot"]
    outcomes = dict(
        index=retrieval["index"].tolist(),
        category=retrieval["category"].tolist(),
        text_rank=retrieval["text_to_gaussian"].tolist(),
        class_rank=classes["rank"].tolist(),
    )
    return metrics, outcomes


def _nearest(config, folder):
    """Classification by the nearest training object; it retrieves nothing."""
    import numpy as np

    from gsjax.data import prepare, store
    from gsjax.evals import nearest

    dataset = prepare.ensure(config.data)
    names = store.category_names(dataset)
    outside = [names.index(name) for name in config.eval.evaluators.zero_shot.exclude]

    def read(split):
        records = list(store.open_split(dataset, split))
        records = [r for r in records if r["category"] not in outside]
        points = np.stack([r["means"][:NEAREST_POINTS] for r in records])
        labels, index = (np.array([r[k] for r in records]) for k in ("category", "index"))
        return points, labels, index

    (train, labels, _), (test, truth, index) = read("train"), read("test")
    found = nearest.nearest_labels(train, labels, test)
    rank = np.where(found == truth, 1, len(names))  # it names one class and no second
    outcomes = dict(index=index.tolist(), category=truth.tolist(), class_rank=rank.tolist())
    return dict(top1=100.0 * float((rank == 1).mean())), outcomes


def _fit(config, folder):
    """One scene; the run goes on where an earlier one stopped."""
    from gsjax.train import loop

    return loop.run(config, folder), {}


def _fit_objects(config, folder):
    """A collection by ``gsjax fit-objects``, whose command line the config's ``options`` are."""
    from gsjax.data import fitted_statistics

    options = [f"--{name}={value}" for name, value in config.options.items()]
    command = [sys.executable, "-m", "gsjax.cli.main", "fit-objects", config.data.source]
    subprocess.run([*command, f"--out={folder}", *options], check=True)
    return fitted_statistics.statistics(folder), {}


_KINDS = dict(
    train=_train, untrained=_untrained, nearest=_nearest, fit=_fit, fit_objects=_fit_objects
)
