"""The ablation of CLIP-GS (its zero-shot table) on real objects, sampled and fitted, at laptop size.

    gsjax study configs/studies/clip_gs_ablation.py --workdir=DIR                      # sampled
    GSJAX_FITTED=FOLDER gsjax study configs/studies/clip_gs_ablation.py --workdir=DIR  # fitted

The paper's rows: positions and colours alone; all attributes into the point encoder; the tokenizer's two
branches; and, on top, the Image Voting Loss. The first three use one view a step and S = 1. Beside
them: positions and colours with the voting loss, the network at random weights, and the label of the
Chamfer-nearest training object. ``sampled``: discs on the meshes of objects_cc0; ``fitted``: Gaussians
fitted to their renders (FOLDER of ``gsjax fit-objects objects_cc0 --sample 320``). Held-out objects
only; the frozen image/text pair saw renders and captions of the training split alone. Needs GSJAX_DATA.
"""

import os

from configs import clip_gs

SEEDS = (0, 1, 2)
FULL = ("all", True)  # model.attributes, voting
ARMS = {
    "points": ("train", "xyz_rgb", False),
    "all attributes, naive": ("train", "naive", False),
    "tokenizer": ("train", "all", False),
    "tokenizer, voting": ("train", *FULL),
    "points, voting": ("train", "xyz_rgb", True),
    "untrained": ("untrained", *FULL),
}
DATA = {"sampled": "objects_cc0", "fitted": "fitted"}


def make_config(source: str, attributes: str, voting: bool, seed: int):
    """The config of one run; ``source`` is a key of ``DATA``."""
    config = clip_gs.get_config(f"size=laptop,data={DATA[source]},attributes={attributes}")
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
    for options in config.eval.evaluators.values():  # 'other' is no category
        options.exclude = ("other",) if source == "sampled" else ()
    return config


def get_study():
    """Sampled objects, or fitted ones where GSJAX_FITTED names them: two tables, two results files."""
    source = "fitted" if os.environ.get("GSJAX_FITTED") else "sampled"
    runs = [
        dict(arm=arm, kind=kind, config=make_config(source, attributes, voting, seed))
        for seed in SEEDS
        for arm, (kind, attributes, voting) in ARMS.items()
    ]
    runs.append(dict(arm="Chamfer 1-NN", kind="nearest", config=make_config(source, *FULL, seed=0)))
    name = f"clip_gs_ablation_{source}"
    return dict(name=name, runs=runs, report="arms", against="tokenizer, voting")
