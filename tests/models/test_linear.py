"""Dense layers by rows: flax's values and parameters, one product of two matrices on CPUs alone."""

import json

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gsjax.core import devices
from gsjax.models import bench_linear, linear


@pytest.mark.parametrize("shape", [(3,), (4, 3), (2, 4, 3), (2, 1, 4, 3), (0, 4, 3)])
def test_flax_s_layer_in_values_parameters_and_gradients(shape):
    x = jax.random.normal(jax.random.key(0), shape)
    ours, theirs = linear.Dense(5), nn.Dense(5)
    variables = theirs.init(jax.random.key(1), x)
    np.testing.assert_array_equal(
        ours.init(jax.random.key(1), x)["params"]["kernel"], variables["params"]["kernel"]
    )
    assert ours.apply(variables, x).shape == (*shape[:-1], 5)
    grads = [
        jax.grad(lambda v, x, net=net: jnp.sum(jnp.sin(net.apply(v, x))), argnums=(0, 1))(
            variables, x
        )
        for net in (ours, theirs)
    ]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), *grads)


def test_layers_without_names_are_numbered_as_flax_s():
    class Two(nn.Module):
        @nn.compact
        def __call__(self, x):
            return linear.Dense(2)(linear.Dense(4)(x))

    params = Two().init(jax.random.key(0), jnp.zeros((1, 2, 3)))["params"]
    assert sorted(params) == ["Dense_0", "Dense_1"]


def test_what_a_layer_returns_is_captured_once():
    x = jnp.zeros((2, 4, 3))
    _, state = linear.Dense(5).init_with_output(jax.random.key(0), x, capture_intermediates=True)
    assert [found.shape for found in state["intermediates"]["__call__"]] == [(2, 4, 5)]


def test_the_product_is_the_matrix_product():
    x, kernel = (jax.random.normal(jax.random.key(i), s) for i, s in enumerate([(2, 4, 3), (3, 5)]))
    np.testing.assert_allclose(linear.product(x, kernel), x @ kernel, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("platform", "reshapes"), [("cpu", True), ("gpu", False), ("tpu", False)])
def test_only_cpus_have_all_rows_on_one_axis(monkeypatch, platform, reshapes):
    monkeypatch.setattr(devices, "platform", lambda: platform)
    made = jax.make_jaxpr(lambda x, k: linear.product(x, k))(
        jnp.zeros((2, 4, 3)), jnp.zeros((3, 5))
    )
    assert ("reshape" in str(made)) == reshapes


def test_the_benchmark_checks_both_forms(tmp_path, capsys):
    path = tmp_path / "row.json"
    sizes = ["--batch=2", "--points=8", "--widths=3,4,5", "--repeats=1"]
    bench_linear.main([*sizes, f"--json={path}"])
    row = json.loads(path.read_text())
    assert json.loads(capsys.readouterr().out.splitlines()[-1]) == row
    assert row["to_arrays"]["arrays"] == 1.0 and min(row["milliseconds"].values()) > 0
    with pytest.raises(SystemExit):
        bench_linear.parse(["--widths=3,4"])
