"""The Mosaic TPU kernels under Pallas' interpreter, against the reference: values and gradients.

The interpreter runs the kernels as they are, memory spaces, copies and semaphores included; memory
that nothing wrote holds NaN. `tests/aot` compiles them; `test_backends.py` runs the suite on a TPU.
Compiling is what costs, so that most tests share one shape.
"""

import functools

import jax
import numpy as np
import pytest
from jax.experimental.pallas import tpu as pltpu

from gsjax.raster import api, arg_specs
from gsjax.raster.blend import backends, mosaic_tpu, pairs
from gsjax.raster.blend.tpu import blocks as block_lists
from gsjax.raster.blend.tpu import tile as tile_math
from tests.raster import suite

WIDTH, HEIGHT = 40, 33  # 3 x 3 tiles, the last of each cut
NUM = 200
interpreted = pytest.mark.skipif(
    not hasattr(pltpu, "InterpretParams"),
    reason=f"JAX {jax.__version__} cannot interpret Mosaic TPU kernels",
)


def _options(**options):
    return dict(interpret=pltpu.InterpretParams()) | options


@functools.cache
def _arrays(seed=1, num=NUM, cameras=1, channels=3, scale=0.15):
    scene = arg_specs.random_scene(
        seed, num, WIDTH, HEIGHT, cameras=cameras, channels=channels, scale=scale
    )
    return suite.splats_of(scene, WIDTH, HEIGHT)


def _changed(seed=1, **changes):
    """Arrays of the common shape, with some of them replaced at some indices."""
    arrays = {k: v.copy() for k, v in _arrays(seed).items()}
    for name, (index, value) in changes.items():
        arrays[name][index] = value
    return arrays


def _run(backend, arrays, **options):
    return suite.run_blend(backend, arrays, WIDTH, HEIGHT, **options)


def _compare(arrays, **options):
    """Image and gradients against the reference; returns those of the kernels."""
    expected, found = _run("reference", arrays), _run("mosaic_tpu", arrays, **_options(**options))
    suite.assert_images(found[0], expected[0])
    suite.assert_gradients(found[1], expected[1])
    assert not found[0][2]["overflow"].any()
    return found


# --- values and gradients ---------------------------------------------------------------------


@interpreted
@pytest.mark.parametrize("seed", range(2))
def test_random_scenes_match_the_reference(seed):
    (_, transmittance, stats), grads = _compare(_arrays(seed))
    assert 0.01 < transmittance.mean() < 0.9 and stats["num_passes"].tolist() == [1]
    assert all(np.linalg.norm(g) > 0 for g in grads.values())


@interpreted
def test_opaque_stacks_longer_than_a_block_match_the_reference():
    everywhere = slice(None)
    arrays = _changed(
        2,
        conics=(everywhere, (0.003, 0.001, 0.004)),
        radii=(everywhere, 60),
        opacities=(everywhere, np.where(np.arange(NUM) % 7, 0.03, 1.0)),
    )
    _, transmittance, stats = _compare(arrays)[0]
    assert stats["num_pairs"][0] > 9 * 128  # two blocks a tile
    assert transmittance.max() < 1e-2  # pixels close, most of them in the first block


@interpreted
def test_faint_stacks_are_followed_into_their_second_block():
    everywhere = slice(None)
    arrays = _changed(
        2,
        conics=(everywhere, (0.003, 0.001, 0.004)),
        radii=(everywhere, 60),
        opacities=(everywhere, 0.02),
    )
    (_, transmittance, _), grads = _compare(arrays)
    assert transmittance.min() > 1e-3
    assert np.all(np.linalg.norm(grads["features"][0], axis=-1) > 0)  # of the last one too


@interpreted
def test_a_pixel_stays_closed_for_faint_gaussians_of_later_blocks():
    """T is 0.02 x 0.02 when the next one, of alpha 0.9, closes it; 0.03 would have passed."""
    everywhere = slice(None)
    order = np.argsort(_arrays(3)["depths"][0], kind="stable")
    opacities = np.full((1, NUM), 0.004, np.float32)
    opacities[0, order[[0, 1, 2]]] = 0.98, 0.98, 0.9
    opacities[0, order[-5:]] = 0.03
    arrays = _changed(
        3,
        conics=(everywhere, (1e-9, 0.0, 1e-9)),
        radii=(everywhere, 60),
        opacities=(everywhere, opacities),
    )
    (_, transmittance, _), grads = _compare(arrays)
    np.testing.assert_allclose(transmittance, 4e-4, rtol=1e-3)
    np.testing.assert_array_equal(grads["features"][0, order[2:]], 0)


@interpreted
def test_empty_tiles_and_one_gaussian_over_the_whole_image():
    everywhere = slice(None)
    corner = _changed(
        1,
        means2d=(everywhere, (5.0, 6.0)),
        conics=(everywhere, (1.0, 0.2, 0.8)),
        radii=(everywhere, 4),
    )
    (_, transmittance, _), _ = _compare(corner)
    assert np.all(transmittance[0, 16:, 16:] == 1)
    whole = _changed(1, opacities=((0, slice(1, None)), 0.0), radii=((0, 0), 200))
    whole["conics"][0, 0] = 2e-4, 1e-5, 3e-4
    (_, transmittance, stats), _ = _compare(whole)
    assert stats["num_pairs"][0] >= 9 and transmittance.max() < 1


@interpreted
def test_nothing_visible_leaves_an_empty_image_and_no_gradient():
    (color, transmittance, stats), grads = _compare(_changed(1, radii=(slice(None), 0)))
    assert not color.any() and np.all(transmittance == 1) and stats["num_passes"].tolist() == [0]
    assert all(np.all(g == 0) for g in grads.values())


