"""SparseUNet: the contract of backbones, sizes, capacities, fusion into a union of voxels."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gsjax.core import voxels
from gsjax.models import voxel_layers, voxel_sites
from gsjax.models.backbones import base, sparse_unet
from tests.models.backbones import suite

TINY = sparse_unet.Config(
    channels=2,
    voxel_size=0.125,
    voxels=64,
    shares=(1.0, 0.5),
    stem=4,
    encoder=(4, 6),
    encoder_blocks=(1, 1),
    decoder=(6, 5),
    decoder_blocks=(1, 1),
)
SHALLOW = dataclasses.replace(
    TINY, shares=(1.0,), encoder=(6,), encoder_blocks=(1,), decoder=(5,), decoder_blocks=(1,)
)
POINTS = suite.cloud(0, 2, 40, 2)


@functools.cache
def _variables():
    return suite.init(sparse_unet.Model(TINY), POINTS)


def _apply(points=POINTS, **changes):
    model = sparse_unet.Model(dataclasses.replace(TINY, **changes))
    return suite.apply(model, _variables(), points)


@functools.cache
def _plain():
    return _apply()


@pytest.mark.parametrize(
    "check", [suite.check_padding, suite.check_batch, suite.check_gradients, "fuse"]
)
def test_contract_of_backbones(check):
    check = functools.partial(suite.check_fuse, "sparse_unet") if check == "fuse" else check
    check(sparse_unet.Model(SHALLOW), POINTS)


def test_sites_that_fusion_masks_reach_no_other():
    model = sparse_unet.Model(SHALLOW)
    suite.check_masked_sites(model, suite.init(model, POINTS), POINTS)


def test_parameters_of_the_paper_preset():
    # All of convolutions, norms and shortcuts; the classifier of the reference is not counted.
    model = base.build("sparse_unet", "paper")
    points = suite.cloud(0, 1, 16, 6)
    assert abs(suite.num_parameters(model, points) / 39.16e6 - 1) < 0.001
    names = jax.eval_shape(lambda: model.init(jax.random.key(0), points))["params"]
    assert set(names) == {"stem"} | {f"{s}_{i}" for s in ("encoder", "decoder") for i in range(4)}
    assert names["encoder_3"]["blocks_5"]["first"]["conv"]["kernel"].shape == (27, 256, 256)
    assert names["decoder_3"]["blocks_0"]["first"]["conv"]["kernel"].shape == (27, 128, 96)


@pytest.mark.slow
def test_paper_preset_runs_on_a_full_cloud():
    model = base.build("sparse_unet", "paper")
    points = suite.cloud(0, 1, 150_000, 6, extent=4.0)
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), points))
    rng = np.random.default_rng(0)
    variables = jax.tree.map(lambda x: 0.02 * rng.normal(size=x.shape).astype(np.float32), shapes)
    stats = jax.tree_util.tree_map_with_path(
        lambda path, x: np.ones_like(x) if path[-1].key == "var" else x, variables["batch_stats"]
    )
    out = suite.apply(model, variables | {"batch_stats": stats}, points)
    assert out.feat.shape == (1, 131_072, 96) and out.pooled.shape == (1, 192)
    assert int(out.mask.sum()) > 30_000 and np.isfinite(out.feat).all()
    assert int(out.dropped[0]) == 0


def _sites(points):
    return jax.jit(
        lambda p: voxel_sites.from_points(p, 2, TINY.voxel_size, TINY.voxels, "sparse_unet"),
        compiler_options=suite.quick_jit_options,
    )(points)


def test_voxels_average_their_points():
    points = base.PointBatch(
        jnp.array([[[0.01, 0.0, 0.0], [0.03, 0.1, 0.0], [0.3, 0.0, 0.0], [9.0, 9.0, 9.0]]]),
        jnp.array([[[1.0, 2.0], [3.0, 6.0], [5.0, 5.0], [7.0, 7.0]]]),
        jnp.array([[True, True, True, False]]),
    )
    sites = _sites(points)
    assert sites.voxels[0, :3].tolist() == [0, 0b100000, voxels.SENTINEL]
    assert sites.mask.sum() == 2
    np.testing.assert_allclose(sites.xyz[0, :2], [[0.02, 0.05, 0.0], [0.3, 0.0, 0.0]], atol=1e-6)
    np.testing.assert_allclose(sites.feat[0, :2], [[2.0, 4.0], [5.0, 5.0]], atol=1e-6)
    np.testing.assert_allclose(sites.origin, 0.0)


@pytest.mark.slow
@pytest.mark.parametrize("check", [suite.check_padding, suite.check_batch, suite.check_gradients])
def test_contract_over_two_levels(check):
    check(sparse_unet.Model(TINY), POINTS)


@pytest.mark.slow
@pytest.mark.parametrize("changes", [dict(conv="gather"), dict(conv="dense", side=16)])
def test_ways_to_convolve_agree(changes):
    suite.assert_same(_plain(), _apply(**changes))


@pytest.mark.slow
def test_recomputing_blocks_changes_no_gradient():
    def gradients(remat):
        model = sparse_unet.Model(dataclasses.replace(TINY, remat=remat))
        variables = _variables()

        def loss(params):
            out, _ = model.apply(
                variables | {"params": params}, POINTS, train=True, mutable=["batch_stats"]
            )
            return jnp.sum(out.feat**2)

        return jax.jit(jax.grad(loss), compiler_options=suite.quick_jit_options)(
            variables["params"]
        )

    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-3),
        gradients(False),
        gradients(True),
    )


@pytest.mark.slow
def test_what_exceeds_a_capacity_or_the_grid_is_counted():
    num = int(_plain().mask[0].sum())
    assert _plain().dropped.tolist() == [0, 0]
    assert int(_apply(voxels=16, shares=(1.0, 1.0)).dropped[0]) == num - 16
    levels = _apply(shares=(0.125, 0.5))
    coarse = {tuple(c) for c in (_cells(POINTS)[0] // 2).tolist()}
    assert int(levels.dropped[0]) == len(coarse) - 8
    assert np.isfinite(levels.feat).all() and int(levels.mask[0].sum()) == num
    far = POINTS._replace(xyz=POINTS.xyz.at[0, 0].set(1e4))
    assert _apply(far).dropped.tolist() == [1, 0]


def _cells(points):
    low = np.floor(np.asarray(points.xyz).min(1, keepdims=True) / TINY.voxel_size)
    return np.floor(np.asarray(points.xyz) / TINY.voxel_size - low).astype(int)


def test_an_empty_cloud_is_harmless():
    found = _apply(POINTS._replace(mask=POINTS.mask.at[1].set(False)))
    assert not np.asarray(found.mask[1]).any()
    np.testing.assert_array_equal(found.pooled[1], 0.0)
    np.testing.assert_allclose(found.pooled[0], _plain().pooled[0], atol=1e-5)


def test_fuse_may_return_a_union_with_other_voxels():
    """Voxels of half the points, joined by those of the other half, are those of all points."""
    model, half = sparse_unet.Model(TINY), POINTS.mask.at[:, 20:].set(False)
    seen = {}

    def fuse(sites):
        assert sites.feat.shape == (2, 64, TINY.stem) and sites.dropped.shape == (2,)
        capacity = 96

        def one(keys, xyz, feat, origin, points):
            other, outside = voxels.keys_of(points, origin, TINY.voxel_size)
            other = voxels.voxelize(other, 64)
            union = voxels.merge(keys, other.keys, capacity)
            place = voxels.mean(points, other.ids, 64)
            ids = jnp.concatenate([union.ids_a, union.ids_b])
            return (
                union.keys,
                voxels.mean(jnp.concatenate([xyz, place]), ids, capacity),
                voxels.mean(feat, union.ids_a, capacity),
                outside + union.dropped,
            )

        keys, xyz, feat, lost = jax.vmap(one)(
            sites.voxels, sites.xyz, sites.feat, sites.origin, POINTS.xyz[:, 20:]
        )
        seen["origin"], seen["lost"] = sites.origin, lost
        return base.Sites(
            xyz, feat, voxels.is_voxel(keys), keys, sites.origin, sites.dropped + lost
        )

    def call(variables):
        out = model.apply(variables, POINTS._replace(mask=half), fuse=fuse)
        return out, seen["origin"], seen["lost"]

    out, origin, lost = jax.jit(call, compiler_options=suite.quick_jit_options)(_variables())
    assert out.feat.shape == (2, 96, 5) and out.mask.shape == (2, 96)
    size = TINY.voxel_size
    for i in range(2):
        cells = np.floor((np.asarray(POINTS.xyz[i]) - np.asarray(origin[i])) / size).astype(int)
        inside = (cells >= 0).all(-1)
        assert int(out.dropped[i]) == int(lost[i]) == int((~inside).sum())
        found = np.floor((np.asarray(out.xyz[i]) - np.asarray(origin[i])) / size).astype(int)
        expected = {tuple(c) for c in cells[inside].tolist()}
        assert {tuple(c) for c in found[np.asarray(out.mask[i])].tolist()} == expected
    assert np.isfinite(out.feat).all()


def test_the_pyramid_is_that_of_searched_tables():
    sites = _sites(POINTS)
    levels, dropped = jax.jit(lambda k: voxel_layers.pyramid(k, (48, 32)))(sites.voxels)
    assert dropped.tolist() == [0, 0] and len(levels) == 3 and levels[2].family is None
    search = jax.jit(jax.vmap(lambda k: voxels.neighbours(k, voxels.cube(3))))
    for level in levels:
        np.testing.assert_array_equal(level.table, search(level.keys))
    wide = voxel_layers.finer_table(levels[0].keys, levels[1].table, levels[0].family, 5)
    inner = np.abs(voxels.cube(5)).max(-1) <= 1
    np.testing.assert_array_equal(np.asarray(wide)[:, inner], levels[0].table)


@pytest.mark.parametrize(
    "changes, message",
    [
        (dict(shares=(0.5,)), "shares: expected 2 entries"),
        (dict(shares=(0.5, 1.5)), "shares: expected parts"),
        (dict(encoder_blocks=(1, 0)), "encoder_blocks: expected positive"),
        (dict(voxel_size=0.0), "voxel_size: expected more than 0"),
        (dict(conv="hash"), "known: scan, gather, dense"),
        (dict(conv="dense"), "side: dense convolutions over 2 levels need a multiple of 4"),
        (dict(conv="dense", side=256), "up to 128"),
        (dict(side=32), "no meaning"),
    ],
)
def test_configurations_are_checked(changes, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(TINY, **changes)


def test_shapes_are_checked():
    model = sparse_unet.Model(TINY)
    init = functools.partial(jax.eval_shape, lambda p: model.init(jax.random.key(0), p))
    with pytest.raises(ValueError, match="made for 2 feature channels"):
        init(suite.cloud(0, 1, 8, 3))
    with pytest.raises(ValueError, match="fuse: expected Sites with voxels"):
        jax.eval_shape(
            lambda v: model.apply(v, POINTS, fuse=lambda s: s._replace(voxels=None)), _variables()
        )
    with pytest.raises(ValueError, match="fuse: xyz"):
        jax.eval_shape(
            lambda v: model.apply(v, POINTS, fuse=lambda s: s._replace(feat=s.feat[:, 1:])),
            _variables(),
        )
