"""Orders of voxels along curves, and rows moved into an order and back."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gsjax.core import serialization, voxel_orders, voxels


def keys_of_cells(cells, capacity):
    """Sorted int32 keys [capacity] of cells [V, 3]."""
    keys = np.sort(np.asarray(voxels.encode(jnp.asarray(cells, jnp.int32))))
    return jnp.asarray(np.pad(keys, (0, capacity - len(keys)), constant_values=voxels.SENTINEL))


CUBE = keys_of_cells(list(itertools.product((0, 1), repeat=3)), 11)
MANY = keys_of_cells(
    np.unique(np.random.default_rng(0).integers(0, 32, (60, 3)), axis=0), 64
)  # fmt: skip


def test_orders_of_a_cube_by_hand():
    # Keys ascend, so Z-order is as it is; exchanging x and y exchanges their bits 4 and 2.
    found = voxel_orders.voxel_orders(CUBE, ("z", "z-trans"))
    fillers = [8, 9, 10]
    assert found.tolist() == [
        [0, 1, 2, 3, 4, 5, 6, 7, *fillers],
        [0, 1, 4, 5, 2, 3, 6, 7, *fillers],
    ]


def test_masked_voxels_come_last():
    mask = jnp.ones(11, bool).at[jnp.array([0, 5])].set(False)
    found = voxel_orders.voxel_orders(CUBE, ("z-trans",), mask=mask)
    assert found[0, :6].tolist() == [1, 4, 2, 3, 6, 7]
    assert sorted(found[0].tolist()) == list(range(11))


@pytest.mark.parametrize("level", [0, 2])
def test_orders_are_those_of_the_keys_of_points(level):
    """Against ``serialization.order_key`` on the cells of a grid of as many bits."""
    keys = jnp.stack([MANY, CUBE[jnp.arange(64).clip(0, 10)]])
    found = np.asarray(voxel_orders.voxel_orders(keys, serialization.ORDERS, level=level))
    assert found.shape == (2, len(serialization.ORDERS), 64) and found.dtype == np.int32
    cells = voxels.decode(MANY).astype(jnp.uint32)
    count = int(voxels.is_voxel(MANY).sum())
    for name, rows in zip(serialization.ORDERS, found[0], strict=True):
        code = serialization.order_key(cells[:count], name, voxels.BITS - level)
        np.testing.assert_array_equal(rows[:count], np.argsort(code))


@pytest.mark.parametrize("name", ["z", "z-trans", "hilbert", "hilbert-trans"])
def test_curves_of_parents_follow_those_of_their_children(name):
    family = voxels.parents(MANY, 64)
    children = voxel_orders.voxel_orders(MANY, (name,))[0]
    visited = [int(i) for i in family.ids[children] if i < 64]
    parents = voxel_orders.voxel_orders(family.keys, (name,), level=1)[0]
    assert list(dict.fromkeys(visited)) == parents[: len(set(visited))].tolist()


def test_inverses_undo_orders():
    order = jnp.asarray([np.random.default_rng(i).permutation(9) for i in range(6)]).reshape(
        2, 3, 9
    )
    back = voxel_orders.inverse(order)
    np.testing.assert_array_equal(jnp.take_along_axis(order, back, -1), np.broadcast_to(range(9), (2, 3, 9)))  # fmt: skip


def test_reorder_is_indexing_in_values_and_gradients():
    rng = np.random.default_rng(0)
    x, weights = (jnp.asarray(rng.normal(size=(2, 7, 3)), jnp.float32) for _ in range(2))
    order = jnp.asarray([rng.permutation(7) for _ in range(2)])
    back = voxel_orders.inverse(order)

    def indexed(x):
        return jnp.take_along_axis(x, order[..., None], 1)

    moved = voxel_orders.reorder(x, order, back)
    np.testing.assert_array_equal(moved, indexed(x))
    np.testing.assert_array_equal(voxel_orders.reorder(moved, back, order), x)
    grads = [
        jax.grad(lambda x, f=f: jnp.sum(f(x) ** 2 * weights))(x)
        for f in (lambda x: voxel_orders.reorder(x, order, back), indexed)
    ]
    np.testing.assert_array_equal(*grads)


def test_wrong_arguments_are_refused():
    with pytest.raises(ValueError, match="orders: expected one or more of xyz"):
        voxel_orders.voxel_orders(CUBE, ())
    with pytest.raises(ValueError, match="order: unknown 'peano'"):
        voxel_orders.voxel_orders(CUBE, ("peano",))
    with pytest.raises(ValueError, match="level: expected 0 to 9, found 10"):
        voxel_orders.voxel_orders(CUBE, ("z",), level=10)
    with pytest.raises(ValueError, match=r"mask: expected \[11\] as keys, found \[3\]"):
        voxel_orders.voxel_orders(CUBE, ("z",), mask=jnp.ones(3, bool))
