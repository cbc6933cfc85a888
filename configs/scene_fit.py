"""Scene fitting: photographs with known cameras, or a mesh, to 3D Gaussians.

    python main.py --config=configs/scene_fit.py --workdir=DIR --config.data.source=FOLDER
    python main.py --config=configs/scene_fit.py:strategy=default --workdir=DIR ...
    python main.py --config=configs/scene_fit.py:quick --workdir=DIR        # embedded scene, a minute
    python main.py --config=configs/scene_fit.py:paper --workdir=DIR ...    # full setting, for a GPU

FOLDER holds a COLMAP model, ``transforms.json`` (nerfstudio) or ``transforms_train.json`` (Blender); or
name a mesh file. Without a source a small scene that ships with the package is fitted. Arguments:
``strategy=mcmc|default``, ``quick``, ``paper``. The result is DIR/scene.ply.
"""

import dataclasses

import ml_collections

from configs import common
from gsjax.systems.scene_fit.recipe import Recipe


def get_config(arg=None):
    arg = common.parse_arg(arg, quick=False, paper=False, strategy="mcmc")
    config = common.base("scene_fit")
    for name in ("model", "loss", "optim", "mesh", "eval", "init_from"):
        del config[name]
    config.data = _data()
    config.fit = ml_collections.ConfigDict(
        {f.name: f.default for f in dataclasses.fields(Recipe) if f.name != "seed"}
    )
    config.fit.strategy = arg.strategy
    config.fit.background = "auto"  # 'random' where pictures have alpha, else 'black'
    if arg.strategy == "mcmc":
        config.fit.update(_MCMC)
    else:
        config.fit.update(refine_stop=15_000, start_fraction=0.5)
    config.train = _train()
    if arg.paper:
        config.fit.num_gaussians = 1_000_000  # gsplat's MCMC rows; 3 million gain another 0.5 dB
    else:
        _shorten(config, 300 if arg.quick else 3_000)
        config.fit.num_gaussians = 2_000 if arg.quick else 20_000
    if arg.quick:
        config.data.update(views=24, view_size=64, test_views=4, points=1_000)
        config.fit.sh_degree = 1
        config.train.update(log_every=100, save_every=100)
    return config


# The preset of 3DGS-MCMC's code and of gsplat
_MCMC = dict(
    init_opacity=0.5, init_scale=0.1, opacity_reg=0.01, scale_reg=0.01, refine_stop=25_000
)  # fmt: skip


def _data():
    return ml_collections.ConfigDict(
        dict(
            source="",  # folder of photographs or a mesh file; '' = the embedded scene
            downscale=1,  # photographs at 1/k of their size
            axes="",  # of JSON files: '' = as the format has them, 'opengl' | 'opencv'
            test_every=8,  # every 8th photograph is held out; 0 = none
            recipe="",  # meshes: '' | 'modelnet10' | 'objaverse'
            views=36,  # meshes: on three rings
            view_size=128,  # meshes: pixels a side
            test_views=6,  # meshes: held out, between the others
            points=5_000,  # meshes: samples of the surface that Gaussians begin at
            seed=0,
        )
    )


def _train():
    return ml_collections.ConfigDict(
        dict(
            log_every=500,
            eval_every=0,  # 0 = only at the end
            save_every=1_000,
            keep=2,
            time_limit=0.0,  # seconds after which a checkpoint is written, exit code 42; 0 = none
            compilation_cache="",
        )
    )


def _shorten(config, num_steps):
    """All schedules in proportion to 30,000 steps."""
    scale = num_steps / 30_000
    config.fit.num_steps = num_steps
    for name in ("sh_every", "refine_start", "refine_stop", "reset_every"):
        config.fit[name] = max(1, round(config.fit[name] * scale))
    config.fit.reset_every = max(config.fit.reset_every, config.fit.refine_every)
    if (
        config.fit.strategy == "default"
    ):  # refine a little longer, and pause while opacities recover
        config.fit.reset_every = max(num_steps // 4 // 100 * 100, 100)
