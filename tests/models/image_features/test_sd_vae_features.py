import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gsjax.io import weights
from gsjax.models import sd_vae
from gsjax.models.image_features import base
from gsjax.models.image_features import sd_vae as kind
from tests.models import sd_vae_case
from tests.models.image_features import case

safetensors = pytest.importorskip("safetensors.numpy", reason="safetensors is not installed")


def _write(folder, naming="new", config=sd_vae_case.JSON):
    state = {k: np.ascontiguousarray(v) for k, v in sd_vae_case.state_dict(naming=naming).items()}
    safetensors.save_file(state, str(folder / "diffusion_pytorch_model.safetensors"))
    if config is not None:
        (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return _write(tmp_path_factory.mktemp("vae"))


@pytest.mark.slow
def test_maps_keep_what_every_encoder_must(folder):
    encoder = base.load(f"sd_vae:{folder}?licence=MIT", weights.open_state_dict)
    images = case.pictures(6, 8)
    found = case.check(encoder, images, 1)
    assert encoder.channels == 8 and encoder.licence == "MIT"
    net = sd_vae.SdVae(sd_vae_case.CONFIG)
    expected = case.apply(net, sd_vae_case.params(), 2 * images - 1)[1]
    np.testing.assert_allclose(found, expected, atol=2e-5)


def test_the_range_of_pixels_is_a_choice(folder):
    spec = f"sd_vae:{folder}"
    wide, plain = (base.load(spec + s, weights.open_state_dict) for s in ("", "?range=0..1"))
    images = case.pictures(4, 4)
    np.testing.assert_allclose(case.run(plain, images), case.run(wide, (images + 1) / 2), atol=1e-5)
    assert plain.digest != wide.digest and "of x," in plain.description


def test_zeros_have_the_shapes_of_a_file(folder, monkeypatch):
    with monkeypatch.context() as patched:
        patched.setattr(sd_vae, "Config", lambda: sd_vae_case.CONFIG)
        made = base.load("sd_vae?weights=zeros&dtype=bfloat16")
    read = base.load(f"sd_vae:{folder}?dtype=bfloat16", weights.open_state_dict)

    def shapes(encoder):
        return jax.tree.map(lambda x: (x.shape, x.dtype), encoder.arrays)

    assert shapes(made) == shapes(read) and made.channels == read.channels
    with pytest.raises(ValueError, match="takes no file"):
        base.load(f"sd_vae:{folder}?weights=zeros", weights.open_state_dict)


def test_half_precision_holds_kernels_in_it(folder):
    half = base.load(f"sd_vae:{folder}?dtype=bfloat16", weights.open_state_dict)
    full = base.load(f"sd_vae:{folder}", weights.open_state_dict)
    assert half.arrays["encoder"]["conv_in"]["kernel"].dtype == jnp.bfloat16
    assert half.arrays["encoder"]["conv_in"]["bias"].dtype == jnp.float32
    images = case.pictures(4, 4)
    found = case.run(half, images)
    assert found.dtype == np.float32 and half.digest != full.digest
    assert np.abs(found - case.run(full, images)).mean() < 0.03


def test_sides_that_do_not_divide_are_padded_by_the_border(folder):
    encoder = base.load(f"sd_vae:{folder}", weights.open_state_dict)
    images = case.pictures(5, 7)
    wide = jnp.pad(images, ((0, 0), (0, 1), (0, 1), (0, 0)), mode="edge")
    np.testing.assert_allclose(
        case.run(encoder, images), case.run(encoder, wide)[:, :5, :7], atol=1e-5
    )


def test_without_a_config_file_shapes_tell_and_old_names_are_read(folder, tmp_path):
    _write(tmp_path, naming="old", config=None)
    file = tmp_path / "diffusion_pytorch_model.safetensors"
    found = base.load(f"sd_vae:{file}?groups=4", weights.open_state_dict)
    assert found.digest == base.load(f"sd_vae:{folder}", weights.open_state_dict).digest


def test_files_that_are_absent_or_contradicted_are_told(folder, tmp_path):
    with pytest.raises(ValueError, match="holds none of diffusion_pytorch_model.safetensors"):
        base.load(f"sd_vae:{tmp_path}", weights.open_state_dict)
    other = {**sd_vae_case.JSON, "block_out_channels": [8, 16]}
    with pytest.raises(ValueError, match="does not fit"):
        base.load(f"sd_vae:{_write(tmp_path, config=other)}", weights.open_state_dict)
    assert kind.find(folder).name == "diffusion_pytorch_model.safetensors"
