"""The Point Cloud Mamba backbone: the common suite, its size, prompts and groups against loops."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gsjax.models import local_mlps, mamba
from gsjax.models.backbones import base, pcm
from tests.models.backbones import suite

TINY = dict(
    embed=8, widths=(8, 12), layers=(1, 1), reduce=(2, 2), neighbours=3, orders=("xyz", "hilbert"),
    prompts=2, prompt_width=8, decoder=(12, 8), state=3,
)  # fmt: skip
# One stage of two layers compiles in half the time, for what does not depend on stages.
FLAT = {**TINY, "widths": (8,), "layers": (2,), "reduce": (2,), "decoder": (8,)}


@pytest.fixture(scope="module")
def model():
    return base.build("pcm", "small", **TINY)


@pytest.fixture(scope="module")
def points():
    return suite.cloud(0, 2, 20, 1)


@pytest.mark.slow
def test_masked_points_change_nothing(model, points):
    suite.check_padding(model, points, 13)


@pytest.mark.slow
def test_a_batch_is_its_clouds(points):
    suite.check_batch(base.build("pcm", "small", **FLAT), points)


def test_gradients_are_finite(model, points):
    suite.check_gradients(model, points)


def test_fusion_comes_after_the_decoder(points):
    suite.check_fuse("pcm", base.build("pcm", "small", **FLAT), points)


def test_sites_are_all_points_in_the_order_they_came(model, points):
    variables = suite.init(model, points)
    found = suite.apply(model, variables, suite.padded(points, 5))
    np.testing.assert_array_equal(found.xyz[:, :20], points.xyz)
    assert found.feat.shape == (2, 25, 8) and not np.asarray(found.feat)[:, 20:].any()
    order = np.concatenate([[0], 1 + np.random.default_rng(0).permutation(19)])  # FPS starts at 0
    shuffled = suite.apply(model, variables, jax.tree.map(lambda x: x[:, order], points))
    plain = suite.apply(model, variables, points)
    np.testing.assert_allclose(shuffled.feat, plain.feat[:, order], atol=2e-5)


def test_parameters_of_the_released_layers():
    # The release states no count. From its layer definitions (width w: A = 2w x 16, D = 2w, ...):
    # Mamba layer 964,224 (384) and 3,771,648 (768), three and six of them          25,522,560
    # groups: (2c + 3) w + 2 w^2 + 6 w + 2 (c + 3) for c, w = 384-384 twice,
    #   384-768, 768-768                                                              5,333,016
    # places 3 w; prompts 54 x 384, projected 384 w; stream 384 x 768                 1,207,296
    # embedding 4 x 384 + 2 x 384                                                          2,304
    # decoder: c w + w + 2 w, and 2 (w^2 + w + 2 w), for c, w = 1536-768,
    #   1152-384, 768-384 twice                                                       4,293,504
    model = base.build("pcm", "paper")
    mamba_layers = 3 * 964_224 + 6 * 3_771_648
    groups = sum(
        (2 * c + 3) * w + 2 * w**2 + 6 * w + 2 * (c + 3)
        for c, w in ((384, 384), (384, 384), (384, 768), (768, 768))
    )
    others = 3 * 2304 + 54 * 384 + 384 * 2304 + 384 * 768 + 6 * 384
    decoder = sum(
        c * w + 3 * w + 2 * (w**2 + 3 * w)
        for c, w in ((1536, 768), (1152, 384), (768, 384), (768, 384))
    )
    count = suite.num_parameters(model, suite.cloud(0, 1, 256, 1))
    assert count == mamba_layers + groups + others + decoder == 36_358_680


def test_group_with_positions_and_a_block_is_the_loop():
    points = suite.cloud(0, 2, 9, 3)
    mask = jnp.arange(9) < jnp.asarray([[9], [6]])
    group = local_mlps.LocalGroup(4, 2, 3, 1, True)
    arguments = (points.xyz, points.feat, mask, False)
    variables = variables_of(group, *arguments)
    rows, got, valid = group.apply(variables, *arguments)
    assert np.asarray(valid).sum(1).tolist() == [4, 3]
    p = jax.tree.map(np.asarray, variables["params"])
    stats = jax.tree.map(np.asarray, variables["batch_stats"])
    for b, many in enumerate((9, 6)):
        both = np.concatenate([points.feat[b], points.xyz[b]], -1)[:many]
        offsets = {}
        for g in np.flatnonzero(valid[b]):
            gaps = np.square(both[:, 3:] - both[rows[b, g], 3:]).sum(-1)
            offsets[g] = both[np.argsort(gaps, kind="stable")[:3]] - both[rows[b, g]]
        size = np.std(np.concatenate(list(offsets.values())), ddof=1)
        for g, rows_of in offsets.items():
            x = (p["scale"] * rows_of / (size + 1e-5) + p["bias"]) @ p["near"]["kernel"]
            x = x + both[rows[b, g], :3] @ p["own"]["kernel"]
            x = np.maximum(batch_norm(x, p["norm"], stats["norm"]), 0)
            y = x
            for name in ("layer_0", "layer_1"):
                layer = p["blocks_0"][name]
                y = y @ layer["dense"]["kernel"]
                y = batch_norm(y, layer["norm"], stats["blocks_0"][name]["norm"])
                y = np.maximum(y, 0) if name == "layer_0" else y
            np.testing.assert_allclose(got[b, g], np.maximum(x + y, 0).max(0), atol=1e-5)


def batch_norm(x, params, stats):
    return (x - stats["mean"]) / np.sqrt(stats["var"] + 1e-5) * params["scale"] + params["bias"]


def variables_of(module, *arguments) -> dict:
    """Random variables, those of variances positive."""
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(lambda: module.init(jax.random.key(0), *arguments))

    def leaf(path, x):
        values = rng.normal(size=x.shape) * 0.5
        return jnp.asarray(np.abs(values) + 0.5 if path[-1].key == "var" else values, x.dtype)

    return jax.tree_util.tree_map_with_path(leaf, shapes)


@pytest.mark.parametrize("backward", ["none", "sequence"])
def test_prompts_stand_before_and_after_the_valid_points(backward):
    config = mamba.MambaConfig(6, state=3, backward=backward)
    reader = pcm.Reader(config)
    rng = np.random.default_rng(0)
    x, prompts = (jnp.asarray(rng.normal(size=s), jnp.float32) for s in ((1, 7, 6), (2, 6)))
    mask = jnp.arange(7)[None] < 4
    variables = variables_of(reader, x, prompts, mask)
    got = reader.apply(variables, x, prompts, mask)
    tokens = np.concatenate([prompts, x[0, :4], prompts])
    tokens = tokens / np.sqrt(np.square(tokens).mean(-1, keepdims=True) + 1e-5)
    tokens = jnp.asarray(tokens * variables["params"]["norm"]["scale"])[None]
    want = mamba.Mixer(config).apply({"params": variables["params"]["mixer"]}, tokens)
    np.testing.assert_allclose(got[0, :4], want[0, 2:6], atol=1e-5)
    assert not np.asarray(got)[0, 4:].any()


@pytest.mark.slow
def test_a_second_direction_keeps_padding_harmless(points):
    model = base.build("pcm", "small", **FLAT, backward="sequence")
    variables = suite.init(model, points)
    plain = suite.apply(model, variables, points)
    suite.assert_same(plain, suite.apply(model, variables, suite.padded(points, 7)))


def test_stochastic_depth_drops_what_enters_the_stream(points):
    model = base.build("pcm", "small", **FLAT, drop_path=0.5)
    variables = suite.init(model, points)
    several = jax.tree.map(lambda x: jnp.repeat(x[:1], 6, 0), points)
    keys = jax.vmap(jax.random.key)(jnp.arange(6))
    found = suite.apply(model, variables, several, keys=keys)
    dropped = np.asarray(base.uniform(keys, 1)) < 0.5  # the last layer's rate
    assert 0 < dropped.sum() < 6
    for same in (found.pooled[dropped], found.pooled[~dropped]):
        np.testing.assert_allclose(same, np.broadcast_to(same[:1], same.shape), atol=1e-5)
    assert np.abs(found.pooled[dropped][0] - found.pooled[~dropped][0]).max() > 1e-4


@pytest.mark.slow
def test_full_size_forward():
    model, points = base.build("pcm", "paper"), suite.cloud(0, 1, 1024, 1)
    found = suite.apply(model, suite.init(model, points), points)
    assert found.feat.shape == (1, 1024, 384) and found.pooled.shape == (1, 2 * 768)
    assert np.isfinite(found.feat).all()


@pytest.mark.parametrize(
    "change, message",
    [
        (dict(layers=(1, 1, 1)), "layers: expected one number for each of the 4 stages"),
        (dict(orders=("xyz",)), "orders: expected one for each of 4 Mamba layers, found 1"),
        (dict(orders=("xyz", "z", "peano", "z")), r"orders: unknown \['peano'\]; known: xyz, xzy"),
        (dict(grid=0.0), "grid: expected a positive edge, found 0.0"),
        (dict(prompts=0), "expected at least 1 each"),
        (dict(drop_path=1.0), "drop_path: expected"),
    ],
)
def test_wrong_settings_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        base.build("pcm", "small", **change)


def test_features_of_another_width_are_refused(model):
    with pytest.raises(ValueError, match="pcm: made for 1 feature channels a point, found 0"):
        model.init(jax.random.key(0), suite.cloud(0, 1, 20, 0))
