"""PM-Loss against loops, its two gradient identities, invariances, guards and options."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gsjax.core import alignment, rotations
from gsjax.systems.pm_loss import losses


@pytest.fixture
def x64():
    with jax.enable_x64(True):
        yield


def _case(seed=0, batch=2, shape=(2, 5, 6), noise=0.05):
    """Centres [B, V, H, W, 3] on a wavy surface, and a noisy teacher in another frame and scale."""
    rng = np.random.default_rng(seed)
    means = rng.uniform(-1, 1, size=(batch, *shape, 3))
    means[..., 2] = 3 + np.sin(3 * means[..., 0])
    return means, _similar(rng, means + noise * rng.normal(size=means.shape))


def _similar(rng, points):
    rotation = np.asarray(rotations.quat_to_rotmat(jnp.asarray(rng.normal(size=4))))
    return rng.uniform(0.3, 3) * points @ rotation.T + rng.normal(size=3)


def _options(**settings):
    return losses.Options(**{"min_points": 3, **settings})


@functools.lru_cache
def _compiled(options):
    return jax.jit(functools.partial(losses.pm_loss, options=options))


def _loss(means, teacher, *, confidence=None, valid=None, keys=None, **settings):
    found = _compiled(_options(**settings))
    return found(means, teacher, confidence=confidence, valid=valid, keys=keys)


def _slow(means, teacher, weights=None, pixel=False, reverse=False):
    """One example from the definitions, with NumPy's decomposition and all pairs."""
    y, x = means.reshape(-1, 3), teacher.reshape(-1, 3)
    w = np.ones(len(x)) if weights is None else weights.reshape(-1)
    mx, my = (np.average(p, axis=0, weights=w) for p in (x, y))
    moment = np.einsum("n,ni,nj->ij", w, y - my, x - mx) / w.sum()
    u, s, vt = np.linalg.svd(moment)
    d = np.diag([1, 1, np.sign(np.linalg.det(u) * np.linalg.det(vt))])
    rotation = u @ d @ vt
    scale = np.trace(np.diag(s) @ d) / np.average(np.square(x - mx).sum(-1), weights=w)
    z = scale * (x - mx) @ rotation.T + my
    if pixel:
        return np.average(np.square(y - z).sum(-1), weights=w), scale
    squared = np.square(y[:, None] - z[None]).sum(-1)
    return squared.min(0 if reverse else 1).mean(), scale


def test_equals_the_definition(x64):
    means, teacher = _case()
    slow = [_slow(*pair) for pair in zip(means, teacher)]
    found, metrics = _loss(means, teacher)
    np.testing.assert_allclose(found, [loss for loss, _ in slow], rtol=1e-10)
    np.testing.assert_allclose(
        metrics["pm_scale"], np.mean([scale for _, scale in slow]), rtol=1e-12
    )
    np.testing.assert_allclose(metrics["pm_raw"], found.mean(), rtol=1e-12)
    assert metrics["pm_capped"] == metrics["pm_dropped"] == 0
    flat = _loss(means.reshape(2, -1, 3), teacher.reshape(2, -1, 3))[0]
    np.testing.assert_allclose(flat, found, rtol=1e-12)


def test_directions_and_modes(x64):
    means, teacher = _case(1, batch=1)
    forth = _slow(means[0], teacher[0])[0]
    back = _slow(means[0], teacher[0], reverse=True)[0]
    assert abs(forth - back) > 1e-6
    for direction, expected in dict(teacher_to_pred=back, both=forth + back).items():
        found = _loss(means, teacher, direction=direction)[0]
        np.testing.assert_allclose(found, [expected], rtol=1e-10)
    pixel = _slow(means[0], teacher[0], pixel=True)[0]
    np.testing.assert_allclose(_loss(means, teacher, mode="pixel")[0], [pixel], rtol=1e-10)
    assert pixel > forth


def test_is_0_on_a_moved_teacher_in_float32():
    means, _ = _case(2)
    teacher = _similar(np.random.default_rng(0), means)
    found, metrics = _loss(means.astype(np.float32), teacher.astype(np.float32))
    np.testing.assert_allclose(found, 0, atol=1e-10)
    assert metrics["pm_dropped"] == 0


