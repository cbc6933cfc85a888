import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gsjax.io import weights
from gsjax.models import efficientnet, name_tables, packaged
from gsjax.models.image_features import base
from gsjax.models.image_features import efficientnet as kind
from tests.models.image_features import case

SMALL = (
    efficientnet.Stage(1, 3, 1, 1, 4),
    efficientnet.Stage(2, 5, 2, 2, 6),
    efficientnet.Stage(1, 3, 2, 2, 8),
)


def _variables(stages, seed=0):
    shapes = efficientnet.variable_shapes(efficientnet.EfficientNetLite(stages=stages))
    rng = np.random.default_rng(seed)
    flat = {}
    for path, shape in shapes.items():
        fan = np.prod(shape[:-1]) if len(shape) > 1 else 1
        value = rng.normal(size=shape) * np.sqrt(2 / fan)
        value = np.abs(value) * 0 + 1 if path.endswith(("var", "scale")) else value
        flat[path] = (value * 0.1 if path.endswith(("bias", "mean")) else value).astype(np.float32)
    return name_tables.nest(flat)


def _passing(stages):
    """Variables with which the network only samples: every layer passes its first channel on."""
    flat = name_tables.flatten(_variables(stages))
    for path, value in flat.items():
        new = np.zeros_like(value)
        if path.endswith("kernel") and value.ndim == 4:
            middle = value.shape[0] // 2
            new[middle, middle, 0] = 1.0
        if path.endswith("scale"):
            new += 1.0
        if path.endswith("var"):
            new += 1.0 - 1e-3  # the norm adds this much
        if path.endswith("stem_norm/bias"):
            new += 2.0  # above zero, where ReLU6 passes everything
        flat[path] = new
    return name_tables.nest(flat)


def test_sides_and_channels_of_stages():
    assert kind.sides(efficientnet.LITE0) == [2, 4, 8, 16, 16, 32, 32]
    assert kind.last_blocks(efficientnet.LITE0) == [0, 2, 4, 7, 10, 14, 15]


@pytest.mark.parametrize("wanted, size", [((2,), (16, 24)), ((1, 3), (18, 13))])
def test_maps_keep_what_every_encoder_must(wanted, size):
    encoder = kind.of_variables(_variables(SMALL), wanted, SMALL)
    case.check(encoder, case.pictures(*size), [2, 4, 8][wanted[0] - 1])
    assert encoder.channels == sum(SMALL[stage - 1].features for stage in wanted)
    assert encoder.digest != kind.of_variables(_variables(SMALL, 1), wanted, SMALL).digest


def test_weights_behind_the_last_wanted_stage_are_left_out():
    encoder = kind.of_variables(_variables(SMALL), (2,), SMALL)
    assert sorted(encoder.arrays["params"]) == [
        "block_0",
        "block_1",
        "block_2",
        "stem",
        "stem_norm",
    ]


@pytest.mark.parametrize("width", [64, 57])
def test_every_cell_looks_at_its_own_place(width):
    """A picture whose brightness is the position, through a network that only samples."""
    stages = tuple(
        efficientnet.Stage(1, kernel, stride, 1, 4) for kernel, stride in ((3, 1), (5, 2), (3, 2))
    )
    x = (jnp.arange(width) + 0.5) / width
    images = jnp.broadcast_to(x[None, None, :, None], (1, 40, width, 3))
    # Channels of a stage are alike: take one of each.
    for wanted, cell in (((1, 2, 3), 2), ((2, 3), 4), ((3,), 8)):
        encoder = kind.of_variables(_passing(stages), wanted, stages)
        found = case.run(encoder, images)[0, 2, :, :: stages[0].features]
        count = -(-width // cell)
        expected = (np.arange(count) + 0.5) * width / count  # in pixels
        pixels = ((found - 2.0) * 128 + 127) / 255 * width
        inner = slice(count // 4, -count // 4)  # away from the repeated border
        for column, stage in enumerate(wanted):
            # The finest grid is half a pixel aside, which is documented; the others are exact.
            off = -0.5 if stage == wanted[0] else 0.0
            error = pixels[inner, column] - expected[inner]
            np.testing.assert_allclose(error, off, atol=0.05)


def test_a_map_is_moved_and_enlarged_to_the_grid_asked_for():
    cells = 3.0 + 8.0 * jnp.arange(8)  # middles at 3, 11, ... pixels
    one = jnp.broadcast_to(cells[None, :, None, None], (1, 8, 8, 1))
    found = kind.place(one, 8, 3.0, (50, 50), 4)
    assert found.shape == (1, 13, 13, 1)
    np.testing.assert_allclose(found[0, 1:, 4, 0], (np.arange(13) + 0.5)[1:] * 50 / 13, atol=1e-4)


@pytest.fixture(scope="module")
def packed():
    if packaged.folder(packaged.EFFICIENTNET_LITE0) is None:
        pytest.skip(f"the weights are absent; run `{packaged.INSTALL}`")
    return base.load("efficientnet?stage=2,3", weights.open_state_dict)


def test_packaged_weights_give_maps_of_pictures(packed):
    assert packed.channels == 64 and packed.licence == "Apache-2.0"
    images = case.pictures(48, 32)
    assert case.run(packed, images).shape == (2, 12, 8, 64)
    assert packed.digest != base.load("efficientnet?stage=3", weights.open_state_dict).digest


def test_maps_are_those_inside_the_whole_network():
    """The same convolutions as ``EfficientNetLite.maps``, read earlier: stage 7 and the head."""
    stages = SMALL
    variables = _variables(stages)
    net = kind.Stages(stages)
    pixels = 2 * case.pictures(16, 16) - 1

    def head(net, pixels):
        return efficientnet.nn.relu6(net.head_norm(net.head(net.outputs(pixels, (3,))[0])))

    @functools.partial(jax.jit, compiler_options=case.QUICK)
    def both(variables, pixels):
        return [net.apply(variables, pixels, method=method) for method in (head, "maps")]

    found, expected = both(variables, pixels)
    np.testing.assert_allclose(found, expected, atol=1e-5)
