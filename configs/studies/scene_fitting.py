"""How well scenes and objects are fitted: real photographs, and real meshes.

    gsjax study configs/studies/scene_fitting.py --workdir=DIR

Needs GSJAX_DATA. ``fox``: 44 photographs, every 8th held out, Gaussians begin in the cameras' frusta;
both strategies at the laptop size, MCMC with exactly as many Gaussians as its arm says. ``objects``:
meshes of objects_cc0, 24 training views and 6 held-out ones of 128 x 128, 4,096 Gaussians.
"""

import os

import ml_collections

from configs import scene_fit

_DATA = os.environ.get("GSJAX_DATA", "")


def _fox(strategy: str, num_gaussians: int = 0):
    config = scene_fit.get_config(f"strategy={strategy}")
    config.data.source = os.path.join(_DATA, "scenes", "fox")
    config.train.eval_every = 1_000
    if num_gaussians:
        config.fit.num_gaussians = num_gaussians
    return config


def _objects(**options):
    data = dict(source=os.path.join(_DATA, "objects_cc0"))
    return ml_collections.ConfigDict(dict(seed=0, data=data, options=options))


def get_study():
    runs = [
        dict(arm="fox, MCMC, 20,000", kind="fit", config=_fox("mcmc", 20_000)),
        dict(arm="fox, default", kind="fit", config=_fox("default")),
        dict(arm="objects, fast, 24", kind="fit_objects", config=_objects(sample=24, batch=8)),
        dict(
            arm="objects, paper, 8",
            kind="fit_objects",
            config=_objects(sample=8, batch=8, recipe="paper"),
        ),
        dict(arm="objects, fast, 320", kind="fit_objects", config=_objects(sample=320, batch=8)),
    ]
    return dict(name="scene_fitting", runs=runs)
