"""PointNet: the contract of backbones, an oracle in NumPy, sizes of the published networks."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gsjax.models import name_tables
from gsjax.models.backbones import base, pointnet
from tests.models.backbones import suite

TINY = pointnet.Config(
    channels=2,
    widths=(8, 12),
    local=1,
    input_transform=True,
    feature_transform=True,
    transform_points=(8,),
    transform_dense=(12,),
    last_relu=False,
    min_batch=4,
)
POINTS = suite.cloud(0, 4, 24, 2)


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
    check = functools.partial(suite.check_fuse, "pointnet") if check == "fuse" else check
    check(pointnet.Model(TINY), POINTS)


def test_an_empty_cloud_is_harmless():
    model = pointnet.Model(pointnet.Config(channels=2, widths=(8,), local=1))
    variables = random_variables(model, POINTS)
    emptied = POINTS._replace(mask=POINTS.mask.at[1].set(False))
    plain = suite.apply(model, variables, POINTS)
    found = suite.apply(model, variables, emptied)
    np.testing.assert_array_equal(found.pooled[1], 0.0)
    np.testing.assert_array_equal(found.feat[1], 0.0)
    np.testing.assert_allclose(found.pooled[0], plain.pooled[0], atol=1e-6)


def _layer(variables, x, relu=True):
    params, stats = variables
    x = x @ params["dense"]["kernel"] + params["dense"]["bias"]
    x = (x - stats["norm"]["mean"]) / np.sqrt(stats["norm"]["var"] + 1e-5)
    x = x * params["norm"]["scale"] + params["norm"]["bias"]
    return np.maximum(x, 0) if relu else x


def _oracle(config, variables, columns):
    """One cloud [N, 3 + F] through the definition -> local [N, C], pooled [D]."""
    params, stats = variables["params"], variables["batch_stats"]

    def at(*path):
        return [functools.reduce(lambda node, key: node[key], path, x) for x in (params, stats)]

    def matrix(name, x):
        for i in range(len(config.transform_points)):
            x = _layer(at(name, f"points_{i}"), x)
        x = x.max(0)
        for i in range(len(config.transform_dense)):
            x = _layer(at(name, f"dense_{i}"), x)
        x = x @ params[name]["last"]["kernel"] + params[name]["last"]["bias"]
        size = int(np.sqrt(x.size))
        return x.reshape(size, size) + np.eye(size)

    x = columns
    if config.input_transform:
        turned = np.stack([p[:3] @ matrix("input_transform", x) for p in x])
        x = np.concatenate([turned, x[:, 3:]], -1)
    for i in range(len(config.widths)):
        relu = i + 1 < len(config.widths) or config.last_relu
        x = _layer(at(f"blocks_{i}"), x, relu)
        if i + 1 == config.local:
            if config.feature_transform:
                x = x @ matrix("feature_transform", x)
            local = x
    return local, x.max(0)


@pytest.mark.parametrize("transforms", [True, False])
def test_features_are_those_of_the_definition(transforms):
    config = TINY
    if not transforms:
        config = pointnet.Config(channels=2, widths=(8, 10, 12))
    model = pointnet.Model(config)
    variables = random_variables(model, POINTS)
    found = suite.apply(model, variables, POINTS)
    columns = np.concatenate([POINTS.xyz, POINTS.feat], -1)
    assert found.pooled.shape == (4, 12)
    assert (np.asarray(found.pooled) < 0).any() == transforms  # no ReLU
    for i in range(4):
        local, pooled = _oracle(config, variables, columns[i])
        np.testing.assert_allclose(found.pooled[i], pooled, atol=2e-5)
        np.testing.assert_allclose(found.feat[i, :, : local.shape[1]], local, atol=2e-5)
        np.testing.assert_allclose(found.feat[i, :, local.shape[1] :] - pooled, 0, atol=2e-5)
    np.testing.assert_array_equal(found.xyz, POINTS.xyz)
    assert found.dropped.tolist() == [0] * 4


def test_gradients_in_positions_are_those_of_finite_differences():
    with jax.enable_x64(True):
        model = pointnet.Model(TINY, jnp.float64)
        variables = random_variables(model, POINTS, 1)
        points = POINTS._replace(
            xyz=POINTS.xyz.astype(jnp.float64), feat=POINTS.feat.astype(jnp.float64)
        )

        def loss(xyz):
            out, _ = model.apply(
                variables, points._replace(xyz=xyz), train=True, mutable=["batch_stats"]
            )
            return jnp.sum(jnp.sin(out.feat)) + jnp.sum(jnp.square(out.pooled))

        both = jax.jit(jax.value_and_grad(loss), compiler_options=suite.quick_jit_options)
        slopes = both(points.xyz)[1]
        assert slopes.dtype == jnp.float64
        step = 1e-6
        for where in [(0, 0, 0), (1, 5, 1), (3, 23, 2), (2, 11, 0)]:
            moved = [np.array(points.xyz) for _ in range(2)]
            moved[0][where] += step
            moved[1][where] -= step
            slope = (both(moved[0])[0] - both(moved[1])[0]) / (2 * step)
            np.testing.assert_allclose(slopes[where], slope, rtol=1e-4, atol=1e-6)


def _layers(*widths):
    """Dense layer with bias, and a norm, between each two widths."""
    return sum(a * b + 3 * b for a, b in zip(widths[:-1], widths[1:], strict=True))


def _transform(columns, k):
    return _layers(columns, 64, 128, 1024, 512, 256) + 256 * k * k + k * k


# What the original's classifiers add to 1,024 features: 512, 256, 40 classes.
_CLASSIFIER = _layers(1024, 512, 256) + 256 * 40 + 40


def test_numbers_of_parameters():
    def count(config):
        points = suite.cloud(0, 8, 16, config.channels)
        return suite.num_parameters(pointnet.Model(config), points)

    paper = count(pointnet.PRESETS["paper"])
    assert paper == _layers(3, 64, 64, 64, 128, 1024) == 151_680
    # PointNet++'s authors and later tables give 0.8 M and 3.5 M for the classifiers without and with
    # transforms.
    assert paper + _CLASSIFIER == pytest.approx(0.8e6, rel=0.03)
    original = count(pointnet.Config(input_transform=True, feature_transform=True))
    assert original == paper + _transform(3, 3) + _transform(64, 64)
    assert original + _CLASSIFIER == pytest.approx(3.5e6, rel=0.01)
    for channels in (0, 7, 51):
        cross = pointnet.Config(**{**vars(pointnet.PRESETS["cross_modal"]), "channels": channels})
        wanted = _layers(3 + channels, 64, 128, 512) + _transform(3 + channels, 3)
        assert count(cross) == wanted + _transform(64, 64)


@pytest.mark.parametrize("name", ["paper", "cross_modal"])
def test_published_sizes_run(name):
    model = base.build("pointnet", name, dtype=jnp.bfloat16)
    points = suite.cloud(1, 2, 1024, 0)
    found = suite.apply(model, random_variables(model, points), points)
    width = {"paper": 64 + 1024, "cross_modal": 64 + 512}[name]
    assert found.feat.shape == (2, 1024, width) and found.pooled.shape == (2, width - 64)
    assert found.feat.dtype == found.pooled.dtype == jnp.bfloat16
    assert np.isfinite(np.asarray(found.feat, np.float32)).all()


def test_orthogonality_of_known_matrices():
    # A = 2I: I - A A^T = -3I. A = [[1, 1], [0, 1]]: A A^T = [[2, 1], [1, 1]]. Then a turn, and I.
    matrices = jnp.asarray(
        [[[2, 0], [0, 2]], [[1, 1], [0, 1]], [[0.6, -0.8], [0.8, 0.6]], [[1, 0], [0, 1]]],
        jnp.float32,
    )

    @jax.jit
    def values(matrices):
        each = jax.vmap(pointnet.orthogonality)(matrices)
        return each, pointnet.orthogonality(matrices), jax.grad(pointnet.orthogonality)(matrices)

    each, mean, slopes = values(matrices)
    np.testing.assert_allclose(each, [3 * 2**0.5, 3**0.5, 0, 0], rtol=1e-6, atol=1e-6)
    assert float(mean) == pytest.approx((3 * 2**0.5 + 3**0.5) / 4, rel=1e-6)
    np.testing.assert_array_equal(slopes[3], 0.0)
    assert np.isfinite(slopes).all()
    with pytest.raises(ValueError, match=r"matrix: expected shape \[..., k, k\], found \[2, 3\]"):
        pointnet.orthogonality(jnp.zeros((2, 3)))


def test_matrices_can_be_read():
    model = pointnet.Model(TINY)
    variables = random_variables(model, POINTS)
    _, seen = suite.apply(model, variables, POINTS, mutable=["intermediates"])
    sizes = {name: seen["intermediates"][name]["matrix"][0].shape for name in seen["intermediates"]}
    assert sizes == {"input_transform": (4, 3, 3), "feature_transform": (4, 8, 8)}


def test_what_does_not_fit_is_named():
    with pytest.raises(ValueError, match="local: expected one of the layers 1 to 3, found 4"):
        pointnet.Config(widths=(8, 8, 8), local=4)
    with pytest.raises(ValueError, match="transform_dense: expected positive widths"):
        pointnet.Config(transform_dense=())
    with pytest.raises(ValueError, match="channels: expected 0 or more, found -1"):
        pointnet.Config(channels=-1)
    with pytest.raises(ValueError, match="min_batch: expected at least 1"):
        pointnet.Config(min_batch=0)
    model = pointnet.Model(TINY)
    few = jax.tree.map(lambda x: x[:3], POINTS)
    with pytest.raises(ValueError, match="at least min_batch = 4 clouds .* found 3"):
        jax.eval_shape(lambda: model.init(jax.random.key(0), few, train=True))
    with pytest.raises(ValueError, match="made for 2 feature channels a point, found 1"):
        model.init(jax.random.key(0), POINTS._replace(feat=POINTS.feat[..., :1]))
    with pytest.raises(ValueError, match="mask: expected"):
        model.init(jax.random.key(0), POINTS._replace(mask=POINTS.mask[:, 1:]))
