import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from gsjax.core import gaussians, pytrees


def _both():
    children = [jnp.full((2, 3), float(k)) for k in range(5)]
    return gaussians.RawGaussians(*children), gaussians.Gaussians(*children)


def test_structures_of_different_classes_differ():
    raw, activated = _both()
    assert jax.tree.structure(raw) != jax.tree.structure(activated)
    assert jax.tree.structure(raw) == jax.tree.structure(dataclasses.replace(raw, sh=raw.means))


def test_fields_are_children_known_by_name():
    raw, _ = _both()
    doubled = jax.jit(lambda g: jax.tree.map(lambda x: 2 * x, g))(raw)
    assert isinstance(doubled, gaussians.RawGaussians)
    np.testing.assert_array_equal(doubled.sh, 2 * raw.sh)
    paths = [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(raw)]
    assert paths == [".means", ".quats", ".log_scales", ".logit_opacities", ".sh"]


def test_a_class_of_ones_own():
    @pytrees.register
    @dataclasses.dataclass(frozen=True)
    class Pair:
        first: object
        second: object = None

    found = jax.tree.map(lambda x: x + 1, Pair(1, dict(a=2)))
    assert found == Pair(2, dict(a=3))
    assert jax.tree.structure(Pair(1)) != jax.tree.structure(Pair(1, 2))
