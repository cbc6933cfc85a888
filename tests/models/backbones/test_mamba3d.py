"""The Mamba3D backbone: the common suite, its size, its blocks against loops."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gsjax.models.backbones import base, mamba3d
from tests.models.backbones import suite

TINY = dict(
    num_patches=8, patch_size=4, embed=(8, 8, 16, 16), width=16, depth=1, neighbours=3, state=4
)  # fmt: skip


@pytest.fixture(scope="module")
def model():
    return base.build("mamba3d", "small", channels=1, **TINY)


@pytest.fixture(scope="module")
def points():
    return suite.cloud(0, 2, 40, 1)


@pytest.mark.slow
def test_masked_points_change_nothing(model, points):
    suite.check_padding(model, points)


def test_a_batch_is_its_clouds(model, points):
    suite.check_batch(model, points)


def test_gradients_are_finite(model, points):
    suite.check_gradients(model, points)


def test_fusion_comes_after_the_last_norm(model, points):
    suite.check_fuse("mamba3d", model, points)


def test_a_cloud_of_fewer_points_than_patches_has_masked_tokens(model):
    points = suite.cloud(1, 2, 5, 1)
    variables = suite.init(model, points)
    found = suite.apply(model, variables, points)
    assert np.asarray(found.mask).sum(1).tolist() == [5, 5]
    fewer = base.build("mamba3d", "small", channels=1, **{**TINY, "num_patches": 5})
    suite.assert_same(found, suite.apply(fewer, variables, points))


@pytest.mark.parametrize("backward", ["sequence", "channel"])
@pytest.mark.parametrize("size, millions", [("paper", 16.66), ("paper16", 22.03)])
def test_parameters_as_in_the_released_layers(size, millions, backward):
    # Block: in_proj 384 x 1536; two branches of conv 768 x (4 + 1), x_proj 768 x 56, dt_proj
    # (24 + 1) x 768, A 768 x 16, D 768; out_proj 768 x 384; pooling 2 x 768 + 2 x 768 + 769 x 384;
    # two norms 2 x 384 each: 1,342,848. Around them 546,048.
    model = base.build("mamba3d", size, backward=backward)
    count = suite.num_parameters(model, suite.cloud(0, 1, 256, 0))
    assert count == model.config.depth * 1_342_848 + 546_048
    assert count / 1e6 == pytest.approx(millions, rel=1e-3)


def test_sites_are_patch_centres(model, points):
    found = suite.apply(model, suite.init(model, points), points)
    cloud = np.asarray(points.xyz[0])
    gaps = np.abs(cloud[None] - np.asarray(found.xyz[0])[:, None]).max(-1).min(1)
    assert gaps.max() == 0 and len(np.unique(found.xyz[0], axis=0)) == TINY["num_patches"]


@pytest.mark.parametrize("backward, sees", [("sequence", True), ("channel", False)])
def test_only_a_scan_from_the_end_tells_the_class_token_of_the_cloud(backward, sees):
    model = base.build("mamba3d", "small", **TINY, backward=backward)
    points = suite.cloud(3, 2, 40, 0)
    found = suite.apply(model, suite.init(model, points), points)
    token = np.asarray(found.pooled)[:, : TINY["width"]]
    assert (np.abs(token[0] - token[1]).max() > 1e-4) == sees


def test_local_norm_pool_is_the_loop():
    rng = np.random.default_rng(0)
    feat = rng.normal(size=(2, 6, 3)).astype(np.float32)
    near = rng.integers(0, 6, (2, 6, 4))
    found = np.ones((2, 6, 4), bool)
    found[1, 4:] = False  # two patches of the second cloud are not there
    found[0, 2, 3] = False
    layer = mamba3d.LocalNormPool()
    variables = layer.init(jax.random.key(0), *map(jnp.asarray, (feat, near, found)))
    params = jax.tree.map(lambda x: x + 0.3 * rng.normal(size=x.shape), variables["params"])
    got = layer.apply({"params": params}, *map(jnp.asarray, (feat, near, found)))
    params = jax.tree.map(np.asarray, params)
    for b in range(2):
        offsets = feat[b][near[b]] - feat[b][:, None]
        size = np.std(offsets[found[b]], ddof=1)
        for g in range(4 if b else 6):
            use = found[b, g]
            rows = np.concatenate(
                [offsets[g] / (size + 1e-5), np.repeat(feat[b, g][None], 4, 0)], -1
            )
            rows = (params["scale"] * rows + params["bias"])[use]
            x = (rows * np.exp(rows)).mean(0) / np.exp(rows).mean(0)
            x = (x - x.mean()) / np.sqrt(x.var() + 1e-5)
            x = x * params["norm"]["scale"] + params["norm"]["bias"]
            x = x @ params["proj"]["kernel"] + params["proj"]["bias"]
            np.testing.assert_allclose(got[b, g], x / (1 + np.exp(-x)), atol=2e-5)


@pytest.mark.slow
def test_stochastic_depth_drops_whole_branches_of_clouds():
    model = base.build("mamba3d", "small", **{**TINY, "depth": 2}, drop_path=0.5)
    points = suite.cloud(0, 6, 40, 0)
    variables = suite.init(model, points)
    keys = jax.vmap(jax.random.key)(jnp.arange(6))
    plain = suite.apply(model, variables, points)
    dropped = suite.apply(model, variables, points, keys=keys)
    gaps = np.abs(plain.feat - dropped.feat).max((1, 2))
    kept = (np.asarray(base.uniform(keys, 1, (2,))) >= 0.5).all(1)
    assert 0 < kept.sum() < 6
    assert (gaps > 1e-3).all()  # what is kept is doubled


def test_bfloat16_stays_near_float32(points):
    model = base.build("mamba3d", "small", channels=1, **TINY)
    variables = suite.init(model, points)
    half = suite.apply(base.build("mamba3d", "small", dtype=jnp.bfloat16, channels=1, **TINY),
                       variables, points)  # fmt: skip
    full = suite.apply(model, variables, points)
    assert half.feat.dtype == jnp.bfloat16 and half.xyz.dtype == jnp.float32
    np.testing.assert_allclose(half.feat.astype(jnp.float32), full.feat, atol=0.1)


@pytest.mark.slow
def test_full_size_forward():
    model, points = base.build("mamba3d", "paper"), suite.cloud(0, 1, 1024, 0)
    found = suite.apply(model, suite.init(model, points), points)
    assert found.feat.shape == (1, 128, 384) and found.pooled.shape == (1, 3 * 384)
    assert np.isfinite(found.feat).all()


def test_wrong_settings_are_refused():
    with pytest.raises(ValueError, match="patches come out 96 wide, blocks are 64 wide"):
        base.build("mamba3d", "small", width=64)
    with pytest.raises(ValueError, match="backward: unknown 'chanel'; known: none, channel, seq"):
        base.build("mamba3d", "small", backward="chanel")
    with pytest.raises(ValueError, match="drop_path: expected"):
        base.build("mamba3d", "small", drop_path=1.0)
    with pytest.raises(ValueError, match="neighbours: expected at least 1, found 0"):
        base.build("mamba3d", "small", neighbours=0)


def test_features_of_another_width_are_refused(model):
    with pytest.raises(ValueError, match="mamba3d: made for 1 feature channels a point, found 0"):
        model.init(jax.random.key(0), suite.cloud(0, 1, 20, 0))