def test_no_similarity_of_the_teacher_and_no_order_of_the_pixels_matters(x64):
    means, teacher = _case(3)
    rng = np.random.default_rng(4)
    expected = _loss(means, teacher)[0]
    for scale in (1e-5, 1.0, 1e4):
        found = _loss(means, _similar(rng, scale * teacher))[0]
        np.testing.assert_allclose(found, expected, rtol=1e-6)
    order = rng.permutation(60)
    mixed = (x.reshape(2, 60, 3)[:, order] for x in (means, teacher))
    np.testing.assert_allclose(_loss(*mixed)[0], expected, rtol=1e-10)
    # Once aligned, the teacher is a set.
    y, z = (
        jnp.asarray(means),
        losses.align(means, teacher, jnp.ones(means.shape[:-1]), _options())[1],
    )
    there = jnp.ones(means.shape[:-1], bool)
    shuffled = z.reshape(2, 60, 3)[:, order].reshape(z.shape)
    for direction in losses.DIRECTIONS:
        options = _options(direction=direction)
        np.testing.assert_allclose(
            losses.nearest_distance(y, shuffled, there, options),
            losses.nearest_distance(y, z, there, options),
            rtol=1e-12,
        )


def _gradient(means, teacher, **settings):
    fixed = {k: settings.pop(k) for k in ("confidence", "keys") if k in settings}
    options = _options(**settings)

    def total(means):
        return jnp.sum(losses.pm_loss(means, teacher, options, **fixed)[0])

    return jax.jit(jax.value_and_grad(total))(jnp.asarray(means))


@pytest.mark.parametrize("weights", ["none", "conf"])
def test_envelope_identity_of_the_pixel_mode(x64, weights):
    means, teacher = _case(5)
    confidence = np.random.default_rng(6).uniform(1, 9, means.shape[:-1])
    full, stop = (
        _gradient(
            means, teacher, mode="pixel", align_grad=a, weights=weights, confidence=confidence
        )[1]
        for a in ("full", "stop")
    )
    np.testing.assert_allclose(full, stop, atol=1e-13)


def test_full_gradients_reward_shrinking_by_twice_the_loss_and_stopped_ones_by_less(x64):
    means, teacher = _case(7, batch=1)
    gaps = means - means.mean((1, 2, 3), keepdims=True)
    loss, full = _gradient(means, teacher, align_grad="full")
    np.testing.assert_allclose(np.sum(full * gaps), 2 * loss, rtol=1e-10)
    doubled = _gradient(2 * means, teacher, align_grad="full")[0]
    np.testing.assert_allclose(doubled, 4 * loss, rtol=1e-10)
    _, stop = _gradient(means, teacher, align_grad="stop")
    pressure = np.sum(stop * gaps) / loss
    assert 1 < pressure < 2 - 1e-3
    assert 1e-6 < np.linalg.norm(full - stop) / np.linalg.norm(full) < 0.2


@pytest.mark.parametrize("direction", ["pred_to_teacher", "both"])
def test_full_gradient_is_finite_differences(x64, direction):
    means, teacher = _case(8, shape=(1, 3, 5))
    _, grad = _gradient(means, teacher, align_grad="full", direction=direction)
    rng = np.random.default_rng(9)
    for _ in range(3):
        step = 1e-6 * rng.normal(size=means.shape)
        ends = [
            _loss(means + sign * step, teacher, align_grad="full", direction=direction)[0].sum()
            for sign in (1, -1)
        ]
        np.testing.assert_allclose(np.sum(grad * step), (ends[0] - ends[1]) / 2, rtol=1e-5)


def test_stopped_gradient_is_that_of_fixed_targets(x64):
    means, teacher = _case(10, batch=1)
    _, grad = _gradient(means, teacher)
    y = means.reshape(-1, 3)
    z = alignment.apply(
        alignment.umeyama(teacher.reshape(-1, 3), y), jnp.asarray(teacher.reshape(-1, 3))
    )
    near = np.asarray(z)[np.square(y[:, None] - z[None]).sum(-1).argmin(1)]
    np.testing.assert_allclose(grad.reshape(-1, 3), 2 * (y - near) / len(y), atol=1e-14)


