"""DINOv2: sizes as published, tokens and positions, a block by loops in NumPy, bad input."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gsjax.models import dinov2, vit_blocks
from tests.models import vit_case

TINY = dinov2.PRESETS["tiny"]


@pytest.mark.parametrize(
    "name, count", [("vits14", 22.06e6), ("vitb14", 86.58e6), ("vitl14", 304.37e6)]
)
def test_parameters_are_as_many_as_published(name, count):
    # 22 M, 87 M and 304 M in the paper; registers add four tokens.
    config = dinov2.PRESETS[name]
    found = vit_case.count(dinov2.abstract_variables(config))
    assert abs(found / count - 1) < 1e-3
    registers = vit_case.count(dinov2.abstract_variables(dinov2.preset(f"{name}_reg")))
    assert registers == found + 4 * config.width


@pytest.mark.parametrize("name", ["tiny", "tiny_reg"])
def test_maps_of_any_size_and_layers(name):
    config = dinov2.PRESETS[name]
    params = vit_case.random_params(dinov2.abstract_variables(config))
    images = vit_case.pictures(2, 28, 42)
    model = dinov2.DinoV2(config)

    @jax.jit
    def run(params, images):
        variables = {"params": params}
        single = model.apply(variables, images[1:], (3,))[0]
        return model.apply(variables, images), model.apply(variables, images, (2,)), single

    maps, alone, single = run(params, images)
    assert [m.shape for m in maps] == [(2, 2, 3, 16)] * 4
    np.testing.assert_allclose(alone[0], maps[2], rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(single[0], maps[3][1], rtol=1e-4, atol=1e-5)


def test_the_whole_is_the_loop():
    config = dataclasses.replace(TINY, depth=2, layers=(1,), registers=2, offset=0.0)
    params = vit_case.random_params(dinov2.abstract_variables(config))
    images = vit_case.pictures(1, 56, 56)  # the positions' own grid
    found = jax.jit(dinov2.DinoV2(config).apply)({"params": params}, images)[0]
    p = jax.tree.map(np.float64, params)
    patches = np.asarray(images, np.float64)[0].reshape(4, 14, 4, 14, 3).transpose(0, 2, 1, 3, 4)
    x = patches.reshape(16, -1) @ p["patch"]["kernel"].reshape(-1, 16) + p["patch"]["bias"]
    x = x + p["positions"][0, 1:]
    first = p["cls_token"][0] + p["positions"][0, :1]
    x = np.concatenate([first, p["registers"][0], x])
    for i in range(2):
        x = vit_case.block(x, p[f"blocks_{i}"], heads=2, eps=1e-6)
    x = vit_case.layer_norm(x, p["norm"], 1e-6)[3:]
    np.testing.assert_allclose(found[0].reshape(16, -1), x, rtol=1e-4, atol=1e-4)


def test_positions_at_their_own_size_are_as_they_are_and_else_the_ramp():
    grid = jnp.asarray(np.random.default_rng(0).normal(size=(5, 5, 3)), jnp.float32)
    assert dinov2.resample_positions(grid, (5, 5), 0.1, False) is grid
    found = dinov2.resample_positions(grid, (5, 5), 0.0, True)
    np.testing.assert_array_equal(found, grid)
    # Twice as fine with the 0.1: the middle of a linear ramp is read at the stretched places.
    ramp = jnp.broadcast_to(jnp.arange(9.0)[:, None, None], (9, 9, 1))
    for offset in (0.0, 0.1):
        rows = dinov2.resample_positions(ramp, (18, 9), offset, False)[:, 4, 0]
        places = (np.arange(18) + 0.5) * 9 / (18 + offset) - 0.5
        # the kernel of a = -0.75 bends a ramp by less than 0.1 of a step
        np.testing.assert_allclose(rows[4:-4], places[4:-4], atol=0.1)
    plain = dinov2.resample_positions(ramp, (18, 9), 0.0, False)
    assert np.abs(dinov2.resample_positions(ramp, (18, 9), 0.1, False) - plain).max() > 1e-3


def test_half_precision_branches_keep_a_float32_stream():
    params = vit_case.random_params(dinov2.abstract_variables(TINY))
    images = vit_case.pictures(1, 28, 28)
    exact, half = (
        jax.jit(dinov2.DinoV2(TINY, dtype).apply)({"params": params}, images)[-1]
        for dtype in (jnp.float32, jnp.bfloat16)
    )
    assert half.dtype == jnp.float32
    assert np.abs(half - exact).max() < 0.1 * np.abs(exact).max()


def test_remat_changes_no_gradient():
    config = dataclasses.replace(TINY, depth=1, layers=(0,))
    params = vit_case.random_params(dinov2.abstract_variables(config))
    images = vit_case.pictures(1, 14, 28)

    def slope(config):
        model = dinov2.DinoV2(config)
        loss = lambda p: jnp.sum(model.apply({"params": p}, images)[0] ** 2)  # noqa: E731
        return jax.jit(jax.grad(loss))(params)

    both = slope(config), slope(dataclasses.replace(config, remat=True))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), *both)
    assert all(np.abs(g).max() > 0 for g in jax.tree.leaves(both[0]))


def test_rotary_positions_by_hand_on_a_2_by_2_grid():
    places = np.array([[1, 1], [1, 2], [2, 1], [2, 2]])
    sine, cosine = vit_blocks.rotary_tables(places, 8, 100.0)
    # Two speeds an axis: 1 and 100 ** -(1/2) = 0.1; partners are two channels apart.
    np.testing.assert_allclose(sine[1], np.sin([1, 0.1, 1, 0.1, 2, 0.2, 2, 0.2]), atol=1e-7)
    x = jnp.zeros((1, 4, 1, 8)).at[..., 0].set(1.0).at[..., 7].set(1.0)
    found = vit_blocks.rotate(x, (sine, cosine))[0, :, 0]
    for token, (row, column) in enumerate(places):
        expected = np.zeros(8)
        expected[[0, 2]] = np.cos(row), np.sin(row)  # (1, 0) turned by row * 1
        expected[[5, 7]] = -np.sin(0.1 * column), np.cos(0.1 * column)  # (0, 1) by column * 0.1
        np.testing.assert_allclose(found[token], expected, atol=1e-6)
    # Products of queries and keys tell differences of places alone.
    rng = np.random.default_rng(1)
    q, k = (jnp.asarray(rng.normal(size=(1, 1, 1, 8)), jnp.float32) for _ in range(2))
    at = lambda v, p: vit_blocks.rotate(v, vit_blocks.rotary_tables(np.array([p]), 8, 100.0))  # noqa: E731
    here = np.sum(at(q, (3, 5)) * at(k, (1, 4)))
    there = np.sum(at(q, (12, 9)) * at(k, (10, 8)))
    np.testing.assert_allclose(here, there, rtol=1e-4)
    np.testing.assert_array_equal(at(q, (0, 0)), q)


@pytest.mark.parametrize("query_block", [3, 16])
def test_queries_in_blocks_attend_alike(query_block):
    rng = np.random.default_rng(2)
    q, k, v = (jnp.asarray(rng.normal(size=(2, 7, 2, 4)), jnp.float32) for _ in range(3))

    @functools.partial(jax.jit, static_argnums=0)
    def run(block):
        loss = lambda *a: jnp.sum(jnp.sin(vit_blocks.attend(*a, block)))  # noqa: E731
        return vit_blocks.attend(q, k, v, block), jax.grad(loss, (0, 1, 2))(q, k, v)

    both = run(0), run(query_block)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), *both)


def test_maps_of_pictures_that_the_patch_does_not_divide():
    seen = []

    def vit(x):  # in place of a backbone: one map with the means of patches
        seen.append(x)
        return [x.reshape(1, 2, 14, 2, 14, 3).mean((2, 4))]

    images = jnp.broadcast_to(jnp.linspace(0.0, 1.0, 40)[:, None, None], (1, 40, 32, 3))
    (found,) = dinov2.picture_maps(vit, images)
    assert seen[0].shape == (1, 28, 28, 3) and found.shape == (1, 5, 4, 3)
    # A ramp stays one with corners aligned, and patches average it: 6.5 and 20.5 of 27 rows.
    ends = (np.array([6.5, 20.5])[:, None] / 27 - dinov2.MEAN) / dinov2.STD
    expected = ends[0] + np.linspace(0, 1, 5)[:, None] * (ends[1] - ends[0])
    np.testing.assert_allclose(found[0, :, 1], expected, rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="multiples of 8"):
        dinov2.picture_maps(vit, images[:, :39])
    with pytest.raises(ValueError, match="at least 14"):
        dinov2.picture_maps(vit, images[:, :8])


def test_bad_input_is_refused():
    params = vit_case.random_params(dinov2.abstract_variables(TINY))
    call = lambda *a: dinov2.DinoV2(TINY).apply({"params": params}, *a)  # noqa: E731
    with pytest.raises(ValueError, match=r"multiples of patch 14; resize to \[28, 14\]"):
        call(jnp.zeros((1, 30, 14, 3)))
    with pytest.raises(ValueError, match=r"expected \[B, H, W, 3\]"):
        call(jnp.zeros((14, 14, 3)))
    with pytest.raises(ValueError, match="ascending numbers of blocks from 0 to 3"):
        call(jnp.zeros((1, 14, 14, 3)), (2, 4))
    with pytest.raises(ValueError, match="offset"):
        dataclasses.replace(TINY, antialias=True)
    with pytest.raises(ValueError, match="heads"):
        dataclasses.replace(TINY, heads=3)
    with pytest.raises(ValueError, match="known: "):
        dinov2.preset("vitg14")
    with pytest.raises(ValueError, match="multiple of 4"):
        vit_blocks.rotary_tables(np.zeros((1, 2)), 6, 100.0)
