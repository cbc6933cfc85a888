"""Voxel sets against sets and dictionaries of cells in plain Python."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gsjax.core import voxels

NUM, VOXELS, PARENTS = 60, 64, 50
FEW_VOXELS, FEW_PARENTS = 10, 9
_quick = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


def _random_cells(seed, side):
    return np.random.default_rng(seed).integers(0, side, (NUM, 3))


def _slow_key(cell):
    x, y, z = (f"{int(v):010b}" for v in cell)
    return int("".join(a + b + c for a, b, c in zip(x, y, z)), 2)


def _slow_keys(cells):
    return np.array([_slow_key(c) for c in cells], np.int32)


def _sets(keys):
    """All that is made of one cloud's keys [NUM], with enough room and with too little."""
    found = voxels.voxelize(keys, VOXELS)
    family = voxels.parents(found.keys, PARENTS)
    few_parents = voxels.parents(found.keys, FEW_PARENTS)
    tables = {size: voxels.neighbours(found.keys, voxels.cube(size)) for size in (3, 5)}
    refined = {}
    for name, parents in (("all", family), ("few", few_parents)):
        table = voxels.neighbours(parents.keys, voxels.cube(3))
        for size in (3, 5):
            refined[name, size] = voxels.refine(found.keys, table, parents, size)
    return dict(
        found=found,
        few=voxels.voxelize(keys, FEW_VOXELS),
        cells=voxels.decode(found.keys),
        family=family,
        few_parents=few_parents,
        tables=tables,
        half=voxels.neighbours(found.keys, voxels.cube(3)[:7]),
        even=voxels.neighbours(found.keys, np.array([[0, 0, -1], [0, 0, 1]])),
        **{f"refined_{name}_{size}": x for (name, size), x in refined.items()},
    )


_compiled = _quick(_sets)
_compiled_batch = _quick(jax.vmap(_sets))


def _of(keys):
    return jax.tree.map(np.asarray, _compiled(jnp.asarray(keys)))


@functools.cache
def _dense():
    """Voxels in a corner, with many neighbours; keys of points, point 7 without one."""
    keys = _slow_keys(_random_cells(1, 4))
    keys[7] = voxels.SENTINEL
    return keys, _of(keys)


@functools.cache
def _borders():
    """Voxels at both ends of the x axis and some at ends of others: wrapping would join them."""
    cells = _random_cells(4, 5)
    cells[:28, 0] += 1019
    cells[-4:] = [[5, 1023, 0], [6, 0, 0], [6, 0, 1023], [7, 0, 0]]
    return _of(_slow_keys(cells))


def _slow_table(made, offsets):
    """Neighbour rows from a dictionary of cells."""
    cells, keys = made["cells"].tolist(), made["found"].keys.tolist()
    rows = {tuple(c): i for i, c in enumerate(cells) if keys[i] != voxels.SENTINEL}
    table = np.full((len(offsets), VOXELS), VOXELS)
    for k, offset in enumerate(offsets.tolist()):
        for cell, i in rows.items():
            table[k, i] = rows.get(tuple(a + b for a, b in zip(cell, offset)), VOXELS)
    return table


def test_keys_interleave_bits_and_decode_again():
    cells = np.concatenate([_random_cells(0, 1024)[2:], [[0, 0, 0], [1023, 1023, 1023]]])
    keys, back = _quick(lambda c: (voxels.encode(c), voxels.decode(voxels.encode(c))))(
        jnp.asarray(cells, jnp.int32)
    )
    assert keys.dtype == jnp.int32
    assert keys.tolist() == [_slow_key(c) for c in cells]
    np.testing.assert_array_equal(back, cells)


def test_keys_of_counts_points_outside_and_ignores_masked_ones():
    nan = np.nan
    xyz = [[0, 0, 0], [0.49, 0.51, 511.9], [-0.01, 0, 0], [0, 512.1, 0], [nan, 0, 0]]
    xyz, mask = np.array([*xyz, [nan, 1e30, -5.0]], np.float32), np.array([True] * 5 + [False])

    def both(xyz, mask):
        at = xyz, jnp.zeros(3), 0.5, mask
        return voxels.keys_of(*at), voxels.keys_of(*at, cells=64)

    (keys, outside), (few, more) = _quick(both)(xyz, mask)
    assert keys.tolist() == [0, _slow_key([0, 1, 1023])] + [voxels.SENTINEL] * 4
    assert int(outside) == 3
    assert few.tolist() == [0] + [voxels.SENTINEL] * 5 and int(more) == 4


