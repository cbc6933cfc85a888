"""PM-Loss on procedural rooms and a real one: a base run, then fine-tunings that differ in one thing each.

    gsjax study configs/studies/pm_loss.py --workdir=DIR                  # everything
    gsjax study configs/studies/pm_loss.py --workdir=DIR --only=rooms/base
    gsjax study configs/studies/pm_loss.py --workdir=DIR --report --plot=PICTURES

A small MVSplat at 64 x 64 from two context views, 1,000 training rooms; held out are 64 rooms of unseen seeds
with families of things that no training room has, between the context views and outside. Fine-tunings of one
seed read the same examples in the same order. Exact pointmaps are true depth: PM-Loss on them is supervision
in disguise; the biased and the noisy teacher are what a network or a sensor may give. The real room is one
recording with the depths of its sensor; ``base`` there has never seen it. Rooms are cast first
(`python -m gsjax.data.posed_sets` shares that between processes). Needs GSJAX_DATA for the real room.
"""

import ml_collections

from configs import pm_loss

STUDY = "pm_loss"
SEEDS = (0, 1, 2)
# The four cells of offset and loss, PM-Loss with its gradient through the alignment, rivals, other teachers.
ROOMS = {
    "none": "loss=none",
    "offset alone": "loss=none,offset=unconstrained",
    "PM": "loss=pm",
    "PM and offset": "loss=pm,offset=unconstrained",
    "PM, full gradient": "loss=pm_full",
    "depth L1": "loss=depth_l1",
    "smoothness": "loss=smooth",
    "PM, biased teacher": "loss=pm,teacher=smooth_biased",
    "PM, noisy teacher": "loss=pm,teacher=noisy",
}
REAL = {name: ROOMS[name] for name in ("none", "PM")}
_LATER = "data=hololens_room"


def _measured(config, baselines: bool):
    options = dict(bootstrap=0, baselines=baselines)  # the table resamples
    names = ["posed_views"]
    if config.data.name == "rooms":
        names = ["posed_views/interpolation", "posed_views/extrapolation"]
    config.eval.evaluators = {
        name: dict(options, split=name.replace("posed_views", "test")) for name in names
    }
    config.eval.show = False
    config.train.log_every = 25
    return config


def base() -> dict:
    """The run that all others start from, as an entry of a study."""
    config = _measured(pm_loss.get_config(), baselines=True)
    config.study = ml_collections.ConfigDict(dict(role="base"))
    return dict(arm="rooms/base", kind="posed", config=config, study=STUDY)


def _finetuning(where: str, arm: str, settings: str, seed: int) -> dict:
    # A name that is replaced by that of the base run's weights; it chooses the settings of a fine-tuning.
    config = pm_loss.get_config(f"{settings},init=base{'' if where == 'rooms' else ',' + _LATER}")
    config = _measured(config, baselines=False)
    config.seed = seed
    return dict(arm=f"{where}/{arm}", kind="posed_finetune", config=config, needs=[base()])


def _unseen() -> dict:
    """The base run on the real room."""
    config = _measured(pm_loss.get_config(_LATER), baselines=True)
    return dict(arm="hololens_room/base", kind="posed_measure", config=config, needs=[base()])


def get_study():
    runs = [base()]
    for where, arms in (("rooms", ROOMS), ("hololens_room", REAL)):
        if arms is REAL:
            runs.append(_unseen())
        for arm, settings in arms.items():
            runs += [_finetuning(where, arm, settings, seed) for seed in SEEDS]
    drawn = [f"rooms/{arm}" for arm in ("none", "PM", "PM and offset")]
    return dict(name=STUDY, runs=runs, report="posed", against="none", pictures=drawn)
