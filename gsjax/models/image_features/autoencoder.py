"""Features of the small autoencoder that this package trains: the decoder's last map, one a pixel.

autoencoder              the weights that ship with the package
autoencoder:FILE         those of a run of gsjax.systems.image_autoencoder
"""

import functools
from importlib import resources

import jax
import jax.numpy as jnp

from gsjax.models import autoencoder
from gsjax.models.image_features import base

OPTIONS: dict[str, str] = {}
SHIPPED = "image_autoencoder.npz"


def build(path, options, open_state_dict=None) -> base.ImageEncoder:
    """No options. See ``base.load``."""
    del options, open_state_dict
    config, params, meta = autoencoder.read(path or shipped())
    del params["decoder"][autoencoder.PICTURE_LAYER]  # behind the map
    return base.ImageEncoder(
        name="autoencoder",
        channels=config.widths[0],
        digest=meta["digest"],
        licence=meta["notes"].get("licence", "Apache-2.0"),
        description=(
            f"autoencoder of widths {config.widths} and {config.latent} latent channels, last map of "
            "the decoder; of 2 x - 1, RGB x in [0, 1]"
        ),
        arrays=base.on_device(params),
        apply=functools.partial(features, config),
    )


def shipped():
    """Path of the weights in the package.

    Raises:
        ValueError: this installation has none.
    """
    path = resources.files("gsjax.assets") / SHIPPED
    if not path.is_file():
        raise ValueError(
            f"image encoder 'autoencoder': there is no {SHIPPED} in gsjax/assets; train it with "
            "`python main.py --config=configs/image_autoencoder.py --workdir=DIR` and name "
            "'autoencoder:DIR/pictures/autoencoder.npz'"
        )
    return path


def features(config: autoencoder.Config, arrays: base.Arrays, images: jax.Array) -> jax.Array:
    """[B, H, W, widths[0]]; sides that are no multiples of the stride are padded inside."""
    base.check_images(images)
    x = base.pad(2.0 * images.astype(jnp.float32) - 1.0, config.stride)
    found = autoencoder.Autoencoder(config).apply({"params": arrays}, x, method="features")
    return base.crop(found, images)
