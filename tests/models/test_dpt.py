"""DPT: shapes of the three heads, zero at the start, parts by loops, name tables both ways."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gsjax.models import depth_anything, dinov2, dpt, dpt_tables, name_tables
from tests.models import vit_case

TINY = dpt.DptConfig(8, (4, 4, 8, 8), "dense", hidden=4)


def _maps(h=2, w=3, channels=8, seed=0):
    rng = np.random.default_rng(seed)
    return [jnp.asarray(rng.normal(size=(1, h, w, channels)), jnp.float32) for _ in range(4)]


def _params(config, *args, **kwargs):
    model = dpt.DPT(config)
    return vit_case.random_params(
        jax.eval_shape(lambda: model.init(jax.random.key(0), *args, **kwargs))["params"]
    )


def test_dense_maps_have_the_size_asked_for():
    config = dataclasses.replace(TINY, outputs=4, norm=True, positions=0.1, rectified_skip=True)
    params = _params(config, _maps())
    run = jax.jit(dpt.DPT(config).apply, static_argnames="size")
    assert run({"params": params}, _maps(), size=(28, 42)).shape == (1, 28, 42, 4)
    found = run({"params": params}, _maps(3, 3))  # odd: the coarsest map has 2 x 2
    assert found.shape == (1, 24, 24, 4) and np.isfinite(found).all()


def _depthsplat_maps(case, h=2, w=4):
    """CNN, multi-view maps and depth of a variant, for maps [1, h, w] at 1/8."""
    rng = np.random.default_rng(1)
    of = lambda times, c: jnp.asarray(rng.normal(size=(1, h * times, w * times, c)), jnp.float32)  # noqa: E731
    return {
        (4, 2): ([of(4, 6), of(2, 9), of(1, 12)], [of(2, 6), of(1, 12)], of(2, 1)),
        (2, 2): ([of(4, 6), of(4, 9), of(2, 12)], [of(4, 6), of(2, 12)], of(4, 1)),
        (4, 1): ([of(4, 6), of(4, 9), of(2, 12)], [of(2, 12)], of(2, 1)),
        (8, 1): ([of(4, 6), of(2, 9), of(1, 12)], [of(1, 12)], of(1, 1)),
    }[case]


@pytest.mark.parametrize("case", [(4, 2), (2, 2), (4, 1), (8, 1)])
def test_depthsplat_variants_join_maps_of_fitting_sizes(case):
    cnn, multi_view, depth = _depthsplat_maps(case)
    extras = dpt.depthsplat_extras(cnn, multi_view, depth, case[0])
    config = dataclasses.replace(TINY, head="delta", zero_last=True)
    shapes = jax.eval_shape(
        lambda: dpt.DPT(config).init_with_output(jax.random.key(0), _maps(2, 4), extras)
    )
    assert shapes[0].shape == (1, 16, 32, 1)
    joined = {i: sum(m.shape[-1] for p in e for m in p) for i, e in enumerate(extras[:3])}
    for i in range(3):
        assert shapes[1]["params"][f"join_{i}"]["kernel"].shape == (
            (1, 1, joined[i] + TINY.channels[i], TINY.channels[i])
        )
    without = dpt.depthsplat_extras(cnn, multi_view, None, case[0])
    assert sum(joined.values()) - 1 == sum(m.shape[-1] for e in without[:3] for p in e for m in p)


def test_the_correction_starts_at_zero():
    config = dataclasses.replace(TINY, head="delta", zero_last=True)
    found, variables = jax.jit(dpt.DPT(config).init_with_output)(jax.random.key(0), _maps(1, 1))
    assert found.shape == (1, 8, 8, 1)
    np.testing.assert_array_equal(found, 0)
    at_zero = {k for k, v in variables["params"].items() if not np.any(v.get("kernel", 1))}
    assert at_zero == {"out_2"}  # so its gradient is that of the maps before it


def test_the_order_of_joined_maps_is_that_of_the_weights():
    config = dpt.DptConfig(2, (4, 4, 4, 4))
    cnn, multi_view, depth = _depthsplat_maps((4, 2))
    extras = dpt.depthsplat_extras(cnn, multi_view, depth, 4)
    assert [len(e.before) for e in extras[:3]] == [1, 1, 1] and extras[3] is None
    params = _params(config, _maps(2, 4), extras)
    # Level 1 mixes (CNN 9, own 4, multi-view 6, depth 1): the last row of the kernel is depth's.
    rows = params["join_1"]["kernel"]
    assert rows.shape == (1, 1, 20, 4)
    run = jax.jit(lambda p, e: dpt.DPT(config).apply({"params": p}, _maps(2, 4), e))
    moved = [extras[0], dpt.Extra(extras[1].before, (multi_view[0], depth + 3.0)), *extras[2:]]
    base, changed = run(params, extras), run(params, moved)
    assert np.abs(base - changed).max() > 1e-3
    blind = params | {"join_1": params["join_1"] | {"kernel": rows.at[:, :, 19].set(0.0)}}
    np.testing.assert_allclose(run(blind, extras), run(blind, moved), atol=1e-6)


def test_an_upconv_is_the_loop():
    x = jnp.asarray(np.random.default_rng(2).normal(size=(1, 2, 3, 4)), jnp.float32)
    model = dpt.Upconv(5, 2)
    params = vit_case.random_params(jax.eval_shape(model.init, jax.random.key(0), x)["params"])
    found = model.apply({"params": params}, x)
    for i in range(4):
        for j in range(6):
            expected = x[0, i // 2, j // 2] @ params["kernel"][i % 2, j % 2] + params["bias"]
            np.testing.assert_allclose(found[0, i, j], expected, rtol=1e-4, atol=1e-5)


def test_a_residual_convolution_adds_to_the_rectified_input_where_told():
    x = jnp.asarray(np.random.default_rng(3).normal(size=(1, 3, 3, 8)), jnp.float32)
    params = _params(TINY, _maps())["fuse_0"]["refine"]
    plain, rectified = (
        dpt.ResidualConv(dataclasses.replace(TINY, rectified_skip=flag)).apply(
            {"params": params}, x
        )
        for flag in (False, True)
    )
    np.testing.assert_allclose(rectified - plain, np.maximum(x, 0) - x, atol=1e-5)


def test_sine_positions_by_hand():
    found = dpt.sine_positions((1, 2), 8, 2.0)
    # Columns at -+ (2 / sqrt 5) / 2, the row at 0; speeds 1 and 1/10.
    at = 1 / np.sqrt(5)
    for j, place in enumerate((-at, at)):
        waves = [np.sin(place), np.sin(place / 10), np.cos(place), np.cos(place / 10)]
        np.testing.assert_allclose(found[0, j], [*waves, 0, 0, 1, 1], atol=1e-7)


@pytest.mark.parametrize("naming, head", [
    ("facebook", "dense"), ("depthsplat", "delta"), ("depthsplat", "features"),
    ("transformers", "dense"),
])  # fmt: skip
def test_every_array_of_a_state_dict_finds_its_place(naming, head):
    config = dataclasses.replace(TINY, head=head, norm=naming == "facebook")
    extras = {0: 3, 1: 5, 2: 0} if naming == "depthsplat" else None
    params = vit_case.random_params(dpt_tables.abstract_variables(config, 8, extras))
    theirs = name_tables.invert(params, dpt_tables.table(config, naming, sorted(extras or ())))
    assert len(theirs) == len(jax.tree.leaves(params))
    if naming != "transformers":
        assert theirs["resize_layers.0.weight"].shape == (4, 4, 4, 4)
        assert theirs["scratch.layer3_rn.weight"].shape == (8, 8, 3, 3)
        theirs["scratch.refinenet4.resConfUnit1.conv1.weight"] = np.zeros(1)
    file = {f"x.{key}": value for key, value in theirs.items()} | {"other": np.zeros(1)}
    back = dpt_tables.convert(file, config, 8, naming=naming, prefix="x.", extras=extras)
    jax.tree.map(np.testing.assert_array_equal, back, jax.tree.map(np.asarray, params))
    gone = next(key for key in file if "layers" in key and key.endswith("bias"))
    del file[gone]
    odd = "x.head.odd" if naming == "transformers" else "x.odd"
    with pytest.raises(ValueError) as error:
        dpt_tables.convert(
            file | {odd: np.zeros(1)}, config, 8, naming=naming, prefix="x.", extras=extras
        )
    assert f"missing: {gone[2:]}" in str(error.value)
    assert f"unexpected: {odd[2:]}" in str(error.value)


def test_depth_anything_as_published():
    # 24.8 M, 97.5 M and 335.3 M in the table of Depth Anything V2.
    for name, count in (("vits14", 24.8e6), ("vitb14", 97.5e6), ("vitl14", 335.3e6)):
        config = depth_anything.PRESETS[name]
        found = vit_case.count(dinov2.abstract_variables(config.vit))
        found += vit_case.count(dpt_tables.abstract_variables(config.dpt, config.vit.width))
        assert abs(found / count - 1) < 2e-2, (name, found)


def test_bad_arguments_are_refused():
    model, maps = dpt.DPT(TINY), _maps()
    call = lambda *a, **k: jax.eval_shape(lambda: model.init(jax.random.key(0), *a, **k))  # noqa: E731
    with pytest.raises(ValueError, match="maps: expected 4 of one shape"):
        call(maps[:3])
    with pytest.raises(ValueError, match="maps: expected 4 of one shape"):
        call([*maps[:3], maps[3][:, :1]])
    with pytest.raises(ValueError, match=r"extras\[1\]: expected maps \[1, 4, 6, C\]"):
        call(maps, [None, dpt.Extra((jnp.zeros((1, 4, 4, 2)),)), None, None])
    with pytest.raises(ValueError, match="extras: expected 4"):
        call(maps, [None])
    model = dpt.DPT(dataclasses.replace(TINY, head="features"))
    with pytest.raises(ValueError, match="leave it out"):
        call(maps, size=(3, 3))
    with pytest.raises(ValueError, match="known: "):
        dpt.DptConfig(8, (4, 4, 4, 4), "deep")
    with pytest.raises(ValueError, match="positive channels"):
        dpt.DptConfig(8, (4, 4, 4))
    with pytest.raises(ValueError, match="multiples of 4"):
        dpt.DptConfig(8, (4, 4, 6, 4), positions=0.1)
    with pytest.raises(ValueError, match="known: "):
        dpt.preset("vggt2")
    with pytest.raises(ValueError, match="found 3 and"):
        dpt.depthsplat_extras([None] * 3, [None] * 2, None, 8)
    with pytest.raises(ValueError, match="dense decoder"):
        depth_anything.DepthAnythingConfig(dinov2.PRESETS["tiny"], dpt.DptConfig(8, (4, 4, 4, 4)))
