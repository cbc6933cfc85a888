"""Pairs for the tests of contrastive losses: vectors, masks, and meshes of virtual devices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gsjax.losses import contrastive

B, K, D = 16, 3, 8


def inputs(seed=0, num=B):
    """Unit vectors [num, D] and [num, K, D], weights [num, K]."""
    rng = np.random.default_rng(seed)
    a = contrastive.unit(jnp.asarray(rng.normal(size=(num, D)), jnp.float32))
    b = contrastive.unit(jnp.asarray(rng.normal(size=(num, K, D)), jnp.float32))
    weights = jnp.asarray(rng.uniform(0.1, 1.0, (num, K)), jnp.float32)
    return a, b, weights


def masks(num=B):
    """Options of a loss: three objects and some slots are missing, objects go by twos."""
    valid_a = jnp.arange(num) < num - 3
    valid_b = valid_a[:, None] & (jnp.arange(num * K).reshape(num, K) % 7 != 3)
    return dict(valid_a=valid_a, valid_b=valid_b, ids=jnp.arange(num, dtype=jnp.uint32) // 2)


def mesh_of(devices: int) -> jax.sharding.Mesh:
    """A mesh of ``devices`` over two axes; the test is skipped where there are fewer."""
    if jax.device_count() < devices:
        pytest.skip(f"needs {devices} devices")
    return jax.make_mesh(
        (devices // 2, 2) if devices > 1 else (1, 1),
        ("data", "fsdp"),
        axis_types=(jax.sharding.AxisType.Auto,) * 2,
        devices=jax.devices()[:devices],
    )


def spread(arrays, mesh):
    """``arrays`` with their rows over all devices of the mesh."""
    spec = jax.sharding.PartitionSpec(("data", "fsdp"))
    return jax.device_put(arrays, jax.sharding.NamedSharding(mesh, spec))
