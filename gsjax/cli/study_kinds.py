"""What a run of a study does: ``KINDS``, each (config, run folder) -> (metrics, outcomes an object)."""

import subprocess
import sys

from gsjax.cli import cross_modal_kinds, posed_kinds, study_scores, transfer_kinds

NEAREST_POINTS = 512  # farthest-point subset that the Chamfer baselines compare


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
    metrics, details = study_scores.scores(config, system, variables)
    retrieval, classes = details["retrieval"], details["zero_shot"]
    outcomes = dict(
        index=retrieval["index"].tolist(),
        category=retrieval["category"].tolist(),
        text_rank=retrieval["text_to_gaussian"].tolist(),
        class_rank=classes["rank"].tolist(),
    )
    if "few_shot" in details:
        outcomes["few_shot"] = {name: list(found) for name, found in details["few_shot"].items()}
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


def _few_shot_nearest(config, folder):
    """Few-shot episodes by the nearest labelled object."""
    del folder
    import numpy as np

    from gsjax.data import prepare, store
    from gsjax.evals import episodes, nearest

    options, points = config.eval.evaluators.few_shot, {}
    dataset = prepare.ensure(config.data)
    for split in options.splits:
        records = store.open_split(dataset, split)
        points |= {r["uid"]: r["means"][:NEAREST_POINTS] for r in records}
    found = nearest.few_shot(episodes.load(options.episodes), points, options.way, options.shot)
    means = {name: float(np.mean(values)) for name, values in found.items()}
    return means, dict(few_shot={name: list(values) for name, values in found.items()})


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


KINDS = dict(
    train=_train,
    untrained=_untrained,
    nearest=_nearest,
    few_shot_nearest=_few_shot_nearest,
    fit=_fit,
    fit_objects=_fit_objects,
    **transfer_kinds.KINDS,
    **cross_modal_kinds.KINDS,
    **posed_kinds.KINDS,
)
