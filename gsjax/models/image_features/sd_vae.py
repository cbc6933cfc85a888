"""Features of Stable Diffusion's autoencoder: the decoder's last map, 128 channels a pixel.

    sd_vae:FOLDER_OR_FILE?range=-1..1&dtype=bfloat16

What UniPre3D (arXiv 2506.09952) reads colour from: encode, take the mode, decode, and keep what the
decoder's last blocks give. Weights are diffusers' ``AutoencoderKL`` files (docs/weights.md); with a
``config.json`` beside them sizes are read from there, else from shapes.

    range      -1..1 (default): 2 x - 1 of RGB in [0, 1], which the autoencoder was trained on; 0..1:
               the pixels as they are, which the authors' code feeds it
    dtype      float32 (default) or bfloat16: what it computes in and its kernels are held in
    groups     32 (default): of the norms, where no config.json tells; shapes do not
    licence    of the weights, kept as text
    weights    file (default); zeros: the published sizes without any file, for programs that only compile
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from gsjax.models import sd_vae, sd_vae_tables
from gsjax.models.image_features import base

OPTIONS = dict(range="-1..1", dtype="float32", groups="32", licence="unknown", weights="file")
FILES = ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin")
_DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}
_RANGES = {"-1..1": (2.0, -1.0), "0..1": (1.0, 0.0)}


@dataclasses.dataclass(frozen=True)
class Settings:
    """Attributes:
    config: sizes.
    scale, shift: of pixels in [0, 1].
    dtype: what is computed in.
    """

    config: sd_vae.Config
    scale: float
    shift: float
    dtype: Any


def build(path, options, open_state_dict) -> base.ImageEncoder:
    """Options: see the top of this file. See ``base.load``."""
    scale, shift = base.choice("sd_vae", options, "range", _RANGES)
    dtype = base.choice("sd_vae", options, "dtype", _DTYPES)
    groups = base.whole_number("sd_vae", options, "groups", 1, 4096)
    if base.choice("sd_vae", options, "weights", {"file": False, "zeros": True}):
        base.no_path("sd_vae", path)
        config, arrays = _zeros(dtype)
    else:
        config, arrays = _read(path, groups, dtype, open_state_dict)
    for name in sd_vae.PICTURE_LAYERS:  # behind the map
        del arrays["decoder"][name]
    settings = dict(dataclasses.asdict(config), range=options["range"], dtype=options["dtype"])
    return base.ImageEncoder(
        name="sd_vae",
        channels=config.widths[0],
        digest=base.digest("sd_vae", settings, arrays),
        licence=options["licence"],
        description=(
            f"AutoencoderKL of widths {config.widths}, last map of the decoder at the mode; of "
            f"{'2 x - 1' if shift else 'x'}, RGB x in [0, 1]; computed in {options['dtype']}"
        ),
        arrays=base.on_device(arrays),
        apply=functools.partial(features, Settings(config, scale, shift, dtype)),
    )


def _zeros(dtype):
    """(sizes as published, arrays of zeros)."""
    config = sd_vae.Config()
    shapes = sd_vae.abstract_params(config)
    # Vectors stay float32, as those of a file.
    kinds = jax.tree.map(lambda x: np.float32 if x.ndim == 1 else dtype, shapes)
    return config, jax.tree.map(lambda x, kind: np.zeros(x.shape, kind), shapes, kinds)


def _read(path, groups: int, dtype, open_state_dict):
    """(sizes, arrays) of a file."""
    if not path:
        raise ValueError(
            "image encoder 'sd_vae': needs a file, as in 'sd_vae:weights/sd-vae-ft-mse'; "
            "docs/weights.md says where to get one"
        )
    if open_state_dict is None:
        raise ValueError(
            "image encoder 'sd_vae': pass open_state_dict=gsjax.io.weights.open_state_dict"
        )
    file = find(path)
    state_dict = open_state_dict(file)
    config = _config(file, state_dict, groups)
    return config, sd_vae_tables.convert(state_dict, config, what=str(path), dtype=dtype)


def find(path) -> epath.Path:
    """The weight file of a path that may be a folder.

    Raises:
        ValueError: there is none.
    """
    path = epath.Path(path).expanduser()
    if not path.is_dir():
        return path
    for name in FILES:
        if (path / name).exists():
            return path / name
    raise ValueError(
        f"image encoder 'sd_vae': folder {path} holds none of {', '.join(FILES)}; name the file itself"
    )


def _config(file: epath.Path, state_dict, groups: int) -> sd_vae.Config:
    beside = file.parent / "config.json"
    if beside.exists():
        return sd_vae_tables.config_of_json(beside.read_text(), str(beside))
    shape = getattr(state_dict, "shape", lambda name: state_dict[name].shape)
    shapes = {name: shape(name) for name in state_dict}
    return sd_vae_tables.config_of_shapes(shapes, str(file), groups)


def features(settings: Settings, arrays: base.Arrays, images: jax.Array) -> jax.Array:
    """f32 [B, H, W, widths[0]]; sides that are no multiples of the stride are padded inside."""
    base.check_images(images)
    x = settings.scale * images.astype(jnp.float32) + settings.shift
    x = base.pad(x, settings.config.stride)
    net = sd_vae.SdVae(settings.config, settings.dtype)
    found = net.apply({"params": arrays}, x, method="features")
    return base.crop(found.astype(jnp.float32), images)
