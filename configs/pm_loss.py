"""Feed-forward splatting (MVSplat, DepthSplat) with PM-Loss (arXiv 2506.05327).

    python main.py --config=configs/pm_loss.py --workdir=BASE                    # laptop size, no PM-Loss
    python main.py --config=configs/pm_loss.py:quick --workdir=DIR               # a minute or two
    python main.py --config=configs/pm_loss.py:loss=pm,teacher=noisy,init=BASE --workdir=DIR
    python main.py --config=configs/pm_loss.py:paper,data=records,init=WEIGHTS --workdir=DIR \\
        --config.data.source=RECORDS --config.data.teacher.cache=POINTMAPS

Arguments after the colon: ``quick``, ``paper``, ``network=mvsplat|depthsplat``, ``size=PRESET`` of it,
``loss=none|pm|pm_full|depth_l1|smooth`` beside the pictures' (``pm_full``: gradient through the alignment),
``offset=sigmoid|unconstrained`` of Gaussians from their pixels, ``teacher=exact|smooth_biased|noisy|cache``,
``data=rooms|hololens_room|records``, ``rooms=COUNT``, ``init=`` run folder or file of weights: a fine-tuning,
``steps=``, ``remat``, ``bf16``. Plain and ``:quick`` download nothing; rooms are cast once (0.6 s each at the
plain size; ``python -m gsjax.data.posed_sets --part=k/n`` shares that between processes).

Sources in comments: P the public code of PM-Loss, D DepthSplat, M MVSplat; no letter: a choice of this project.
"""

import ml_collections

from configs import common

TEACHERS = {
    "none": dict(kind="none"),
    "exact": dict(kind="depth"),
    # Shares of the cloud's radius; bends and smeared edges of a network, noise of a sensor.
    "smooth_biased": dict(kind="flawed", blur=1.0, smooth=0.03),
    "noisy": dict(kind="flawed", white=0.02),
    "cache": dict(kind="cache"),
}
LOSSES = ("none", "pm", "pm_full", "depth_l1", "smooth")


def get_config(arg=None):
    arg = common.parse_arg(
        arg,
        quick=False,
        paper=False,
        network="",
        size="",
        loss="",
        offset="",
        teacher="",
        data="rooms",
        rooms=1000,
        init="",
        steps=0,
        remat=False,
        bf16=False,
    )
    config = common.base("pm_loss")
    _model(config, arg)
    _data(config, arg)
    _loss(config, arg)
    _optim(config, arg)
    config.eval.evaluators = dict(posed_views=dict(bootstrap=2000))
    config.train.batch_size = 4
    config.train.num_steps = 4500  # about 80 minutes of one core
    config.train.save_every = 500
    if arg.paper:
        _paper(config, arg)
    if arg.data == "hololens_room":
        _hololens_room(config)
    if arg.init:
        _fine_tuning(config, arg)
    if arg.quick:
        _quick(config)
    if arg.steps:
        config.train.num_steps = arg.steps
    return config


def _chosen(arg, name, known, default):
    value = arg[name] or default
    if value not in known:
        raise ValueError(f"config argument: {name}={value!r}; known: {', '.join(known)}")
    return value


def _model(config, arg):
    network = arg.network or ("depthsplat" if arg.paper else "mvsplat")
    config.model = ml_collections.ConfigDict(
        dict(
            network=network,
            size=arg.size or ("base_448" if arg.paper else "tiny"),
            changes={},  # fields of the preset
            offset=arg.offset,  # '' = the preset's: sigmoid; 'pm_loss' of depthsplat: unconstrained
            sh_degree=-1,  # -1 = the preset's
            vit_lr_scale=1.0,  # D: 0.01, for a transformer that has seen pictures
            views_at_once=0,  # rendered views in memory together; 0 = all
            remat=arg.remat,
            dtype="bfloat16" if arg.bf16 else "float32",  # of networks; geometry stays float32
        )
    )


def _data(config, arg):
    loss = _chosen(arg, "loss", LOSSES, "pm" if arg.quick or arg.paper else "none")
    default = "exact" if loss.startswith("pm") else "none"
    if arg.paper and default == "exact" and arg.data == "records":
        default = "cache"
    teacher = TEACHERS[_chosen(arg, "teacher", TEACHERS, default)]
    config.data.name = arg.data
    config.data.num_objects = arg.rooms
    config.data.num_test = 64
    config.data.update(
        ml_collections.ConfigDict(
            dict(
                height=64,
                width=64,
                near=0.35,  # of rooms, metres
                far=7.0,
                fit="cover",
                flip=True,  # D
                depths=arg.data != "records",
                relative=False,  # D; True: the first context camera is the world
                num_frames=12,  # of rooms
                supersample=2,  # likewise
                draw="many",  # 'many' | 'bounded' | 'paired'
                context_views=(2, 2),  # V, (least, most): one for a step; P: (2, 6)
                target_views=2,  # T
                gap_start=(3, 5),  # frames between the outermost context views, at first
                gap=(4, 8),  # and after gap_steps
                gap_steps=1500,
                margin=0,  # 'bounded': frames that targets keep from context views
                reach=0,  # 'many': frames by which targets may lie outside
                limit=0,  # evaluation examples at most; 0 = all
                show_split="test",  # of the picture at the end; '' = none
                teacher=dict(
                    dict(
                        kind="none",  # 'none' | 'depth' | 'flawed' | 'cache'
                        cache="",  # folder of gsjax.data.pointmap_cache
                        seed=0,
                        similarity=True,  # what follows: gsjax.data.pointmaps.Flaws
                        blur=0.0,
                        smooth=0.0,
                        cells=3,
                        per_view=True,
                        white=0.0,
                    ),
                    **teacher,
                ),
                eval=dict(
                    context_views=2,
                    target_views=4,
                    gap=(6, 6),
                    reach=2,  # 'extrapolation': frames outside
                    draws=1,  # of a scene
                    index="",  # file of frames, for the splits '.../index'
                    partial=False,  # whether scenes of that file may be absent
                ),
            )
        )
    )


