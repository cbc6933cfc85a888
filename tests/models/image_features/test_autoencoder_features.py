import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gsjax.models import autoencoder
from gsjax.models.image_features import autoencoder as kind
from gsjax.models.image_features import base
from tests.models.image_features import case

CONFIG = autoencoder.Config(widths=(4, 8), latent=2, blocks=1, groups=2)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    path = tmp_path_factory.mktemp("autoencoder") / "autoencoder.npz"
    init = jax.jit(autoencoder.Autoencoder(CONFIG).init, compiler_options=case.QUICK)
    params = init(jax.random.key(0), jnp.zeros((1, 4, 4, 3)))["params"]
    digest = autoencoder.save(path, CONFIG, params, {"licence": "CC0-1.0"})
    return path, digest


def test_maps_keep_what_every_encoder_must(trained):
    path, digest = trained
    encoder = base.load(f"autoencoder:{path}")
    images = case.pictures(5, 6)  # five rows are padded to six
    found = case.check(encoder, images, 1)
    assert (encoder.channels, encoder.licence, encoder.digest) == (4, "CC0-1.0", digest)
    wide = jnp.concatenate([images, images[:, -1:]], 1)
    net = autoencoder.Autoencoder(CONFIG)
    params = autoencoder.read(path)[1]
    expected = case.apply(net, params, 2 * wide - 1)[1][:, :5]
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_only_what_the_map_needs_is_kept(trained):
    encoder = base.load(f"autoencoder:{trained[0]}")
    assert "picture" not in encoder.arrays["decoder"]


def test_shipped_weights_are_used_without_a_path():
    path = kind.resources.files("gsjax.assets") / kind.SHIPPED
    if path.is_file():
        encoder = base.load("autoencoder")
        assert encoder.licence == "Apache-2.0" and encoder.channels == 32
        assert path.stat().st_size < 1e6
        return
    with pytest.raises(ValueError, match="configs/image_autoencoder.py"):
        base.load("autoencoder")
