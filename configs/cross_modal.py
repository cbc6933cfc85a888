"""Cross-modality and cross-view self-supervision on Gaussians (A. Simionescu, TU Delft).

    python main.py --config=configs/cross_modal.py --workdir=DIR                  # laptop size, procedural
    python main.py --config=configs/cross_modal.py:quick --workdir=DIR            # two minutes
    python main.py --config=configs/cross_modal.py:data=objects_cc0 --workdir=DIR
    python main.py --config=configs/cross_modal.py:paper --workdir=DIR \\
        --config.data.source=MODELNET10 --config.data.fitted=FOLDER_OF_FIT_OBJECTS

Arguments after the colon: ``quick``, ``paper`` (ModelNet10, 224 pixels, 12,400 steps), ``parity`` (every slip of
the reference code, one switch each), ``backbone=pointnet|pointnet2|...``, ``image=resnet18|half|quarter``,
``features=positions|scale_rotation|sh``, ``sampling=fps|uniform``, ``data=procedural|objects_cc0|meshes``,
``task=self_supervised|classify_points|classify_views`` (the last two with labels: PointNets, and an MVCNN),
``objective=triplet|nt_xent``.
Plain and ``:quick`` download nothing.

Sources in comments: S the summary of the thesis, C its code; no letter: a choice of this project.
"""

import ml_collections

from configs import common

TEN = (
    "bed", "bookshelf", "bottle", "chair", "lamp", "mug", "rocket", "sofa", "table", "tree",
)  # fmt: skip


def get_config(arg=None):
    arg = common.parse_arg(
        arg,
        quick=False,
        paper=False,
        parity=False,
        backbone="pointnet",
        size="cross_modal",
        image="resnet18",
        features="positions",
        sampling="fps",
        data="",
        task="self_supervised",
        objective="triplet",
    )
    config = common.base("cross_modal")
    config.task = arg.task
    config.model = ml_collections.ConfigDict(
        dict(
            backbone=arg.backbone,  # S: pointnet, pointnet2
            backbone_size=arg.size,
            backbone_changes={},  # fields of the backbone's Config
            image=arg.image,  # S: resnet18, of random weights
            image_changes={},
            fusion_dim=256,  # C; S's figure has 512
            space_dim=128,  # of NT-Xent's space, where there is no F_f
            calls="one",  # pictures of all roles in one call; C: 'each', whose norms see one role
            dtype="float32",
        )
    )
    config.loss = ml_collections.ConfigDict(
        dict(
            objective=arg.objective,
            margin=2.0,  # C
            beta=3.0 if arg.objective == "triplet" else 1.0,  # C: of the cross-modality term
            cm_balance="2to1",  # C; 'balanced' halves the pairs that belong together
            negatives="batch",  # views of other objects of the batch; C: 'dataset', of any
            temperature=0.1,  # nt_xent
            sharding="none",  # of nt_xent's sums: 'gather' | 'ring' for large batches
        )
    )
    _data(config, arg)
    config.optim.name = "sgd"  # C
    config.optim.momentum = 0.9  # C
    config.optim.lr = 1e-3  # C
    config.optim.wd = 5e-4  # C
    config.optim.wd_all = False  # C: True, norms and biases decay too
    config.optim.clip = 0.0
    config.optim.warmup = 0
    config.optim.schedule = (
        "pieces"  # C: x 0.1 at shares of the run; restarts by hand became one schedule
    )
    config.optim.pieces = (0.4, 0.8)
    config.optim.piece_factor = 0.1
    config.train.batch_size = 16
    config.train.num_steps = 1000
    config.train.save_every = 250
    if arg.task == "self_supervised":
        config.eval.evaluators = dict(
            shape_recognition=dict(split="test", views=(1, 4, 8, 16)),
            **_by_objective(arg.objective),
        )
    else:
        split = "test/views" if arg.task == "classify_views" else "test"
        config.eval.evaluators = dict(classification=dict(split=split, batch_size=16))
    if arg.paper:
        _paper(config)
    if arg.parity:
        _parity(config)
    if arg.quick:
        _quick(config)
    return config


def _by_objective(objective):
    if objective == "nt_xent":  # there is no F_f to ask
        return dict(
            retrieval=dict(split="test/views", predict="space", image_view=-1, bootstrap=2000)
        )
    return dict(cross_modal=dict(split="test"), matching=dict(split="test"))


def _data(config, arg):
    name = arg.data or ("meshes" if arg.paper else "procedural")
    more = ml_collections.ConfigDict(
        dict(
            name=name,
            fitted="",  # folder of `gsjax fit-objects`; '' = Gaussians laid on the surface
            categories=TEN if name == "procedural" else (),  # () = all
            exclude_categories=("other",) if name == "objects_cc0" else (),
            min_objects=20 if name == "objects_cc0" else 1,  # of a category
            num_objects=400,  # procedural: training objects
            num_test=100,  # procedural
            views=64,  # S
            view_size=64,  # pixels; S: 800
            colored=False,  # S: one grey for all
            stored_gaussians=4096,  # on a surface
            sample_points=1024,  # of the stored farthest-point samples
            samples=8,  # of them; C samples anew in every epoch
            opacity_threshold=0.574,  # C: logit > 0.3
            num_points=1024,  # that the network reads; C: 2,048
            sampling=arg.sampling,  # 'fps' | 'uniform'
            uniform_replace=False,  # C: True
            features=arg.features,
            sh_columns="rest45",  # C: 'rest44', which loses one
            activate_features=True,  # C: False, logarithms and unnormalised quaternions
            image_size=64,  # pixels that the network reads; C: 224
            augment=True,  # C: crops and mirror images
            supervised_views=12,  # of a training example of classify_views
            fraction=1.0,  # of the labelled objects, within every class; of the other tasks only
            fraction_seed=0,
        )
    )
    config.data.update(more)


def _paper(config):
    config.data.view_size = 256
    config.data.image_size = 224  # C
    config.data.sample_points = 2048
    config.data.num_points = 2048  # C
    config.train.batch_size = 32  # C
    config.train.num_steps = 12_400  # C: 100 epochs; uniform samples had 150
    config.train.save_every = 500
    config.optim.pieces = (5 / 12.4, 10 / 12.4)
    if config.task == "self_supervised":
        config.eval.evaluators.shape_recognition.views = (1, 4, 16, 32, 64)  # S


def _parity(config):
    config.model.calls = "each"
    config.loss.negatives = "dataset"
    config.data.sh_columns = "rest44"
    config.data.activate_features = False
    config.data.uniform_replace = True
    config.optim.wd_all = True


def _quick(config):
    config.data.categories = TEN[:4]
    config.data.num_objects = 48
    config.data.num_test = 16
    config.data.views = 8
    config.data.view_size = config.data.image_size = 32
    config.data.stored_gaussians = 512
    config.data.sample_points = config.data.num_points = 256
    config.data.samples = 2
    config.model.image = "quarter"
    config.train.batch_size = 16
    config.train.num_steps = 40
    config.train.log_every = 1
    config.train.save_every = 20
    config.optim.lr = 3e-3
    config.data.supervised_views = 4
    if config.task == "self_supervised":
        config.eval.evaluators.shape_recognition.views = (1, 8)
