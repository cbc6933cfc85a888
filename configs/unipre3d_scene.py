"""UniPre3D (arXiv 2506.09952), scene level: pre-trains a voxel backbone on posed RGB-D views.

    python main.py --config=configs/unipre3d_scene.py --workdir=DIR                 # procedural rooms
    python main.py --config=configs/unipre3d_scene.py:data=hololens_room --workdir=DIR
    python main.py --config=configs/unipre3d_scene.py:quick --workdir=DIR           # a minute or two
    python main.py --config=configs/unipre3d_scene.py:paper --workdir=DIR \\
        --config.data.source=POINTCEPT_SCANNET --config.data.frames_source=RAW_SCANNET \\
        --config.model.image_encoder=sd_vae:FOLDER

Arguments after the colon: ``quick``, ``paper``, ``backbone=sparse_unet|ptv3``, ``size=small|paper``,
``data=rooms|hololens_room|scannet``, ``fusion=point|none``, ``lpips`` (as at object level).
Plain and ``:quick`` download nothing.

Sources in comments: P the paper, C its released code; no letter: a choice of this project.
"""

import ml_collections

from configs import common, unipre3d_object


def get_config(arg=None):
    arg = common.parse_arg(
        arg,
        quick=False,
        paper=False,
        backbone="sparse_unet",
        size="",
        data="",
        fusion="point",
        lpips=False,
    )
    config = common.base("unipre3d")
    config.level = "scene"
    _model(config, arg)
    _data(config, arg)
    config.loss = ml_collections.ConfigDict(
        dict(
            background=1.0,  # P: white
            foreground=False,  # P: plain mean squared error
        )
    )
    if arg.lpips:
        config.loss.update(unipre3d_object.lpips_block())
    config.optim.lr = 1e-3
    config.optim.wd = 0.01  # C
    config.optim.clip = 1.0  # C
    config.optim.ema = 0.99
    config.train.batch_size = 2
    config.train.num_steps = 500
    config.train.save_every = 100
    config.eval.evaluators = dict(novel_view=dict(split="test", batch_size=2, baselines=True))
    if arg.paper:
        _paper(config)
    if arg.quick:
        _quick(config)
    return config


def _model(config, arg):
    config.model = ml_collections.ConfigDict(
        dict(
            backbone=arg.backbone,
            backbone_size=arg.size or ("paper" if arg.paper else "small"),
            backbone_changes={},  # fields of the backbone's Config
            features=("normal", "rgb"),  # C: in this order
            fusion=arg.fusion,  # 'point' | 'none'
            fusion_pixels=65_536 if arg.paper else 4_096,  # capacity of image voxels
            fusion_union=163_840 if arg.paper else 8_192,  # capacity of all voxels
            image_encoder="autoencoder",  # see gsjax.models.image_features; P: sd_vae
            head=dict(
                hidden=32 if arg.paper else 48,  # C
                per_token=1,  # C
                sh_degree=1,  # C
                offset_scale=0.2,  # C: metres
                scale_act="sigmoid",
                scale_min=0.005,
                scale_max=0.5,
                scale_init=0.02 if arg.paper else 0.06,
                opacity_init=-2.0 if arg.paper else 0.0,
                spread=0.0,
                init="sane",
            ),
            antialiased=True,  # C
            dtype="float32",
        )
    )


def _data(config, arg):
    config.data.name = arg.data or ("scannet" if arg.paper else "rooms")
    config.data.num_objects = 64  # rooms
    config.data.num_test = 8
    config.data.update(
        ml_collections.ConfigDict(
            dict(
                # Of a crop. Whole rooms have up to 16,000 voxels of 10 cm, crops of this size at most 7,300,
                # which 8,192 hold.
                num_points=24_000,
                stored_points=60_000,  # of a procedural room
                num_frames=48,  # of a procedural room
                height=60,
                width=80,
                references=0 if arg.fusion == "none" else 4,
                targets=4,  # P: 8
                distance=5,  # C: frames between a supervised view and its reference
                # Metres; one point a voxel of this size, 0 = all. At 2 cm a crop of the recorded room is 10 m^2,
                # of which most views see nothing; at 5 cm it is the room, in 6,300 to 7,000 voxels of 10 cm.
                thin=0.05 if arg.data == "hololens_room" else 0.02,
                crop="sphere",  # 'random' | 'sphere' | 'box'
                draws=8,  # held-out draws of a recording
                frames_source="",  # scannet: raw frames
                augment=False,  # C
            )
        )
    )


def _paper(config):
    """The paper's setting as far as it is known; what it leaves open follows the released code."""
    config.data.num_points = 100_000
    config.data.height, config.data.width = 120, 160  # P
    config.data.targets = 8  # P
    config.data.references = 8 if config.model.fusion != "none" else 0  # P
    config.model.image_encoder = ""  # P: sd_vae:FOLDER of the Stable Diffusion VAE
    config.optim.lr = 1e-4  # P
    config.optim.schedule = "steps"  # C: x 0.9 every 10,000
    config.optim.step_every = 10_000
    config.optim.step_factor = 0.9
    config.optim.warmup = 0
    config.optim.ema = 0.9999  # C
    config.train.batch_size = 8  # P
    config.train.num_steps = 60_000  # C
    config.train.save_every = 2_000
    config.train.eval_every = 20_000


def _quick(config):
    config.data.num_objects = 2
    config.data.num_test = 1
    config.data.num_frames = 8
    config.data.stored_points = config.data.num_points = 8_000
    config.data.height, config.data.width = 24, 32
    config.data.targets = 2
    config.data.references = min(config.data.references, 2)
    small = dict(voxels=1024, voxel_size=0.2)
    if config.model.backbone == "sparse_unet":  # two levels compile in half the time of four
        small |= dict(shares=(0.4, 0.15), stem=8, encoder=(8, 16), encoder_blocks=(1, 1))
        small |= dict(decoder=(16, 16), decoder_blocks=(1, 1))
    config.model.backbone_changes = small
    config.model.fusion_pixels, config.model.fusion_union = 512, 1024
    config.model.head.scale_init = 0.12
    config.optim.lr = 5e-3
    config.train.num_steps = 60
    config.train.log_every = 1
    config.train.save_every = 30
    config.optim.ema = 0.9
    config.eval.evaluators.novel_view.baselines = False
