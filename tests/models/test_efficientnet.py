import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gsjax.io import weights
from gsjax.models import efficientnet, name_tables, packaged

SMALL = (efficientnet.Stage(1, 3, 1, 1, 8), efficientnet.Stage(2, 5, 2, 2, 8))


def _random(shapes):
    """Variables of given shapes; variances positive."""
    rng = np.random.default_rng(0)
    return {
        path: np.abs(rng.normal(size=shape)) + 0.5
        if path.endswith("var")
        else rng.normal(size=shape)
        for path, shape in shapes.items()
    }


def test_blocks_are_those_of_the_published_network():
    assert len(efficientnet.blocks()) == 16
    assert [b.stride for b in efficientnet.blocks()] == [
        1,
        2,
        1,
        2,
        1,
        2,
        1,
        1,
        1,
        1,
        1,
        2,
        1,
        1,
        1,
        1,
    ]
    shapes = efficientnet.variable_shapes(efficientnet.EfficientNetLite())
    count = sum(int(np.prod(s)) for path, s in shapes.items() if path.startswith("params"))
    assert count == 4_652_008  # Lite0: 4.7 M


def test_table_names_every_variable_once_and_inverts():
    shapes = efficientnet.variable_shapes(efficientnet.EfficientNetLite())
    table = efficientnet.name_table()
    assert sorted(entry.ours for entry in table) == sorted(shapes)
    flat = _random(shapes)
    state = name_tables.invert(name_tables.nest(flat), table)
    assert state["_blocks.1._depthwise_conv.weight"].shape == (96, 1, 3, 3)
    state["_bn0.num_batches_tracked"] = np.zeros((), np.int64)
    found = name_tables.flatten(efficientnet.convert(state))
    for path, value in flat.items():
        np.testing.assert_array_equal(found[path], value)


def test_other_checkpoints_are_refused_with_what_is_wrong():
    shapes = efficientnet.variable_shapes(efficientnet.EfficientNetLite())
    flat = {path: np.zeros(shape, np.float32) for path, shape in shapes.items()}
    state = name_tables.invert(name_tables.nest(flat), efficientnet.name_table())
    del state["_conv_head.weight"]
    state["_blocks.0._se_reduce.weight"] = np.zeros(3)
    with pytest.raises(ValueError, match="missing: _conv_head.weight\nunexpected: .*_se_reduce"):
        efficientnet.convert(state)


@pytest.mark.parametrize("size, stride, side", [(3, 2, 8), (5, 2, 7), (5, 1, 6)])
def test_both_depthwise_forms_agree_and_differentiate_alike(size, stride, side):
    rng = np.random.default_rng(size * side)
    x = jnp.asarray(rng.normal(size=(2, side, side + 1, 3)), jnp.float32)
    kernel = jnp.asarray(rng.normal(size=(size, size, 1, 3)), jnp.float32)

    @jax.jit
    def both(x, kernel):
        results = []
        for form in (efficientnet._depthwise_taps, efficientnet._depthwise_conv):
            value, pull = jax.vjp(lambda x, k, form=form: form(x, k, stride), x, kernel)
            results.append((value, *pull(jnp.cos(value))))
        return results

    for one, other in zip(*both(x, kernel)):
        np.testing.assert_allclose(one, other, atol=2e-5)


def test_small_network_follows_a_plain_loop():
    """One block with a skip, written out channel by channel in NumPy."""
    block = efficientnet.Stage(1, 3, 1, 2, 4)
    net = efficientnet.InvertedResidual(block)
    rng = np.random.default_rng(1)
    x = rng.normal(size=(1, 5, 5, 4))
    shapes = name_tables.flat_shapes(jax.eval_shape(net.init, jax.random.key(0), jnp.asarray(x)))
    flat = _random(shapes)
    found = jax.jit(net.apply)(name_tables.nest(flat), x)

    def norm(y, name):
        mean, var = flat[f"batch_stats/{name}/mean"], flat[f"batch_stats/{name}/var"]
        scale, bias = flat[f"params/{name}/scale"], flat[f"params/{name}/bias"]
        return (y - mean) / np.sqrt(var + 1e-3) * scale + bias

    y = np.clip(norm(x[0] @ flat["params/expand/kernel"][0, 0], "expand_norm"), 0, 6)
    padded, kernel = np.pad(y, ((1, 1), (1, 1), (0, 0))), flat["params/depthwise/kernel"]
    y = np.array(
        [
            [(padded[i : i + 3, j : j + 3] * kernel[:, :, 0]).sum((0, 1)) for j in range(5)]
            for i in range(5)
        ]
    )
    y = np.clip(norm(y, "depthwise_norm"), 0, 6)
    y = norm(y @ flat["params/project/kernel"][0, 0], "project_norm") + x[0]
    np.testing.assert_allclose(found[0], y, rtol=2e-4, atol=2e-4)


def test_features_are_the_mean_of_the_maps():
    net = efficientnet.EfficientNetLite(stages=SMALL, num_classes=5)
    pictures = np.random.default_rng(0).integers(0, 256, (1, 32, 32, 3), np.uint8)
    variables = name_tables.nest(_random(efficientnet.variable_shapes(net)))

    @jax.jit
    def forms(variables, pictures):
        pixels = efficientnet.normalize(pictures)
        return pixels, *(
            net.apply(variables, pixels, method=m) for m in ("maps", "__call__", "logits")
        )

    pixels, maps, features, logits = forms(variables, pictures)
    np.testing.assert_allclose(pixels, (pictures - 127.0) / 128.0, atol=1e-6)
    assert maps.shape == (1, 8, 8, 1280) and features.shape == (1, 1280) and logits.shape == (1, 5)
    np.testing.assert_allclose(features, maps.mean((1, 2)), atol=1e-5)


@pytest.mark.slow
def test_a_photograph_of_a_fox_is_a_fox(gsjax_data):
    if packaged.folder(packaged.EFFICIENTNET_LITE0) is None:
        pytest.skip(f"the weights are absent; run `{packaged.INSTALL}`")
    from PIL import Image

    path = sorted((gsjax_data / "scenes/fox/images").iterdir())[0]
    picture = Image.open(path).convert("RGB")
    side = min(picture.size)
    left, top = (picture.width - side) // 2, (picture.height - side) // 2
    picture = picture.crop((left, top, left + side, top + side)).resize((224, 224))
    path = packaged.verified(packaged.EFFICIENTNET_LITE0)
    variables = efficientnet.convert(weights.read_state_dict(path))
    pixels = efficientnet.normalize(jnp.asarray(picture)[None])
    net = efficientnet.EfficientNetLite()
    logits = jax.jit(lambda v, x: net.apply(v, x, method="logits"))(variables, pixels)[0]
    foxes = (277, 278, 279, 280)  # red, kit, Arctic, grey
    assert int(jnp.argmax(logits)) in foxes, np.argsort(-logits)[:5]
