"""Scene fitting: photographs with known cameras, or a mesh, to 3D Gaussians.

    python main.py --config=configs/scene_fit.py --workdir=DIR --config.data.source=FOLDER
    python main.py --config=configs/scene_fit.py:strategy=default --workdir=DIR ...
    python main.py --config=configs/scene_fit.py:quick --workdir=DIR        # embedded scene, a minute
    python main.py --config=configs/scene_fit.py:paper --workdir=DIR ...    # full setting, for a GPU

FOLDER holds a COLMAP model, ``transforms.json`` (nerfstudio) or ``transforms_train.json`` (Blender); or
name a mesh file. Without a source a small scene that ships with the package is fitted. Arguments:
``strategy=mcmc|default``, ``quick``, ``paper``. The result is DIR/scene.ply.
"""

import ml_collections

from configs import common
from gsjax.systems.scene_fit import presets


def get_config(arg=None):
    arg = common.parse_arg(arg, quick=False, paper=False, strategy="mcmc")
    size = "quick" if arg.quick else "paper" if arg.paper else "laptop"
    config = ml_collections.ConfigDict(
        dict(
            system="scene_fit",
            mode="train",  # 'train' | 'eval'
            seed=0,
            data=presets.data(),
            fit=presets.fit(
                arg.strategy, size
            ),  # every constant: gsjax/systems/scene_fit/recipe.py
            train=presets.train(),
            eval=presets.evaluation(),
        )
    )
    if arg.quick:
        config.data.update(views=24, view_size=64, test_views=4, points=1_000)
        config.train.update(log_every=100, save_every=100)
    return config
