"""The multi-view transformer."""

import flax
import jax
import jax.numpy as jnp
import numpy as np

from gsjax.models.feedforward import mv_transformer, views
from tests.models.feedforward import case

MODEL = mv_transformer.MultiViewTransformer(blocks=2, splits=2, expansion=1, remat=True)


def _variables(x, index):
    """Random numbers in the parameters' shapes, which costs no compilation."""
    shapes = jax.eval_shape(MODEL.init, jax.random.key(0), x, index)
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda s: rng.normal(0, 0.3, s.shape).astype(s.dtype), shapes)


def test_two_views_are_as_in_a_set_of_four_whose_others_are_no_neighbours():
    rng = np.random.default_rng(1)
    x = rng.normal(size=(1, 4, 4, 8, 8)).astype(np.float32)
    # Two pairs far from one another: with one neighbour each, a pair never meets the other.
    centers = np.asarray([[0, 0, 0], [0.1, 0, 0], [50, 0, 0], [50.1, 0, 0]])
    c2ws = case.poses(np.zeros((4, 3)), centers)[None].astype(np.float32)
    four = views.neighbours(c2ws, 1)
    two = views.neighbours(c2ws[:, :2], 1)
    variables = _variables(x, four)
    apply = jax.jit(MODEL.apply)
    all_four, alone = apply(variables, x, four), apply(variables, x[:, :2], two)
    np.testing.assert_allclose(all_four[:, :2], alone, atol=2e-5)
    # And they would not be if another view were matched.
    mixed = apply(variables, x, jnp.asarray([[[2], [3], [0], [1]]]))
    assert np.abs(mixed[:, :2] - alone).max() > 1e-2


def test_parameters_are_those_of_the_published_transformer():
    model = mv_transformer.MultiViewTransformer()
    x, index = jnp.zeros((1, 2, 4, 4, 128)), jnp.asarray([[[1], [0]]])
    shapes = jax.eval_shape(model.init, jax.random.key(0), x, index)["params"]
    flat = flax.traverse_util.flatten_dict(shapes, sep="/")
    # A block: two attentions of 4 d^2, their norms, an MLP of 2d x 8d + 8d x d, its norm.
    expected = 6 * (8 * 128**2 + 2 * 256 + 256 * 1024 + 1024 * 128 + 256)
    assert sum(s.size for s in flat.values()) == expected
    assert flat["block_5/cross_attention/mlp_0/kernel"].shape == (256, 1024)


def test_position_is_counted_in_each_window():
    x = jnp.zeros((1, 4, 8, 8))
    found = np.asarray(mv_transformer.add_position(x, 2)[0])
    np.testing.assert_array_equal(found[:2, :4], found[2:, 4:])
