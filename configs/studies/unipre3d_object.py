"""UniPre3D at object level on real objects at laptop size: with pictures, without, with strangers' pictures.

    gsjax study configs/studies/unipre3d_object.py --workdir=DIR

512 points, 64 pixels, one reference and two supervised views, held-out objects of ``split_v2``. Arms of each
backbone: ``fusion`` as published, ``points`` without image features, ``strangers`` with the pictures of other
objects, which pairs nothing with anything at the same cost. Beside each: what blank, mean and
silhouette pictures and grey discs score. Needs GSJAX_DATA.
"""

import ml_collections

from configs import unipre3d_object

STUDY = "unipre3d_object"
SEEDS = dict(transformer=(0, 1), pointnet2=(0,))
ARMS = ("fusion", "points", "strangers")
STEPS = 1500  # 12 to 15 minutes on one x86 core; 22 times through the objects


def config_of(backbone: str, arm: str, seed: int):
    """Pre-training of one arm."""
    fusion = "none" if arm == "points" else "feature"
    config = unipre3d_object.get_config(f"backbone={backbone},data=objects_cc0,fusion={fusion}")
    config.seed = seed
    config.data.targets = 2
    config.data.strangers = arm == "strangers"
    config.train.num_steps = STEPS
    config.train.log_every = 25
    config.eval.evaluators.novel_view.bootstrap = 2000
    config.study = ml_collections.ConfigDict(dict(role="weights"))
    return config


def run_of(backbone: str, arm: str, seed: int) -> dict:
    """As an entry of a study."""
    config = config_of(backbone, arm, seed)
    return dict(arm=f"{backbone} {arm}", kind="pretrain", config=config, study=STUDY)


def get_study():
    runs = [run_of(b, arm, seed) for b, seeds in SEEDS.items() for seed in seeds for arm in ARMS]
    return dict(name=STUDY, runs=runs, report="views")
