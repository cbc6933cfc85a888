"""systems.clip_gs.uni3d: converted weights compute what the checkpoint's keys say, in every variant."""

import dataclasses
import functools
import pathlib
import re

import jax
import numpy as np
import pytest

from gsjax.io import archive
from gsjax.models import name_tables
from gsjax.systems import base
from gsjax.systems.clip_gs import model, presets, tokenizer, uni3d
from gsjax.train import loop, warm_start
from gsjax.train import state as state_lib
from tests.systems.clip_gs import tiny, uni3d_case

SIZES = {  # d, depth, hidden, MLP, fused, parameters in use (specification, section 6)
    "tiny": (192, 12, 512, "packed_swiglu", True, 6.2e6),
    "small": (384, 12, 1024, "packed_swiglu", True, 22.5e6),
    "base": (768, 12, 2048, "swiglu_norm", False, 87.0e6),
    "large": (1024, 24, 2730, "swiglu_norm", False, 304.7e6),
    "giant": (1408, 40, 6144, "gelu", True, 1012.9e6),
}
VARIANTS = [
    ("packed_swiglu", True),
    ("swiglu_norm", False),
    ("gelu", True),
]


def _patches(rng, num=2, groups=5, members=6):
    x = rng.normal(size=(num, 1, groups, members, 19)).astype(np.float32)
    centers = rng.normal(size=(num, groups, 3)).astype(np.float32)
    return tokenizer.Patches(x, centers, np.zeros((num, 1), np.int32))


@pytest.mark.parametrize(("mlp", "fused"), VARIANTS)
def test_converted_weights_give_the_checkpoints_function(mlp, fused):
    sd = uni3d_case.state_dict(**uni3d_case.SMALL, mlp=mlp, fused=fused)
    found = uni3d.convert(sd, heads=uni3d_case.HEADS)
    patches = _patches(np.random.default_rng(1))
    point = patches._replace(attributes=patches.attributes[..., :6])
    encoder = uni3d.module(found.fields)
    apply = tiny.quick_jit(encoder.apply)
    embedding, scale, _ = apply(name_tables.nest(found.arrays), point)
    expected = [
        uni3d_case.forward(sd, x[0, ..., :6], c)
        for x, c in zip(patches.attributes, patches.centers)
    ]
    np.testing.assert_allclose(embedding, expected, atol=2e-5)
    assert scale == np.float32(4.25)
    back = name_tables.invert(
        name_tables.nest(found.arrays), uni3d.table(found.fields, fused=fused)
    )
    for key, value in back.items():
        np.testing.assert_array_equal(value, sd[key], err_msg=key)


@pytest.mark.slow
def test_gaussian_branch_stays_new_and_adds_nothing_at_first():
    sd = uni3d_case.state_dict(**uni3d_case.SMALL)
    found = uni3d.convert(sd, heads=uni3d_case.HEADS)
    encoder = uni3d.module(found.fields, gaussian_branch=True, gs_widths=(4, 4, 4))
    patches = _patches(np.random.default_rng(2))
    fresh = name_tables.flatten(tiny.quick_jit(encoder.init)(jax.random.key(0), patches))
    assert set(found.new) == {path for path in fresh if "gaussian_branch/" in path}
    assert {"order_scale", "order_shift", "gate"} <= {p.split("/")[-1] for p in found.new}
    merged = name_tables.nest({**fresh, **found.arrays})
    embedding = tiny.quick_jit(encoder.apply)(merged, patches)[0]
    expected = uni3d_case.forward(sd, patches.attributes[0, 0, ..., :6], patches.centers[0])
    np.testing.assert_allclose(embedding[0], expected, atol=2e-5)


@pytest.mark.parametrize(
    "size", [pytest.param(s, marks=[pytest.mark.slow] * (s in ("large", "giant"))) for s in SIZES]
)
def test_public_sizes_are_told_from_shapes_and_have_the_published_counts(size):
    width, depth, hidden, mlp, fused, published = SIZES[size]
    case = dict(width=width, depth=depth, hidden=hidden, convs=(128, 256, 512, 512), dim=1024)
    shapes = uni3d_case.shapes(**case, mlp=mlp, fused=fused)
    name, fields = uni3d.architecture(shapes)
    assert name == size
    expected = {k: v for k, v in presets.size(size).items() if k in fields}
    assert fields == expected
    found = uni3d.convert({k: np.broadcast_to(np.float16(0), s) for k, s in shapes.items()})
    count = sum(x.size for path, x in found.arrays.items() if path.startswith("params/"))
    assert abs(count - published) < 0.06e6
    table = uni3d.table(fields, fused=fused)
    back = name_tables.invert(name_tables.nest(found.arrays), table)
    used = {key: shape for key, shape in shapes.items() if key not in found.ignored}
    assert {key: x.shape for key, x in back.items()} == used
    assert all(re.search("num_batches|visual.(patch|cls|pos)", key) for key in found.ignored)


def test_prefix_is_taken_off_and_types_are_kept():
    sd = uni3d_case.state_dict(**uni3d_case.SMALL)
    halved = {f"module.{key}": value.astype(np.float16) for key, value in sd.items()}
    found = uni3d.convert(halved, heads=2)
    assert {x.dtype for x in found.arrays.values()} == {np.dtype(np.float16)}
    assert "point_encoder.visual.cls_token" in found.ignored
    token = found.arrays["params/encoder/cls_token"]
    np.testing.assert_array_equal(token, sd["point_encoder.cls_token"].astype(np.float16))


