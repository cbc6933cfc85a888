"""The optional LPIPS term: when it is on, what it weighs, what it refuses."""

import jax
import numpy as np
import pytest

from gsjax.io import safetensors_file
from gsjax.metrics import lpips
from gsjax.systems.unipre3d import perceptual
from tests.metrics import test_lpips
from tests.systems.unipre3d import tiny

KEY = jax.random.key(0)


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    folder = tmp_path_factory.mktemp("lpips")
    backbone, heads = test_lpips.weights("alex")
    result = tiny.config("quick,lpips")
    for name, arrays in dict(lpips_backbone=backbone, lpips_heads=heads).items():
        safetensors_file.save_arrays(folder / f"{name}.safetensors", arrays, {})
        result.loss[name] = str(folder / f"{name}.safetensors")
    result.train.num_steps = 4
    return result


def _images(seed):
    rng = np.random.default_rng(seed)
    return rng.random((2, 2, 32, 32, 3)).astype(np.float32)


def test_the_term_is_on_in_the_second_half_and_counts_valid_examples(config):
    network = perceptual.load(config)
    held, values = perceptual.variables(network), []
    image, target = _images(0), _images(1)
    term = jax.jit(
        lambda held: perceptual.term(network, held, config, image, target, np.array([True, False]))
    )
    for _ in range(4):
        value, new = term(held)
        held, values = {**held, **new}, [*values, float(value)]
    expected = 0.01 * float(np.mean(network(image[0], target[0])))
    np.testing.assert_allclose(values, [0, 0, expected, expected], rtol=1e-5)
    assert expected > 1e-4 and int(held[perceptual.STEPS]["count"]) == 4


@pytest.mark.slow
def test_the_system_adds_it_and_the_head_feels_it(config):
    config = config.copy_and_resolve_references()
    config.data.view_size = 32
    config.loss.lpips_start = 0.0
    plain, built = tiny.base.build(tiny.config(data__view_size=32)), tiny.base.build(config)
    variables, batch = tiny.variables(built), tiny.batch(built)
    found, metrics, new = tiny.quick_jit(lambda v, b: built.loss(v, b, KEY, True))(variables, batch)
    without = {k: v for k, v in variables.items() if not k.startswith("lpips")}
    base, _, _ = tiny.quick_jit(lambda v, b: plain.loss(v, b, KEY, True))(without, batch)
    assert float(metrics["lpips"]) > 0
    np.testing.assert_allclose(found, base + metrics["lpips"], rtol=1e-5)
    assert int(new[perceptual.STEPS]["count"]) == 1 and perceptual.ARRAYS not in new


def test_weights_must_be_named(config):
    with pytest.raises(ValueError, match=r"loss.lpips_backbone.*no weights ship"):
        perceptual.load(tiny.config("quick,lpips"))
    other = config.copy_and_resolve_references()
    other.loss.lpips_start = 2.0
    with pytest.raises(ValueError, match="share of the steps, found 2"):
        perceptual.load(other)
    assert perceptual.load(tiny.config()) is None
    assert isinstance(perceptual.load(config), lpips.Lpips)
