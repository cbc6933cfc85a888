"""UniPre3D (arXiv 2506.09952), object level: pre-trains a point backbone by predicting Gaussians.

    python main.py --config=configs/unipre3d_object.py --workdir=DIR            # laptop size
    python main.py --config=configs/unipre3d_object.py:quick --workdir=DIR      # a minute or two
    python main.py --config=configs/unipre3d_object.py:paper --workdir=DIR \\
        --config.data.source=FOLDER_OF_PLY --config.model.image_encoder=sd_vae:FOLDER
    python main.py --config=configs/unipre3d_object.py:backbone=pointnet2,data=objects_cc0 --workdir=DIR

Arguments after the colon: ``quick``, ``paper``, ``backbone=NAME`` (a file of gsjax/models/backbones),
``size=small|paper|...`` of it, ``data=procedural|objects_cc0|folder|fitted``, a public
collection, or ``shapenet_renders`` (the released data's layout, with --config.data.source),
``fusion=feature|none``, ``lpips`` (a further term; needs --config.loss.lpips_backbone and lpips_heads).
Plain and ``:quick`` download nothing.

Sources in comments: P the paper, C its released code; no letter: a choice of this project.
"""

import ml_collections

from configs import common


def get_config(arg=None):
    arg = common.parse_arg(
        arg,
        quick=False,
        paper=False,
        backbone="transformer",
        size="",
        data="procedural",
        fusion="feature",
        lpips=False,
    )
    config = common.base("unipre3d")
    config.level = "object"
    _model(config, arg)
    _data(config, arg)
    _optim(config)
    config.loss = ml_collections.ConfigDict(
        dict(
            background=0.0,  # C: black
            foreground=True,  # P: 4 : 1
        )
    )
    if arg.lpips:
        config.loss.update(lpips_block())
    _train(config)
    if arg.paper:
        _paper(config, arg)
    if arg.quick:
        _quick(config)
    return config


def lpips_block():
    """The term of the released code, with weight files of yours (``gsjax.metrics.lpips``)."""
    return dict(
        lpips=0.01,  # C
        lpips_start=0.5,  # C: share of the steps before it is on
        lpips_backbone="",
        lpips_heads="",
    )


def _model(config, arg):
    config.model = ml_collections.ConfigDict(
        dict(
            backbone=arg.backbone,
            backbone_size=arg.size or ("paper" if arg.paper else "small"),
            backbone_changes={},  # fields of the backbone's Config
            features=_features(arg.backbone),  # beside positions: 'height', 'rgb'
            fusion=arg.fusion,  # 'feature' | 'none'
            fusion_grid=16,  # cells along the z-buffer's side; C: pixels, which hides nothing
            fusion_tolerance=0.05,
            image_encoder="autoencoder",  # see gsjax.models.image_features; P: sd_vae
            head=dict(
                hidden=128,
                per_token=8 if arg.backbone in ("transformer", "mamba3d") else 1,
                sh_degree=1,  # C
                offset_scale=1.0,  # C
                scale_act="sigmoid",
                scale_min=0.002,
                scale_max=0.3,
                scale_init=0.03,
                opacity_init=-2.0,
                spread=0.04,
                init="sane",
            ),
            antialiased=True,  # C
            dtype="float32",
        )
    )


def _features(backbone):
    return ("height",) if backbone in ("pointmlp", "pcm") else ()  # C


def _data(config, arg):
    config.data.name = arg.data
    config.data.update(
        ml_collections.ConfigDict(
            dict(
                num_gaussians=2048,  # of the drawn objects
                num_points=512,  # that the backbone reads
                views=12,
                references=0 if arg.fusion == "none" else 1,  # P
                targets=3,
                supervise_reference=False,  # P; C: True
                strangers=False,  # pictures of other objects in training: a control
                augment=True,  # C
            )
        )
    )


def _optim(config):
    config.optim.lr = 1e-3
    config.optim.wd = 0.01  # C
    config.optim.clip = 1.0  # C
    config.optim.warmup = 0.02
    config.optim.ema = 0.999
    config.optim.betas = (0.9, 0.999)  # C


def _train(config):
    config.train.batch_size = 16
    config.train.num_steps = 4000
    config.train.eval_every = 0
    config.train.save_every = 500
    config.eval.evaluators = dict(novel_view=dict(split="test", batch_size=16, bootstrap=0))


def _paper(config, arg):
    """The paper's setting as far as it is known; what it leaves open follows the released code."""
    if arg.data == "procedural":  # no other set was asked for
        config.data.name = "folder"
    config.data.num_points = 1024  # P
    config.data.views = 36  # P
    config.data.view_size = 128  # P
    config.data.targets = 4  # C
    config.model.head.per_token = 1  # C
    config.model.image_encoder = ""  # P: sd_vae:FOLDER of the Stable Diffusion VAE
    config.optim.lr = 1e-4  # C
    config.optim.ema = 0.9999  # C
    config.optim.schedule = "steps"  # C: x 0.8 every 20,000
    config.optim.step_every = 20_000
    config.optim.step_factor = 0.8
    config.optim.warmup = 0
    config.train.batch_size = 32  # C
    config.train.num_steps = 100_000  # C
    config.train.save_every = 2_000
    config.train.eval_every = 20_000


def _quick(config):
    config.data.num_objects = 48
    config.data.num_gaussians = 1024
    config.data.views = 6
    config.data.view_size = 32
    config.data.num_points = 256
    config.train.batch_size = 8
    config.train.num_steps = 40
    config.train.log_every = 1
    config.train.save_every = 20
    config.optim.ema = 0.9
    config.eval.evaluators.novel_view.baselines = False
