"""Pooling to parents and back, against loops and against segment reductions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gsjax.core import voxel_pooling, voxels

VOXELS, PARENTS = 40, 18


def make_case():
    """Two clouds; the parents of the first do not all find a place. Features, masks, families."""
    rng = np.random.default_rng(0)
    cells = rng.integers(0, 8, (2, 60, 3))
    cells[1] //= 2
    keys = voxels.encode(jnp.asarray(cells, jnp.int32))
    keys = jax.vmap(lambda k: voxels.voxelize(k, VOXELS).keys)(keys)
    family = jax.vmap(lambda k: voxels.parents(k, PARENTS))(keys)
    mask = voxels.is_voxel(keys) & jnp.asarray(rng.uniform(size=keys.shape) < 0.8)
    feat = jnp.asarray(rng.normal(size=(2, VOXELS, 3)), jnp.float32) - 1.0
    return feat, mask, family


FEAT, MASK, FAMILY = make_case()
WEIGHTS = jnp.asarray(np.random.default_rng(1).normal(size=(2, PARENTS, 3)), jnp.float32)


def test_case_has_overflow_and_lonely_parents():
    assert FAMILY.dropped[0] > 0 and FAMILY.dropped[1] == 0
    counts = np.asarray(voxel_pooling.any_child(MASK, FAMILY)).sum(1)
    assert (counts < np.asarray(voxels.is_voxel(FAMILY.keys)).sum(1)).any()


def test_maximum_is_that_of_segments_in_values_and_gradients():
    ids = jnp.where(MASK, FAMILY.ids, PARENTS)

    def segments(feat):
        return jax.vmap(lambda f, i: voxels.maximum(f, i, PARENTS))(feat, ids)

    def pooled(feat):
        return voxel_pooling.maximum(feat, FAMILY, MASK)

    np.testing.assert_array_equal(pooled(FEAT), segments(FEAT))
    grads = [jax.grad(lambda x, f=f: jnp.sum(f(x) * WEIGHTS))(FEAT) for f in (pooled, segments)]
    assert np.abs(grads[0]).max() > 0.1
    np.testing.assert_allclose(*grads, atol=1e-6)


def test_masked_junk_reaches_nothing():
    junk = jnp.where(MASK[..., None], FEAT, jnp.asarray([jnp.nan, jnp.inf, 1e30]))
    np.testing.assert_array_equal(
        voxel_pooling.maximum(junk, FAMILY, MASK), voxel_pooling.maximum(FEAT, FAMILY, MASK)
    )
    grad = jax.grad(lambda x: jnp.sum(voxel_pooling.maximum(x, FAMILY, MASK) * WEIGHTS))(junk)
    assert np.isfinite(grad).all() and not np.asarray(grad)[~np.asarray(MASK)].any()


def test_of_equal_children_the_first_gets_the_gradient():
    keys = voxels.encode(jnp.asarray([[0, 0, 0], [0, 0, 1], [1, 1, 1]], jnp.int32))[None]
    family = jax.vmap(lambda k: voxels.parents(k, 2))(keys)
    feat = jnp.asarray([[[1.0, 5.0], [1.0, 5.0], [0.0, 5.0]]])
    value, grad = jax.value_and_grad(lambda x: jnp.sum(voxel_pooling.maximum(x, family)))(feat)
    assert value == 6.0
    assert grad[0].tolist() == [[1, 1], [0, 0], [0, 0]]


def test_expand_is_indexing_in_values_and_gradients():
    coarse = WEIGHTS

    def indexed(coarse):
        rows = jnp.pad(coarse, ((0, 0), (0, 1), (0, 0)))
        return jnp.take_along_axis(rows, FAMILY.ids[..., None], 1)

    found = voxel_pooling.expand(coarse, FAMILY)
    np.testing.assert_array_equal(found, indexed(coarse))
    lost = np.asarray(FAMILY.ids) == PARENTS
    assert lost[0].any() and not np.asarray(found)[lost].any()
    grads = [
        jax.grad(lambda x, f=f: jnp.sum(f(x) * FEAT))(coarse)
        for f in (lambda x: voxel_pooling.expand(x, FAMILY), indexed)
    ]
    np.testing.assert_allclose(*grads, atol=1e-6)


def test_any_child_is_the_loop():
    found = np.asarray(voxel_pooling.any_child(MASK, FAMILY))
    for b in range(2):
        held = set(np.asarray(FAMILY.ids[b])[np.asarray(MASK[b])])
        assert [p in held for p in range(PARENTS)] == found[b].tolist()


def test_other_shapes_are_refused():
    with pytest.raises(ValueError, match=r"\[B, V\] = \[2, 40\], found \[2, 39, 3\]"):
        voxel_pooling.maximum(FEAT[:, 1:], FAMILY)
    with pytest.raises(ValueError, match=r"mask: expected \[2, 40\], found \[2, 39\]"):
        voxel_pooling.maximum(FEAT, FAMILY, MASK[:, 1:])
    with pytest.raises(ValueError, match=r"\[B, P\] = \[2, 18\], found \[2, 40, 3\]"):
        voxel_pooling.expand(FEAT, FAMILY)
    with pytest.raises(ValueError, match="jax.vmap of voxels.parents"):
        voxel_pooling.expand(FEAT, jax.tree.map(lambda x: x[0], FAMILY))
