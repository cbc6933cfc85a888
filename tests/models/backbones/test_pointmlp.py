"""PointMLP: the contract of backbones, an oracle in NumPy, the size of the published network."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gsjax.models.backbones import base, pointmlp
from tests.models.backbones import suite

TINY = pointmlp.Config(
    channels=1,
    embed=6,
    widths=(8, 12),
    reduce=(2, 3),
    neighbours=(4, 3),
    pre_blocks=(1, 1),
    post_blocks=(1, 0),
    decoder=(8, 6),
    decoder_blocks=(0, 1),
)
POINTS = suite.cloud(0, 2, 20, 1)


def random_variables(model, points, seed=0):
    """Variables without the trivial zeros and ones, and nothing compiled."""
    shapes = jax.eval_shape(model.init, jax.random.key(0), points)
    rng = np.random.default_rng(seed)

    def leaf(path, x):
        if path[-1].key in ("var", "scale"):
            value = rng.uniform(0.5, 1.5, x.shape)
        else:
            fan = x.shape[0] if path[-1].key == "kernel" else 25
            value = rng.normal(size=x.shape) * fan**-0.5
        return jnp.asarray(value, x.dtype)

    return jax.tree_util.tree_map_with_path(leaf, shapes)


@pytest.mark.parametrize(
    "check",
    [
        pytest.param(suite.check_padding, marks=pytest.mark.slow),
        suite.check_gradients,
        pytest.param(suite.check_batch, marks=pytest.mark.slow),
        functools.partial(suite.check_fuse, "pointmlp"),
    ],
)
def test_contract_of_backbones(check):
    check(pointmlp.Model(TINY), POINTS)


def _norm(p, s, x):
    return (x - s["mean"]) / np.sqrt(s["var"] + 1e-5) * p["scale"] + p["bias"]


def _layer(p, s, x):
    return _norm(p["norm"], s["norm"], x @ p["dense"]["kernel"])


def _blocks(p, s, x):
    for name in sorted(n for n in p if n.startswith("blocks_")):
        y = np.maximum(_layer(p[name]["layer_0"], s[name]["layer_0"], x), 0)
        x = np.maximum(x + _layer(p[name]["layer_1"], s[name]["layer_1"], y), 0)
    return x


def _squared(a, b):
    return ((a[:, None] - b[None]) ** 2).sum(-1)


def _stage(p, s, xyz, x, reduce, neighbours):
    chosen = [0]
    while len(chosen) < max(len(xyz) // reduce, 1):
        chosen.append(int(_squared(xyz, xyz[chosen]).min(1).argmax()))
    near = np.argsort(_squared(xyz[chosen], xyz), 1, kind="stable")[:, :neighbours]
    offsets = x[near] - x[chosen][:, None]
    g, stats = p["group"], s["group"]
    offsets = g["scale"] * offsets / (np.std(offsets, ddof=1) + 1e-5) + g["bias"]
    y = offsets @ g["near"]["kernel"] + (x[chosen] @ g["own"]["kernel"])[:, None]
    y = np.maximum(_norm(g["norm"], stats["norm"], y), 0)
    y = _blocks(g, stats, y).max(1)
    return xyz[chosen], _blocks(p, s, y)


def _carry(p, s, fine, coarse):
    squared = _squared(fine[0], coarse[0])
    near = np.argsort(squared, 1, kind="stable")[:, :3]
    weights = 1 / (np.take_along_axis(squared, near, 1) + 1e-8)
    weights /= weights.sum(1, keepdims=True)
    carried = (coarse[1][near] * weights[..., None]).sum(1)
    x = np.concatenate([fine[1], carried], -1)
    return fine[0], _blocks(p, s, np.maximum(_layer(p["layer"], s["layer"], x), 0))


def _oracle(config, variables, xyz, feat):
    """One cloud [N, 3], [N, F] through the definition -> features of points, pooled."""
    p, s = (jax.tree.map(np.asarray, variables[name]) for name in ("params", "batch_stats"))
    x = np.maximum(_layer(p["embed"], s["embed"], np.concatenate([xyz, feat], -1)), 0)
    levels = [(xyz, x)]
    for i, sizes in enumerate(zip(config.reduce, config.neighbours, strict=True)):
        levels.append(_stage(p[f"stage_{i}"], s.get(f"stage_{i}"), *levels[-1], *sizes))
    coarse = levels[-1]
    pooled = np.concatenate([coarse[1].max(0), coarse[1].mean(0)])
    for i, fine in enumerate(levels[-2::-1]):
        coarse = _carry(p[f"decoder_{i}"], s[f"decoder_{i}"], fine, coarse)
    return coarse[1], pooled


def test_features_are_those_of_the_definition():
    """The second cloud has fewer points, the third none, and padding is junk."""
    model = pointmlp.Model(TINY)
    points = suite.cloud(0, 3, 20, 1)
    mask = np.ones((3, 20), bool)
    mask[1, [0, 2, *range(10, 20)]] = False
    mask[2] = False
    xyz, feat = (np.where(mask[..., None], x, np.nan) for x in (points.xyz, points.feat))
    points = base.PointBatch(jnp.asarray(xyz), jnp.asarray(feat), jnp.asarray(mask))
    variables = random_variables(model, points)
    found = suite.apply(model, variables, points)
    for i in range(2):
        want, pooled = _oracle(TINY, variables, xyz[i][mask[i]], feat[i][mask[i]])
        np.testing.assert_allclose(found.feat[i][mask[i]], want, atol=5e-5)
        np.testing.assert_allclose(found.pooled[i], pooled, atol=5e-5)
    np.testing.assert_array_equal(found.mask, mask)
    np.testing.assert_array_equal(np.asarray(found.feat)[~mask], 0)
    assert not found.pooled[2].any() and found.dropped.tolist() == [0] * 3
    assert np.isfinite(found.xyz).all()


@pytest.mark.slow
def test_recomputed_blocks_and_positions_of_neighbours():
    model = pointmlp.Model(dataclasses.replace(TINY, use_xyz=True, remat=True))
    variables = random_variables(model, POINTS)
    assert variables["params"]["stage_1"]["group"]["scale"].shape == (8 + 3,)
    plain = pointmlp.Model(dataclasses.replace(TINY, use_xyz=True))

    def slopes(model):
        def loss(params):
            out = model.apply({**variables, "params": params}, POINTS)
            return jnp.sum(jnp.square(out.feat))

        return jax.jit(jax.grad(loss), compiler_options=suite.quick_jit_options)(
            variables["params"]
        )

    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-3),
        slopes(model),
        slopes(plain),
    )


def test_gradients_are_those_of_finite_differences():
    with jax.enable_x64(True):
        model = pointmlp.Model(TINY, jnp.float64)
        variables = random_variables(model, POINTS, 1)
        wide = lambda x: x.astype(jnp.float64)  # noqa: E731
        variables = jax.tree.map(wide, variables)

        def loss(xyz, feat):
            points = base.PointBatch(xyz, feat, POINTS.mask)
            out, _ = model.apply(variables, points, train=True, mutable=["batch_stats"])
            return jnp.sum(jnp.sin(out.feat)) + jnp.sum(jnp.square(out.pooled))

        both = jax.jit(jax.value_and_grad(loss, (0, 1)), compiler_options=suite.quick_jit_options)
        start = [np.array(wide(x)) for x in (POINTS.xyz, POINTS.feat)]
        slopes = both(*start)[1]
        step = 1e-6
        for arg, where in [(0, (0, 0, 0)), (0, (1, 5, 1)), (1, (1, 19, 0)), (1, (0, 11, 0))]:
            values = []
            for sign in (1, -1):
                moved = [x.copy() for x in start]
                moved[arg][where] += sign * step
                values.append(float(both(*moved)[0]))
            slope = (values[0] - values[1]) / (2 * step)
            np.testing.assert_allclose(slopes[arg][where], slope, rtol=1e-4, atol=1e-5)


def test_parameters_of_the_published_network():
    # Released layer definitions: dense layers have no bias, each has a norm (2 w), each group a
    # scale and a bias. The specification of UniPre3D's configuration says 15.1 M.
    residual = lambda w: 2 * (w * w + 2 * w)  # noqa: E731
    total, width = 4 * 64 + 2 * 64, 64
    for w in (128, 256, 512, 1024):
        total += 2 * width + 2 * width * w + 2 * w + 4 * residual(w)
        width = w
    for skip, w in zip((512, 256, 128, 64), (512, 256, 128, 128), strict=True):
        total += (width + skip) * w + 2 * w + 2 * residual(w)
        width = w
    count = suite.num_parameters(base.build("pointmlp", "paper"), suite.cloud(0, 1, 64, 1))
    assert count == total
    assert count == pytest.approx(15.1e6, rel=0.01)


@pytest.mark.slow
def test_published_size_runs():
    model = base.build("pointmlp", "paper", dtype=jnp.bfloat16)
    points = suite.cloud(1, 1, 1024, 1, extent=2.0)
    found = suite.apply(model, random_variables(model, points), points, full_size=True)
    assert found.feat.shape == (1, 1024, 128) and found.pooled.shape == (1, 2048)
    assert found.feat.dtype == found.pooled.dtype == jnp.bfloat16 and found.mask.all()
    assert np.isfinite(np.asarray(found.feat, np.float32)).all()


def test_what_does_not_fit_is_named():
    refused = [
        (dict(channels=-1), "channels, embed: expected at least 0 and 1, found -1, 6"),
        (dict(widths=()), "widths: expected positive numbers"),
        (dict(reduce=(2,)), "reduce: expected a number of at least 1 for each of the 2 stages"),
        (dict(neighbours=(0, 4)), "neighbours: expected a number of at least 1"),
        (dict(decoder=(8, 8, 8)), "decoder: expected a number"),
        (dict(pre_blocks=(-1, 1)), "pre_blocks: expected a number of at least 0"),
    ]
    for change, message in refused:
        with pytest.raises(ValueError, match=message):
            dataclasses.replace(TINY, **change)
    with pytest.raises(ValueError, match="pointmlp: made for 1 feature channels a point, found 0"):
        pointmlp.Model(TINY).init(jax.random.key(0), POINTS._replace(feat=POINTS.feat[..., :0]))


def test_plain_lists_are_settings_too():
    config = dataclasses.replace(TINY, widths=[8, 12], reduce=[2, 3])
    assert config == TINY and hash(config) == hash(TINY)
