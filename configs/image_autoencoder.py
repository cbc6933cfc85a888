"""A small autoencoder of pictures, whose inner features stand in for those of Stable Diffusion's.

    python main.py --config=configs/image_autoencoder.py --workdir=DIR                   # procedural
    python main.py --config=configs/image_autoencoder.py:data=objects_cc0 --workdir=DIR  # real objects
    python main.py --config=configs/image_autoencoder.py:quick --workdir=DIR             # a minute

A run ends by writing DIR/pictures/autoencoder.npz, which the image encoder
``autoencoder:DIR/pictures/autoencoder.npz`` reads, and DIR/pictures/reconstructed.png. Arguments after
the colon: ``quick``, ``paper`` (the same as plain: no paper stands behind this network),
``data=procedural|objects_cc0|folder``. Only the training split is learned from.
"""

import ml_collections

from configs import common


def get_config(arg=None):
    arg = common.parse_arg(arg, quick=False, paper=False, data="procedural")
    config = common.base("image_autoencoder")
    config.data.name = arg.data
    if arg.data == "procedural":
        config.data.num_objects = 1024
    if arg.data == "objects_cc0":
        config.data.views = 36
    config.model = ml_collections.ConfigDict(
        dict(
            image_size=64,
            widths=(
                32,
                48,
                64,
            ),  # channels at full, half and quarter resolution; features: the first
            latent=8,
            blocks=1,
            groups=8,
        )
    )
    config.augment = ml_collections.ConfigDict(
        dict(enable=True, shift=4, flip=0.5, invert=0.5, mix=0.5, gain=0.5)
    )
    config.loss.edges = 1.0  # weight of the differences between neighbouring pixels
    config.optim.lr = 2e-3
    config.optim.wd = 0.0
    config.optim.betas = (0.9, 0.98)
    config.optim.clip = 1.0
    config.train.batch_size = 16
    config.train.num_steps = 3000
    config.train.log_every = 50
    config.train.save_every = 500
    config.eval.split = "test"
    config.eval.evaluators = dict(reconstruction=dict(split="test"))
    if arg.quick:
        _quick(config)
    return config


def _quick(config):
    config.data.num_objects = 96
    config.data.num_gaussians = 512
    config.data.views = 4
    config.data.view_size = 32
    config.model.image_size = 32
    config.model.widths = (8, 16, 24)
    config.augment.shift = 2
    config.train.batch_size = 8
    config.train.num_steps = 60
    config.train.log_every = 1
    config.train.save_every = 30