def test_corner_is_a_multiple_of_the_size_and_never_above_a_point():
    corner = _quick(lambda x, m: voxels.corner(x, 0.2, m))
    xyz = np.array([[0.31, -0.31, 5.1], [0.9, 0.2, 7.0], [-99.0, -99.0, np.nan]], np.float32)
    found = corner(xyz, np.array([True, True, False]))
    np.testing.assert_allclose(found, [0.2, -0.4, 5.0], atol=1e-6)
    assert corner(xyz, np.zeros(3, bool)).tolist() == [0.0, 0.0, 0.0]

    @_quick
    def many(clouds):
        origins = jax.vmap(lambda x: voxels.corner(x, 0.02))(clouds)
        outside = jax.vmap(lambda x, o: voxels.keys_of(x, o, 0.02)[1])(clouds, origins)
        return origins, outside

    # Just below multiples of 0.02: the quotient rounds up to a whole number, the product exceeds it.
    steps = np.arange(1, 2000, dtype=np.float32)
    low = np.nextafter(steps * np.float32(0.02), np.float32(-np.inf))
    clouds = np.stack([low, -low, low * np.float32(0.5)], -1)[:, None]
    naive = np.floor(clouds / np.float32(0.02)) * np.float32(0.02)
    assert (naive > clouds).any()
    origins, outside = many(clouds)
    assert (np.asarray(origins) <= clouds[:, 0]).all() and not np.asarray(outside).any()


def test_voxelize_matches_sets():
    keys, made = _dense()
    found = made["found"]
    distinct = sorted(set(np.delete(keys, 7).tolist()))
    assert found.keys.tolist() == distinct + [voxels.SENTINEL] * (VOXELS - len(distinct))
    ids = [VOXELS if i == 7 else distinct.index(int(k)) for i, k in enumerate(keys)]
    assert found.ids.tolist() == ids
    assert found.counts.tolist() == [ids.count(i) for i in range(VOXELS)]
    assert int(found.dropped) == 0


def test_voxels_beyond_the_capacity_are_counted():
    full, few = (_dense()[1][name] for name in ("found", "few"))
    total = int((full.keys != voxels.SENTINEL).sum())
    assert few.keys.tolist() == full.keys[:FEW_VOXELS].tolist()
    assert int(few.dropped) == total - FEW_VOXELS
    assert few.ids.tolist() == [min(i, FEW_VOXELS) for i in full.ids.tolist()]
    assert few.counts.tolist() == full.counts[:FEW_VOXELS].tolist()


def test_empty_cloud():
    made = _of(np.full(NUM, voxels.SENTINEL, np.int32))
    found, family = made["found"], made["family"]
    assert int(found.dropped) == int(found.counts.sum()) == int(family.dropped) == 0
    assert (found.ids == VOXELS).all() and (found.keys == voxels.SENTINEL).all()
    assert (family.keys == voxels.SENTINEL).all() and (family.ids == PARENTS).all()
    assert (family.children == VOXELS).all()
    for table in (*made["tables"].values(), made["refined_all_3"], made["refined_few_5"]):
        assert (table == VOXELS).all()


def test_mean_and_maximum_by_hand_and_their_gradients():
    ids = jnp.array([0, 2, 0, 3, 2])  # capacity 3: point 3 has no voxel, voxel 1 no point
    values = jnp.array([[1.0, 5.0], [2.0, 2.0], [4.0, 5.0], [jnp.nan, jnp.inf], [8.0, -1.0]])

    def pooled(values):
        return voxels.mean(values, ids, 3), voxels.maximum(values, ids, 3)

    @_quick
    def both(values):
        out, back = jax.vjp(pooled, values)
        weights, zeros = jnp.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]), jnp.zeros((3, 2))
        return out, back((weights, zeros))[0], back((zeros, weights))[0]

    (mean, maximum), mean_grad, maximum_grad = both(values)
    assert mean.tolist() == [[2.5, 5.0], [0.0, 0.0], [5.0, 0.5]]
    assert maximum.tolist() == [[4.0, 5.0], [0.0, 0.0], [8.0, 2.0]]
    assert mean_grad.tolist() == [[0.5, 1.0], [2.5, 3.0], [0.5, 1.0], [0.0, 0.0], [2.5, 3.0]]
    assert maximum_grad.tolist() == [[0.0, 1.0], [0.0, 6.0], [1.0, 1.0], [0.0, 0.0], [5.0, 0.0]]


def test_centers_are_the_middles_of_cells():
    keys = jnp.array([_slow_key([0, 1, 2]), voxels.SENTINEL], jnp.int32)
    found = _quick(lambda k, o: voxels.centers(k, o, 2.0))(keys, jnp.array([10.0, 20.0, 30.0]))
    assert found.tolist() == [[11.0, 23.0, 35.0], [10.0, 20.0, 30.0]]


def test_merge_has_every_voxel_once():
    a = np.append(np.unique(_slow_keys(_random_cells(2, 4))), [voxels.SENTINEL] * 2)
    b = np.append(np.unique(_slow_keys(_random_cells(3, 4))[:40]), [voxels.SENTINEL])
    merge = _quick(lambda a, b: (voxels.merge(a, b, 64), voxels.merge(a, b, 16)))
    union, few = merge(a.astype(np.int32), b.astype(np.int32))
    expected = sorted((set(a.tolist()) | set(b.tolist())) - {voxels.SENTINEL})
    assert len(expected) < len(a) + len(b) - 3
    assert union.keys.tolist() == expected + [voxels.SENTINEL] * (64 - len(expected))
    for keys, ids in ((a, union.ids_a), (b, union.ids_b)):
        for key, i in zip(keys.tolist(), ids.tolist(), strict=True):
            assert i == (64 if key == voxels.SENTINEL else expected.index(key))
    assert int(union.dropped) == 0 and int(few.dropped) == len(expected) - 16


