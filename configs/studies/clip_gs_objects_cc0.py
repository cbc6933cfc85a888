"""How much the 3DGS encoder learns on 1,333 real low-poly objects, held-out objects only.

    gsjax study configs/studies/clip_gs_objects_cc0.py --workdir=DIR

Needs GSJAX_DATA (the folder above objects_cc0). Arms: the full encoder, the same one on positions
and colours alone, the untrained one, and the label of the Chamfer-nearest training object. The
frozen image/text pair was trained on the training split's renders and captions alone.
"""

from configs import clip_gs

SEEDS = (0, 1, 2)
OUTSIDE = ("other",)  # no category: left out of queries, galleries and answers


def _config(attributes: str, seed: int):
    config = clip_gs.get_config(f"size=laptop,data=objects_cc0,attributes={attributes}")
    config.seed = seed
    config.data.views = 36
    config.train.batch_size = 64
    config.train.num_steps = 400
    config.train.save_every = 200
    for options in config.eval.evaluators.values():
        options.exclude = OUTSIDE
    return config


def get_study():
    runs = []
    for seed in SEEDS:
        runs.append(dict(arm="full", kind="train", config=_config("all", seed)))
        runs.append(dict(arm="xyz+rgb", kind="train", config=_config("xyz_rgb", seed)))
        runs.append(dict(arm="untrained", kind="untrained", config=_config("all", seed)))
    runs.append(dict(arm="Chamfer 1-NN", kind="nearest", config=_config("all", 0)))
    return dict(name="clip_gs_objects_cc0", runs=runs, against="full")
