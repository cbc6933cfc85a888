"""Does pre-training help? Backbones of ``unipre3d_object`` on classification and part segmentation.

    gsjax study configs/studies/unipre3d_transfer.py --workdir=DIR                 # everything
    gsjax study configs/studies/unipre3d_transfer.py --workdir=DIR --only="pointnet2/classify 10 %"
    gsjax study configs/studies/unipre3d_transfer.py --report [--plot=FILE.png]

Tasks: the categories of real objects (objects_cc0, held-out groups; ``other`` is left out) and parts of
procedural objects, with all labels and with 10 % of them (the same ones for every arm and seed). Arms: A
from scratch; A' the same with as many seconds more as the pre-training took, by the paces of both side by side; B pre-trained; C pre-trained
without pictures; D pre-trained with the pictures of other objects; E at random weights, frozen. Arms share
backbone, data, augmentation, order of batches and steps. Each setting and arm chooses its rate
among three on a validation part of the training objects (A' takes A's); test objects are met once
a run. ``probe`` is logistic regression on frozen features, its penalty chosen by cross-validation inside
the training objects. Fine-tuning seed s starts from pre-training seed s modulo their number. Needs GSJAX_DATA.
"""

import functools

import ml_collections

from configs import finetune_objects
from configs.studies import unipre3d_object

SEEDS = range(5)
CHOICE_SEED = 100  # of the runs that choose a rate
RATES = (3e-4, 1e-3, 3e-3)
PRETRAINED = dict(B="fusion", C="points", D="strangers")
TASKS = dict(classify="objects_cc0", parts="procedural")
STEPS = {0.1: 150, 1.0: 300}


def _config(backbone: str, task: str, share: float, seed: int, arm: str = "", **study):
    """A task's run; ``study`` is what its kind reads, ``init`` what tells arms of equal settings apart."""
    config = finetune_objects.get_config(f"task={task},data={TASKS[task]},backbone={backbone}")
    config.seed = seed
    config.data.fraction = share
    if task == "parts":
        config.data.num_objects, config.data.num_test = 1024, 128
    config.optim.lr = 0.0  # chosen
    config.train.batch_size = 16
    config.train.num_steps = config.train.save_every = STEPS[share]
    config.train.log_every = 25
    for options in config.eval.evaluators.values():
        options.bootstrap = 0  # the table resamples
    if arm == "E":  # as it was made, with the statistics of the data in its norms
        config.model.frozen = True
        config.reestimate_norms = 20
    defaults = dict(role="", rates=RATES, time_added=False, init=PRETRAINED.get(arm, ""))
    config.study = ml_collections.ConfigDict(defaults | study)
    return config


def _pretraining(backbone: str, arm: str, seed: int) -> list[dict]:
    """The run whose backbone an arm starts from; none for those from scratch."""
    if arm not in PRETRAINED:
        return []
    seeds = unipre3d_object.SEEDS[backbone]
    return [unipre3d_object.run_of(backbone, PRETRAINED[arm], seeds[seed % len(seeds)])]


def _setting(backbone: str, task: str, share: float) -> list[dict]:
    """All runs of one backbone, task and share of the labels."""
    name = f"{backbone}/{task} {100 * share:.0f} %"
    arms = ["A", *PRETRAINED] + (["E"] if task == "parts" else [])
    runs = []
    for arm in arms:
        make = functools.partial(_config, backbone, task, share, arm=arm)
        choice = dict(
            arm=f"{name}/{arm}/rate", kind="choose_lr", config=make(CHOICE_SEED, role="rate"),
            needs=_pretraining(backbone, arm, CHOICE_SEED),
        )  # fmt: skip
        runs.append(choice)
        for seed in SEEDS:
            needs = [*_pretraining(backbone, arm, seed), choice]
            config = make(seed)
            runs.append(dict(arm=f"{name}/{arm}", kind="finetune", config=config, needs=needs))
    rate = next(run for run in runs if run["arm"] == f"{name}/A/rate")
    for seed in SEEDS:
        config = _config(backbone, task, share, seed, time_added=True)
        needs = [*_pretraining(backbone, "B", seed), rate, _pace(backbone, task)]
        runs.append(dict(arm=f"{name}/A'", kind="finetune", config=config, needs=needs))
    if backbone == "transformer":  # what needs no backbone stands beside all
        runs.append(_nearest(name, task, share))
    return runs


def _pace(backbone: str, task: str) -> dict:
    """The pace of the task beside that of the pre-training."""
    config = _config(backbone, task, 1.0, CHOICE_SEED, role="pace")
    config.optim.lr = RATES[0]
    needs = _pretraining(backbone, "B", CHOICE_SEED)
    return dict(arm=f"{backbone} {task} pace", kind="pace", config=config, needs=needs)


def _nearest(name: str, task: str, share: float) -> dict:
    config = _config("transformer", task, share, 0)
    return dict(arm=f"{name}/Chamfer 1-NN", kind="nearest_task", config=config)


def _probes(backbone: str) -> list[dict]:
    runs = []
    for arm in ("E", *PRETRAINED):
        for seed in SEEDS if arm == "E" else unipre3d_object.SEEDS[backbone]:
            config = _config(backbone, "classify", 1.0, seed, init=PRETRAINED.get(arm, "random"))
            config.eval.evaluators = dict(
                linear_probe=dict(
                    train_split="fit", penalties=(0.001, 0.01, 0.1, 1.0, 10.0, 100.0),
                    standard="columns", reestimate_norms=20, batch_size=45, bootstrap=0,
                )
            )  # fmt: skip
            needs = _pretraining(backbone, arm, seed)
            runs.append(
                dict(arm=f"{backbone}/probe/{arm}", kind="probe", config=config, needs=needs)
            )
    return runs


def get_study():
    runs = []
    for backbone in unipre3d_object.SEEDS:
        runs += _probes(backbone)
        for task in TASKS:
            for share in STEPS:
                runs += _setting(backbone, task, share)
    return dict(name="unipre3d_transfer", runs=runs, report="transfer", against="B")
