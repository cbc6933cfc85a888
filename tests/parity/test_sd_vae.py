"""Stable Diffusion's autoencoder against diffusers' ``AutoencoderKL``, on CPU.

Four resolutions, two blocks each, as published, at small widths with random weights, written by
diffusers and read back as files: latents, pictures, and the decoder's last map by a forward hook.
The published sizes are compared by names and shapes alone. Tolerance 1e-4: float32 sums over up to
300 numbers, some fifty layers deep, of values of order one.

    pip install 'torch==2.13.0' 'torchvision==0.28.0' diffusers 'gsjax[clip]'
    python -m pytest -q -s tests/parity/test_sd_vae.py

Whatever is absent is skipped.
"""

import functools
import json

import jax
import numpy as np
import pytest

from gsjax.io import weights
from gsjax.models import sd_vae, sd_vae_tables
from gsjax.models.image_features import base
from tests.parity import torch_vision

torch = pytest.importorskip("torch", reason="torch is not installed")

pytestmark = pytest.mark.parity

TOLERANCE = 1e-4
SIZES = dict(
    block_out_channels=(8, 16, 32, 32),
    down_block_types=("DownEncoderBlock2D",) * 4,
    up_block_types=("UpDecoderBlock2D",) * 4,
    layers_per_block=2,
    latent_channels=4,
    norm_num_groups=4,
)
QUICK = {"xla_backend_optimization_level": 0}


@pytest.fixture(scope="module")
def diffusers():
    torch_vision.available()  # transformers, which diffusers looks for, imports it where it is
    return pytest.importorskip("diffusers", reason="diffusers is not installed")


@pytest.fixture(scope="module")
def theirs(diffusers):
    """Their model; every parameter random, so that no initial zero or one hides a mistake."""
    model = diffusers.AutoencoderKL(**SIZES)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            fan = parameter[0].numel() if parameter.ndim > 1 else 10
            noise = torch.randn(parameter.shape, generator=generator) / fan**0.5
            plain = parameter.ndim == 1 and name.endswith("weight")
            parameter.copy_(noise + 1.0 if plain else noise)
    return model.eval()


@pytest.fixture(scope="module")
def results(theirs):
    """(pictures, mode, log variance, decoded, features), channels last."""
    pictures = np.random.default_rng(0).uniform(-1, 1, (2, 24, 16, 3)).astype(np.float32)
    kept = []
    hook = theirs.decoder.up_blocks[3].register_forward_hook(lambda *args: kept.append(args[-1]))
    with torch.no_grad():
        latents = theirs.encode(torch.tensor(pictures.transpose(0, 3, 1, 2))).latent_dist
        decoded = theirs.decode(latents.mode()).sample
    hook.remove()
    # Their log variance is clipped to [-30, 20], far beyond these.
    found = (latents.mode(), latents.logvar, decoded, kept[0])
    return pictures, *(x.numpy().transpose(0, 2, 3, 1) for x in found)


@functools.partial(jax.jit, static_argnums=0, compiler_options=QUICK)
def _ours(config, params, pictures):
    both = lambda net, x: (*net.encode(x), *net(x))  # noqa: E731
    return sd_vae.SdVae(config).apply({"params": params}, pictures, method=both)


def _renamed(state):
    """Attention in the old naming."""
    names = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    for new, old in names.items():
        state = {key.replace(f"attentions.0.{new}.", f"attentions.0.{old}."): v
                 for key, v in state.items()}  # fmt: skip
    return state


@pytest.mark.parametrize("naming", ["new", "old"])
def test_latents_pictures_and_features_are_those_of_diffusers(
    theirs, results, naming, record_property
):
    state = {key: value.numpy() for key, value in theirs.state_dict().items()}
    state = _renamed(state) if naming == "old" else state
    assert sd_vae_tables.naming(state) == naming
    config = sd_vae_tables.config_of_json(json.dumps(dict(SIZES)))
    params = sd_vae_tables.convert(state, config)
    pictures, *expected = results
    found = _ours(config, params, pictures)
    for what, one, other in zip(
        ("mode", "log variance", "picture", "features"), found, expected, strict=True
    ):
        assert one.shape == other.shape and np.abs(other).max() > 0.1, what
        error = float(np.abs(one - other).max())
        record_property(what, error)
        print(f"{naming} {what}: largest error {error:.1e} of values to {np.abs(other).max():.1f}")
        assert error < TOLERANCE, what


def test_a_folder_that_diffusers_wrote_is_read(theirs, results, tmp_path):
    theirs.save_pretrained(tmp_path)
    encoder = base.load(f"sd_vae:{tmp_path}", weights.open_state_dict)
    pictures, expected = results[0], results[-1]
    apply = jax.jit(encoder.apply, compiler_options=QUICK)
    found = apply(encoder.arrays, (pictures + 1) / 2)
    assert encoder.channels == SIZES["block_out_channels"][0]
    np.testing.assert_allclose(found, expected, atol=TOLERANCE)


def test_the_published_sizes_have_the_same_names_and_shapes(diffusers):
    sizes = {**SIZES, "block_out_channels": (128, 256, 512, 512), "norm_num_groups": 32}
    with torch.device("meta"):
        model = diffusers.AutoencoderKL(**sizes)
    expected = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    config, shapes = sd_vae.Config(), sd_vae.param_shapes(sd_vae.Config())
    assert sd_vae_tables.config_of_shapes(expected) == config
    assert sum(p.numel() for p in model.parameters()) == 83_653_863
    found = {}
    for entry in sd_vae_tables.table(config):
        shape, layout = shapes[entry.ours], entry.layout
        order = {"conv2d": (3, 2, 0, 1), "linear": (1, 0), "same": (0,)}[layout]
        found[entry.theirs] = tuple(shape[axis] for axis in order)
    assert found == expected