@pytest.mark.parametrize("kind", ["isotropic", "planar"])
def test_gradients_are_finite_on_symmetric_clouds(kind):
    cloud = np.concatenate([np.eye(3), -np.eye(3)]) * [1, 1, kind == "isotropic"]
    means = jnp.asarray(cloud[None], jnp.float32)
    loss, grad = _gradient(1.1 * means, means + 0.5, align_grad="full")
    assert np.isfinite(grad).all() and loss < 1e-9


def test_losses_above_the_cap_are_scaled_with_their_gradients():
    means, teacher = (x.astype(np.float32) for x in _case(11))
    means[1] *= 300  # about 300^2 times the loss
    found, metrics = _loss(means, teacher)
    assert metrics["pm_capped"] == 0.5 and metrics["pm_dropped"] == 0
    raw = _loss(means, teacher, cap=np.inf)[0]
    assert raw[1] > 100 > raw[0]
    np.testing.assert_allclose(found, raw * np.array([1, 1e-5]), rtol=1e-5)
    np.testing.assert_allclose(metrics["pm_raw"], raw.mean(), rtol=1e-5)
    grad, free = (_gradient(means, teacher, cap=c)[1] for c in (100.0, np.inf))
    np.testing.assert_allclose(
        grad, free * np.array([1, 1e-5])[:, None, None, None, None], rtol=1e-4
    )


@pytest.mark.parametrize("align_grad", losses.ALIGN_GRADS)
def test_examples_that_cannot_be_aligned_have_no_loss_and_no_gradient(align_grad):
    means, teacher = (x.astype(np.float32) for x in _case(12, batch=6))
    means[0, 1, 2, 3, 0] = np.nan  # a prediction that is not finite
    means[1, 0, 0, 0] = np.inf
    teacher[2] = 4.0  # a constant teacher
    teacher[3] = np.nan
    teacher[4, 0, :4] = np.nan  # some points of it: the rest counts
    loss, metrics = _loss(means, teacher, align_grad=align_grad)
    np.testing.assert_array_equal(np.asarray(loss) > 0, [False] * 4 + [True] * 2)
    assert metrics["pm_dropped"] == 4 and np.isfinite(list(metrics.values())).all()
    grad = np.asarray(_gradient(means, teacher, align_grad=align_grad)[1])
    assert np.isfinite(grad).all()
    np.testing.assert_array_equal(grad.any((1, 2, 3, 4)), [False] * 4 + [True] * 2)
    few = _loss(means, teacher, min_points=50)[1]
    assert few["pm_dropped"] == 5


def test_padding_examples_do_not_count():
    means, teacher = (x.astype(np.float32) for x in _case(13, batch=3))
    means[2] = np.nan
    valid = jnp.array([True, True, False])
    loss, metrics = _loss(means, teacher, valid=valid)
    assert loss[2] == 0 and metrics["pm_dropped"] == 0
    np.testing.assert_allclose(metrics["pm_raw"], loss[:2].mean(), rtol=1e-6)


def test_confidence_keeps_junk_out_of_the_alignment(x64):
    means, _ = _case(14, batch=1)
    teacher = _similar(np.random.default_rng(1), means)
    rng = np.random.default_rng(2)
    confidence = rng.uniform(2, 9, means.shape[:-1])
    confidence[..., 0] = 1.0 + 0.5 * rng.random(confidence[..., 0].shape)  # a sixth of all
    clean = teacher.copy()
    teacher[..., 0, :] *= 1 + rng.random((*teacher.shape[:-2], 1))
    aligned = _slow(means[0], clean[0])[1]
    scale = {
        name: float(_loss(means, teacher, weights=name, confidence=confidence)[1]["pm_scale"])
        for name in losses.WEIGHTS
    }
    np.testing.assert_allclose(scale["conf_quantile"], aligned, rtol=1e-10)
    np.testing.assert_allclose(scale["none"], _slow(means[0], teacher[0])[1], rtol=1e-10)
    np.testing.assert_allclose(
        scale["conf"], _slow(means[0], teacher[0], confidence[0])[1], rtol=1e-10
    )
    assert abs(scale["none"] / aligned - 1) > abs(scale["conf"] / aligned - 1) > 1e-3
    trimmed = _loss(means, teacher, trim=0.25, trim_rounds=3)[1]["pm_scale"]
    np.testing.assert_allclose(trimmed, aligned, rtol=1e-6)


