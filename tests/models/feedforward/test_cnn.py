"""The CNN of both networks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gsjax.models.feedforward import cnn


@pytest.mark.parametrize("lowest, sides", [(4, (16, 16, 8)), (8, (16, 8, 4))])
def test_scales_and_parameters(lowest, sides):
    model = cnn.Cnn(lowest)
    maps, variables = jax.eval_shape(
        lambda: model.init_with_output(jax.random.key(0), jnp.zeros((2, 32, 32, 3)))
    )
    assert [m.shape for m in maps] == [(2, s, s, w) for s, w in zip(sides, (64, 96, 128))]
    # 49 * 3 * 64; stages of four 3x3 convolutions; shortcuts with bias; the last with bias.
    expected = 9408 + 9 * (4 * 64**2 + 64 * 96 + 3 * 96**2 + 96 * 128 + 3 * 128**2)
    expected += (64 * 96 + 96) + (96 * 128 + 128) + (128 * 128 + 128)
    assert sum(s.size for s in jax.tree.leaves(variables)) == expected


def test_instance_norm():
    x = np.random.default_rng(0).normal(3, 5, (2, 4, 5, 3)).astype(np.float32)
    found = np.asarray(jax.jit(cnn.instance_norm)(x))
    expected = (x - x.mean((1, 2), keepdims=True)) / np.sqrt(x.var((1, 2), keepdims=True) + 1e-5)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    # Statistics in float32 whatever the type: a large mean loses nothing but the input's rounding.
    assert cnn.instance_norm(jnp.ones((1, 2, 2, 1), jnp.bfloat16)).dtype == jnp.bfloat16


def test_strides_of_other_sizes_are_refused():
    with pytest.raises(ValueError, match="lowest, last_stride: expected .* found .2, 2."):
        jax.eval_shape(lambda: cnn.Cnn(2).init(jax.random.key(0), jnp.zeros((1, 8, 8, 3))))
