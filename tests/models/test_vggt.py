"""VGGT: sizes, order of views, blocks and the whole by loops in NumPy, name table both ways.

No package of the network can be installed beside the tests, so its blocks are held against NumPy written
from the formulas (``vit_case``), with other arithmetic: loops over heads, queries and pairs of channels.
Decoder and backbone are held against Hugging Face's in ``tests/parity/test_dinov2.py``.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gsjax.core import resize
from gsjax.models import name_tables, vggt, vggt_tables
from tests.models import vit_case

TINY = vggt.PRESETS["tiny"]


@functools.cache
def _params():
    return vit_case.random_params(vggt.abstract_variables(TINY))


def _images(views=3, h=28, w=42):
    return jnp.asarray(np.random.default_rng(5).uniform(size=(1, views, h, w, 3)), jnp.float32)


@functools.cache
def _program():
    watched = lambda module, _: module.name in ("vit", "aggregator")  # noqa: E731

    def run(params, images):
        (points, confidences), state = vggt.Vggt(TINY).apply(
            {"params": params}, images, capture_intermediates=watched, mutable=["intermediates"]
        )
        found = state["intermediates"]["aggregator"]
        return found["__call__"][0], (points, confidences), found["vit"]["__call__"][0][0]

    return jax.jit(run)


def _run(images):
    """Maps of the aggregator, (points, confidences), the patches' tokens; one program for all tests."""
    return _program()(_params(), images)


def test_the_full_size_is_that_of_the_published_arrays_without_the_other_heads():
    shapes = vggt.abstract_variables(vggt.PRESETS["vggt"])
    assert abs(vit_case.count(shapes) / 0.94e9 - 1) < 0.02
    flat = name_tables.flat_shapes(shapes)
    assert flat["aggregator/vit/positions"] == (1, 1 + 37 * 37, 1024)
    assert flat["aggregator/global_23/attn/q_norm/scale"] == (64,)
    assert flat["point_head/project_0/kernel"] == (1, 1, 2048, 256)
    names = {key for e in vggt_tables.table(vggt.PRESETS["vggt"]) for key in e.keys}
    assert len(names) == len(flat)
    for name in (
        "aggregator.patch_embed.register_tokens",
        "aggregator.frame_blocks.0.attn.k_norm.bias",
        "point_head.resize_layers.3.weight",
        "point_head.scratch.refinenet4.resConfUnit2.conv1.weight",
        "point_head.scratch.output_conv2.2.bias",
    ):
        assert name in names
    assert not any("refinenet4.resConfUnit1" in name for name in names)


def test_points_and_confidences_of_every_pixel():
    maps, (points, confidences), _ = _run(_images())
    assert [m.shape for m in maps] == [(1, 3, 2, 3, 32)] * 4
    assert points.shape == (1, 3, 28, 42, 3) and confidences.shape == (1, 3, 28, 42)
    assert np.isfinite(points).all() and (confidences >= 1).all()