def test_every_misfit_is_named():
    sd = uni3d_case.state_dict(**uni3d_case.SMALL)
    del sd["point_encoder.cls_pos"]
    sd["point_encoder.visual.norm.weight"] = np.zeros(16)
    sd["point_encoder.pos_embed.0.weight"] = np.zeros((128, 4))
    with pytest.raises(ValueError) as error:
        uni3d.convert(sd, heads=2)
    text = str(error.value)
    assert "missing: point_encoder.cls_pos" in text
    assert "unexpected: point_encoder.visual.norm.weight" in text
    assert "point_encoder.pos_embed.0.weight" in text and "expected (3, 128)" in text
    with pytest.raises(ValueError, match="not a Uni3D checkpoint; its keys are visual.proj"):
        uni3d.convert({"visual.proj": np.zeros((2, 2))})
    with pytest.raises(ValueError, match="number of attention heads cannot be seen"):
        uni3d.convert(uni3d_case.state_dict(**uni3d_case.SMALL))


@pytest.mark.parametrize(
    "key, axes",
    [
        ("visual.blocks.0.mlp.fc2.weight", 2),
        ("visual.blocks.0.mlp.fc1.weight", 2),
        ("encoder.first_conv.0.weight", 3),
        ("trans2embed.weight", 2),
    ],
)
@pytest.mark.parametrize("shape", [(), (7,), (1, 2, 3, 4), (0, 0, 0)])
def test_arrays_with_another_number_of_axes_are_named(key, axes, shape):
    sd = uni3d_case.state_dict(**uni3d_case.SMALL, mlp="packed_swiglu", fused=True)
    name = f"point_encoder.{key}"
    with pytest.raises(ValueError, match="uni3d: arrays of other shapes") as error:
        uni3d.convert(sd | {name: np.zeros(shape)}, heads=uni3d_case.HEADS)
    assert f"{name}: found shape {shape}, expected {axes} axes" in str(error.value)


@functools.cache
def _fitting():
    """A checkpoint of the tiny test system's size, converted."""
    m = tiny.config().model
    case = dict(width=m.width, depth=m.depth, hidden=m.hidden, mlp=m.mlp, dim=m.embed_dim)
    sd = uni3d_case.state_dict(3, **case, convs=(*m.enc_hidden, m.enc_dim))
    return sd, uni3d.convert(sd, heads=m.heads)


def _archive(folder: pathlib.Path, arrays=None):
    path = folder / "uni3d.npz"
    found = _fitting()[1]
    archive.save(path, "clip_gs", found.fields, found.arrays if arrays is None else arrays)
    return path


@pytest.mark.slow
def test_training_starts_from_the_archive(tmp_path):
    shown = []
    system = dataclasses.replace(tiny.system(), show=lambda values, folder: shown.append(values))
    config = tiny.config(train__num_steps=0)
    config.eval.evaluators = {}
    config.init_from = str(_archive(tmp_path))
    loop.run(config, tmp_path / "run", system=system)
    start, converted = name_tables.flatten(shown[0]), _fitting()[1]
    for path, value in converted.arrays.items():
        np.testing.assert_array_equal(start[path], value, err_msg=path)
    assert not np.any(start["params/encoder/gaussian_branch/gate"])  # the new branch adds nothing
    assert start.keys() == converted.arrays.keys() | set(converted.new)


@pytest.mark.slow
def test_archive_fills_what_it_holds_and_names_the_rest(tmp_path):
    abstract = jax.eval_shape(tiny.system().init, jax.random.key(0))
    loaded = warm_start.load_variables(_archive(tmp_path), abstract)
    assert sorted(loaded.missing) == sorted(_fitting()[1].new)
    values = tiny.variables()
    merged = state_lib.refill(values, {**state_lib.flat(values), **loaded.arrays})
    config, inputs = tiny.config(), tiny.batch(2)
    patches = model.patchify(inputs, config)
    embedding = tiny.features(config, merged, inputs)
    for i in range(2):
        x, centers = np.asarray(patches.attributes)[i, 0, ..., :6], np.asarray(patches.centers)[i]
        expected = uni3d_case.forward(_fitting()[0], x, centers, config.model.heads)
        np.testing.assert_allclose(embedding[i], expected, atol=5e-5)


def test_archive_fills_the_encoder_without_gaussian_branch_wholly(tmp_path):
    system = base.build(tiny.config(model__attributes="xyz_rgb"))
    abstract = jax.eval_shape(system.init, jax.random.key(0))
    assert warm_start.load_variables(_archive(tmp_path), abstract).missing == []


def test_archive_of_another_model_is_refused(tmp_path):
    arrays = dict(_fitting()[1].arrays)
    arrays["params/encoder/trans2embed/bias"] = np.zeros(7, np.float32)
    arrays["params/encoder/other"] = np.zeros(1, np.float32)
    abstract = jax.eval_shape(tiny.system().init, jax.random.key(0))
    with pytest.raises(ValueError, match="2 of its .* do not fit") as error:
        warm_start.load_variables(_archive(tmp_path, arrays), abstract)
    assert "params/encoder/other: not in this model" in str(error.value)
    assert r"trans2embed/bias: found (7,), expected (32,)" in str(error.value)
