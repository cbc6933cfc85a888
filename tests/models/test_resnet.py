"""ResNet: shapes and sizes of torchvision's, a block by hand, statistics, the name table both ways."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gsjax.models import name_tables, resnet, resnet_tables

TINY = resnet.Config(width=4, blocks=(1, 2))


def _variables(config, size=16):
    model = resnet.ResNet(config)
    images = jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)
    shapes = jax.eval_shape(model.init, jax.random.key(0), images)
    rng = np.random.default_rng(0)

    def leaf(path, x):
        positive = path[-1].key in ("var", "scale")
        return jnp.asarray(
            rng.uniform(0.5, 1.5, x.shape) if positive else 0.3 * rng.normal(size=x.shape), x.dtype
        )

    return jax.tree_util.tree_map_with_path(leaf, shapes)


def test_parameters_are_as_many_as_published():
    # torchvision: 11,689,512 and 21,797,672 with a classifier of 512 x 1000 + 1000.
    for name, count in (("resnet18", 11_689_512 - 513_000), ("resnet34", 21_797_672 - 513_000)):
        shapes = jax.eval_shape(
            resnet.ResNet(resnet.PRESETS[name]).init,
            jax.random.key(0),
            jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32),
        )
        assert sum(x.size for x in jax.tree.leaves(shapes["params"])) == count
        assert resnet.PRESETS[name].features == 512


@pytest.mark.parametrize("size", [16, 31, 33])
def test_features_of_pictures_of_any_size(size):
    variables = _variables(TINY)
    images = jnp.asarray(np.random.default_rng(1).uniform(size=(2, size, size + 2, 3)), jnp.float32)
    found = resnet.ResNet(TINY).apply(variables, images)
    assert found.shape == (2, TINY.features) == (2, 8)
    assert np.isfinite(found).all() and (found >= 0).all() and found.max() > 0


def _plain_conv(x, kernel, stride):
    """Sums over a padded picture, one output at a time."""
    size = kernel.shape[0]
    x = np.pad(x, ((size // 2, size // 2), (size // 2, size // 2), (0, 0)))
    out = (np.asarray(x.shape[:2]) - size) // stride + 1
    return np.asarray(
        [
            [
                np.tensordot(x[r * stride :, c * stride :][:size, :size], kernel, 3)
                for c in range(out[1])
            ]
            for r in range(out[0])
        ]
    )


@pytest.mark.parametrize("stride, features", [(1, 3), (2, 5)])
def test_a_block_is_the_loop(stride, features):
    block = resnet.BasicBlock(features, stride)
    x = np.random.default_rng(2).normal(size=(1, 5, 6, 3)).astype(np.float32)
    shapes = jax.eval_shape(lambda: block.init(jax.random.key(0), x, train=False))
    rng = np.random.default_rng(3)
    variables = jax.tree.map(lambda s: rng.uniform(0.2, 1.2, s.shape), shapes)
    found = block.apply(jax.tree.map(lambda v: v.astype(np.float32), variables), x, train=False)
    p, s = variables["params"], variables["batch_stats"]

    def norm(y, name):
        y = (y - s[name]["mean"]) / np.sqrt(s[name]["var"] + 1e-5)
        return y * p[name]["scale"] + p[name]["bias"]

    y = np.maximum(norm(_plain_conv(x[0], p["conv_0"]["kernel"], stride), "norm_0"), 0)
    y = norm(_plain_conv(y, p["conv_1"]["kernel"], 1), "norm_1")
    assert ("shortcut_conv" in p) == (stride == 2)
    short = x[0]
    if stride == 2:
        short = norm(_plain_conv(x[0], p["shortcut_conv"]["kernel"], 2), "shortcut_norm")
    np.testing.assert_allclose(found[0], np.maximum(short + y, 0), rtol=1e-4, atol=1e-4)


def test_training_uses_the_batch_and_moves_running_statistics():
    variables = _variables(TINY)
    images = jnp.asarray(np.random.default_rng(4).uniform(size=(4, 16, 16, 3)), jnp.float32)
    model = resnet.ResNet(TINY)
    found, new = model.apply(variables, images, True, mutable=["batch_stats"])
    assert not np.allclose(found, model.apply(variables, images), atol=1e-3)
    stem = model.apply(
        variables,
        images,
        True,
        capture_intermediates=True,
        mutable=["intermediates", "batch_stats"],
    )[1]["intermediates"]["stem_conv"]["__call__"][0]
    old = variables["batch_stats"]["stem_norm"]["mean"]
    np.testing.assert_allclose(
        new["batch_stats"]["stem_norm"]["mean"], 0.9 * old + 0.1 * stem.mean((0, 1, 2)), atol=1e-5
    )


def test_the_table_covers_a_state_dict_both_ways():
    variables = _variables(TINY)
    theirs = name_tables.invert(variables, resnet_tables.table(TINY))
    assert theirs["layer2.0.downsample.0.weight"].shape == (8, 4, 1, 1)
    assert theirs["conv1.weight"].shape == (4, 3, 7, 7)
    theirs |= {"bn1.num_batches_tracked": np.int64(3), "fc.weight": np.zeros((10, 8))}
    back = resnet_tables.convert({f"net.{k}": v for k, v in theirs.items()}, TINY, prefix="net.")
    jax.tree.map(np.testing.assert_array_equal, back, jax.tree.map(np.asarray, variables))
    del theirs["layer1.0.conv1.weight"]
    with pytest.raises(ValueError, match="missing: layer1.0.conv1.weight"):
        resnet_tables.convert(theirs, TINY)


def test_bad_pictures_and_sizes_are_refused():
    with pytest.raises(ValueError, match=r"images: expected \[B, H, W, 3\]"):
        resnet.ResNet(TINY).apply(_variables(TINY), jnp.zeros((1, 3, 16, 16)))
    with pytest.raises(ValueError, match="blocks"):
        resnet.Config(blocks=())
