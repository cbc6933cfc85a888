"""Point Transformer V3: the contract of backbones, an oracle in NumPy, orders, overflow, sizes."""

import dataclasses
import functools
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gsjax.core import serialization, voxels
from gsjax.models.backbones import base, ptv3
from tests.models.backbones import suite

SIZE = 0.2
TINY = ptv3.Config(
    channels=2,
    voxel_size=SIZE,
    voxels=48,
    shares=(3 / 4,),
    encoder=(4, 8),
    encoder_blocks=(1, 2),
    encoder_heads=(2, 2),
    decoder=(6,),
    decoder_blocks=(1,),
    decoder_heads=(2,),
    patch=8,
    orders=("z-trans", "hilbert"),
    mlp_ratio=2.0,
    drop_path=0.0,
)
ALONG = dataclasses.replace(TINY, cpe="conv1d", conv="gather", remat=True, chunk=2)
SIMPLE = dataclasses.replace(
    TINY, orders=("z", "z-trans"), encoder_blocks=(1, 1)
)  # compiles sooner
POINTS = suite.cloud(0, 2, 40, 2)
SLOW = pytest.mark.slow


def random_variables(model, points, seed=0):
    """Variables without the trivial zeros and ones, and nothing compiled."""
    shapes = jax.eval_shape(model.init, jax.random.key(0), points)
    rng = np.random.default_rng(seed)

    def leaf(path, x):
        name = path[-1].key
        if name in ("var", "scale"):
            value = rng.uniform(0.5, 1.5, x.shape)
        else:
            fan = math.prod(x.shape[:-1]) if name == "kernel" else 25
            value = rng.normal(size=x.shape) * fan**-0.5
        return jnp.asarray(value, x.dtype)

    return jax.tree_util.tree_map_with_path(leaf, shapes)


@pytest.mark.parametrize(
    "check",
    [
        pytest.param(suite.check_padding, marks=SLOW),
        suite.check_gradients,
        pytest.param(suite.check_batch, marks=SLOW),
        pytest.param(functools.partial(suite.check_fuse, "ptv3"), marks=SLOW),
    ],
)
def test_contract_of_backbones(check):
    check(ptv3.Model(SIMPLE), POINTS)


@SLOW
def test_contract_with_convolution_along_orders():
    suite.check_gradients(ptv3.Model(ALONG), POINTS)


def _dense(p, x):
    return x @ p["kernel"] + p.get("bias", 0.0)


def _layer_norm(p, x):
    x = x - x.mean(-1, keepdims=True)
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-5) * p["scale"] + p["bias"]


_gelu = np.vectorize(lambda x: x * 0.5 * (1 + math.erf(x / math.sqrt(2))))


def _norm(p, s, x):
    p, s = p["norm"], s["norm"]
    return _gelu((x - s["mean"]) / np.sqrt(s["var"] + 1e-3) * p["scale"] + p["bias"])


def _conv(kernel, cells, x):
    """Sum over neighbours that exist, looked up in a dictionary."""
    reach = round(len(kernel) ** (1 / 3)) // 2
    rows = {tuple(c): i for i, c in enumerate(cells)}
    out = np.zeros((len(x), kernel.shape[-1]))
    steps = itertools.product(range(-reach, reach + 1), repeat=3)
    for weights, step in zip(kernel, steps, strict=True):
        for i, cell in enumerate(cells):
            j = rows.get(tuple(cell + np.array(step)))
            if j is not None:
                out[i] += x[j] @ weights
    return out


def _position(cfg, p, cells, order, x):
    if cfg.cpe == "subm":
        y = _conv(p["conv"]["kernel"], cells, x)
    else:
        y = np.zeros_like(x)
        for at, i in enumerate(order):
            for weights, step in zip(p["kernel"], range(-2, 3), strict=True):
                if 0 <= at + step < len(order):
                    y[i] += weights * x[order[at + step]]
    return _layer_norm(p["norm"], _dense(p["proj"], y + p["bias"]))


def _attention(cfg, p, heads, order, x):
    width = x.shape[1] // heads
    qkv = _dense(p["qkv"], x).reshape(len(x), 3, heads, width)
    out = np.zeros((len(x), heads, width))
    for start in range(0, len(x), cfg.patch):
        rows = order[start : start + cfg.patch]
        for h in range(heads):
            q, k, v = (qkv[rows, i, h] for i in range(3))
            weights = np.exp(q @ k.T / math.sqrt(width))
            out[rows, h] = weights @ v / weights.sum(-1, keepdims=True)
    return _dense(p["proj"], out.reshape(x.shape))


