"""DGCNN: the contract of backbones, an oracle in NumPy, sizes of the published network."""

import dataclasses
import functools

import jax
import numpy as np
import pytest

from gsjax.models.backbones import base, dgcnn
from tests.models.backbones import suite
from tests.models.backbones.test_pointnet import random_variables

TINY = dgcnn.Config(channels=2, neighbours=4, widths=(6, 8), top=5)
POINTS = suite.cloud(0, 2, 20, 2)


@pytest.mark.parametrize(
    "check", [suite.check_padding, suite.check_batch, suite.check_gradients, "fuse"]
)
def test_contract_of_backbones(check):
    check = functools.partial(suite.check_fuse, "dgcnn") if check == "fuse" else check
    check(dgcnn.Model(TINY), POINTS)


def _norm(x, params, stats):
    x = (x - stats["mean"]) / np.sqrt(stats["var"] + 1e-5) * params["scale"] + params["bias"]
    return np.where(x > 0, x, 0.2 * x)


@pytest.mark.parametrize("dynamic", [True, False])
def test_features_are_those_of_the_definition(dynamic):
    """Edges (x_i, x_j - x_i) one by one; with neighbours of each level's own features, or not."""
    config = dataclasses.replace(TINY, dynamic=dynamic)
    model = dgcnn.Model(config)
    variables = random_variables(model, POINTS)
    found = suite.apply(model, variables, POINTS)
    p, s = variables["params"], variables["batch_stats"]
    for b in range(2):
        x = np.concatenate([POINTS.xyz[b], POINTS.feat[b]], -1).astype(float)
        levels, near = [], None
        for i in range(2):
            if near is None or dynamic:
                seen = np.asarray(POINTS.xyz[b], float) if i == 0 else x
                gaps = np.square(seen[:, None] - seen[None]).sum(-1)
                near = np.argsort(gaps, -1, kind="stable")[:, :4]
            block, stats = p[f"blocks_{i}"], s[f"blocks_{i}"]["norm"]
            kernel = np.concatenate([block["own"]["kernel"], block["near"]["kernel"]])
            rows = []
            for j in range(len(x)):
                edges = np.concatenate(
                    [np.broadcast_to(x[j], (4, x.shape[1])), x[near[j]] - x[j]], -1
                )
                rows.append(_norm(edges @ kernel, block["norm"], stats).max(0))
            x = np.stack(rows)
            levels.append(x)
        joined = np.concatenate(levels, -1)
        np.testing.assert_allclose(found.feat[b], joined, atol=2e-4)
        top = _norm(joined @ p["top"]["kernel"], p["top_norm"], s["top_norm"])
        expected = np.concatenate([top.max(0), top.mean(0)])
        np.testing.assert_allclose(found.pooled[b], expected, atol=2e-4)


def test_parameters_and_widths_of_the_published_network():
    # Edge convolutions on 2 x 3, 2 x 64, 2 x 64 and 2 x 128 columns, then 512 -> 1024; no biases.
    count = (
        6 * 64 + 128 * 64 + 128 * 128 + 256 * 256 + 512 * 1024 + 2 * (64 + 64 + 128 + 256 + 1024)
    )
    model = base.build("dgcnn", "paper")
    assert suite.num_parameters(model, suite.cloud(0, 1, 32, 0)) == count
    out = jax.eval_shape(
        lambda p: model.init_with_output(jax.random.key(0), p)[0], suite.cloud(0, 1, 32, 0)
    )
    assert out.pooled.shape == (1, 2048) and out.feat.shape == (1, 32, 512)
    assert base.build("dgcnn", "cross_modal").config.top * 2 == 512


def test_sizes_that_make_no_sense():
    for changes in (dict(widths=()), dict(neighbours=0), dict(top=0), dict(channels=-1)):
        with pytest.raises(ValueError, match=next(iter(changes))):
            dgcnn.Config(**changes)
