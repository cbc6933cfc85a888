"""From logits to depths."""

import jax
import jax.numpy as jnp
import numpy as np

from gsjax.models.feedforward import regression, unet


def test_one_hot_logits_give_their_candidate():
    shared = jnp.asarray([[[0.1, 0.2, 0.4, 0.8]]])
    index = np.asarray([[3, 0], [1, 2]])
    logits = 1e4 * np.eye(4, dtype=np.float32)[index][None, None]
    inverse, probability = jax.jit(regression.expectation)(logits, shared)
    np.testing.assert_allclose(inverse[0, 0], np.asarray(shared)[0, 0][index], rtol=1e-6)
    np.testing.assert_allclose(probability, 1.0)
    own = np.random.default_rng(0).uniform(size=(1, 1, 4, 2, 2)).astype(np.float32)
    inverse, _ = jax.jit(regression.expectation)(logits, own)
    expected = np.take_along_axis(own[0, 0], index[None], 0)[0]
    np.testing.assert_allclose(inverse[0, 0], expected, rtol=1e-6)


def test_even_logits_give_the_mean_of_inverse_depths_and_bf16_is_widened():
    inverse, probability = regression.expectation(
        jnp.zeros((1, 1, 1, 1, 4), jnp.bfloat16), jnp.asarray([[[0.1, 0.2, 0.4, 0.8]]])
    )
    np.testing.assert_allclose(inverse, 0.375, rtol=1e-6)
    assert inverse.dtype == probability.dtype == jnp.float32
    np.testing.assert_allclose(probability, 0.25)


def test_refinement_keeps_the_range_of_each_example():
    near, far = jnp.asarray([0.5, 1.0]), jnp.asarray([10.0, 4.0])
    inverse = jnp.full((2, 1, 2, 2), 0.5)
    delta = jnp.asarray([5.0, 0.01, -5.0, 0.0]).reshape(1, 1, 1, 4) * jnp.ones((2, 1, 4, 1))
    fine, depths = regression.refine(inverse, delta, near, far)
    assert fine.shape == (2, 1, 4, 4)
    np.testing.assert_allclose(fine[0, 0, 0], [2.0, 0.51, 0.1, 0.5], rtol=1e-6)
    np.testing.assert_allclose(fine[1, 0, 0], [1.0, 0.51, 0.25, 0.5], rtol=1e-6)
    np.testing.assert_allclose(depths, 1 / fine, rtol=1e-6)


def test_replicated_border():
    class Model(regression.nn.Module):
        @regression.nn.compact
        def __call__(self, x):
            return regression.replicate_conv(1, jnp.float32, "conv")(x)

    x = jnp.arange(6.0).reshape(1, 2, 3, 1)
    kernel = np.random.default_rng(0).normal(size=(3, 3, 1, 1)).astype(np.float32)
    variables = {"params": {"conv": {"kernel": kernel, "bias": np.zeros(1, np.float32)}}}
    found = Model().apply(variables, x)
    padded = np.pad(np.asarray(x)[0, :, :, 0], 1, mode="edge")
    expected = [[np.sum(padded[i : i + 3, j : j + 3] * kernel[..., 0, 0]) for j in range(3)]
                for i in range(2)]  # fmt: skip
    np.testing.assert_allclose(found[0, ..., 0], expected, rtol=1e-5)


def test_logits_have_one_channel_a_candidate_in_float32():
    model = regression.CandidateLogits(6, unet.Config(8, (1, 1)), 8, True, 16, dtype=jnp.bfloat16)
    x = jnp.zeros((1, 2, 4, 4, 10))
    out = jax.eval_shape(lambda: model.init_with_output(jax.random.key(0), x)[0])
    assert out.shape == (1, 2, 4, 4, 6) and out.dtype == jnp.float32
