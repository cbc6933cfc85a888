"""Few-shot classification of categories that training never saw, on real objects at laptop size.

    gsjax study configs/studies/clip_gs_few_shot.py --workdir=DIR

Ten categories of objects_cc0 stay out of training (of the encoder; the image/text pair that ships knew
them). 5 and 10 way, 1, 5 and 10 shot, 10 queries a class, 10 trials; the episodes are
``gsjax/data/splits/few_shot_objects_cc0.json``. Arms: the full encoder, positions and colours alone,
the network at random weights, and the label of the Chamfer-nearest labelled object. Needs GSJAX_DATA.
"""

from configs import clip_gs

ARMS = {
    "full": ("train", "all"),
    "xyz+rgb": ("train", "xyz_rgb"),
    "untrained": ("untrained", "all"),
    "Chamfer 1-NN": ("few_shot_nearest", "all"),
}


def _config(attributes: str):
    arg = f"size=laptop,data=objects_cc0,few_shot,attributes={attributes}"
    config = clip_gs.get_config(arg)
    config.seed = 0
    config.data.views = 36
    config.train.batch_size = 64
    config.train.num_steps = 400
    config.train.save_every = 200
    return config


def get_study():
    runs = [dict(arm=arm, kind=kind, config=_config(x)) for arm, (kind, x) in ARMS.items()]
    return dict(name="clip_gs_few_shot", runs=runs, report="few_shot", against="full")
