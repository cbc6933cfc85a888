"""losses.contrastive: hand-made cases, masks, and equality of the sharded forms."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gsjax.losses import contrastive
from tests.losses import pair_case

B, K, D = pair_case.B, pair_case.K, pair_case.D


def _slow(a, b, scale, all_views=False):
    """The definition, in loops."""
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    row, col = np.zeros(b.shape[:2]), np.zeros(b.shape[:2])
    for i in range(len(a)):
        for k in range(b.shape[1]):
            pos = scale * a[i] @ b[i, k]
            if all_views:
                keep = [
                    scale * a[i] @ b[j, m]
                    for j in range(len(a))
                    for m in range(b.shape[1])
                    if j != i or m == k
                ]
            else:
                keep = [scale * a[i] @ b[j, k] for j in range(len(a))]
            row[i, k] = pos - np.log(np.sum(np.exp(keep)))
            col[i, k] = pos - np.log(np.sum(np.exp([scale * x @ b[i, k] for x in a])))
    return row, col


@pytest.mark.parametrize("negatives", contrastive.NEGATIVES)
def test_log_probs_match_the_definition(negatives):
    a, b, _ = pair_case.inputs()
    found = contrastive.pair_log_probs(a, b, jnp.float32(14.0), negatives=negatives)
    expected = _slow(a, b, 14.0, negatives == "all_views")
    np.testing.assert_allclose(found[0], expected[0], atol=1e-5)
    np.testing.assert_allclose(found[1], expected[1], atol=1e-5)


def _loss(a, b, log_scale, weights, **options):
    row, col = contrastive.pair_log_probs(a, b, jnp.exp(log_scale), **options)
    return contrastive.symmetric_loss(row, col, weights, B * K)


@functools.cache
def _plain(negatives, masked):
    a, b, weights = pair_case.inputs()
    options = pair_case.masks() if masked else {}
    weights = weights * pair_case.masks()["valid_b"] if masked else weights
    grad = jax.value_and_grad(
        functools.partial(_loss, negatives=negatives, **options), argnums=(0, 1, 2)
    )
    return jax.jit(grad)(a, b, jnp.float32(2.6), weights), weights


@pytest.mark.parametrize("sharding", ["none", "gather", "ring"])
@pytest.mark.parametrize(
    "devices", [2, *(pytest.param(n, marks=pytest.mark.slow) for n in (1, 4)), 8]
)
@pytest.mark.parametrize("case", [("per_slot", False), ("all_views", True)])
def test_sharded_forms_equal_the_plain_one(sharding, devices, case):
    if sharding == "none" and devices not in (1, 8):
        pytest.skip("plain code under the partitioner: the two ends suffice")
    negatives, masked = case
    (value, grads), weights = _plain(negatives, masked)
    a, b, _ = pair_case.inputs()
    mesh = pair_case.mesh_of(devices)
    options = pair_case.masks() if masked else {}
    a, b, weights = pair_case.spread((a, b, weights), mesh)
    with jax.set_mesh(mesh):
        grad = jax.jit(
            jax.value_and_grad(
                functools.partial(_loss, negatives=negatives, sharding=sharding, **options),
                argnums=(0, 1, 2),
            )
        )
        found, found_grads = grad(a, b, jnp.float32(2.6), weights)
    # float32 sums in another order: some units of the last place
    np.testing.assert_allclose(found, value, rtol=5e-6)
    for x, y in zip(found_grads, grads, strict=True):
        np.testing.assert_allclose(x, y, atol=1e-6)


def test_invalid_rows_change_nothing():
    a, b, weights = pair_case.inputs(num=B)
    more_a, more_b, _ = pair_case.inputs(seed=1, num=4)
    short = contrastive.pair_log_probs(a, b, jnp.float32(10.0))
    valid = jnp.arange(B + 4) < B
    long = contrastive.pair_log_probs(
        jnp.concatenate([a, more_a]),
        jnp.concatenate([b, more_b]),
        jnp.float32(10.0),
        valid_a=valid,
        valid_b=jnp.broadcast_to(valid[:, None], (B + 4, K)),
    )
    for x, y in zip(short, long, strict=True):
        np.testing.assert_allclose(x, y[:B], atol=1e-6)


def test_equal_ids_are_no_negatives():
    a, b, _ = pair_case.inputs(num=4)
    ids = jnp.asarray([7, 7, 1, 2], jnp.uint32)
    row, _ = contrastive.pair_log_probs(a, b, jnp.float32(5.0), ids=ids)
    keep = np.asarray([0, 2, 3])
    alone, _ = contrastive.pair_log_probs(a[keep], b[keep], jnp.float32(5.0))
    np.testing.assert_allclose(row[0], alone[0], atol=1e-6)


def test_loss_is_log_batch_for_identical_vectors():
    ones = contrastive.unit(jnp.ones((B, D)))
    row, col = contrastive.pair_log_probs(ones, ones[:, None], jnp.float32(14.0))
    loss = contrastive.symmetric_loss(row, col, jnp.ones((B, 1)), B)
    np.testing.assert_allclose(loss, np.log(B), rtol=1e-6)


def test_lonely_and_zero_rows_have_finite_gradients():
    def loss(a, b):
        row, col = contrastive.pair_log_probs(
            contrastive.unit(a), contrastive.unit(b), jnp.float32(100.0)
        )
        return contrastive.symmetric_loss(row, col, jnp.ones(b.shape[:2]), 1)

    for num in (1, 3):
        grads = jax.jit(jax.grad(loss, argnums=(0, 1)))(jnp.zeros((num, D)), jnp.zeros((num, 1, D)))
        assert all(bool(jnp.isfinite(g).all()) for g in grads)


def test_detached_gather_keeps_the_value_and_drops_the_column_gradient():
    a, b, _ = pair_case.inputs()

    def loss(a, detach, rows_only=False):
        row, col = contrastive.pair_log_probs(a, b, jnp.float32(10.0), detach_gathered=detach)
        return -jnp.sum(row if rows_only else row + col)

    np.testing.assert_allclose(loss(a, True), loss(a, False), rtol=1e-6)
    np.testing.assert_allclose(
        jax.grad(loss)(a, True), jax.grad(loss)(a, False, rows_only=True), atol=1e-5
    )


def test_clamp_projects_onto_the_interval():
    for start, end in ((-1.0, 0.0), (3.0, 3.0), (9.0, 4.6052)):
        params = {"logit_scale": jnp.float32(start), "other": jnp.ones(2)}
        np.testing.assert_allclose(
            contrastive.clamp_logit_scale(params, 4.6052)["logit_scale"], end
        )


def test_errors_name_what_was_found():
    a, b, _ = pair_case.inputs()
    with pytest.raises(ValueError, match="slot axis"):
        contrastive.pair_log_probs(a, a, jnp.float32(1.0))
    with pytest.raises(ValueError, match="unknown 'rign'"):
        contrastive.pair_log_probs(a, b, jnp.float32(1.0), sharding="rign")
    with pytest.raises(ValueError, match="unknown 'slots'"):
        contrastive.pair_log_probs(a, b, jnp.float32(1.0), negatives="slots")
