"""The small image/text pair that stands in for CLIP where nothing can be downloaded.

    python main.py --config=configs/toy_clip.py --workdir=DIR                   # procedural objects
    python main.py --config=configs/toy_clip.py:data=objects_cc0 --workdir=DIR  # real objects
    python main.py --config=configs/toy_clip.py:quick --workdir=DIR             # under a minute
    python main.py --config=configs/toy_clip.py:data=objects_cc0,towers=packaged --workdir=DIR

The last one learns projections on top of EfficientNet-Lite0 and MiniLM, whose weights are Python
packages; without them it says what to install. The features are computed once, at about 20 ms a
picture; training on them takes a minute.

A run ends by writing DIR/pictures/towers.npz, which ``--config.data.towers`` of other systems names.
Arguments after the colon: ``quick``, ``paper`` (the same as plain: no paper stands behind this
pair), ``data=procedural|objects_cc0|folder``, ``towers=own|packaged``. Only the training split is
learned from.
"""

import ml_collections

from configs import common


def get_config(arg=None):
    arg = common.parse_arg(arg, quick=False, paper=False, data="procedural", towers="own")
    config = common.base("toy_clip")
    config.data.name = arg.data
    if arg.data == "procedural":
        # More objects than a run on procedural data needs: the towers should know the kinds.
        config.data.num_objects = 1024
    config.model = ml_collections.ConfigDict(
        dict(
            towers="own",  # or 'packaged', see _packaged
            dim=128,  # D of both embeddings
            image_size=64,
            image_widths=(32, 64, 128, 192),
            text_width=64,
            text_depth=1,
            text_heads=4,
            buckets=3072,
            max_words=20,
            max_grams=14,
        )
    )
    config.augment = ml_collections.ConfigDict(
        dict(
            enable=True,
            zoom=0.15,
            shift=0.08,
            gain=0.15,
            tint=0.05,
            grey=0.0,
            flip=0.0,
            drop_word=0.1,
            drop_identity=0.1,
        )
    )
    if arg.data == "objects_cc0":
        # Its captions seldom name colours, and colour tells the maker apart better than the kind.
        config.augment.update(dict(tint=0.2, grey=0.1, flip=0.5))
        config.data.views = 36
    config.loss.logit_scale_max = 4.6052  # ln 100: CLIP
    config.loss.kinds = 0.35  # weight of the categories' names against that of the captions
    config.optim.lr = 2e-3
    config.optim.wd = 0.05
    config.optim.betas = (0.9, 0.98)  # CLIP
    config.optim.clip = 1.0
    config.train.batch_size = 128
    config.train.num_steps = 1500 if arg.data == "objects_cc0" else 1000
    config.train.log_every = 20
    config.train.save_every = 200
    config.eval.split = "test"
    config.eval.evaluators = dict(image_text=dict(split="test", ks=(1, 5, 10), exclude=()))
    if arg.data == "objects_cc0":
        config.eval.evaluators.image_text.exclude = ("other",)  # no kind, but what is left over
    if arg.quick:
        _quick(config)
    if arg.towers == "packaged":
        _packaged(config, arg.quick)
    elif arg.towers != "own":
        raise ValueError(f"towers: unknown {arg.towers!r}; known: own, packaged")
    return config


def _packaged(config, quick):
    """Projections on frozen networks: other sizes, and features instead of pictures."""
    config.model = ml_collections.ConfigDict(
        dict(
            towers="packaged",
            dim=256,
            hidden=0,  # width of a layer between image features and common space; 0 = linear
            image_size=224,
            max_length=64,
        )
    )
    config.augment = ml_collections.ConfigDict(dict(drop_feature=0.5, text_noise=0.03))
    config.data.views = 2 if quick else 12
    config.data.view_size = 32 if quick else 128
    config.optim.lr = 1e-3
    config.optim.wd = 0.1
    config.train.batch_size = 32 if quick else 256
    config.train.num_steps = 60 if quick else 1000


def _quick(config):
    config.data.num_objects = 96
    config.data.num_gaussians = 512
    config.data.views = 4
    config.data.view_size = 32
    config.model.image_size = 32
    config.train.batch_size = 32
    config.train.num_steps = 60
    config.train.log_every = 1
    config.train.save_every = 30