def _blocks(cfg, p, heads, cells, level, x):
    for i in range(len([name for name in p if name.startswith("blocks_")])):
        block = p[f"blocks_{i}"]
        bits = voxels.BITS - level
        name = cfg.orders[i % len(cfg.orders)]
        order = np.argsort(serialization.order_key(jnp.asarray(cells, jnp.uint32), name, bits))
        x = x + _position(cfg, block["position"], cells, order, x)
        x = x + _attention(cfg, block["attn"], heads, order, _layer_norm(block["norm1"], x))
        hidden = _gelu(_dense(block["mlp"]["fc1"], _layer_norm(block["norm2"], x)))
        x = x + _dense(block["mlp"]["fc2"], hidden)
    return x


def _oracle(cfg, variables, xyz, feat):
    """One cloud [N, 3], [N, F] through the definition -> {cell: features}, for two levels."""
    p, s = (
        jax.tree.map(np.asarray, variables[name], is_leaf=lambda x: not isinstance(x, dict))
        for name in ("params", "batch_stats")
    )
    origin = np.floor(xyz.min(0) / cfg.voxel_size) * cfg.voxel_size
    places = np.floor((xyz - origin) / cfg.voxel_size).astype(int)
    cells = np.unique(places, axis=0)
    x = np.stack([feat[(places == c).all(-1)].mean(0) for c in cells])
    x = _conv(p["stem"]["conv"]["kernel"], cells, x)
    x = _norm(p["stem"]["out"], s["stem"]["out"], x)
    x = skip = _blocks(cfg, p["encoder_0"], cfg.encoder_heads[0], cells, 0, x)
    down, stats = p["encoder_1"]["down"], s["encoder_1"]["down"]
    coarse, parent = np.unique(cells // 2, axis=0, return_inverse=True)
    parent = parent.reshape(-1)
    x = _dense(down["proj"], x)
    x = np.stack([x[parent == i].max(0) for i in range(len(coarse))])
    x = _norm(down["out"], stats["out"], x)
    x = _blocks(cfg, p["encoder_1"], cfg.encoder_heads[1], coarse, 1, x)
    up, stats = p["decoder_0"]["up"], s["decoder_0"]["up"]
    x = _norm(up["out"], stats["out"], _dense(up["proj"], x))[parent]
    x = x + _norm(up["skip_out"], stats["skip_out"], _dense(up["skip"], skip))
    x = _blocks(cfg, p["decoder_0"], cfg.decoder_heads[0], cells, 0, x)
    return {tuple(c): row for c, row in zip(cells, x, strict=True)}


@pytest.mark.parametrize("config", [TINY, ALONG], ids=["subm", "conv1d"])
def test_features_are_those_of_the_definition(config):
    """The second cloud has fewer points, and padding is junk."""
    model = ptv3.Model(config)
    mask = np.ones((2, 40), bool)
    mask[1, [0, 2, *range(20, 40)]] = False
    xyz, feat = (np.where(mask[..., None], x, np.nan) for x in (POINTS.xyz, POINTS.feat))
    points = base.PointBatch(jnp.asarray(xyz), jnp.asarray(feat), jnp.asarray(mask))
    variables = random_variables(model, points)
    found = suite.apply(model, variables, points)
    assert found.dropped.tolist() == [0, 0]
    for i in range(2):
        want = _oracle(config, variables, xyz[i][mask[i]], feat[i][mask[i]])
        valid = np.asarray(found.mask[i])
        assert len(want) == valid.sum() > config.patch
        origin = np.floor(xyz[i][mask[i]].min(0) / SIZE) * SIZE
        cells = np.floor((np.asarray(found.xyz[i])[valid] - origin) / SIZE).astype(int)
        rows = np.stack([want[tuple(c)] for c in cells])
        np.testing.assert_allclose(np.asarray(found.feat[i])[valid], rows, atol=5e-5)
        np.testing.assert_array_equal(np.asarray(found.feat[i])[~valid], 0)
        pooled = np.concatenate([rows.max(0), rows.mean(0)])
        np.testing.assert_allclose(found.pooled[i], pooled, atol=5e-5)


@SLOW
def test_points_in_another_order_and_wider_fused_sites_give_the_same():
    model = ptv3.Model(TINY)
    variables = random_variables(model, POINTS)

    def wider(sites):
        pad = lambda x: jnp.pad(x, ((0, 0), (0, 16)) + ((0, 0),) * (x.ndim - 2))  # noqa: E731
        keys = jnp.pad(sites.voxels, ((0, 0), (0, 16)), constant_values=voxels.SENTINEL)
        return sites._replace(
            xyz=pad(sites.xyz), feat=pad(sites.feat), mask=pad(sites.mask), voxels=keys
        )

    plain = suite.apply(model, variables, POINTS)
    order = np.random.default_rng(0).permutation(40)
    shuffled = jax.tree.map(lambda x: x[:, order], POINTS)
    fused = suite.apply(model, variables, shuffled, fuse=wider)
    assert fused.feat.shape == (2, 64, 6)
    suite.assert_same(plain, fused, 2e-5)


@SLOW
def test_sites_that_fusion_masks_reach_no_other():
    model = ptv3.Model(TINY)
    suite.check_masked_sites(model, random_variables(model, POINTS), POINTS)


def test_what_finds_no_place_is_counted_and_the_rest_is_finite():
    model = ptv3.Model(dataclasses.replace(SIMPLE, voxels=24, shares=(1 / 3,)))
    variables = random_variables(model, POINTS)

    def loss(params):
        out = model.apply({**variables, "params": params}, POINTS)
        return jnp.sum(jnp.square(out.feat)) + jnp.sum(jnp.square(out.pooled)), out

    run = jax.jit(jax.grad(loss, has_aux=True), compiler_options=suite.quick_jit_options)
    grads, found = run(variables["params"])
    assert (found.dropped > 0).all() and found.mask.all()
    assert np.isfinite(found.feat).all()
    assert all(np.isfinite(g).all() for g in jax.tree.leaves(grads))


@SLOW
def test_keys_decide_orders_and_drops_cloud_by_cloud():
    dropping = ptv3.Model(dataclasses.replace(TINY, drop_path=0.5, shuffle_orders=False))
    turning = ptv3.Model(TINY)
    variables = random_variables(turning, POINTS)
    keys = jax.random.split(jax.random.key(0), 12).reshape(6, 2)
    plain = suite.apply(turning, variables, POINTS)

    def run(model):
        apply = lambda p, k: model.apply(variables, p, keys=k).feat  # noqa: E731
        jitted = jax.jit(apply, compiler_options=suite.quick_jit_options)
        found = [np.asarray(jitted(POINTS, k)) for k in keys]
        np.testing.assert_array_equal(found[0], jitted(POINTS, keys[0]))
        swapped = jitted(jax.tree.map(lambda x: x[::-1], POINTS), keys[0, ::-1])
        np.testing.assert_allclose(found[0], swapped[::-1], atol=1e-5)
        return found

    def same(a, b):
        return np.abs(a - b).max((1, 2)) < 1e-4

    # Of two orders drawn at two levels, a quarter of the draws are those of inference.
    turned = np.stack([same(x, plain.feat) for x in run(turning)])
    assert turned.any() and not turned.all()
    dropped = np.stack([same(x, plain.feat) for x in run(dropping)])
    assert not dropped.any()


def test_drops_keep_the_mean():
    x = jnp.ones((1, 20_000, 1))
    dropped = ptv3._drop(x, 0.3, jax.random.uniform(jax.random.key(0), (1, 20_000)))
    assert set(np.unique(dropped)) == {0.0, np.float32(1 / 0.7)}
    assert float(dropped.mean()) == pytest.approx(1.0, abs=0.02)


def test_rates_rise_to_the_deepest_level_and_fall_again():
    rates = {}
    model = ptv3.Model(dataclasses.replace(TINY, drop_path=0.3))

    def note(next_fun, args, kwargs, context):
        if isinstance(context.module, ptv3.Block) and context.method_name == "__call__":
            rates["/".join(context.module.path)] = (context.module.place, context.module.rate)
        return next_fun(*args, **kwargs)

    with ptv3.nn.intercept_methods(note):
        jax.eval_shape(model.init, jax.random.key(0), POINTS)
    assert rates == {
        "encoder_0/blocks_0": (0, 0.0),
        "encoder_1/blocks_0": (1, 0.15),
        "encoder_1/blocks_1": (2, 0.3),
        "decoder_0/blocks_0": (3, 0.0),
    }


def test_convolution_along_rows_is_numpys():
    rng = np.random.default_rng(0)
    x, kernel = rng.normal(size=(2, 7, 3)), rng.normal(size=(5, 3))
    found = ptv3.along(jnp.asarray(x, jnp.float32), jnp.asarray(kernel, jnp.float32))
    for b, c in itertools.product(range(2), range(3)):
        want = np.correlate(x[b, :, c], kernel[:, c], "same")
        np.testing.assert_allclose(found[b, :, c], want, atol=1e-5)


def test_parameters_of_the_published_network():
    # Two thirds of them are in the convolutions of the positional encodings.
    points = suite.cloud(0, 1, 16, 6)
    count = suite.num_parameters(base.build("ptv3", "paper"), points)
    assert count == _published() == 46_166_272
    assert count == pytest.approx(46.17e6, rel=0.001)


def _published():
    """Counted from the layers of the released code."""

    def block(c):
        position = 27 * c * c + c + c * c + c + 2 * c
        return position + 2 * c + 3 * (c * c + c) + c * c + c + 2 * c + 8 * c * c + 5 * c

    widths, decoder = (32, 64, 128, 256, 512), (64, 64, 128, 256, 512)
    total = 125 * 6 * 32 + 2 * 32
    total += sum(n * block(c) for n, c in zip((2, 2, 2, 6, 2), widths, strict=True))
    total += sum(a * b + b + 2 * b for a, b in zip(widths, widths[1:], strict=False))
    for i in range(4):
        c = decoder[i]
        total += 2 * block(c) + (decoder[i + 1] + widths[i]) * c + 2 * (c + 2 * c)
    return total


@SLOW
def test_published_size_runs():
    # Points lie so sparsely that coarser levels need voxels of another size than a room's.
    model = base.build("ptv3", "paper", dtype=jnp.bfloat16, voxels=8192, voxel_size=0.06)
    points = suite.cloud(1, 1, 6000, 6, extent=2.0)
    found = suite.apply(model, random_variables(model, points), points, full_size=True)
    assert found.feat.shape == (1, 8192, 64) and found.pooled.shape == (1, 128)
    assert found.feat.dtype == jnp.bfloat16 and found.dropped.tolist() == [0]
    assert np.isfinite(np.asarray(found.feat, np.float32)).all()


def test_what_does_not_fit_is_named():
    refused = [
        (dict(encoder=(8,)), "encoder: expected two levels or more"),
        (dict(encoder_blocks=(1,)), "encoder_blocks: expected 2 positive entries"),
        (dict(decoder=()), "decoder: expected 1 positive entries"),
        (dict(shares=(0.0,)), "shares: expected 1 positive entries"),
        (dict(shares=(1.5,)), "shares: expected parts of the finest level"),
        (dict(encoder_heads=(3, 2)), "encoder_heads: 3 heads do not divide 4 channels"),
        (dict(decoder_heads=(4,)), "decoder_heads: 4 heads do not divide 6 channels"),
        (dict(patch=0), "patch: expected more than 0"),
        (dict(voxel_size=0.0), "voxel_size: expected more than 0"),
        (dict(chunk=-1), "chunk: expected 0 or more"),
        (dict(orders=("z", "peano")), r"orders: .* unknown \['peano'\]; known: .*hilbert"),
        (dict(orders=()), "orders: found"),
        (dict(cpe="mlp"), "cpe: unknown 'mlp'; known: .*conv1d"),
        (dict(conv="dense"), "conv: unknown 'dense'; known: .*gather"),
        (dict(drop_path=1.0), "drop_path: expected"),
    ]
    for change, message in refused:
        with pytest.raises(ValueError, match=message):
            dataclasses.replace(TINY, **change)
    with pytest.raises(ValueError, match="ptv3: made for 2 feature channels a point, found 1"):
        ptv3.Model(TINY).init(jax.random.key(0), POINTS._replace(feat=POINTS.feat[..., :1]))


def test_plain_lists_are_settings_too():
    config = dataclasses.replace(TINY, encoder=[4, 8], shares=[0.75], orders=["z-trans", "hilbert"])
    assert config == TINY and hash(config) == hash(TINY)