@pytest.mark.parametrize("size", [3, 5])
def test_neighbours_match_a_dictionary_and_do_not_wrap(size):
    for made in (_dense()[1], _borders()):
        expected = _slow_table(made, voxels.cube(size))
        assert made["tables"][size].dtype == np.int32
        np.testing.assert_array_equal(made["tables"][size], expected)
        assert (expected[: size**3 // 2] < VOXELS).any()


def test_neighbours_of_offsets_without_symmetry_or_middle():
    made = _borders()
    np.testing.assert_array_equal(made["half"], made["tables"][3][:7])
    np.testing.assert_array_equal(
        made["even"], _slow_table(made, np.array([[0, 0, -1], [0, 0, 1]]))
    )


def test_cube_lists_offsets_as_a_dense_kernel_is_flattened():
    offsets = voxels.cube(3)
    expected = list(itertools.product((-1, 0, 1), repeat=3))
    assert [tuple(o) for o in offsets.tolist()] == expected
    np.testing.assert_array_equal(offsets, -offsets[::-1])


def test_parents_are_cells_of_twice_the_size():
    made = _borders()
    found, family, few, cells = (made[n] for n in ("found", "family", "few_parents", "cells"))
    valid = found.keys != voxels.SENTINEL
    distinct = sorted({_slow_key(c // 2) for c in cells[valid]})
    assert family.keys.tolist() == distinct + [voxels.SENTINEL] * (PARENTS - len(distinct))
    for i, (cell, ok) in enumerate(zip(cells, valid, strict=True)):
        if not ok:
            assert family.ids[i] == PARENTS
            continue
        assert family.ids[i] == distinct.index(_slow_key(cell // 2))
        assert family.slot[i] == (cell % 2) @ [4, 2, 1]
        assert family.children[family.ids[i], family.slot[i]] == i
    assert (family.children < VOXELS).sum() == valid.sum()
    assert few.dropped == len(distinct) - FEW_PARENTS and family.dropped == 0
    np.testing.assert_array_equal(few.ids, np.minimum(family.ids, FEW_PARENTS))
    np.testing.assert_array_equal(few.children, family.children[:FEW_PARENTS])


@pytest.mark.parametrize("size", [3, 5])
def test_refined_neighbours_are_those_searched(size):
    for made in (_dense()[1], _borders()):
        refined = made[f"refined_all_{size}"]
        assert refined.dtype == np.int32 and made["family"].dropped == 0
        np.testing.assert_array_equal(refined, made["tables"][size])


def test_refined_tables_stay_mirror_symmetric_without_some_parents():
    made = _borders()
    assert made["few_parents"].dropped > 0
    searched = made["tables"][3]
    kept = np.append(made["few_parents"].ids < FEW_PARENTS, False)
    both = kept[None, :-1] & kept[searched]
    both[13] = searched[13] < VOXELS  # every voxel has itself
    np.testing.assert_array_equal(made["refined_few_3"], np.where(both, searched, VOXELS))


def test_a_batch_is_its_clouds():
    keys = np.stack([_dense()[0], _slow_keys(_random_cells(5, 4))])
    batch = jax.tree.map(np.asarray, _compiled_batch(keys))
    for i in range(2):
        one = jax.tree.map(lambda x: x[i], batch)  # noqa: B023
        jax.tree.map(np.testing.assert_array_equal, one, _of(keys[i]))


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: voxels.keys_of(np.zeros((2, 4, 3)), np.zeros(3), 1.0), r"one cloud \[N, 3\]"),
        (lambda: voxels.keys_of(np.zeros((4, 3)), np.zeros(3), 0.0), "size"),
        (lambda: voxels.keys_of(np.zeros((4, 3)), np.zeros(3), 1.0, cells=2048), "cells"),
        (lambda: voxels.corner(np.zeros((4, 3)), 1.0, np.ones(3, bool)), r"mask: expected \[4\]"),
        (lambda: voxels.voxelize(np.zeros(4, np.int32), 0), "capacity"),
        (lambda: voxels.parents(np.zeros(4, np.int32), 0), "capacity"),
        (lambda: voxels.cube(4), "odd"),
        (lambda: voxels.neighbours(np.zeros(4, np.int32), np.zeros((3, 2))), r"\[K, 3\]"),
    ],
)
def test_errors_name_the_argument(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_refine_rejects_a_table_of_other_voxels():
    made = _dense()[1]
    with pytest.raises(ValueError, match=rf"table: expected \[27, {PARENTS}\]"):
        voxels.refine(made["found"].keys, np.zeros((27, 21), np.int32), made["family"], 3)
    with pytest.raises(ValueError, match="size"):
        voxels.refine(made["found"].keys, np.zeros((27, PARENTS), np.int32), made["family"], 7)
