"""Sparse convolutions against the dense grid: values and gradients, with fillers of junk."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gsjax.core import dense_conv, sparse_conv, voxels

SIDE, VOXELS, PARENTS = 8, 70, 50
_quick = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


@functools.cache
def _case():
    """Two clouds of different numbers of voxels: keys, families, few parents, tables by size."""
    rng = np.random.default_rng(0)
    cells = jnp.asarray(rng.integers(0, SIDE, (2, 60, 3)), jnp.int32)

    @_quick
    @jax.vmap
    def make(cells, mask):
        keys = jnp.where(mask, voxels.encode(cells), voxels.SENTINEL)
        keys = voxels.voxelize(keys, VOXELS).keys
        tables = {size: voxels.neighbours(keys, voxels.cube(size)) for size in (3, 5)}
        return keys, voxels.parents(keys, PARENTS), voxels.parents(keys, 6), tables

    return make(cells, jnp.arange(120).reshape(2, 60) < 100)


def _table(size):
    return _case()[3][size]


def _random(seed, *shape, dtype=jnp.float32):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), dtype)


def _assert_same(sparse, dense, feat, kernel, mask, tolerance=1e-5):
    """Equal values at ``mask`` and equal gradients of a random linear function of them."""

    def value_and_grads(conv, feat, kernel):
        def loss(feat, kernel):
            out = conv(feat, kernel)
            weights = jnp.cos(jnp.arange(out.size, dtype=out.dtype)).reshape(out.shape)
            return jnp.sum(jnp.where(mask[..., None], out * weights, 0)), out

        (_, out), grads = jax.value_and_grad(loss, (0, 1), has_aux=True)(feat, kernel)
        return jnp.where(mask[..., None], out, 0), grads

    found = _quick(functools.partial(value_and_grads, sparse))(feat, kernel)
    expected = _quick(functools.partial(value_and_grads, dense))(feat, kernel)
    assert all(float(jnp.abs(x).max()) > 0.1 for x in jax.tree.leaves(expected))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=tolerance, atol=10 * tolerance),
        found,
        expected,
    )


@pytest.mark.parametrize("form, size", [("scan", 3), ("scan", 5), ("gather", 3)])
def test_submanifold_is_the_dense_convolution(form, size):
    keys, *_ = _case()
    table = _table(size)
    _assert_same(
        lambda f, k: sparse_conv.submanifold(f, table, k, form=form),
        lambda f, k: dense_conv.submanifold(f, keys, k, SIDE),
        _random(1, 2, VOXELS, 3),
        _random(2, size**3, 3, 4),
        voxels.is_voxel(keys),
    )


def test_strided_is_the_dense_convolution():
    keys, family, *_ = _case()
    _assert_same(
        lambda f, k: sparse_conv.strided(f, family, k),
        lambda f, k: dense_conv.strided(f, keys, family.keys, k, SIDE),
        _random(1, 2, VOXELS, 3),
        _random(2, 8, 3, 4),
        voxels.is_voxel(family.keys),
    )


def test_inverse_is_the_dense_transposed_convolution():
    keys, family, *_ = _case()
    _assert_same(
        lambda f, k: sparse_conv.inverse(f, family, k),
        lambda f, k: dense_conv.inverse(f, family.keys, keys, k, SIDE),
        _random(1, 2, PARENTS, 3),
        _random(2, 8, 3, 4),
        voxels.is_voxel(keys),
    )


def test_strided_and_inverse_by_hand():
    # Cells (0,0,0) and (0,0,1) share parent 0 in slots 0 and 1; (1,2,0) is slot 4 of parent (0,1,0).
    keys = jnp.array([0, 1, 0b010100], jnp.int32)
    family = jax.tree.map(lambda x: x[None], _quick(lambda k: voxels.parents(k, 3))(keys))
    kernel = jnp.arange(1.0, 9.0).reshape(8, 1, 1)
    feat = jnp.array([[[1.0], [10.0], [100.0]]])
    assert _quick(sparse_conv.strided)(feat, family, kernel).tolist() == [[[21.0], [500.0], [0.0]]]
    coarse = jnp.array([[[1.0], [10.0], [100.0]]])
    assert _quick(sparse_conv.inverse)(coarse, family, kernel).tolist() == [[[1.0], [2.0], [50.0]]]


def test_one_isolated_voxel_sees_the_middle_of_the_kernel():
    table = jnp.full((1, 27, 2), 2).at[0, 13, 0].set(0)
    kernel = jnp.arange(27.0).reshape(27, 1, 1)
    out = _quick(sparse_conv.submanifold)(jnp.full((1, 2, 1), 2.0), table, kernel)
    assert out.tolist() == [[[26.0], [0.0]]]


@_quick
def _forms(case, feat, coarse, kernel):
    _, family, few, tables = case
    return dict(
        scan=sparse_conv.submanifold(feat, tables[3], kernel),
        gather=sparse_conv.submanifold(feat, tables[3], kernel, form="gather"),
        strided=sparse_conv.strided(feat, family, kernel[:8]),
        few=sparse_conv.strided(feat, few, kernel[:8]),
        inverse=sparse_conv.inverse(coarse, family, kernel[:8]),
        few_inverse=sparse_conv.inverse(coarse[:, :6], few, kernel[:8]),
    )


def _all_forms(*arguments):
    """Outputs of every operation, with room for all parents and for six."""
    return _forms(_case(), *arguments)


def _plain():
    feat, coarse, kernel = _random(1, 2, VOXELS, 3), _random(5, 2, PARENTS, 3), _random(2, 27, 3, 4)
    return feat, coarse, kernel, jax.tree.map(np.asarray, _all_forms(feat, coarse, kernel))


def test_fillers_are_never_read():
    keys, family, *_ = _case()
    feat, coarse, kernel, plain = _plain()
    here, above = (np.asarray(voxels.is_voxel(k)) for k in (keys, family.keys))
    junk = [jnp.where(m[..., None], x, jnp.nan) for m, x in ((here, feat), (above, coarse))]
    found = jax.tree.map(np.asarray, _all_forms(*junk, kernel))
    jax.tree.map(np.testing.assert_array_equal, found, plain)
    assert not any(found[name][~here].any() for name in ("scan", "gather", "inverse"))
    assert not found["strided"][~above].any()


def test_overflowing_parents_get_no_children_and_give_zeros():
    _, _, few, _ = _case()
    *_, plain = _plain()
    np.testing.assert_allclose(plain["few"], plain["strided"][:, :6], rtol=1e-5, atol=1e-5)
    orphans = np.asarray(few.ids) == 6
    assert orphans.any() and not plain["few_inverse"][orphans].any()
    np.testing.assert_allclose(
        plain["few_inverse"][~orphans], plain["inverse"][~orphans], rtol=1e-5, atol=1e-5
    )


def test_a_batch_is_its_clouds():
    feat, coarse, kernel, plain = _plain()
    _, family, _, tables = _case()

    @_quick
    def alone(feat, coarse, table, family):
        return (
            sparse_conv.submanifold(feat, table, kernel),
            sparse_conv.strided(feat, family, kernel[:8]),
            sparse_conv.inverse(coarse, family, kernel[:8]),
        )

    for i in range(2):
        one = jax.tree.map(lambda x: x[i : i + 1], (feat, coarse, tables[3], family))  # noqa: B023
        for name, out in zip(("scan", "strided", "inverse"), alone(*one), strict=True):
            np.testing.assert_allclose(out[0], plain[name][i], atol=1e-5)


def test_gradients_match_finite_differences_in_float64():
    with jax.enable_x64(True):
        keys, family, *_ = _case()
        table = _table(3)
        feat, coarse = _random(1, 2, VOXELS, 2, dtype=jnp.float64), _random(3, 2, PARENTS, 2)
        kernels = _random(2, 27, 2, 3, dtype=jnp.float64), _random(4, 8, 2, 3, dtype=jnp.float64)

        def loss(feat, coarse, k27, k8):
            out = sparse_conv.submanifold(feat, table, k27)
            up = sparse_conv.inverse(coarse, family, k8)
            down = sparse_conv.strided(jnp.sin(feat), family, k8)
            return sum(jnp.sum(jnp.square(x)) for x in (out, up, down))

        at = (feat, coarse.astype(jnp.float64), *kernels)
        grads = _quick(jax.grad(loss, (0, 1, 2, 3)))(*at)
        loss = _quick(loss)
        way = tuple(_random(9 + i, *x.shape, dtype=jnp.float64) for i, x in enumerate(at))
        for i in range(4):
            step = [1e-5 * w if i == j else 0 * w for j, w in enumerate(way)]
            ends = [loss(*(x + sign * s for x, s in zip(at, step))) for sign in (1, -1)]
            np.testing.assert_allclose(
                jnp.sum(grads[i] * way[i]), (ends[0] - ends[1]) / 2e-5, rtol=1e-7
            )


def test_bfloat16_accumulates_in_float32():
    feat, coarse, kernel = _random(1, 2, VOXELS, 3), _random(5, 2, PARENTS, 3), _random(2, 27, 3, 4)
    half = [x.astype(jnp.bfloat16) for x in (feat, coarse)]
    rounded = [x.astype(jnp.bfloat16).astype(jnp.float32) for x in (feat, coarse, kernel)]
    found, exact = _all_forms(*half, kernel), _all_forms(*rounded)
    for name, out in found.items():
        assert out.dtype == jnp.bfloat16, name
        # One rounding of the sum, to 8 bits.
        np.testing.assert_allclose(
            out.astype(jnp.float32), exact[name], rtol=2**-8, atol=1e-4, err_msg=name
        )


def test_voxels_beyond_the_dense_grid_are_zero():
    keys = jnp.array([[0, 0b001000001, 0b100000000100]], jnp.int32)  # (0,0,0), (0,0,5), (9,0,0)

    @_quick
    def conv(feat, keys, kernel):
        return dense_conv.inside(keys, 4), dense_conv.submanifold(feat, keys, kernel, 4)

    within, out = conv(jnp.ones((1, 3, 1)), keys, jnp.ones((27, 1, 1)))
    assert within.tolist() == [[True, False, False]]
    assert out.tolist() == [[[1.0], [0.0], [0.0]]]


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda f, t, k, y: sparse_conv.submanifold(f[0], t, k), r"feat: expected \[B, V, C\]"),
        (
            lambda f, t, k, y: sparse_conv.submanifold(f, t, k[:, :1]),
            r"kernel: expected \[K, 2, D\]",
        ),
        (lambda f, t, k, y: sparse_conv.submanifold(f, t[:, :9], k), "table: expected"),
        (lambda f, t, k, y: sparse_conv.submanifold(f, t, k, form="fast"), "known: scan, gather"),
        (lambda f, t, k, y: sparse_conv.strided(f, y, k), "kernel: expected one matrix a child"),
        (
            lambda f, t, k, y: sparse_conv.strided(f[:, :5], y, k[:8]),
            r"family.ids: expected \[2, 5\]",
        ),
        (lambda f, t, k, y: sparse_conv.inverse(f[:1], y, k[:8]), r"family.ids: expected \[1, V\]"),
        (lambda f, t, k, y: dense_conv.submanifold(f, _case()[0], k, 256), "use core.sparse_conv"),
        (lambda f, t, k, y: dense_conv.submanifold(f, _case()[0], k[:9], 8), "kernel: expected"),
        (lambda f, t, k, y: dense_conv.to_grid(f, _case()[0][:1], 8), "feat, keys: expected"),
        (lambda f, t, k, y: dense_conv.strided(f, _case()[0], y.keys, k[:8], 7), "even"),
        (lambda f, t, k, y: dense_conv.inverse(f, y.keys, _case()[0], k[:8], 7), "even"),
    ],
)
def test_errors_name_the_argument(call, message):
    feat, kernel = jnp.zeros((2, VOXELS, 2)), jnp.zeros((27, 2, 3))
    with pytest.raises(ValueError, match=message):
        call(feat, _table(3), kernel, _case()[1])
