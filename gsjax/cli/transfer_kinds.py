"""Runs of a study of pre-training: the pre-training, what its backbone is worth afterwards, baselines.

Kinds of ``study_kinds``: (config, run folder, needs) -> (metrics, outcomes an object). The first of
``needs`` that was pre-trained gives the backbone's weights.
"""

import shutil

from gsjax.cli import study_scores, study_weights

OUTCOME_OF_TASK = dict(classify="hit", parts="iou", scenes="iou")  # of each object or scene
METRIC_OF_TASK = dict(
    classify="classification/top1",
    parts="segmentation/instance_miou",
    scenes="scene_segmentation/miou",
)


def pretrain(config, folder):
    """A whole training run; metrics are its evaluators' and the measured seconds of all steps."""
    from gsjax.train import loop

    metrics = loop.run(config, folder)
    return metrics | study_scores.pace(folder, config.train.num_steps), {}


def choose_lr(config, folder, needs=()):
    """The best of ``config.study.rates`` on the validation part, by the task's metric."""
    found = {}
    for rate in config.study.rates:
        trial = config.copy_and_resolve_references()
        trial.optim.lr = rate
        metrics, _ = _finetuned(trial, folder / f"{rate:g}", needs, "val", folder.parent)
        found[rate] = metrics[METRIC_OF_TASK[config.task]]
    best = max(found, key=found.get)  # the first of equals: the least rate
    ends = (min(found), max(found))
    values = {f"val/{rate:g}": value for rate, value in found.items()}
    return dict(lr=best, at_edge=float(best in ends), **values), {}


def finetune(config, folder, needs=()):
    """Training at the chosen rate, measured once on the held-out objects.

    With ``config.study.time_added`` the steps grow by those that take as long as the pre-training did, by
    the measured ratio of their paces.
    """
    found = {need.config.study.get("role", ""): need for need in needs}
    config.optim.lr = found["rate"].row["metrics"]["lr"]
    if config.study.time_added:
        steps = found["weights"].config.train.num_steps
        config.train.num_steps += round(steps * found["pace"].row["metrics"]["ratio"])
        needs = [need for need in needs if need.config.study.role != "weights"]
    metrics, outcomes = _finetuned(config, folder, needs, "test", folder.parent)
    return metrics | dict(lr=config.optim.lr, num_steps=config.train.num_steps), outcomes


def pace(config, folder, needs=()):
    """How many steps of this run take as long as one of the pre-training."""
    del folder
    from gsjax.train import pace as pace_lib

    (weights,) = needs
    return pace_lib.ratio(weights.config, config), {}


def probe(config, folder, needs=()):
    """The task's own evaluators on the backbone as it comes: pre-trained, or at random weights."""
    del folder
    import jax

    from gsjax.systems import base
    from gsjax.train import state as state_lib
    from gsjax.train import transfer

    system = base.build(config)
    variables = jax.jit(system.init)(jax.random.key(config.seed))
    if source := _weights(needs):
        arrays = transfer.backbone_arrays(variables, source, config.model)
        variables = state_lib.refill(variables, {**state_lib.flat(variables), **arrays})
    metrics, details = study_scores.scores(config, system, variables)
    return metrics, _outcomes(details["linear_probe"], "hit")


def nearest(config, folder):
    """Without learning: label, or labels of the points, of the Chamfer-nearest training object."""
    del folder
    import numpy as np

    from gsjax.evals import nearest as nearest_lib
    from gsjax.metrics import segmentation
    from gsjax.systems.point_tasks import data

    source = data.load(config)
    fit, test = (_stacked(source.evaluate(split)) for split in ("fit", "test"))
    row = nearest_lib.nearest_labels(fit["xyz"], np.arange(len(fit["xyz"])), test["xyz"])
    found = dict(index=test["index"], category=test["category"])
    if config.task == "classify":
        known = np.bincount(fit["category"])
        found["hit"] = fit["category"][row] == test["category"]
        metrics = dict(
            nearest=100.0 * float(found["hit"].mean()),
            majority=100.0 * float((test["category"] == known.argmax()).mean()),
            chance=100.0 / int((known > 0).sum()),
        )
        return metrics, _outcomes(found, "hit")
    truth = np.where(test["mask"] & (test["parts"] > 0), test["parts"], -1)
    known = np.bincount(fit["parts"][fit["mask"]])[1:]
    guess = np.random.default_rng(0).integers(1, len(known) + 1, truth.shape)
    labels = dict(
        nearest=nearest_lib.labels_of_points(fit["xyz"][row], fit["parts"][row], test["xyz"]),
        majority=np.full_like(truth, known.argmax() + 1),
        chance=guess,
    )
    ious = {name: [100.0 * segmentation.object_iou(p, t) for p, t in zip(predicted, truth)]
            for name, predicted in labels.items()}  # fmt: skip
    there = np.isfinite(ious["nearest"])
    found = {name: value[there] for name, value in found.items()}
    found["iou"] = np.asarray(ious["nearest"])[there]
    return {name: float(np.nanmean(x)) for name, x in ious.items()}, _outcomes(found, "iou")


def _finetuned(config, folder, needs, split, study):
    """(metrics, outcomes) of a run, whose checkpoints are removed: there are hundreds of them."""
    from gsjax.systems import base
    from gsjax.train import loop

    if source := _weights(needs):
        config.init_backbone = str(source)
    config.train.compilation_cache = str(study / "compile_cache")
    evaluators, config.eval.evaluators = config.eval.evaluators, {}
    system = base.build(config)
    loop.run(config, folder, system=system)
    variables = loop.load_for_inference(config, folder, system)
    for options in evaluators.values():
        options.split = split
    config.eval.evaluators = evaluators
    metrics, details = study_scores.scores(config, system, variables)
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)
    metrics |= study_scores.pace(folder, config.train.num_steps)
    (found,) = details.values()
    return metrics, _outcomes(found, OUTCOME_OF_TASK[config.task])


def _weights(needs):
    """File of the backbone of the pre-trained run among ``needs``, or None."""
    from gsjax.train import transfer

    return study_weights.of_role(needs, "weights", transfer.export)


def _outcomes(details, name):
    return {
        key: [round(float(x), 2) if key == name else int(x) for x in details[key]]
        for key in ("index", "category", name)
        if key in details
    }


def _stacked(dataset):
    import numpy as np

    items = [dataset[i] for i in range(len(dataset))]
    return {name: np.stack([item[name] for item in items]) for name in items[0]}


KINDS = dict(
    pretrain=pretrain,
    choose_lr=choose_lr,
    finetune=finetune,
    pace=pace,
    probe=probe,
    nearest_task=nearest,
)