def test_a_subsample_of_queries_has_the_mean_of_all():
    num, count = 61, 7
    chosen = jax.vmap(lambda k: losses.stratified(k, num, count))(
        jax.random.split(jax.random.key(0), 20_000)
    )
    share = np.bincount(np.ravel(chosen), minlength=num) / len(chosen)
    assert len(share) == num and (np.diff(chosen, axis=1) >= 0).all()
    # Each index is expected count / num times; five standard deviations.
    np.testing.assert_allclose(share, count / num, atol=5 * np.sqrt(count / num / len(chosen)))
    means, teacher = (x.astype(np.float32) for x in _case(15, batch=1))
    keys = jax.random.split(jax.random.key(1), 2000)
    settings = dict(query_subsample=20)
    many = (np.broadcast_to(x, (2000, *x.shape[1:])) for x in (means, teacher))
    found = np.asarray(_loss(*many, keys=keys, **settings)[0])
    expected = float(_loss(means, teacher)[0][0])
    assert found.std() > 0
    assert abs(found.mean() - expected) < 5 * found.std() / np.sqrt(len(found))


def test_a_stride_leaves_fewer_neighbours(x64):
    means, teacher = _case(16, batch=1)
    z = np.asarray(losses.align(means, teacher, jnp.ones(means.shape[:-1]), _options())[1])
    thin = z[0, :, ::2, ::2].reshape(-1, 3)
    expected = np.square(means.reshape(-1, 1, 3) - thin).sum(-1).min(1).mean()
    np.testing.assert_allclose(_loss(means, teacher, ref_stride=2)[0], [expected], rtol=1e-10)
    teacher[:, :, ::2, ::2] = np.nan  # no neighbour is left, though all can be aligned
    loss, metrics = _loss(means, teacher, ref_stride=2)
    assert loss == 0 and metrics["pm_dropped"] == 1


def test_half_precision_is_computed_in_float32():
    means, teacher = _case(17)
    loss, _ = _loss(jnp.asarray(means, jnp.bfloat16), jnp.asarray(teacher, jnp.bfloat16))
    assert loss.dtype == jnp.float32


def test_wrong_arguments_are_named():
    means = jnp.zeros((1, 2, 4, 4, 3))
    with pytest.raises(ValueError, match="align_grad: unknown 'half'; known: stop, full"):
        losses.Options(align_grad="half")
    with pytest.raises(ValueError, match="pairs every pixel with itself"):
        losses.Options(mode="pixel", direction="both")
    with pytest.raises(ValueError, match="conf_drop: expected a share"):
        losses.Options(conf_drop=1.0)
    with pytest.raises(ValueError, match="found 0 and 0"):
        losses.Options(ref_stride=0)
    with pytest.raises(ValueError, match="teacher: expected the shape of means"):
        losses.pm_loss(means, means[:, :1])
    with pytest.raises(ValueError, match=r"means: expected shape \[B, V, H, W, 3\]"):
        losses.pm_loss(means[0], means[0])
    with pytest.raises(ValueError, match="confidence: needed for weights 'conf'"):
        losses.pm_loss(means, means, losses.Options(weights="conf"))
    with pytest.raises(ValueError, match=r"confidence: expected shape \[1, 2, 4, 4\]"):
        options = losses.Options(weights="conf")
        losses.pm_loss(means, means, options, confidence=jnp.zeros((1, 4)))
    with pytest.raises(ValueError, match="keys: needed"):
        losses.pm_loss(means, means, losses.Options(query_subsample=4))
    with pytest.raises(ValueError, match="query_subsample: expected at most 32"):
        options = losses.Options(query_subsample=40)
        losses.pm_loss(means, means, options, keys=jax.random.split(jax.random.key(0), 1))
