"""DepthSplat whole, at a tiny size, and the published sizes by their shapes."""

import dataclasses

import flax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gsjax.models import dpt
from gsjax.models.feedforward import depthsplat, gaussian_adapter, gaussian_head, unet
from tests.models.feedforward import case

TINY = dataclasses.replace(
    depthsplat.PRESETS["tiny"],
    channels=8,
    cnn_widths=(4, 8, 8),
    blocks=1,
    candidates=8,
    unet_width=16,
    depth_head=dpt.DptConfig(4, (4, 4, 4, 4), "delta", hidden=4),
    feature_head=dpt.DptConfig(4, (4, 4, 4, 4)),
    regressor_width=8,
    adapter=gaussian_adapter.Config(sh_degree=0),
)
# Two sweeps and the head of October 2024.
OCTOBER = dataclasses.replace(
    TINY,
    scales=2,
    factor=2,
    feature_head=None,
    feature_channels=4,
    regressor_unet=unet.Config(8, (1, 1), (2,), head=8),
    wide_head=True,
    all_depths=True,
    adapter=gaussian_adapter.Config("depthsplat_oct2024", 1, "unconstrained", scale_max=0.3),
)


def _batch(views=2, size=(16, 32)):
    Ks, c2ws = case.views(1, views, seed=1)
    images = np.random.default_rng(0).uniform(size=(1, views, *size, 3))
    arrays = images, Ks, c2ws, np.asarray([0.8]), np.asarray([20.0])
    return tuple(jnp.asarray(a, jnp.float32) for a in arrays)


def _variables(model, batch):
    """Random numbers in the parameters' shapes: layers that start at zero hide nothing."""
    shapes = jax.eval_shape(model.init, jax.random.key(0), *batch)
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda s: jnp.asarray(rng.normal(0, 0.2, s.shape), s.dtype), shapes)


@pytest.mark.slow
def test_forward_and_gradients_are_finite_and_reach_every_parameter():
    batch = _batch()
    model = depthsplat.DepthSplat(OCTOBER)
    variables = _variables(model, batch)

    def loss(variables):
        found = model.apply(variables, *batch)
        g = found["gaussians"]
        leaves = (g.means, g.quats, g.scales, g.opacities, g.sh, *found["depths"])
        return sum(jnp.sum(jnp.sin(x)) for x in leaves), found

    (_, found), grads = jax.jit(jax.value_and_grad(loss, has_aux=True))(variables)
    g = found["gaussians"].check()
    assert g.means.shape == (1, 2 * 16 * 32, 3) and g.sh.shape == (1, 1024, 4, 3)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves((found, grads)))
    assert len(found["depths"]) == 3  # both sweeps, and the final one
    for depth in found["depths"]:
        assert depth.shape == (1, 2, 16, 32)
        assert 0.8 - 1e-4 <= float(depth.min()) and float(depth.max()) <= 20.0 + 1e-3
    flat = flax.traverse_util.flatten_dict(grads["params"], sep="/")
    dead = [k for k, v in flat.items() if not np.asarray(v).any() and "shortcut/bias" not in k]
    assert not dead, dead
    np.testing.assert_allclose(
        gaussian_adapter.means(
            OCTOBER.adapter, found["raw"], found["depths"][-1], batch[1], batch[2]
        ),
        g.means,
        atol=1e-5,
    )


@pytest.mark.parametrize("config, views, depths", [(TINY, 3, 1), (OCTOBER, 2, 3)])
def test_shapes_types_and_intermediate_depths(config, views, depths):
    batch = _batch(views)
    for remat in (False, True):
        model = depthsplat.DepthSplat(dataclasses.replace(config, remat=remat, dtype=jnp.bfloat16))
        found = jax.eval_shape(lambda m=model: m.init_with_output(jax.random.key(0), *batch)[0])
        assert len(found["depths"]) == depths
        assert found["raw"].dtype == jnp.bfloat16
        leaves = jax.tree.leaves([found["gaussians"], found["depths"], found["match_probability"]])
        assert {x.dtype for x in leaves} == {jnp.dtype(jnp.float32)}
        assert found["gaussians"].means.shape == (1, views * 16 * 32, 3)


