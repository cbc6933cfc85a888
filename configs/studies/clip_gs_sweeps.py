"""One choice of CLIP-GS changed at a time, one seed, on sampled objects at laptop size.

    gsjax study configs/studies/clip_gs_sweeps.py --workdir=DIR

The order within patches, the views a step K, what the votes are, the size. All else is the arm
'tokenizer, voting' of ``clip_gs_ablation``, whose finished row of the same seed is used. Needs GSJAX_DATA.
"""

from configs.studies import clip_gs_ablation
from gsjax.systems.clip_gs import presets

BASE = "tokenizer, voting"  # random order, K = 5, votes by the cosine
CHANGES = {
    "order fixed": {"model.order_mode": "fixed"},
    "order average": {"model.order_mode": "average"},
    "order concat": {"model.order_mode": "concat"},
    "K = 1": {"data.views_per_step": 1},
    "K = 10": {"data.views_per_step": 10},
    "votes normalized": {"loss.score_mode": "normalized"},
    "votes softmax": {"loss.score_mode": "softmax"},
    "votes all 1": {"loss.score_mode": "none"},
    "size debug": {"size": "debug"},
}


def _config(changes):
    config = clip_gs_ablation.make_config("sampled", *clip_gs_ablation.FULL, seed=0)
    changes = dict(changes)
    if size := changes.pop("size", ""):
        config.model.update(presets.size(size))
        config.data.num_gaussians = presets.num_gaussians(size)
    config.update_from_flattened_dict(changes)
    return config


def get_study():
    arms = {BASE: {}, **CHANGES}
    runs = [dict(arm=arm, kind="train", config=_config(c)) for arm, c in arms.items()]
    return dict(
        name="clip_gs_sweeps",
        runs=runs,
        report="arms",
        against=BASE,
        rows_of=("clip_gs_ablation_sampled",),
    )