@interpreted
@pytest.mark.slow
def test_results_are_the_same_bits_every_time():
    first, second = (_run("mosaic_tpu", _arrays(), **_options()) for _ in "12")
    jax.tree.map(np.testing.assert_array_equal, first, second)


# --- other shapes -----------------------------------------------------------------------------


@pytest.mark.slow
@interpreted
@pytest.mark.slow
def test_many_passes_equal_one():
    one, many = (
        _run("mosaic_tpu", _arrays(), **_options(capacity=capacity)) for capacity in (None, 97)
    )
    assert many[0][2]["num_passes"][0] > 4 and many[0][2]["overflow"].tolist() == [0]
    assert many[0][2]["num_pairs"].tolist() == one[0][2]["num_pairs"].tolist()
    suite.assert_images(many[0], one[0], 1e-6)
    suite.assert_gradients(many[1], one[1], 1e-5)


@pytest.mark.slow
@interpreted
@pytest.mark.slow
def test_two_images_of_eleven_channels_match_the_reference():
    found = _compare(_arrays(4, 40, 2, channels=11))
    assert np.all(found[0][2]["num_pairs"] > 40) and found[0][2]["num_passes"].tolist() == [1, 1]


@interpreted
@pytest.mark.slow
@pytest.mark.parametrize("channels", [1, 5, 8, 32])
def test_channels_match_the_reference(channels):
    _compare(_arrays(4, 40, channels=channels))


@interpreted
@pytest.mark.slow
def test_parts_of_channels_and_calls_for_some_of_the_tiles(monkeypatch):
    monkeypatch.setattr(tile_math, "MAX_CHANNELS", 8)
    monkeypatch.setattr(mosaic_tpu, "_MAX_TILES", 4)
    _compare(_arrays(5, 40, channels=18), max_alpha=0.99)


@interpreted
@pytest.mark.slow
def test_vmap_joins_the_image_axis_and_changes_no_bit():
    arrays = _arrays(cameras=2, num=40)
    seeds = suite.blend_seeds(arrays, WIDTH, HEIGHT)
    function = suite.blender("mosaic_tpu", WIDTH, HEIGHT, **_options())
    mapped = jax.vmap(function)(*jax.tree.map(lambda x: x[:, None], (arrays, seeds)))
    expected = function(arrays, seeds)
    jax.tree.map(lambda m, e: np.testing.assert_array_equal(m[:, 0], e), mapped, expected)


def test_no_gaussians_leave_an_empty_image():
    arrays = {k: v[:, :0] for k, v in _arrays().items()}
    (color, transmittance, stats), _ = _run("mosaic_tpu", arrays, interpret=True)  # nothing runs
    assert color.shape == (1, HEIGHT, WIDTH, 3) and not color.any()
    assert np.all(transmittance == 1) and stats["num_passes"].tolist() == [0]


# --- blocks and settings ----------------------------------------------------------------------


def test_blocks_hold_each_entry_once_and_belong_to_one_tile():
    counts = np.array([0, 128, 1, 0, 300, 129, 0])
    bounds = np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)
    rng = np.random.default_rng(0)
    slots, num_rows = 600, 1000  # 558 of the slots are listed
    row = rng.integers(num_rows, size=slots).astype(np.int32)
    slot = rng.permutation(slots).astype(np.int32)
    listed = np.zeros(slots, bool)
    listed[slot[: bounds[-1]]] = True
    lists = pairs.Lists(row, slot, bounds, listed, None, None)
    blocks = jax.tree.map(np.asarray, block_lists.cut(lists, num_rows))
    assert blocks.first.tolist() == [0, 0, 1, 2, 2, 5, 7, 7]
    rows = blocks.row.reshape(-1, 128)
    assert len(rows) == block_lists.bound(slots, len(counts))
    for tile, count in enumerate(counts):
        found = rows[blocks.first[tile] : blocks.first[tile + 1]].reshape(-1)
        np.testing.assert_array_equal(found[:count], row[bounds[tile] : bounds[tile + 1]])
        assert np.all(found[count:] == num_rows)
    assert np.all(rows[blocks.first[-1] :] == num_rows)
    places = blocks.place[slot[: bounds[-1]]]
    np.testing.assert_array_equal(blocks.row[places], row[: bounds[-1]])
    assert len(set(places)) == len(places)


def test_the_bound_of_blocks_is_reached():
    counts = np.array([129, 1, 1, 257])
    assert block_lists.bound(counts.sum(), 4) == np.sum(-(-counts // 128)) == 7


def test_tile_ranges_cover_all_tiles():
    for count in (1, 2**16, 2**16 + 1, 5 * 2**16 - 3):
        ranges = mosaic_tpu._tile_ranges(count)
        assert [r.stop for r in ranges[:-1]] == [r.start for r in ranges[1:]]
        assert (ranges[0].start, ranges[-1].stop) == (0, count)


def test_other_tile_sizes_are_refused():
    with pytest.raises(ValueError, match="tile_size: found 8.*16"):
        suite._blend("mosaic_tpu", WIDTH, HEIGHT, tile_size=8, interpret=True)(_arrays())


def test_a_machine_without_a_tpu_is_told_why():
    if jax.default_backend() == "tpu":
        pytest.skip("this machine has a TPU")
    assert "not a TPU" in backends.why_not("mosaic_tpu")
    scene = arg_specs.random_scene(1, 4, 16, 16)
    with pytest.raises(NotImplementedError, match="mosaic_tpu.*not a TPU.*xla_group"):
        api.rasterize(**scene, width=16, height=16, backend="mosaic_tpu")
