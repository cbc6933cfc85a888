import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from gsjax.models import patch_embed

KEY = jax.random.key(0)


def test_the_joined_layer_is_a_layer_of_the_joined_arrays():
    shared, each = jax.random.normal(KEY, (2, 3, 1, 5)), jax.random.normal(KEY, (2, 3, 4, 7))
    layer = patch_embed.JoinedDense(6)
    variables = layer.init(KEY, shared, each)
    plain = nn.Dense(6)
    joined = jnp.concatenate([jnp.broadcast_to(shared, (2, 3, 4, 5)), each], -1)
    assert jax.tree.map(jnp.shape, plain.init(KEY, joined)) == jax.tree.map(jnp.shape, variables)
    np.testing.assert_allclose(
        layer.apply(variables, shared, each), plain.apply(variables, joined), rtol=1e-5, atol=1e-5
    )
