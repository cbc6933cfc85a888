"""Cross-modal self-supervision on real objects at laptop size: the cells of the thesis's tables.

    gsjax study configs/studies/cross_modal.py --workdir=DIR                   # everything
    gsjax study configs/studies/cross_modal.py --workdir=DIR --only=pointnet/positions
    gsjax study configs/studies/cross_modal.py --report                        # the five tables

objects_cc0, held-out groups, the categories of at least 20 objects without ``other``; 64 grey views of 64 pixels,
1,024 Gaussians on the surface, ResNet-18 of half width. PointNet: six cells of 600 steps, three seeds of the
positions and one of the others; PointNet++ with several neighbourhoods at half width, 400 steps, positions alone.
``coloured`` has the objects' own colours; ``random weights`` are the networks as they were made. Needs GSJAX_DATA.
"""

from configs import cross_modal

STEPS = dict(pointnet=600, pointnet2=400)
SEEDS = (0, 1, 2)
FEATURES = ("positions", "scale_rotation", "sh")
SAMPLINGS = ("fps", "uniform")
SHARES = (1.0, 0.5, 0.1)  # of the labels
HALF = dict(  # of the size cross_modal
    scales=(
        ((0.1, 16, (16, 16, 32)), (0.2, 32, (32, 32, 64)), (0.4, 128, (32, 48, 64))),
        ((0.2, 32, (32, 32, 64)), (0.4, 64, (64, 64, 128)), (0.8, 128, (64, 64, 128))),
    ),
    top=(64, 128, 256),
)


def _config(backbone: str, features: str, sampling: str, seed: int, **changes):
    config = cross_modal.get_config(
        f"data=objects_cc0,backbone={backbone},features={features},sampling={sampling},image=half"
    )
    config.seed = seed
    if backbone == "pointnet2":
        config.model.backbone_changes = HALF
    config.data.update(changes)
    config.train.num_steps = STEPS[backbone]
    config.train.save_every = 100
    config.train.log_every = 25
    config.eval.evaluators.cross_modal.bootstrap = 0
    config.eval.evaluators.shape_recognition = dict(
        split="test", views=(1, 4, 16, 32, 64), fractions=SHARES, memory=True, bootstrap=0,
    )  # fmt: skip
    return config


def _labelled(net: str, share: float):
    """The same encoders trained with labels, for half of the steps."""
    views = net == "mvcnn"
    task = "classify_views" if views else "classify_points"
    backbone = "pointnet" if views else net
    config = cross_modal.get_config(f"data=objects_cc0,backbone={backbone},image=half,task={task}")
    if backbone == "pointnet2":
        config.model.backbone_changes = HALF
    config.data.fraction, config.data.supervised_views = share, 4
    config.optim.lr = 1e-2
    config.train.num_steps = STEPS[backbone] // 2
    config.train.save_every = 100
    config.train.log_every = 25
    config.eval.evaluators.classification.bootstrap = 0
    return config


def _run(arm: str, config, kind: str = "self_supervised") -> dict:
    return dict(arm=arm, kind=kind, config=config)


def get_study():
    runs = []
    for features in FEATURES:
        for sampling in SAMPLINGS:
            for seed in SEEDS if features == "positions" else SEEDS[:1]:
                config = _config("pointnet", features, sampling, seed)
                runs.append(_run(f"pointnet/{features}/{sampling}", config))
    for sampling in SAMPLINGS:
        config = _config("pointnet2", "positions", sampling, 0)
        runs.append(_run(f"pointnet2/positions/{sampling}", config))
    colours = _config("pointnet", "positions", "fps", 0, colored=True)
    runs.append(_run("pointnet/positions/fps/coloured", colours))
    for backbone in STEPS:
        config = _config(backbone, "positions", "fps", 0)
        runs.append(_run(f"random weights/{backbone}", config, "random_weights"))
    for net in ("pointnet", "pointnet2", "mvcnn"):
        for share in SHARES:
            suffix = "" if share == 1.0 else f"@{share:g}"
            runs.append(_run(f"supervised/{net}{suffix}", _labelled(net, share), "pretrain"))
    nearest = _config("pointnet", "positions", "fps", 0)
    runs.append(_run("Chamfer 1-NN", nearest, "nearest_paired"))
    return dict(name="cross_modal", runs=runs, report="cross_modal")
