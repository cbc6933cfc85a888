"""losses.sigmoid: the definition in loops, masks, finite differences, equality of sharded forms."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gsjax.losses import sigmoid
from tests.losses import pair_case

B, K, D = pair_case.B, pair_case.K, pair_case.D


def _masks():
    """As those of the other losses, but rows go missing on their own: only ``a`` knows of them."""
    return pair_case.masks() | dict(valid_a=jnp.arange(B) % 5 != 1)


def _slow(a, b, scale, bias, weights, valid_a, valid_b, ids):
    """The definition, in loops."""
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    cost = lambda x: np.log(1 + np.exp(-x))  # noqa: E731  (-log of the logistic function)
    result = np.zeros(b.shape[:2])
    for i, k in np.ndindex(*result.shape):
        if not (valid_a[i] and valid_b[i, k]):
            continue
        result[i, k] = weights[i, k] * cost(scale * a[i] @ b[i, k] + bias)
        for j in range(len(a)):
            if ids[j] != ids[i] and valid_b[j, k]:
                result[i, k] += cost(-(scale * a[i] @ b[j, k] + bias))
    return result


@pytest.mark.parametrize("masked", [False, True])
def test_loss_matches_the_definition(masked):
    a, b, weights = pair_case.inputs()
    options = _masks() if masked else {}
    everything = dict(valid_a=np.ones(B), valid_b=np.ones((B, K)), ids=np.arange(B))
    found = jax.jit(functools.partial(sigmoid.sigmoid_loss, weights=weights, **options))(
        a, b, 5.0, -2.0
    )
    expected = _slow(a, b, 5.0, -2.0, np.asarray(weights), **(everything | options))
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_masked_rows_are_zero_and_change_nothing():
    a, b, _ = pair_case.inputs(num=4)
    valid = jnp.asarray([True, True, True, False])
    masked = sigmoid.sigmoid_loss(
        a, b, 5.0, -2.0, valid_a=valid, valid_b=jnp.broadcast_to(valid[:, None], (4, K))
    )
    short = sigmoid.sigmoid_loss(a[:3], b[:3], 5.0, -2.0)
    np.testing.assert_allclose(masked[:3], short, rtol=1e-5)
    assert float(jnp.abs(masked[3]).max()) == 0.0


def test_large_logits_cost_their_size():
    ones = jnp.zeros((B, D)).at[:, 0].set(1.0)

    def loss(a, scale):
        return jnp.sum(sigmoid.sigmoid_loss(a, ones[:, None], scale, -10.0))

    value, grads = jax.jit(jax.value_and_grad(loss, (0, 1)))(ones, 1000.0)
    # true pairs cost nothing, each of the false ones its logit; the slope there is one
    np.testing.assert_allclose(value, B * (B - 1) * 990.0, rtol=1e-6)
    np.testing.assert_allclose(grads[0][:, 0], (B - 1) * 1000.0, rtol=1e-6)
    np.testing.assert_allclose(grads[1], B * (B - 1), rtol=1e-6)


def _scalar(a, b, scale, bias, weights, cotangent, **options):
    """A scalar of which every entry of the loss is a different part."""
    return jnp.mean(cotangent * sigmoid.sigmoid_loss(a, b, scale, bias, weights=weights, **options))


def _cotangent(num, slots=K):
    return jnp.asarray(np.random.default_rng(9).normal(size=(num, slots)), jnp.float32)


@functools.cache
def _plain(masked):
    options = _masks() if masked else {}
    grad = jax.value_and_grad(functools.partial(_scalar, **options), range(5))
    a, b, weights = pair_case.inputs()
    return jax.jit(grad)(a, b, jnp.float32(7.0), jnp.float32(-3.0), weights, _cotangent(B))


CASES = [(form, devices, True) for form in ("gather", "ring") for devices in (1, 2, 4, 8)]
CASES += [("none", 8, True), ("gather", 4, False), ("ring", 4, False)]


@pytest.mark.parametrize(("sharding", "devices", "masked"), CASES)
def test_sharded_forms_equal_the_plain_one(sharding, devices, masked):
    value, grads = _plain(masked)
    mesh = pair_case.mesh_of(devices)
    options = _masks() if masked else {}
    a, b, weights, cotangent = pair_case.spread((*pair_case.inputs(), _cotangent(B)), mesh)
    with jax.set_mesh(mesh):
        grad = jax.jit(
            jax.value_and_grad(functools.partial(_scalar, sharding=sharding, **options), range(5))
        )
        found, found_grads = grad(a, b, jnp.float32(7.0), jnp.float32(-3.0), weights, cotangent)
    # float32 sums in another order: some units of the last place of values up to about ten
    np.testing.assert_allclose(found, value, rtol=2e-6)
    for name, x, y in zip("a b scale bias weights".split(), found_grads, grads, strict=True):
        np.testing.assert_allclose(x, y, atol=2e-6, err_msg=name)


@pytest.mark.parametrize("sharding", ["none", "gather", "ring"])
def test_gradients_are_those_of_finite_differences(sharding):
    num, slots, dim = 8, 2, 3
    mesh = pair_case.mesh_of(4)
    rng = np.random.default_rng(3)
    draw = lambda *shape: rng.normal(size=shape)  # noqa: E731
    start = (draw(num, dim), draw(num, slots, dim), 1.7, -0.6, rng.uniform(size=(num, slots)))
    valid_b = np.ones((num, slots), bool)
    valid_b[3, 1] = valid_b[6] = False
    with jax.enable_x64(True), jax.set_mesh(mesh):
        cotangent = jnp.asarray(draw(num, slots))
        options = dict(
            valid_a=jnp.arange(num) != 5,
            valid_b=jnp.asarray(valid_b),
            ids=jnp.arange(num) // 2,
            sharding=sharding,
        )
        loss = jax.jit(functools.partial(_scalar, cotangent=cotangent, **options))
        grads = jax.jit(jax.grad(functools.partial(_scalar, **options), range(5)))(
            *map(jnp.asarray, start), cotangent
        )
        eps = 1e-5
        for place, grad in enumerate(grads):
            assert grad.dtype == jnp.float64
            slopes = np.zeros(grad.shape)
            for index in np.ndindex(*grad.shape):
                ends = []
                for step in (eps, -eps):
                    moved = [np.array(x, np.float64) for x in start]
                    moved[place][index] += step
                    ends.append(float(loss(*moved)))
                slopes[index] = (ends[0] - ends[1]) / (2 * eps)
            # central differences: an error of eps squared, and rounding of 1e-16 / eps
            np.testing.assert_allclose(grad, slopes, atol=2e-9)


def test_errors_name_what_was_found():
    a, b, weights = pair_case.inputs(num=12)
    with pytest.raises(ValueError, match="slot axis"):
        sigmoid.sigmoid_loss(a, a, 1.0, 0.0)
    with pytest.raises(ValueError, match="unknown 'rign'"):
        sigmoid.sigmoid_loss(a, b, 1.0, 0.0, sharding="rign")
    with pytest.raises(ValueError, match=r"weights: found shape \(12,\); expected \(12, 3\)"):
        sigmoid.sigmoid_loss(a, b, 1.0, 0.0, weights=weights[:, 0])
    for sharding in ("gather", "ring"):
        with pytest.raises(ValueError, match="batch 12 is not divisible by the 8 devices"):
            sigmoid.sigmoid_loss(a, b, 1.0, 0.0, sharding=sharding, mesh=pair_case.mesh_of(8))
