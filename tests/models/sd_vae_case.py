"""A tiny autoencoder of Stable Diffusion's kind with random weights, for tests."""

import numpy as np

from gsjax.models import name_tables, sd_vae, sd_vae_tables

CONFIG = sd_vae.Config(widths=(8, 12), layers=1, latent=2, groups=4)
JSON = dict(
    _class_name="AutoencoderKL",
    act_fn="silu",
    block_out_channels=[8, 12],
    down_block_types=["DownEncoderBlock2D"] * 2,
    up_block_types=["UpDecoderBlock2D"] * 2,
    in_channels=3,
    out_channels=3,
    latent_channels=2,
    layers_per_block=1,
    norm_num_groups=4,
    sample_size=256,
)


def params(config: sd_vae.Config = CONFIG, seed: int = 0) -> dict:
    """Random parameters of the size that keeps activations near one; no zeros, no ones."""
    rng = np.random.default_rng(seed)
    flat = {}
    for path, shape in sd_vae.param_shapes(config).items():
        value = rng.normal(size=shape) * (np.prod(shape[:-1]) ** -0.5 if len(shape) > 1 else 0.3)
        flat[path] = (value + path.endswith("scale")).astype(np.float32)
    return name_tables.nest(flat)


def state_dict(config: sd_vae.Config = CONFIG, naming: str = "new", seed: int = 0) -> dict:
    """The same in diffusers' names and layouts."""
    return name_tables.invert(params(config, seed), sd_vae_tables.table(config, naming))
