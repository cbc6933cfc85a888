"""Programs for platforms that are not here: lowering proves that they can be expressed there."""

import jax
import jax.numpy as jnp
import pytest

from gsjax.raster import api, arg_specs


@pytest.mark.parametrize("platform", ["cuda", pytest.param("tpu", marks=pytest.mark.slow)])
def test_xla_group_lowers_with_its_gradient(platform):
    scene = arg_specs.random_scene(0, 64, 40, 24)
    names = ("means", "quats", "scales", "opacities", "colors", "viewmats", "Ks")
    arrays = [jnp.asarray(scene[name]) for name in names]

    def loss(*arrays):
        image, alpha, _ = api.rasterize(*arrays, 40, 24, backend="xla_group")
        return image.sum() + alpha.sum()

    step = jax.jit(jax.value_and_grad(loss, argnums=tuple(range(7))))
    text = step.trace(*arrays).lower(lowering_platforms=(platform,)).as_text()
    assert "stablehlo.while" in text and "callback" not in text
