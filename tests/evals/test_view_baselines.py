"""Nearest views and the plane that context views agree on."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gsjax.evals import view_baselines
from tests.evals import made_up_views as made_up


def _batch(*rows):
    return {name: jnp.stack([row[name] for row in rows]) for name in rows[0]}


def test_the_nearest_view_and_among_equals_the_one_that_looks_alike():
    contexts = ((0.0, 0.0), (1.0, 0.0), (2.0, 0.0))
    row = made_up.example(0, contexts, targets=((0.4, 0.0), (1.9, 0.5), (0.5, 0.0)))
    turned = np.diag([-1.0, 1, -1, 1]).astype(np.float32)
    row["context_viewmats"][0] = turned @ row["context_viewmats"][0]
    batch = _batch(row)
    sides = (view_baselines.of_batch(batch, side) for side in ("context", "target"))
    assert view_baselines.nearest(*sides).tolist() == [[0, 2, 1]]


def test_the_plane_is_found_in_every_example_and_view():
    rows = [made_up.example(i, contexts=((-0.1, 0.0), (0.1, 0.0), (0.1, 0.2))) for i in range(2)]
    batch = _batch(*rows)
    context = view_baselines.of_batch(batch, "context")
    images = batch["context_images"].astype(jnp.float32) / 255
    # 29 steps of 1 / 32 from 1 / 8 to 1: a half, the wall's, is the 13th.
    depths = jax.jit(view_baselines.plane_depths, static_argnames="count")(
        images, context, batch["near"], batch["far"], count=29
    )
    np.testing.assert_allclose(depths, np.full((2, 3), made_up.DEPTH), rtol=1e-5)


def test_one_view_has_no_neighbour_to_choose_a_plane_by():
    batch = _batch(made_up.example(0, contexts=((0.0, 0.0),)))
    context = view_baselines.of_batch(batch, "context")
    images = batch["context_images"].astype(jnp.float32) / 255
    with pytest.raises(ValueError, match="found 1 views and 8 planes"):
        view_baselines.plane_depths(images, context, batch["near"], batch["far"], count=8)
