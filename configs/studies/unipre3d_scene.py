"""UniPre3D at scene level at laptop size: a real recording's held-out frames, and labels of procedural rooms.

    gsjax study configs/studies/unipre3d_scene.py --workdir=DIR                        # everything
    gsjax study configs/studies/unipre3d_scene.py --workdir=DIR --only=ptv3
    gsjax study configs/studies/unipre3d_scene_views.py --report                       # pictures alone

Both backbones of voxels (10 cm, at most 8,192), four views of 80 x 60 pixels. Pre-training on 64 procedural
rooms, then points of rooms that it never met are labelled: A from scratch, B pre-trained, with the labels of 8
rooms, where few are what pre-training is for; three seeds, the rate chosen among three on 8 rooms held back.
The values of the table are the mean IoU of each held-out room; the rows hold the mIoU over all their
points. Pre-training on the room recorded with a HoloLens 2 shows PSNR on frames held out. Needs GSJAX_DATA.
"""

import functools

import ml_collections

from configs import finetune_scenes
from configs.studies import unipre3d_scene_views

SEEDS = range(3)
CHOICE_SEED = 100
RATES = (1e-3, 3e-3, 1e-2)
SETTINGS = {"8 rooms": (8, 150)}  # fit_scenes, steps


def _config(backbone: str, setting: str, seed: int, arm: str, **study):
    config = finetune_scenes.get_config(f"backbone={backbone}")
    config.seed = seed
    config.data.fit_scenes, steps = SETTINGS[setting]
    config.optim.lr = 0.0  # chosen
    config.train.num_steps = config.train.save_every = steps
    config.train.log_every = 10
    config.eval.evaluators.scene_segmentation.bootstrap = 0
    defaults = dict(role="pace", rates=RATES, time_added=False, init=arm)
    config.study = ml_collections.ConfigDict(defaults | study)
    return config


def _setting(backbone: str, setting: str) -> list[dict]:
    runs, name = [], f"{backbone}/{setting}"
    for arm in ("A", "B"):
        make = functools.partial(_config, backbone, setting, arm=arm)
        weights = [unipre3d_scene_views.run_of(backbone, "rooms")] if arm == "B" else []
        config = make(CHOICE_SEED, role="rate")
        choice = dict(arm=f"{name}/{arm}/rate", kind="choose_lr", config=config, needs=weights)
        runs.append(choice)
        for seed in SEEDS:
            needs = [*weights, choice]
            runs.append(dict(arm=f"{name}/{arm}", kind="finetune", config=make(seed), needs=needs))
    return runs


def get_study():
    backbones = unipre3d_scene_views.BACKBONES
    runs = [unipre3d_scene_views.run_of(b, "hololens_room") for b in backbones]
    runs += [run for b in backbones for setting in SETTINGS for run in _setting(b, setting)]
    return dict(name="unipre3d_scene", runs=runs, report="transfer", against="B")
