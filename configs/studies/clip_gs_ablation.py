"""The ablation of CLIP-GS (its zero-shot table) on real objects, sampled and fitted, at laptop size.

    gsjax study configs/studies/clip_gs_ablation.py --workdir=DIR                      # sampled
    GSJAX_FITTED=FOLDER gsjax study configs/studies/clip_gs_ablation.py --workdir=DIR  # fitted

Rows, each adding to the one before but the second: positions and colours alone; all attributes into the
point encoder; the tokenizer's two branches; the Image Voting Loss. The first three use one view a step
and S = 1. ``sampled``: discs on the meshes of objects_cc0; ``fitted``: Gaussians fitted to their renders
(FOLDER of ``gsjax fit-objects objects_cc0 --sample 320``). Needs GSJAX_DATA.
"""

import os

from configs import clip_gs

SEEDS = (0, 1, 2)
ROWS = {  # arm: (model.attributes, voting)
    "points": ("xyz_rgb", False),
    "all attributes, naive": ("naive", False),
    "tokenizer": ("all", False),
    "tokenizer, voting": ("all", True),
}
SOURCES = ("sampled", "fitted")
OUTSIDE = ("other",)


def _config(source: str, attributes: str, voting: bool, seed: int):
    data = {"sampled": "objects_cc0", "fitted": "fitted"}[source]
    config = clip_gs.get_config(f"size=laptop,data={data},attributes={attributes}")
    if source == "fitted":
        config.data.source = os.environ.get("GSJAX_FITTED", "")
    config.seed = seed
    config.data.views = 36
    config.train.batch_size = 64
    config.train.num_steps = 400
    config.train.save_every = 200
    if not voting:
        config.data.views_per_step = 1
        config.loss.score_mode = "none"
    for options in config.eval.evaluators.values():
        options.exclude = OUTSIDE if source == "sampled" else ()
    return config


def get_study():
    """Sampled objects, or fitted ones where GSJAX_FITTED names them: two tables, two results files."""
    fitted = bool(os.environ.get("GSJAX_FITTED"))
    source = SOURCES[fitted]
    runs = [
        dict(arm=arm, kind="train", config=_config(source, *row, seed))
        for seed in SEEDS
        for arm, row in ROWS.items()
    ]
    return dict(name=f"clip_gs_ablation_{source}", runs=runs, against="tokenizer, voting")
