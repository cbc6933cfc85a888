"""Groups against a loop, residuals by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gsjax.models import local_mlps
from tests.models.backbones import suite


def normed(s, x):
    return (x - s["mean"]) / np.sqrt(s["var"] + 1e-5)


@pytest.mark.parametrize("use_xyz", [False, True])
def test_groups_are_the_loop(use_xyz):
    """The second cloud has 3 valid points: one centre, and fewer neighbours than asked for."""
    xyz, feat, mask = suite.cloud(0, 2, 9, 2)
    mask = mask.at[1, jnp.array([0, 2, 3, 5, 6, 7])].set(False)
    xyz, feat = (jnp.where(mask[..., None], x, 0.0) for x in (xyz, feat))
    group = local_mlps.LocalGroup(5, 2, 4, 0, use_xyz)
    variables = jax.eval_shape(lambda: group.init(jax.random.key(0), xyz, feat, mask, train=False))
    rng = np.random.default_rng(0)
    variables = jax.tree.map(lambda x: rng.uniform(0.2, 1.5, x.shape), variables)
    p, s = variables["params"], variables["batch_stats"]["norm"]
    run = jax.jit(lambda v: group.apply(v, xyz, feat, mask, train=False))
    rows_found, found, valid = run(jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), variables))
    assert valid.sum(1).tolist() == [4, 1]
    places = local_mlps.places(xyz, rows_found, valid)
    for b in range(2):
        rows = np.asarray(xyz[b], float)[mask[b]]
        columns = own = np.asarray(feat[b], float)[mask[b]]
        if use_xyz:
            columns = np.concatenate([own, rows], -1)
        chosen = [0]
        while len(chosen) < valid[b].sum():
            gaps = ((rows[:, None] - rows[chosen]) ** 2).sum(-1).min(1)
            chosen.append(int(gaps.argmax()))
        near = [np.argsort(((rows - rows[i]) ** 2).sum(-1))[:4] for i in chosen]
        offsets = [columns[n] - columns[i] for n, i in zip(near, chosen, strict=True)]
        deviation = np.std(np.concatenate([o.ravel() for o in offsets]), ddof=1)
        for at, (o, i) in enumerate(zip(offsets, chosen, strict=True)):
            y = p["scale"] * o / (deviation + 1e-5) + p["bias"]
            y = y @ p["near"]["kernel"] + own[i] @ p["own"]["kernel"]
            y = np.maximum(normed(s, y) * p["norm"]["scale"] + p["norm"]["bias"], 0).max(0)
            np.testing.assert_allclose(places[b, at], rows[i], atol=1e-6)
            np.testing.assert_allclose(found[b, at], y, rtol=1e-4, atol=1e-4)
    assert not np.asarray(found)[~np.asarray(valid)].any()


def test_equal_points_give_finite_gradients():
    xyz, feat, mask = jnp.ones((1, 6, 3)), jnp.ones((1, 6, 2)), jnp.ones((1, 6), bool)
    group = local_mlps.LocalGroup(4, 2, 3, 1)
    variables = jax.eval_shape(lambda: group.init(jax.random.key(0), xyz, feat, mask, train=True))
    variables = jax.tree.map(lambda x: jnp.full(x.shape, 0.3, x.dtype), variables)

    def loss(feat, xyz):
        out = group.apply(variables, xyz, feat, mask, train=False)
        return jnp.sum(jnp.square(out[1]))

    value, grads = jax.value_and_grad(loss, (0, 1))(feat, xyz)
    assert value > 0 and all(np.isfinite(g).all() for g in grads)


def test_residual_adds_before_the_last_relu():
    x = jnp.asarray([[1.0, -2.0], [0.5, 3.0]])
    residual = local_mlps.Residual()
    norm = {"scale": jnp.ones(2), "bias": jnp.zeros(2)}
    params = {
        "layer_0": {"dense": {"kernel": jnp.eye(2)}, "norm": norm},
        "layer_1": {"dense": {"kernel": -2 * jnp.eye(2)}, "norm": norm},
    }
    still = {"norm": {"mean": jnp.zeros(2), "var": jnp.ones(2)}}
    variables = {"params": params, "batch_stats": {"layer_0": still, "layer_1": still}}
    mask = jnp.asarray([True, True])
    # relu(x - 2 relu(x)): |x| where x < 0 would be wrong, 0 wherever x > 0.
    found = residual.apply(variables, x, mask, False)
    np.testing.assert_allclose(found, [[0, 0], [0, 0]], atol=1e-4)
    params["layer_1"]["dense"]["kernel"] = -0.5 * jnp.eye(2)
    found = residual.apply(variables, x, mask, False)
    np.testing.assert_allclose(found, [[0.5, 0], [0.25, 1.5]], atol=1e-4)
