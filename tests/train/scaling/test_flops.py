"""Operations counted in jaxprs, against hand-counted cases and XLA's own count of loop-free programs."""

import functools

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import PartitionSpec as P

from gsjax.train import sharding
from gsjax.train.scaling import flops


def array(*shape, dtype=jnp.float32):
    return jax.ShapeDtypeStruct(shape, dtype)


def counted(function, *arguments):
    return flops.count(jax.make_jaxpr(function)(*arguments))


def test_products_by_what_they_run_on():
    a, b = array(3, 5, 7), array(3, 7, 11)
    expected = 2 * 3 * 5 * 11 * 7
    assert counted(jnp.matmul, a, b).by_kind["tf32"] == expected
    exact = functools.partial(jnp.matmul, precision="highest")
    assert counted(exact, a, b).by_kind["fp32"] == expected
    half = (array(3, 5, 7, dtype=jnp.bfloat16), array(3, 7, 11, dtype=jnp.bfloat16))
    found = counted(jnp.matmul, *half)
    assert found.by_kind["bf16"] == found.total == found.products == expected


def test_convolutions_count_windows_channels_and_groups():
    x, kernel = array(2, 9, 9, 6), array(3, 3, 2, 12)

    def convolved(x, kernel):
        return jax.lax.conv_general_dilated(
            x, kernel, (2, 2), "VALID", feature_group_count=3,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )  # fmt: skip

    assert counted(convolved, x, kernel).products == 2 * (2 * 4 * 4 * 12) * (3 * 3 * 2)


def test_gradient_of_a_strided_convolution_skips_the_zeros_between():
    x, kernel = array(1, 9, 9, 4), array(3, 3, 4, 8)

    def loss(x, kernel):
        y = jax.lax.conv_general_dilated(
            x, kernel, (2, 2), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        return jnp.sum(y**2)

    forward = 2 * (4 * 4 * 8) * (9 * 4)
    found = counted(jax.grad(loss, (0, 1)), x, kernel).products
    by_kernel = 2 * (3 * 3 * 4 * 8) * 16
    by_input = 2 * (9 * 9 * 4) * (9 * 8) / 4  # a result sees a quarter of its window on average
    assert found == forward + by_kernel + by_input


def test_loops_branches_and_calls():
    x = array(4, 4)
    one = 2 * 4**3

    def body(c, _):
        return jax.checkpoint(jax.jit(lambda c: c @ c))(c), None

    def scanned(x):
        return jax.lax.scan(lambda c, _: jax.lax.scan(body, c, length=3), x, length=5)[0]

    assert counted(scanned, x).products == 15 * one

    def branched(x):
        return jax.lax.cond(x[0, 0] > 0, lambda x: x @ x @ x, lambda x: x @ x, x)

    assert counted(branched, x).products == 2 * one

    def waiting(x):
        return jax.lax.while_loop(lambda c: c[0, 0] < 1, lambda c: c @ c, x)

    found = counted(waiting, x)
    assert (found.products, found.unknown_loops) == (one, 1)


def test_custom_gradients_count_what_is_written():
    @jax.custom_vjp
    def f(x):
        return x @ x

    f.defvjp(lambda x: (x @ x, x), lambda x, g: (g @ x.T @ x @ g,))
    x = array(4, 4)
    assert counted(f, x).products == 2 * 4**3
    assert counted(jax.grad(lambda x: f(x).sum()), x).products == 4 * 2 * 4**3


def test_recomputation_counts():
    x = array(8, 8)

    def loss(x):
        return jnp.sum(jnp.sin(x @ x) @ x)

    plain = counted(jax.grad(loss), x).products
    again = counted(jax.grad(jax.checkpoint(loss)), x).products
    assert plain == 6 * 2 * 8**3 and again == 7 * 2 * 8**3


def test_bodies_for_one_device_count_for_all():
    mesh = sharding.make_mesh(4, 2)
    spec = P(sharding.BATCH_AXES)
    product = jax.shard_map(jnp.matmul, mesh=mesh, in_specs=(spec, P()), out_specs=spec)
    assert counted(product, array(16, 4), array(4, 6)).products == 2 * 16 * 4 * 6


def test_elements_of_arithmetic():
    x = array(3, 4)
    assert counted(lambda x: jnp.sum(jnp.exp(x) * x), x).by_kind["other"] == 3 * 12
    moved = counted(lambda x: jnp.concatenate([x.T, x.T]).reshape(-1)[::2], x)
    assert moved.total == 0


@pytest.mark.parametrize("width", [16, 48])
def test_xla_counts_the_same_where_there_is_no_loop(width):
    def network(x, a, kernel):
        y = jax.lax.conv_general_dilated(
            x, kernel, (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        return jnp.tanh(y.reshape(len(y), -1) @ a)

    shapes = array(4, 10, 10, 3), array(8 * 8 * 5, width), array(3, 3, 3, 5)
    found = flops.count(jax.jit(network).trace(*shapes).jaxpr)
    costs = jax.jit(network).lower(*shapes).compile().cost_analysis()
    assert found.products == 2 * (4 * 64 * 5) * 27 + 2 * 4 * 320 * width
    assert abs(found.products - costs["flops"]) < 0.02 * costs["flops"]
