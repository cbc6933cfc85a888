"""CLIP-GS (arXiv 2412.19142): trains a 3D Gaussian encoder into the space of a frozen CLIP.

    python main.py --config=configs/clip_gs.py --workdir=DIR            # laptop, some 15 minutes
    python main.py --config=configs/clip_gs.py:quick --workdir=DIR      # a minute or two
    python main.py --config=configs/clip_gs.py:paper --workdir=DIR \\
        --config.data.source=FOLDER_OF_PLY --config.data.captions_csv=CAPTIONS.csv \\
        --config.data.towers=TOWERS     # docs/weights.md
    python main.py --config=configs/clip_gs.py:data=modelnet_splats --workdir=DIR \\
        --config.data.source=FOLDER --config.data.towers=TOWERS     # a public collection

Arguments after the colon: ``quick``, ``paper``, ``size=debug|laptop|tiny|small|base|large|giant``,
``data=procedural|objects_cc0|folder|fitted`` or a public collection (``gsjax.data.collections``):
``data=modelnet_splats|shape_splats|unigs_objaverse``, ``attributes=all|xyz_rgb|naive``, ``few_shot``: train
without the categories of the few-shot episodes (``gsjax.evals.episodes``) and measure on them. Plain and
``:quick`` download nothing: the objects are procedural, the image and text towers ship with the
package.

Sources in comments: P the paper, U Uni3D (arXiv 2310.06773), which the paper starts from; no letter:
a choice of this project.
"""

import ml_collections

from configs import common
from gsjax.evals import episodes
from gsjax.systems.clip_gs import presets


def get_config(arg=None):
    arg = common.parse_arg(
        arg,
        quick=False,
        paper=False,
        size="",
        data="procedural",
        attributes="all",
        few_shot=False,
    )
    size = arg.size or ("debug" if arg.quick else "base" if arg.paper else "laptop")
    config = common.base("clip_gs")
    _model(config, size, arg.attributes)
    _data(config, size, arg.data)
    _loss(config)
    _optim(config)
    _train(config)
    if arg.paper:
        _paper(config)
    if arg.quick:
        _quick(config)
    if arg.few_shot:
        _few_shot(config)
    return config


def _block(**fields):
    return ml_collections.ConfigDict(fields)


def _model(config, size, attributes):
    config.model = _block(
        **presets.size(size),
        attributes=attributes,  # 'all' | 'xyz_rgb': without the Gaussian branch | 'naive'
        pool="mean",  # 'mean' | 'max', of the Gaussian branch
        zero_init_gs=True,  # a fresh model equals its point branch
        order_mode="random",  # 'random' | 'fixed' | 'average' | 'concat'
        eval_order="hilbert",  # 'x' | 'y' | 'z' | 'hilbert' | 'zorder'
        order_bits=10,
        order_indicator=True,
        grouping="presorted",  # 'online' | 'presorted' | 'cached'; records are in FPS order
        skip_near_origin=False,  # True for parity with Uni3D's CUDA sampler
        knn="auto",  # 'auto' | 'exact' | 'approx'
        knn_block=0,  # patches searched at a time; 0 = what fits 64 MiB
        drop_path=0.1,
        patch_dropout=0.5,  # U
        early_patch_dropout=True,  # drop patches before they are encoded: half the work
        dtype="float32",  # 'bfloat16' computes in it; parameters, norms, loss stay float32
        remat=False,
    )


def _data(config, size, name):
    config.data.name = name
    config.data.num_gaussians = presets.num_gaussians(size)
    config.data.update(
        _block(
            up_axis="",  # of the files; '' = 'y' for 'folder', a collection's own; records are y-up
            radius_quantile=1.0,  # U; 0.995 is robust against floaters
            prune_alpha=0.0,
            views_per_step=5,  # P: K
            towers="",  # frozen image and text towers; '' = those shipped for the data set
            augment=dict(
                enable=True,
                scale=(0.8, 1.25),  # U
                shift=0.1,  # U
                tilt=0.06,  # U
                max_tilt=0.18,  # U
                spin=True,  # U: about the up axis
                color_drop=0.1,  # U: 0.5; texture is the point of Gaussians
            ),
        )
    )


def _loss(config):
    config.loss = _block(
        kind="softmax",  # 'softmax' | 'sigmoid'
        sharding="gather",  # 'gather' | 'ring' | 'none'
        text_weight=1.0,  # P
        image_weight=1.0,  # P
        score_mode="cosine",  # P: the formula; 'normalized' | 'softmax' | 'none' (S = 1)
        score_temp=0.07,  # 'softmax' only
        view_reduce="mean",  # 'mean' | 'sum'
        negatives="per_slot",  # 'per_slot' | 'all_views'
        mask_duplicate_text=True,  # equal captions are no negatives of each other
        legacy_detached_gather=False,  # True as Uni3D: only the 3D -> text, image direction
        logit_scale_max=4.6052,  # U: ln 100
    )


def _optim(config):
    config.optim.lr = 1e-3
    config.optim.wd = 0.1  # U
    config.optim.betas = (0.9, 0.999)  # U
    config.optim.clip = 5.0  # U
    config.optim.warmup = 0.05
    config.optim.layer_pattern = r"visual/blocks_(\d+)/"  # U: 0.95 a block, off from scratch
    config.optim.lr_new_scale = 1.0  # on the Gaussian branch, which no checkpoint brings


def _train(config):
    config.train.batch_size = 64
    config.train.num_steps = 480
    config.train.eval_every = 0
    config.train.save_every = 60
    # 'other' is no category: no name to classify by, left out as query and in the gallery
    shared = dict(
        split="test",
        exclude=("other",) if config.data.name == "objects_cc0" else (),
        bootstrap=0,  # resamples for 95 % intervals over objects
        batch_size=64,
    )
    config.eval.evaluators = dict(
        retrieval=dict(ks=(1, 5, 10), image_view=0, **shared),
        zero_shot=dict(templates="short", ks=(1, 3, 5), **shared),
    )


def _paper(config):
    """The paper's setting as far as it is known; what it leaves open follows Uni3D."""
    if config.data.name == "procedural":  # no other set was asked for
        config.data.name = "folder"  # P: 240k Objaverse and Objaverse-XL shapes, each one 3DGS
    config.data.views = 36  # P
    config.data.view_size = 256
    config.model.early_patch_dropout = False  # U drops encoded patches
    config.model.dtype = "bfloat16"
    config.loss.mask_duplicate_text = False
    config.optim.lr = 1e-4
    config.optim.lr_new_scale = 5.0
    config.optim.layer_decay = 0.95  # U
    config.eval.evaluators.zero_shot.templates = "modelnet40_64"  # U: for every data set
    config.train.batch_size = 384
    config.train.num_steps = 18_750  # 30 epochs of 240k objects
    config.train.eval_every = 2_000
    config.train.save_every = 500


def _few_shot(config):
    """Ten categories stay out of training; their objects are the split 'novel'."""
    name = config.data.name
    config.data.exclude_categories = episodes.load(name).categories
    config.eval.evaluators.few_shot = dict(
        episodes=name,
        splits=("novel",),
        way=(5, 10),  # P: 5 way on Objaverse, 10 way 10 shot on ModelNet
        shot=(1, 5, 10),
        heads=("prototype", "linear"),  # 'finetune' adds minutes a setting
        inverse_penalty=0.1,
        batch_size=64,
    )


def _quick(config):
    config.data.num_objects = 96
    config.data.views = 6
    config.data.view_size = 32
    config.optim.lr = 2e-3
    config.train.batch_size = 16
    config.train.num_steps = 150
    config.train.log_every = 1
    config.train.save_every = 50
