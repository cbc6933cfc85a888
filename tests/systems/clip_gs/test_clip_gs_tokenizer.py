"""CLIP-GS tokenizer: activations, patches, orders, branches."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gsjax.core import gaussians, rotations
from gsjax.systems.clip_gs import tokenizer


def _raw(num=40, batch=2, seed=0):
    rng = np.random.default_rng(seed)
    draw = lambda *shape: jnp.asarray(rng.normal(size=(batch, num, *shape)), jnp.float32)  # noqa: E731
    return gaussians.RawGaussians(draw(3), draw(4), draw(3) - 3, draw(), draw(1, 3))


def _all_masked_in(raw):
    return jnp.ones(raw.means.shape[:-1], bool)


def _patches(raw, mask=None, order=3, groups=6, size=5):
    mask = _all_masked_in(raw) if mask is None else mask
    centers = tokenizer.choose_centers(raw.means, mask, groups)
    return _gather(raw, mask, centers, order, size)


@functools.partial(jax.jit, static_argnums=4)
def _gather(raw, mask, centers, order, size):
    orders = jnp.full((len(mask), 1), order, jnp.int32)
    return tokenizer.gather_patches(raw, mask, centers, size, order=orders)


def test_attributes_are_the_activated_record():
    raw = _raw()
    found = tokenizer.attributes(raw)
    assert found.shape == (2, 40, tokenizer.NUM_ATTRIBUTES)
    np.testing.assert_allclose(found[..., :3], raw.means)
    rgb = np.clip(0.5 + 0.28209479177387814 * np.asarray(raw.sh[..., 0, :]), 0, 1)
    np.testing.assert_allclose(found[..., 3:6], rgb, atol=1e-6)
    np.testing.assert_allclose(found[..., 6], 1 / (1 + np.exp(-raw.logit_opacities)), rtol=1e-5)
    scales = np.exp(raw.log_scales)
    np.testing.assert_allclose(found[..., 7:10], scales / (1 + scales), rtol=1e-5)
    matrix = rotations.quat_to_rotmat(raw.quats).reshape(2, 40, 9)
    np.testing.assert_allclose(found[..., 10:], matrix, atol=1e-6)
    flipped = dataclasses.replace(raw, quats=-raw.quats)
    np.testing.assert_allclose(tokenizer.attributes(flipped), found, atol=1e-6)


def test_patches_hold_the_nearest_gaussians_relative_to_their_centre():
    raw = _raw()
    found = _patches(raw)
    means = np.asarray(raw.means)
    for b in range(2):
        for g in range(6):
            center = np.asarray(found.centers[b, g])
            dist = np.sort(np.linalg.norm(means[b] - center, axis=-1))[:5]
            radii = np.sort(np.linalg.norm(found.attributes[b, 0, g, :, :3], axis=-1))
            np.testing.assert_allclose(radii, dist, atol=1e-6)


def test_sorted_patch_does_not_depend_on_the_order_of_the_input():
    raw = _raw()
    mixed = np.random.default_rng(1).permutation(39) + 1  # sampling starts at the first point
    mixed = np.concatenate([[0], mixed])
    other = jax.tree.map(lambda x: x[:, mixed], raw)
    for order in range(len(tokenizer.ORDERS)):
        one, two = _patches(raw, order=order), _patches(other, order=order)
        np.testing.assert_allclose(one.attributes, two.attributes, atol=1e-6)


@pytest.mark.parametrize("axis", range(3))
def test_axis_orders_sort_along_their_axis(axis):
    found = _patches(_raw(), order=axis)
    assert bool(jnp.all(jnp.diff(found.attributes[..., axis], axis=-1) > -2e-3))  # cells of 2^-10


@pytest.mark.parametrize("grouping", ["online", "presorted"])
def test_masked_gaussians_enter_no_patch(grouping):
    raw = _raw()
    mask = jnp.broadcast_to(jnp.arange(40) % 3 != 1, (2, 40))
    garbage = jax.tree.map(
        lambda x: jnp.where(mask.reshape(2, 40, *[1] * (x.ndim - 2)), x, jnp.nan), raw
    )
    parts = []
    for r in (raw, garbage):
        r = gaussians.normalize_unit_ball(r, mask=mask)
        centers = tokenizer.choose_centers(r.means, mask, 6, grouping=grouping)
        parts.append(_gather(r, mask, centers, 3, 5))
    np.testing.assert_array_equal(parts[0].attributes, parts[1].attributes)
    assert bool(jnp.isfinite(parts[1].attributes).all())


def test_few_or_equal_gaussians_give_finite_patches():
    raw = _raw(num=3)
    same = dataclasses.replace(raw, means=jnp.zeros_like(raw.means))
    for r in (raw, same):
        assert bool(jnp.isfinite(_patches(r, groups=6, size=5).attributes).all())


def test_presorted_centers_equal_sampled_ones_where_records_are_in_that_order():
    raw = _raw()
    mask = _all_masked_in(raw)
    order = tokenizer.points.farthest_point_sampling(raw.means, 40)
    means = jnp.take_along_axis(raw.means, order[..., None], 1)
    first = tokenizer.choose_centers(means, mask, 8, grouping="presorted")
    np.testing.assert_array_equal(first, tokenizer.choose_centers(means, mask, 8))


def test_order_modes():
    draw = jnp.asarray([0.0, 0.99, 0.5])
    call = lambda mode, train: tokenizer.draw_order(  # noqa: E731
        draw, 3, mode=mode, fixed="hilbert", train=train
    ).tolist()
    assert call("random", True) == call("average", True) == [[0], [4], [2]]
    assert call("random", False) == call("fixed", True) == [[3]] * 3
    assert call("concat", True) == call("average", False) == [[0, 1, 2, 3, 4]] * 3


def test_kept_patches_are_distinct_and_fixed_in_number():
    draws = jnp.asarray(np.random.default_rng(0).uniform(size=(3, 9)))
    kept = tokenizer.kept_patches(draws, 0.5)
    assert kept.shape == (3, 4) and all(len(set(row)) == 4 for row in kept.tolist())
    assert tokenizer.kept_patches(draws, 0.99).shape == (3, 1)


def test_joined_dense_equals_dense_on_the_concatenation():
    rng = np.random.default_rng(0)
    overall, local = rng.normal(size=(2, 3)), rng.normal(size=(2, 5, 3))
    module = tokenizer._JoinedDense(4, jnp.float32)
    params = module.init(jax.random.key(0), jnp.asarray(overall), jnp.asarray(local))
    both = np.concatenate([np.broadcast_to(overall[:, None], local.shape), local], -1)
    expected = both @ params["params"]["kernel"] + params["params"]["bias"]
    found = module.apply(params, jnp.asarray(overall, jnp.float32), jnp.asarray(local, jnp.float32))
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", [7, 8])
def test_conv_equals_the_library_convolution(stride, size):
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, size, 3)), jnp.float32)
    module = tokenizer._Conv3(4, stride, jnp.float32)
    params = module.init(jax.random.key(0), x)
    expected = jax.lax.conv_general_dilated(
        x, params["params"]["kernel"], (stride,), [(1, 1)], dimension_numbers=("NWC", "WIO", "NWC")
    )
    np.testing.assert_allclose(module.apply(params, x), expected, atol=1e-5)


def test_pruning_never_empties_an_object():
    raw = dataclasses.replace(_raw(), logit_opacities=jnp.full((2, 40), -9.0).at[0, 3].set(5.0))
    kept = tokenizer.prune(raw, _all_masked_in(raw), 0.05)
    assert kept[0].sum() == 1 and kept[1].sum() == 40
