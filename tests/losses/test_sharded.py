"""losses.sharded: inputs brought into one form, the walk around, and what a device holds."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gsjax.losses import contrastive, sharded, sigmoid
from tests.losses import pair_case


def test_pairs_are_widened_to_one_type_and_nothing_is_masked_by_default():
    a, b, _ = pair_case.inputs(num=4)
    pairs = sharded.pairs(a.astype(jnp.bfloat16), b.astype(jnp.float16))
    assert pairs.a.dtype == pairs.b.dtype == jnp.float32
    assert bool(pairs.valid_a.all()) and bool(pairs.valid_b.all())
    assert len(set(pairs.group.tolist())) == 4


@pytest.mark.parametrize(
    ("name", "shape"), [("valid_a", (4, 1)), ("valid_b", (4,)), ("ids", (4, pair_case.K))]
)
def test_masks_of_other_shapes_are_refused(name, shape):
    a, b, _ = pair_case.inputs(num=4)
    with pytest.raises(ValueError, match=f"{name}: found shape"):
        sharded.pairs(a, b, **{name: jnp.ones(shape, jnp.uint32)})


@pytest.mark.parametrize("devices", [2, 8])
def test_a_traveller_meets_every_device_and_comes_home(devices):
    mesh = pair_case.mesh_of(devices)
    spec = jax.sharding.PartitionSpec(("data", "fsdp"))

    def walk(own):
        def meet(seen, traveller):
            home, count = traveller
            return seen + 10.0**home, (home, count + own)

        start = (jnp.zeros_like(own), (own, jnp.zeros_like(own)))
        seen, (home, count) = sharded.around(("data", "fsdp"), devices, meet, *start)
        return seen, home, count

    numbers = jnp.arange(float(devices))
    seen, home, count = jax.jit(jax.shard_map(walk, mesh=mesh, in_specs=spec, out_specs=spec))(
        numbers
    )
    np.testing.assert_allclose(seen, sum(10.0**i for i in range(devices)))  # each exactly once
    np.testing.assert_array_equal(home, numbers)
    np.testing.assert_array_equal(count, np.full(devices, numbers.sum()))


def _softmax(a, b, scale, **options):
    return sum(jnp.sum(x) for x in contrastive.pair_log_probs(a, b, scale, **options))


def _sigmoid(a, b, scale, **options):
    return jnp.sum(sigmoid.sigmoid_loss(a, b, scale, -scale, **options))


def _largest(jaxpr, inside=False):
    """Elements of the largest array that one device makes under shard_map, loops included."""
    result = 0
    for eqn in jaxpr.eqns:
        here = inside or eqn.primitive.name == "shard_map"
        if inside:
            result = max([result, *(int(np.prod(var.aval.shape)) for var in eqn.outvars)])
        for value in eqn.params.values():
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                result = max(result, _largest(inner, here))
    return result


@pytest.mark.parametrize("loss", [_softmax, _sigmoid])
def test_the_ring_makes_neither_a_gathered_tensor_nor_a_row_of_logits(loss):
    devices, own, dim = 8, 8, 16
    mesh = pair_case.mesh_of(devices)
    a = jax.ShapeDtypeStruct((devices * own, dim), jnp.float32)
    b = jax.ShapeDtypeStruct((devices * own, 1, dim), jnp.float32)
    scale = jax.ShapeDtypeStruct((), jnp.float32)

    def largest(sharding):
        grad = jax.value_and_grad(lambda *x: loss(*x, sharding=sharding, mesh=mesh), (0, 1, 2))
        return _largest(jax.make_jaxpr(grad)(a, b, scale).jaxpr)

    assert largest("gather") == devices * own * dim
    assert largest("ring") == own * dim  # one chunk; a block of logits is own x own