def test_views_other_than_the_first_may_change_places():
    maps, (points, _), _ = _run(_images())
    order = np.array([0, 2, 1])
    moved_maps, (moved, _), _ = _run(_images()[:, order])
    np.testing.assert_allclose(moved, points[:, order], rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(moved_maps[-1], maps[-1][:, order], rtol=1e-3, atol=1e-4)
    swapped = _run(_images()[:, np.array([1, 0, 2])])[0]
    assert np.abs(swapped[-1][:, np.array([1, 0, 2])] - maps[-1]).max() > 1e-2


def test_tokens_know_of_other_views_only_by_attention_over_all():
    maps = _run(_images())[0]
    other = _images().at[:, 2].set(0.5)
    changed = _run(other)[0]
    width = TINY.vit.width
    # The first pair's frame half has seen its own view alone; its global half has seen all.
    np.testing.assert_allclose(
        changed[0][:, :2, ..., :width], maps[0][:, :2, ..., :width], atol=1e-5
    )
    assert np.abs(changed[0][:, :2, ..., width:] - maps[0][:, :2, ..., width:]).max() > 1e-3


def test_a_pair_of_blocks_is_the_loop():
    """One frame and one global block after special tokens, against NumPy; the patches are ours."""
    maps, _, patches = _run(_images())
    patches = np.float64(patches)  # [V, h, w, C]
    p = jax.tree.map(np.float64, _params()["aggregator"])
    views, h, w, width = patches.shape
    x = np.stack(
        [
            np.concatenate(
                [
                    p["camera_token"][0, min(v, 1)],
                    p["register_token"][0, min(v, 1)],
                    patches[v].reshape(-1, width),
                ]
            )
            for v in range(views)
        ]
    )
    places = [(0, 0)] * 3 + [(r + 1, c + 1) for r in range(h) for c in range(w)]
    heads = {"heads": TINY.heads, "eps": 1e-5}
    frame = np.stack([vit_case.block(y, p["frame_0"], places=places, **heads) for y in x])
    joined = vit_case.block(
        frame.reshape(-1, width), p["global_0"], places=places * views, **heads
    ).reshape(x.shape)
    expected = np.concatenate([frame, joined], -1)[:, 3:].reshape(views, h, w, 2 * width)
    np.testing.assert_allclose(maps[0][0], expected, rtol=1e-3, atol=1e-3)
    np.testing.assert_array_equal(vggt.token_places((h, w), 3), places)


def test_queries_in_blocks_change_nothing():
    model = vggt.Aggregator(dataclasses.replace(TINY, query_block=5))
    blocked = jax.jit(model.apply)({"params": _params()["aggregator"]}, _images())
    np.testing.assert_allclose(blocked[-1], _run(_images())[0][-1], rtol=1e-3, atol=1e-4)


def test_activations_by_hand():
    points, confidence = vggt.activate(jnp.array([1.0, -2.0, 0.0, 0.5]))
    np.testing.assert_allclose(points, [np.e - 1, 1 - np.e**2, 0.0], rtol=1e-6)
    np.testing.assert_allclose(confidence, 1 + np.exp(0.5), rtol=1e-6)


def test_pointmaps_of_sides_that_the_patch_does_not_divide():
    images = _images(3, 30, 45)
    points, confidences = vggt.pointmaps(TINY, _params(), images, jnp.float32)
    small = resize.resize(images, (28, 42), "bilinear")
    expected = _run(small)[1][0]
    rows, columns = np.arange(30) * 28 // 30, np.arange(45) * 42 // 45
    np.testing.assert_allclose(points, expected[:, :, rows][:, :, :, columns], rtol=1e-3, atol=1e-4)
    assert confidences.shape == (1, 3, 30, 45)


def test_every_array_of_a_state_dict_finds_its_place():
    theirs = name_tables.invert(_params(), vggt_tables.table(TINY))
    assert theirs["aggregator.patch_embed.patch_embed.proj.weight"].shape == (16, 3, 14, 14)
    assert theirs["aggregator.frame_blocks.3.attn.qkv.weight"].shape == (48, 16)
    assert theirs["aggregator.register_token"].shape == (1, 2, 2, 16)
    others = {
        "aggregator.patch_embed.mask_token": np.zeros((1, 16)),
        "camera_head.token_norm.weight": np.zeros(3),
        "depth_head.projects.0.weight": np.zeros(3),
        "track_head.tracker.virual_tracks": np.zeros(3),
    }
    back = vggt_tables.convert(theirs | others, TINY)
    jax.tree.map(np.testing.assert_array_equal, back, jax.tree.map(np.asarray, _params()))
    half = vggt_tables.convert(theirs, TINY, dtype=jnp.bfloat16)
    assert half["aggregator"]["global_1"]["fc1"]["kernel"].dtype == jnp.bfloat16
    assert half["aggregator"]["global_1"]["fc1"]["bias"].dtype == np.float32
    assert half["point_head"]["project_0"]["kernel"].dtype == np.float32
    wrong = dict(theirs)
    del wrong["aggregator.camera_token"]
    wrong["point_head.norm.weight"] = np.zeros(5)
    wrong["point_head.odd"] = np.zeros(5)
    with pytest.raises(ValueError) as error:
        vggt_tables.convert(wrong, TINY)
    for line in (
        "missing: aggregator.camera_token",
        "point_head.norm.weight -> point_head/norm/scale: found (5,), expected (32,)",
        "unexpected: point_head.odd",
    ):
        assert line in str(error.value)


def test_bad_arguments_are_refused():
    with pytest.raises(ValueError, match=r"expected \[B, V, H, W, 3\]"):
        vggt.Vggt(TINY).apply({"params": {}}, jnp.zeros((1, 28, 28, 3)))
    with pytest.raises(ValueError, match="sides of at least 14"):
        vggt.pointmaps(TINY, {}, jnp.zeros((1, 1, 13, 28, 3)))
    with pytest.raises(ValueError, match="layers"):
        dataclasses.replace(TINY, layers=(0, 1, 2, 4))
    with pytest.raises(ValueError, match="expected 4 layers"):
        dataclasses.replace(TINY, layers=(0, 1, 2))
    with pytest.raises(ValueError, match="rotary"):
        dataclasses.replace(TINY, heads=8)
    with pytest.raises(ValueError, match="known: "):
        vggt.preset("vggt2")
