"""Semantic segmentation of scenes with a backbone of voxels, pre-trained or not.

    python main.py --config=configs/finetune_scenes.py --workdir=DIR              # procedural rooms
    python main.py --config=configs/finetune_scenes.py --workdir=DIR \\
        --config.init_backbone=RUN           # of configs/unipre3d_scene.py, or an export
    python main.py --config=configs/finetune_scenes.py:data=s3dis --workdir=DIR \\
        --config.data.source=POINTCEPT_S3DIS --config.data.held_out=5
    python main.py --config=configs/finetune_scenes.py:paper,backbone=ptv3 --workdir=DIR \\
        --config.data.source=POINTCEPT_SCANNET --config.init_backbone=RUN
    python main.py --config=configs/finetune_scenes.py:quick --workdir=DIR        # a minute

Arguments after the colon: ``quick``, ``paper`` (Pointcept's recipe for ScanNet, which UniPre3D's authors
point to), ``backbone=sparse_unet|ptv3``, ``size=small|paper``, ``data=rooms|scannet|s3dis``
(``hololens_room`` is refused: it has no labels), ``frozen``: train the linear head alone. A backbone is
taken over only where ``model.backbone``, ``backbone_size``, ``backbone_changes`` and ``features`` are
those of its pre-training, as they are in each size of ``configs/unipre3d_scene.py``.

Sources in comments: C Pointcept's configurations, as far as they are known; no letter: a choice of this
project.
"""

import ml_collections

from configs import common


def get_config(arg=None):
    arg = common.parse_arg(
        arg,
        quick=False,
        paper=False,
        backbone="sparse_unet",
        size="",
        data="",
        frozen=False,
    )
    config = common.base("point_tasks")
    config.task = "scenes"
    config.reestimate_norms = 0  # training batches that frozen norms are measured on at the start
    config.init_backbone = ""  # run folder or file of `gsjax export-backbone`; '' = from scratch
    config.model = ml_collections.ConfigDict(
        dict(
            backbone=arg.backbone,
            backbone_size=arg.size or ("paper" if arg.paper else "small"),
            backbone_changes={},  # fields of the backbone's Config; as in pre-training
            features=("normal", "rgb"),  # as in pre-training; C has colour first
            frozen=arg.frozen,
            dtype="float32",
        )
    )
    config.loss = ml_collections.ConfigDict(
        dict(
            smoothing=0.0,
            lovasz=0.0,  # weight of the Lovasz loss beside the cross-entropy
        )
    )
    _data(config, arg)
    config.optim.lr = 2e-3
    config.optim.wd = 0.05
    config.optim.clip = 10.0
    config.train.batch_size = 2
    config.train.num_steps = 500
    config.train.save_every = 100
    config.eval.evaluators = dict(scene_segmentation=dict(split="test", batch_size=2))
    if arg.paper:
        _paper(config)
    if arg.quick:
        _quick(config)
    return config


def _data(config, arg):
    config.data.name = arg.data or ("scannet" if arg.paper else "rooms")
    config.data.num_objects = 64  # rooms
    config.data.num_test = 8
    config.data.update(
        ml_collections.ConfigDict(
            dict(
                num_points=24_000,  # of a crop, as in pre-training
                stored_points=60_000,  # of a procedural room, as in pre-training
                thin=0.02,  # metres; one point a voxel of this size, 0 = all
                crop="sphere",  # 'sphere' | 'box'
                held_out=5,  # s3dis: number of the area
                labels="segment20",  # scannet: 'segment20' | 'segment200'
                validation=0.125,  # of the training scenes, held back to choose settings by
                fraction=1.0,  # of the scenes that are left
                fit_scenes=0,  # how many of them, in place of a fraction; 0 = by fraction
                fraction_seed=0,
                augment=dict(  # systems/point_tasks/scene_augment.py
                    turn=1.0,
                    flip=0.5,
                    scale=(0.9, 1.1),
                    jitter=0.0,
                    shift_colour=0.05,
                    jitter_colour=0.05,
                ),
            )
        )
    )


def _paper(config):
    """C for ScanNet, fine-tuning; what is beyond this package is said in the system's notes."""
    config.data.num_points = 100_000  # C: crop of that many points after thinning to 2 cm
    config.data.validation = 0.0  # C: the published figures are of ScanNet's validation scenes
    config.data.augment.jitter = 0.005  # C
    config.optim.warmup = 0.05  # C: one cycle with cosines
    config.optim.clip = 0.0
    config.train.save_every = 1_000
    config.eval.evaluators.scene_segmentation.batch_size = 1
    if config.model.backbone == "ptv3":
        # C has patch 1024 and four orders here, 48 and two in pre-training; one configuration for both.
        config.optim.name = "adamw"  # C
        config.optim.lr = 6e-3  # C
        config.optim.rules = ((r"/blocks_\d+/", 0.1, True),)  # C: 6e-4 for blocks
        config.optim.wd = 0.05  # C
        config.loss.lovasz = 1.0  # C
        config.train.batch_size = 12  # C
        config.train.num_steps = 80_000  # C: 800 times through 1,201 scenes
    else:
        config.optim.name = "sgd"  # C
        config.optim.nesterov = True  # C
        config.optim.lr = 0.05  # C
        config.optim.momentum = 0.9  # C
        config.optim.wd = 1e-4  # C
        config.train.batch_size = 48  # C
        config.train.num_steps = 20_000  # C: 800 times through 1,201 scenes


def _quick(config):
    config.data.num_objects = 3
    config.data.num_test = 1
    config.data.stored_points = 8_000
    config.data.num_points = 2_500
    config.data.validation = 0.34
    small = dict(voxels=1024, voxel_size=0.2)
    if config.model.backbone == "sparse_unet":  # as configs/unipre3d_scene.py
        small |= dict(shares=(0.4, 0.15), stem=8, encoder=(8, 16), encoder_blocks=(1, 1))
        small |= dict(decoder=(16, 16), decoder_blocks=(1, 1))
    config.model.backbone_changes = small
    config.optim.lr = 1e-2
    config.train.num_steps = 30
    config.train.log_every = 1
    config.train.save_every = 15