@pytest.mark.parametrize("size, depth, whole", [("base", 111, 117), ("large", 338, 360)])
def test_parameters_are_as_many_as_published(size, depth, whole):
    # Both figures are those of October 2024, of the models for depth alone and of the whole ones.
    model = depthsplat.DepthSplat(depthsplat.PRESETS[f"{size}_oct2024"])
    shapes = jax.eval_shape(model.init, jax.random.key(0), *_batch(size=(64, 64)))["params"]
    counts = {k: sum(s.size for s in jax.tree.leaves(v)) for k, v in shapes.items()}
    head = sum(counts[k] for k in ("feature_upsampler", "regressor", "gaussian_head"))
    total = sum(counts.values())
    assert abs(total - whole * 1e6) < 0.02 * whole * 1e6, counts
    assert abs(total - head - depth * 1e6) < 0.005 * depth * 1e6, counts


@pytest.mark.slow
def test_parameters_of_the_small_model_by_part():
    models = [depthsplat.PRESETS[n] for n in ("small", "small_oct2024")]
    march, october = (
        jax.eval_shape(depthsplat.DepthSplat(c).init, jax.random.key(0), *_batch(size=(64, 64)))
        for c in models
    )
    count = lambda tree: sum(s.size for s in jax.tree.leaves(tree))  # noqa: E731
    assert abs(count(october) - 37e6) < 0.02 * 37e6
    # The published figure again is October's; March's head is a DPT decoder and four convolutions:
    # 5 + 64 to 64 to 64, and 68 + 64 to 37 to 37.
    params = march["params"]
    assert count(params["regressor"]) == 9 * (69 * 64 + 64 * 64) + 128
    assert count(params["gaussian_head"]) == 9 * (132 * 37 + 37 * 37) + 74
    shared = ("vit", "backbone", "cost_0", "depth_head")
    assert all(count(params[k]) == count(october["params"][k]) for k in shared)


def test_raw_gaussians_start_with_constant_scales_and_colours():
    model = gaussian_head.RawGaussians(13, 6, start_offset=0.5)
    x = np.random.default_rng(0).normal(size=(1, 3, 4, 5)).astype(np.float32)
    found = np.asarray(jax.jit(lambda: model.init_with_output(jax.random.key(0), x)[0])())
    assert not found[..., 3:6].any() and not found[..., 10:].any()
    assert (found[..., [0, 2, 6, 7, 8, 9]].std((0, 1, 2)) > 0).all()
    params = jax.eval_shape(model.init, jax.random.key(0), x)["params"]
    assert params["conv_1"]["kernel"].shape == (3, 3, 6, 13)


def test_resize_convolutions_reach_the_pictures_size():
    model = gaussian_head.ResizeConv(8)
    maps = [jnp.zeros((1, 2, 3, 10)), jnp.zeros((1, 4, 6, 7))]
    out, variables = jax.eval_shape(lambda: model.init_with_output(jax.random.key(0), maps, 16))
    assert out.shape == (1, 16, 24, 8)
    widths = [variables["params"][f"scale_0_conv_{i}"]["kernel"].shape[2:] for i in range(3)]
    assert widths == [(16, 8), (8, 4), (4, 4)]
    with pytest.raises(ValueError, match="9 are not divided by 2 scales"):
        jax.eval_shape(lambda: gaussian_head.ResizeConv(9).init(jax.random.key(0), maps, 16))


def test_bad_configs_and_input_are_named():
    with pytest.raises(ValueError, match="scales, factor: expected one of"):
        dataclasses.replace(TINY, scales=3)
    with pytest.raises(ValueError, match="candidates: 12 must be a multiple of 8"):
        dataclasses.replace(OCTOBER, candidates=12)
    batch = _batch()
    with pytest.raises(ValueError, match="sides 16 x 24 must be multiples of 16"):
        depthsplat.DepthSplat(TINY).init(jax.random.key(0), batch[0][:, :, :, :24], *batch[1:])
