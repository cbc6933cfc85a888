"""The closed-form similarity: recoveries, the degenerate cases one by one, and its gradients."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gsjax.core import alignment, rotations

_fit = jax.jit(alignment.umeyama, static_argnames=("min_points", "trim", "rounds"))
_NAMES = ("scale", "rotation", "translation")


@pytest.fixture
def x64():
    with jax.enable_x64(True):
        yield


def _transform(rng, *leading):
    quats = rng.normal(size=(*leading, 4))
    rotation = np.asarray(rotations.quat_to_rotmat(jnp.asarray(quats)), quats.dtype)
    return rng.uniform(0.2, 5, leading), rotation, 10 * rng.normal(size=(*leading, 3))


def _moved(transform, points):
    scale, rotation, translation = (np.asarray(x) for x in transform[:3])
    turned = points @ np.swapaxes(rotation, -1, -2)
    return scale[..., None, None] * turned + translation[..., None, :]


def _check(found, expected, tolerance):
    assert bool(jnp.all(found.valid))
    for a, b in zip(found[:3], expected):
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance * 10)
    np.testing.assert_allclose(np.linalg.det(found.rotation), 1, atol=tolerance)


def test_recovers_similarities_over_leading_axes_in_float64(x64):
    rng = np.random.default_rng(0)
    transform = _transform(rng, 2, 3)
    source = rng.normal(size=(2, 3, 40, 3)) + 4
    weights = rng.uniform(0, 2, size=(3, 40))
    weights[:, :5] = 0
    target = _moved(transform, source)
    _check(_fit(source, target, weights), transform, 1e-12)
    target[..., :5, :] += 100  # no weight, no say
    found = _fit(source, target, weights)
    _check(found, transform, 1e-12)
    moved = alignment.apply(found, jnp.asarray(source))
    np.testing.assert_allclose(moved[..., 5:, :], target[..., 5:, :], atol=1e-11)


@pytest.mark.parametrize("shift", [0.0, 300.0])
def test_recovers_a_similarity_in_float32(shift):
    rng = np.random.default_rng(1)
    source = rng.normal(size=(5000, 3)) * [3, 1, 0.2]
    transform = _transform(rng)
    target = _moved(transform, source)
    found = _fit((source + shift).astype(np.float32), target.astype(np.float32))
    # Centred before products are formed: places far from the origin cost the digits of the input only.
    tolerance = 1e-5 if shift == 0 else 1e-4
    np.testing.assert_allclose(found.scale, transform[0], rtol=tolerance)
    np.testing.assert_allclose(found.rotation, transform[1], atol=tolerance)


def test_is_the_least_squares_optimum_under_noise(x64):
    rng = np.random.default_rng(2)
    source, weights = rng.normal(size=(30, 3)), rng.uniform(0.1, 1, 30)
    target = _moved(_transform(rng), source) + 0.3 * rng.normal(size=(30, 3))
    found = _fit(source, target, weights)

    def cost(change):
        turn = np.asarray(rotations.quat_to_rotmat(jnp.asarray([1.0, *change[:3]])))
        moved = _moved(
            (found.scale + change[3], found.rotation @ turn, found.translation + change[4:]), source
        )
        return np.sum(weights * np.square(target - moved).sum(-1))

    best = cost(np.zeros(7))
    for change in 1e-3 * np.concatenate([np.eye(7), -np.eye(7), rng.normal(size=(10, 7))]):
        assert cost(change) > best


# The table of degenerate cases, line by line.


@pytest.mark.parametrize("place", [0.0, 7.0, 1e-4])
def test_a_constant_source_is_not_valid(place):
    source, target = jnp.full((40, 3), place), jax.random.normal(jax.random.key(0), (40, 3))
    found = _fit(source, target)
    assert not found.valid and found.scale == 1
    np.testing.assert_array_equal(found.rotation, np.eye(3))
    np.testing.assert_array_equal(found.translation, 0)
    grads = jax.grad(lambda x, y: sum(jnp.sum(v) for v in alignment.umeyama(x, y)[:3]), (0, 1))
    np.testing.assert_array_equal(jnp.stack(grads(source, target)), 0)


def test_a_small_source_is_valid():
    source = 1e-6 * jax.random.normal(jax.random.key(0), (40, 3))
    found = _fit(source, source * 1e7)
    assert found.valid
    np.testing.assert_allclose(found.scale, 1e7, rtol=1e-5)


def test_too_few_points_are_not_valid_and_three_off_a_line_are_enough(x64):
    rng = np.random.default_rng(3)
    transform = _transform(rng)
    source = rng.normal(size=(8, 3))
    target = _moved(transform, source)
    weights = np.zeros(8)
    assert not _fit(source, target, weights).valid
    weights[:2] = 1
    assert not _fit(source, target, weights).valid
    weights[5] = 0.5
    _check(_fit(source, target, weights), transform, 1e-11)
    assert not _fit(source, target, weights, min_points=4).valid


@pytest.mark.parametrize("flat", ["planar", "symmetric planar"])
def test_planar_sets_determine_the_rotation(x64, flat):
    rng = np.random.default_rng(4)
    source = rng.normal(size=(50, 3)) * [1, 1, 0]
    if flat == "symmetric planar":
        source = np.array([[1, 0, 0], [-1, 0, 0], [0, 1, 0], [0, -1, 0.0]])
    transform = _transform(rng)
    _check(_fit(source, _moved(transform, source)), transform, 1e-12)


def test_collinear_sets_have_a_valid_rotation_and_finite_gradients(x64):
    rng = np.random.default_rng(5)
    source = rng.normal(size=(20, 1)) * [[1.0, 2.0, -1.0]]
    target = _moved(_transform(rng), source)

    def moved(source, target):
        return jnp.sum(jnp.sin(alignment.apply(alignment.umeyama(source, target), source)))

    found = _fit(source, target)
    np.testing.assert_allclose(np.linalg.det(found.rotation), 1, atol=1e-12)
    np.testing.assert_allclose(found.rotation @ found.rotation.T, np.eye(3), atol=1e-12)
    np.testing.assert_allclose(_moved(found, source), target, atol=1e-11)
    for noise in (0.0, 1e-9):
        grads = jax.grad(moved, (0, 1))(source, target + noise * rng.normal(size=target.shape))
        assert np.isfinite(grads).all() and np.abs(grads).max() < 1e3


def test_where_a_reflection_is_best_a_rotation_is_returned(x64):
    source = np.random.default_rng(6).normal(size=(50, 3)) * [3, 2, 1]
    found = _fit(source, source * [1, 1, -1])
    np.testing.assert_allclose(np.linalg.det(found.rotation), 1, atol=1e-12)
    values = np.linalg.svd(np.cov(source.T, bias=True))[1]
    # trace(S D) / v with the smallest value flipped, to the overlap of the axes.
    assert abs(found.scale - (values[0] + values[1] - values[2]) / values.sum()) < 0.05


def test_determinants_of_0_keep_the_rank(monkeypatch):
    monkeypatch.setattr(jnp.linalg, "det", lambda a: jnp.zeros(a.shape[:-2], a.dtype))
    found = alignment.nearest_rotation(jnp.diag(jnp.array([3.0, 2.0, 1.0])))
    np.testing.assert_allclose(found, np.eye(3), atol=1e-6)


def test_points_that_are_not_finite_do_not_count(x64):
    rng = np.random.default_rng(7)
    transform = _transform(rng)
    source, weights = rng.normal(size=(30, 3)), np.ones(30)
    target = _moved(transform, source)
    source[3], source[4, 1], target[5, 2], weights[6] = np.nan, np.inf, -np.inf, np.nan
    weights[7] = -1
    target[7] += 9
    _check(_fit(source, target, weights), transform, 1e-12)

    def total(source, target):
        return sum(jnp.sum(x) for x in alignment.umeyama(source, target, weights)[:3])

    for grad in jax.grad(total, (0, 1))(source, target):
        assert np.isfinite(grad).all() and not np.any(grad[3:8]) and np.any(grad[0])


def test_a_constant_target_has_scale_0_and_finite_gradients():
    source = jax.random.normal(jax.random.key(1), (30, 3))
    target = jnp.full((30, 3), 2.0)
    found = _fit(source, target)
    assert found.valid and abs(found.scale) < 1e-6
    np.testing.assert_allclose(found.translation, 2, atol=1e-5)
    grad = jax.grad(lambda y: jnp.sum(alignment.apply(alignment.umeyama(source, y), source)))(
        target
    )
    assert np.isfinite(grad).all()


def test_the_worst_points_are_left_out_of_a_second_fit(x64):
    rng = np.random.default_rng(8)
    transform = _transform(rng)
    source = rng.normal(size=(2, 100, 3))
    target = _moved(transform, source)
    target[:, ::10] += 5 * transform[0] * (1 + rng.normal(size=(2, 10, 3)))
    plain = _fit(source, target)
    assert np.abs(plain.scale / transform[0] - 1).min() > 1e-3
    _check(
        _fit(source, target, trim=0.2, rounds=3), (*(np.stack([x, x]) for x in transform),), 1e-11
    )


def test_a_share_of_the_smallest_values_of_those_that_count():
    values = jnp.array([[5.0, 1, 4, 2, 3, jnp.nan], [1, 1, 1, 1, 2, 0]])
    usable = jnp.array([[True] * 5 + [False], [True] * 6])
    found = alignment.keep_smallest(values, usable, 0.6)
    np.testing.assert_array_equal(found[0], [False, True, False, True, True, False])
    np.testing.assert_array_equal(found[1], [True, True, True, True, False, True])  # 4th of 6, ties
    np.testing.assert_array_equal(alignment.keep_smallest(values, usable, 1.0), usable)
    assert not alignment.keep_smallest(values, jnp.zeros_like(usable), 0.5).any()


# Gradients of the rotation factor.


def _by_autodiff(matrix):
    u, _, vt = jnp.linalg.svd(matrix)
    flip = jnp.sign(jnp.linalg.det(u) * jnp.linalg.det(vt))
    return u @ jnp.diag(jnp.array([1.0, 1.0, flip])) @ vt


@pytest.mark.parametrize("sign", [1, -1])
def test_rotation_gradient_is_that_of_the_decomposition_and_of_finite_differences(x64, sign):
    rng = np.random.default_rng(9)
    matrix = jnp.asarray(rng.normal(size=(3, 3)))
    matrix = matrix * sign * jnp.sign(jnp.linalg.det(matrix))
    g = jnp.asarray(rng.normal(size=(3, 3)))

    def total(rotation, matrix):
        return jnp.sum(g * rotation(matrix))

    own, auto = (
        jax.jit(jax.grad(functools.partial(total, rotation)))(matrix)
        for rotation in (alignment.nearest_rotation, _by_autodiff)
    )
    np.testing.assert_allclose(own, auto, atol=1e-13)
    value = jax.jit(functools.partial(total, alignment.nearest_rotation))
    for i, j in np.ndindex(3, 3):
        step = jnp.zeros((3, 3)).at[i, j].set(1e-5)
        slope = (value(matrix + step) - value(matrix - step)) / 2e-5
        np.testing.assert_allclose(own[i, j], slope, atol=1e-8)
    batch = jnp.stack([matrix, 1e-30 * matrix, 1e30 * matrix])  # its degree is -1
    many = jax.grad(lambda m: jnp.sum(g * alignment.nearest_rotation(m)))(batch)
    np.testing.assert_allclose(
        many * jnp.array([1, 1e-30, 1e30])[:, None, None], jnp.stack([own] * 3), rtol=1e-9
    )


@pytest.mark.parametrize(
    "matrix", [np.eye(3), np.diag([2.0, 2, 0]), np.diag([1.0, 1, -0.5])], ids=["isotropic", "planar", "flipped"]
)  # fmt: skip
def test_rotation_gradient_is_finite_where_singular_values_coincide(x64, matrix):
    rng = np.random.default_rng(10)
    turn = _transform(rng)[1]
    matrix, g = jnp.asarray(turn @ matrix), jnp.asarray(rng.normal(size=(3, 3)))
    assert np.isnan(jax.grad(lambda m: jnp.sum(g * _by_autodiff(m)))(matrix)).any()
    value = jax.jit(lambda m: jnp.sum(g * alignment.nearest_rotation(m)))
    own = jax.grad(value)(matrix)
    step = jnp.asarray(rng.normal(size=(3, 3)))
    slope = (value(matrix + 1e-6 * step) - value(matrix - 1e-6 * step)) / 2e-6
    np.testing.assert_allclose(jnp.sum(own * step), slope, rtol=1e-6)


@pytest.mark.parametrize("matrix", [np.zeros((3, 3)), np.diag([1.0, 0, 0]), np.diag([2.0, 1, -1])])
def test_rotation_gradient_is_0_along_a_free_direction(matrix):
    turn = _transform(np.random.default_rng(11))[1]
    matrix = jnp.asarray(turn @ matrix, jnp.float32)
    found = alignment.nearest_rotation(matrix)
    np.testing.assert_allclose(found @ found.T, np.eye(3), atol=1e-5)
    np.testing.assert_allclose(np.linalg.det(found), 1, atol=1e-5)
    g = jax.random.normal(jax.random.key(0), (3, 3))
    grad = jax.grad(lambda m: jnp.sum(g * alignment.nearest_rotation(m)))(matrix)
    assert np.isfinite(grad).all()
    if not matrix.any():
        np.testing.assert_array_equal(grad, 0)


@pytest.mark.parametrize("kind", ["general", "isotropic", "planar"])
def test_gradients_of_the_whole_fit_are_finite_differences(x64, kind):
    rng = np.random.default_rng(12)
    source = rng.normal(size=(9, 3))
    if kind != "general":
        source = np.concatenate([np.eye(3), -np.eye(3)]) * [1, 1, kind == "isotropic"]
    target = _moved(_transform(rng), source)
    target += 0.1 * rng.normal(size=target.shape) * (kind == "general")
    weights = rng.uniform(0.5, 1, len(source)) if kind == "general" else np.ones(len(source))
    mix = {
        name: rng.normal(size=(3, 3)[: len(shape)])
        for name, shape in zip(_NAMES, [(), (3, 3), (3,)])
    }

    def total(source, target, weights):
        found = alignment.umeyama(source, target, weights)
        return sum(jnp.sum(mix[name] * getattr(found, name)) for name in _NAMES)

    value = jax.jit(total)
    arguments = tuple(jnp.asarray(x) for x in (source, target, weights))
    grads = jax.jit(jax.grad(total, (0, 1, 2)))(*arguments)
    for k in range(3):
        step = jnp.asarray(rng.normal(size=arguments[k].shape))
        ends = [
            value(*(x + sign * 1e-6 * step if i == k else x for i, x in enumerate(arguments)))
            for sign in (1, -1)
        ]
        np.testing.assert_allclose(jnp.sum(grads[k] * step), (ends[0] - ends[1]) / 2e-6, rtol=1e-5)


def test_the_error_at_the_optimum_has_no_gradient_through_the_fit(x64):
    # The envelope identity.
    rng = np.random.default_rng(13)
    source, weights = rng.normal(size=(25, 3)), rng.uniform(0, 1, 25)
    target = jnp.asarray(_moved(_transform(rng), source) + 0.5 * rng.normal(size=(25, 3)))

    def cost(target, through):
        found = alignment.umeyama(
            source, target if through else jax.lax.stop_gradient(target), weights
        )
        return jnp.sum(
            weights * jnp.sum(jnp.square(target - alignment.apply(found, jnp.asarray(source))), -1)
        )

    full, stop = (
        jax.jit(jax.grad(functools.partial(cost, through=t)))(target) for t in (True, False)
    )
    np.testing.assert_allclose(full, stop, atol=1e-12 * np.abs(stop).max())


def test_wrong_arguments_are_named():
    x = jnp.zeros((4, 3))
    with pytest.raises(
        ValueError, match=r"source: expected shape \[\.\.\., N, 3\], found \[4, 2\]"
    ):
        alignment.umeyama(jnp.zeros((4, 2)), x)
    with pytest.raises(ValueError, match="target: expected as many points as source, 4, found 5"):
        alignment.umeyama(x, jnp.zeros((5, 3)))
    with pytest.raises(ValueError, match="weights: expected shape"):
        alignment.umeyama(x, x, jnp.ones(3))
    for name, value in dict(min_points=0, trim=1.0, rounds=-1).items():
        with pytest.raises(ValueError, match=f"{name}: expected"):
            alignment.umeyama(x, x, **{name: value})