def _loss(config, arg):
    loss = _chosen(arg, "loss", LOSSES, "pm" if arg.quick or arg.paper else "none")
    config.loss = ml_collections.ConfigDict(
        dict(
            ignore_error=0.0,  # squared errors from here on are left out; P: 0.2
            # P, D: weight of the depth before the last; MVSplat draws the final one alone.
            intermediate=0.9 if config.model.network == "depthsplat" else 0.0,
            lpips=0.0,  # P, D: 0.05, with files of yours
            lpips_backbone="",
            lpips_heads="",
            # P: 0.005, at depths of 1 to 200. The squares of a room's errors are a hundredth of those.
            pm=0.5 if loss.startswith("pm") else 0.0,
            pm_options=dict(
                align_grad="full" if loss == "pm_full" else "stop",  # P: full
                mode="nn3d",
                direction="pred_to_teacher",
                weights="none",
                conf_drop=0.2,
                trim=0.0,
                trim_rounds=1,
                min_points=1024,
                cap=100.0,  # P
                cap_factor=1e-5,  # P
                query_subsample=0,
                ref_stride=1,
                search="auto",
            ),
            depth_l1=1.0 if loss == "depth_l1" else 0.0,
            smooth=0.25 if loss == "smooth" else 0.0,  # pixelSplat, where it is used
            smooth_order=2,
            smooth_sigma=12.0,
            guard=0.0,  # examples whose pictures are worse count 1e-8; P: 0.1
            guard_start=300,  # P
        )
    )


def _optim(config, arg):
    config.optim.lr = 1e-3
    config.optim.wd = 0.01  # D
    config.optim.wd_all = True  # D: biases and norms too
    config.optim.clip = 0.5  # D, M: of all parameters together
    config.optim.schedule = "onecycle"  # D, M
    config.optim.warmup = 0.01  # D, M
    config.optim.extra_steps = 10  # D, M


def _paper(config, arg):
    """The recipe of PM-Loss as its public code has it, 1.6 of a few devices' batch of one each."""
    config.data.update(
        dict(
            height=256, width=448,  # P
            near=1.0, far=200.0,  # P, of DL3DV
            context_views=(2, 6),  # P
            target_views=8,  # P
            gap_start=(20, 50), gap=(20, 50), gap_steps=0,  # P; divided by floor(6 / V)
            num_frames=64,
        )
    )  # fmt: skip
    config.data.eval.update(dict(gap=(20, 20), reach=10, target_views=20))  # P
    if config.data.name == "rooms":
        config.data.near, config.data.far = 0.35, 7.0
    config.model.vit_lr_scale = 0.01  # P, D
    config.model.views_at_once = 1
    config.model.remat = True
    config.model.dtype = "bfloat16"
    config.model.sh_degree = 4  # P
    config.model.offset = arg.offset or "unconstrained"  # P
    config.loss.ignore_error = 0.2  # P
    config.loss.guard = 0.1  # P
    if config.loss.pm:
        config.loss.pm = 0.005  # P
    config.optim.lr = 2e-4  # P
    config.train.batch_size = 8  # P: one a device
    config.train.num_steps = 100_000  # P
    config.train.save_every = 2_000


def _hololens_room(config):
    """Sensor depth in metres, missing in places; frames that see the same are known, one recording."""
    config.data.near, config.data.far = 0.3, 8.0
    config.data.draw = "paired"
    config.data.context_views = (2, 2)
    config.data.eval.update(dict(draws=32, target_views=1))  # held-out stretches are short


def _fine_tuning(config, arg):
    """From a finished run: lower rate, views as far apart as they were at its end."""
    config.init_from = arg.init
    config.data.gap_steps = 0
    if not arg.paper:
        config.optim.lr = 2e-4
        config.train.num_steps = 400
        config.train.save_every = 200


def _quick(config):
    config.data.num_objects = 24
    config.data.num_test = 4
    config.data.update(dict(height=32, width=32, num_frames=9, supersample=1))
    if config.model.network == "mvsplat":
        unet = dict(width=8, multipliers=(1, 1), attention=(2,))
        config.model.changes = dict(blocks=1, candidates=8, cost_unet=unet, refine_unet=unet)
    config.data.gap_steps = 0
    config.data.gap_start = config.data.gap = (3, 5)
    config.data.eval.update(dict(gap=(4, 4), target_views=2))
    config.train.batch_size = 2
    config.train.num_steps = 60
    config.train.log_every = 1
    config.train.save_every = 30
