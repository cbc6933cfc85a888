"""PointNet++: the contract of backbones, an oracle in NumPy, sizes of the published networks."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gsjax.models import name_tables
from gsjax.models.backbones import base, pointnet2
from gsjax.models.point_layers import Scale
from tests.models.backbones import suite

DENSE = pointnet2.Config(
    channels=2,
    centers=(8, 4),
    scales=((Scale(0.4, 4, (8, 8)),), (Scale(0.8, 4, (8, 12)),)),
    top=(16,),
    decoder=((12,), (8,), (8,)),
)
LEVEL = dataclasses.replace(  # one level: for what compiles long
    DENSE, centers=(8,), scales=((Scale(0.4, 4, (8, 8)),),), decoder=((8,), (8,))
)
MANY = dataclasses.replace(
    DENSE,
    scales=(
        (Scale(0.3, 4, (6,)), Scale(0.6, 8, (6, 8))),
        (Scale(0.5, 4, (8,)), Scale(1.2, 4, (8, 12))),
    ),
    decoder=(),
    order="features_first",
    top_order="features_first",
    top_centered=True,
)
POINTS = suite.cloud(0, 3, 24, 2)


def random_variables(model, points, seed=0):
    """Variables without the trivial zeros and ones, and nothing compiled."""
    shapes = name_tables.flat_shapes(jax.eval_shape(model.init, jax.random.key(0), points))
    rng = np.random.default_rng(seed)

    def value(path, shape):
        if path.endswith(("var", "scale")):
            return rng.uniform(0.5, 1.5, shape)
        return rng.normal(size=shape) * (shape[0] ** -0.5 if path.endswith("kernel") else 0.2)

    flat = {path: value(path, shape).astype(np.float32) for path, shape in shapes.items()}
    return name_tables.nest(flat)


@pytest.mark.parametrize(
    "check", [suite.check_padding, suite.check_batch, suite.check_gradients, "fuse"]
)
def test_contract_of_backbones(check):
    check = functools.partial(suite.check_fuse, "pointnet2") if check == "fuse" else check
    check(pointnet2.Model(LEVEL), POINTS)


def _perceptron(params, stats, x):
    for name in sorted(params):
        p, s = params[name], stats[name]["norm"]
        x = x @ p["dense"]["kernel"] + p["dense"]["bias"]
        x = (x - s["mean"]) / np.sqrt(s["var"] + 1e-5)
        x = np.maximum(x * p["norm"]["scale"] + p["norm"]["bias"], 0)
    return x


def _centers(xyz, num):
    chosen = [0]
    while len(chosen) < min(num, len(xyz)):
        gaps = np.min(np.sum((xyz[:, None] - xyz[chosen]) ** 2, -1), 1)
        chosen.append(int(np.argmax(gaps)))
    return xyz[chosen]


def _columns(xyz, feat, order):
    return np.concatenate([xyz, feat] if order == "xyz_first" else [feat, xyz], -1)


def _interpolated(xyz, places, feat):
    result = []
    for p in xyz:
        squared = np.sum((places - p) ** 2, -1)
        near = np.argsort(squared, kind="stable")[:3]
        weights = 1 / (squared[near] + 1e-8)
        result.append(weights @ feat[near] / weights.sum())
    return np.stack(result)


def _oracle(config, variables, xyz, feat):
    """One cloud [N, 3], [N, F] through the definition -> sites, their features, pooled."""
    params, stats = variables["params"], variables["batch_stats"]
    levels = [(xyz, feat)]
    for i, scales in enumerate(config.scales):
        xyz, feat = levels[-1]
        centers, joined = _centers(xyz, config.centers[i]), []
        for j, (radius, samples, _) in enumerate(scales):
            nodes = [x[f"stage_{i}"][f"scale_{j}"] for x in (params, stats)]
            rows = []
            for center in centers:
                inside = np.flatnonzero(np.linalg.norm(xyz - center, axis=-1) < radius)[:samples]
                x = _columns(xyz[inside] - center, feat[inside], config.order)
                rows.append(_perceptron(*nodes, x).max(0))
            joined.append(np.stack(rows))
        levels.append((centers, np.concatenate(joined, -1)))
    xyz, feat = levels[-1]
    xyz = xyz - xyz.mean(0) * config.top_centered
    nodes = [x[f"stage_{len(config.scales)}"] for x in (params, stats)]
    pooled = _perceptron(*nodes, _columns(xyz, feat, config.top_order)).max(0)
    if not config.decoder:
        return *levels[-1], pooled
    xyz, feat = levels[0]
    levels[0] = xyz, np.concatenate([xyz, feat], -1)
    found = np.tile(pooled, (len(levels[-1][0]), 1))
    for i in range(len(config.decoder)):
        xyz, skip = levels[-1 - i]
        nodes = [x[f"decoder_{i}"] for x in (params, stats)]
        feat = _perceptron(*nodes, np.concatenate([skip, found], -1))
        if i + 1 < len(config.decoder):
            found = _interpolated(levels[-2 - i][0], xyz, feat)
    return xyz, feat, pooled


@pytest.mark.parametrize("config", [DENSE, MANY], ids=["dense", "several scales"])
def test_features_are_those_of_the_definition(config):
    """The second cloud has fewer points than centres, the third none, and padding is junk."""
    model = pointnet2.Model(config)
    mask = np.ones((3, 24), bool)
    mask[1, [0, 2, *range(7, 24)]] = False
    mask[2] = False
    xyz, feat = (np.where(mask[..., None], x, np.nan) for x in (POINTS.xyz, POINTS.feat))
    points = base.PointBatch(jnp.asarray(xyz), jnp.asarray(feat), jnp.asarray(mask))
    variables = random_variables(model, points)
    found = suite.apply(model, variables, points)
    for i in range(2):
        sites, wanted, pooled = _oracle(config, variables, xyz[i][mask[i]], feat[i][mask[i]])
        valid = np.asarray(found.mask[i])
        assert valid.sum() == len(sites)
        np.testing.assert_allclose(found.xyz[i][valid], sites, atol=1e-7)
        np.testing.assert_allclose(found.feat[i][valid], wanted, atol=2e-5)
        np.testing.assert_array_equal(found.feat[i][~valid], 0)
        np.testing.assert_allclose(found.pooled[i], pooled, atol=2e-5)
    assert not found.mask[2].any() and not found.feat[2].any() and not found.pooled[2].any()
    assert found.dropped.tolist() == [0] * 3


def test_keys_decide_the_first_center_where_asked():
    model = pointnet2.Model(dataclasses.replace(LEVEL, decoder=(), random_start=True))
    variables = random_variables(model, POINTS)

    @functools.partial(jax.jit, compiler_options=suite.quick_jit_options)
    def sites(keys):
        return model.apply(variables, POINTS, keys=keys).xyz

    first, again, other = (sites(jax.random.split(jax.random.key(seed), 3)) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert (jnp.abs(first - other).max((1, 2)) > 0).any()


def test_radii_follow_the_size_of_the_cloud():
    large = dataclasses.replace(LEVEL, decoder=(), order="features_first")
    small = dataclasses.replace(large, radius_factor=0.5)
    variables = random_variables(pointnet2.Model(large), POINTS)
    wanted = suite.apply(pointnet2.Model(large), variables, POINTS)

    def doubled(path, x):  # where offsets are read, which are half as long
        last = jax.tree_util.keystr(path, simple=True, separator="/").endswith(
            "stage_0/scale_0/layers_0/dense/kernel"
        )
        return np.concatenate([x[:-3], 2 * x[-3:]]) if last else x

    variables = jax.tree_util.tree_map_with_path(doubled, variables)
    halved = POINTS._replace(xyz=POINTS.xyz / 2)
    found = suite.apply(pointnet2.Model(small), variables, halved)
    np.testing.assert_allclose(found.feat, wanted.feat, atol=1e-5)
    untold = suite.apply(pointnet2.Model(large), variables, halved)
    assert float(jnp.abs(untold.feat - wanted.feat).max()) > 1e-2


def test_gradients_in_features_are_those_of_finite_differences():
    with jax.enable_x64(True):
        model = pointnet2.Model(LEVEL, jnp.float64)
        variables = random_variables(model, POINTS, 1)
        points = POINTS._replace(
            xyz=POINTS.xyz.astype(jnp.float64), feat=POINTS.feat.astype(jnp.float64)
        )

        def loss(xyz, feat):
            out, _ = model.apply(
                variables,
                points._replace(xyz=xyz, feat=feat),
                train=True,
                mutable=["batch_stats"],
            )
            return jnp.sum(jnp.sin(out.feat)) + jnp.sum(jnp.square(out.pooled))

        both = jax.jit(jax.value_and_grad(loss, (0, 1)), compiler_options=suite.quick_jit_options)
        slopes = both(points.xyz, points.feat)[1]
        step = 1e-6
        for arg, where in [(0, (0, 0, 0)), (0, (1, 5, 1)), (1, (2, 23, 1)), (1, (1, 11, 0))]:
            values = []
            for sign in (1, -1):
                moved = [np.array(points.xyz), np.array(points.feat)]
                moved[arg][where] += sign * step
                values.append(float(both(*moved)[0]))
            slope = (values[0] - values[1]) / (2 * step)
            np.testing.assert_allclose(slopes[arg][where], slope, rtol=1e-4, atol=1e-6)


def _layers(*widths):
    """Dense layer with bias, and a norm, between each two widths."""
    return sum(a * b + 3 * b for a, b in zip(widths[:-1], widths[1:], strict=True))


# What the original's classifiers add to 1,024 features: 512, 256, 40 classes.
_CLASSIFIER = _layers(1024, 512, 256) + 256 * 40 + 40


def test_numbers_of_parameters():
    def count(name):
        points = suite.cloud(0, 1, 16, 0)
        return suite.num_parameters(base.build("pointnet2", name), points)

    ssg = _layers(3, 64, 64, 128) + _layers(131, 128, 128, 256) + _layers(259, 256, 512, 1024)
    assert count("ssg") == ssg
    # Later tables give 1.48 M for the classifier on 40 classes.
    assert ssg + _CLASSIFIER == pytest.approx(1.48e6, rel=0.01)
    decoder = _layers(1280, 256, 256) + _layers(384, 256, 128) + _layers(131, 128, 128, 128)
    assert count("paper") == ssg + decoder
    balls = _layers(3, 32, 32, 64) + _layers(3, 64, 64, 128) + _layers(3, 64, 96, 128)
    balls += _layers(323, 64, 64, 128) + 2 * _layers(323, 128, 128, 256)
    msg = balls + _layers(643, 256, 512, 1024)
    assert count("msg") == msg
    assert msg + _CLASSIFIER == pytest.approx(1.74e6, rel=0.01)  # same tables
    assert count("cross_modal") == balls + _layers(643, 128, 256, 512)


@pytest.mark.parametrize(
    ("name", "sites", "width"),
    [("paper", 1024, 128), pytest.param("cross_modal", 128, 640, marks=pytest.mark.slow)],
)
def test_published_sizes_run(name, sites, width):
    model = base.build("pointnet2", name, dtype=jnp.bfloat16)
    points = suite.cloud(1, 1, 1024, 0, extent=2.0)
    found = suite.apply(model, random_variables(model, points), points)
    assert found.feat.shape == (1, sites, width) and found.mask.all()
    assert found.pooled.shape == (1, {"paper": 1024, "cross_modal": 512}[name])
    assert found.feat.dtype == found.pooled.dtype == jnp.bfloat16
    assert np.isfinite(np.asarray(found.feat, np.float32)).all()


def test_what_does_not_fit_is_named():
    refused = [
        (dict(channels=-1), "channels: expected 0 or more"),
        (dict(centers=()), "centers: expected positive numbers"),
        (dict(centers=(4,)), r"scales: expected at least one for each of 1 levels, found \[1, 1\]"),
        (dict(scales=((), ())), "scales: expected at least one"),
        (dict(scales=(((0.0, 4, (8,)),),) * 2), "scales: expected .radius > 0"),
        (dict(decoder=((8,),)), "decoder: expected 3 perceptrons"),
        (dict(decoder=((8,), (), (8,))), "decoder: expected positive widths"),
        (dict(top=(0,)), "top: expected positive widths"),
        (dict(order="xyz"), "order: unknown 'xyz'; known: .'features_first', 'xyz_first'."),
        (dict(top_order="xyz"), "top_order: unknown"),
        (dict(radius_factor=0.0), "radius_factor: expected > 0"),
    ]
    for change, message in refused:
        with pytest.raises(ValueError, match=message):
            dataclasses.replace(DENSE, **change)
    with pytest.raises(ValueError, match="pointnet2: made for 2 feature channels a point, found 1"):
        pointnet2.Model(DENSE).init(jax.random.key(0), POINTS._replace(feat=POINTS.feat[..., :1]))


def test_plain_lists_are_settings_too():
    config = dataclasses.replace(
        DENSE, centers=[8, 4], scales=[[[0.4, 4, [8, 8]]], [[0.8, 4, [8, 12]]]], top=[16]
    )
    assert config == DENSE and hash(config) == hash(DENSE)
