"""The pictures of ``unipre3d_scene``: PSNR on frames and rooms held out, beside what needs no training.

    gsjax study configs/studies/unipre3d_scene_views.py --workdir=DIR

Each backbone on 64 procedural rooms and on the real room ``hololens_room``. Needs GSJAX_DATA.
"""

import ml_collections

from configs import unipre3d_scene

STUDY = "unipre3d_scene_views"
BACKBONES = ("sparse_unet", "ptv3")
DATA = ("rooms", "hololens_room")


def run_of(backbone: str, data: str) -> dict:
    """Pre-training of a backbone, as an entry of a study."""
    config = unipre3d_scene.get_config(f"backbone={backbone},data={data}")
    config.train.log_every = 10
    config.eval.evaluators.novel_view.bootstrap = 2000
    config.study = ml_collections.ConfigDict(dict(role="weights"))
    return dict(arm=f"{backbone} {data}", kind="pretrain", config=config, study=STUDY)


def get_study():
    runs = [run_of(backbone, data) for data in DATA for backbone in BACKBONES]
    return dict(name=STUDY, runs=runs, report="views")
