"""models.eva: image towers against NumPy, both namings, sizes, layers streamed one at a time."""

import dataclasses
import functools
import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gsjax.models import eva, eva_presets, eva_tables, eva_towers, name_tables, towers, transformer
from tests.models import eva_case

PARAMETERS = {  # image tower, of the published models
    "EVA02-B-16": 86.26e6,
    "EVA02-L-14": 304.11e6,
    "EVA02-L-14-336": 304.43e6,
    "EVA01-g-14": 1012.59e6,
    "EVA02-E-14": 4_350.6e6,
    "EVA02-E-14-plus": 4_350.6e6,
}


def _config(eva02=True, **changed):
    size = {**eva_case.SIZE, **changed}
    size["image_size"] = size.pop("image")
    kind = {} if eva02 else dict(mlp="gelu", rotary=False, inner_norm=False, post_norm=True)
    return eva.EvaConfig(**size, **kind)


def _pixels(config, num=3, seed=5):
    shape = (num, config.image_size, config.image_size, 3)
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def _params(config, sd):
    view = eva_tables.image_view(sd)
    table = eva_tables.image_table(config, eva_tables.is_fused(view))
    shapes = name_tables.flat_shapes(eva.abstract_variables(config))
    return name_tables.convert(view, table, shapes, what="EVA").variables


@functools.cache
def _jitted(config, dtype=jnp.float32):
    quick = {"xla_backend_optimization_level": 0}
    return jax.jit(eva.EvaTower(config, dtype).apply, compiler_options=quick)


@pytest.mark.parametrize("eva02", [True, False])
def test_tower_is_what_the_keys_say(eva02):
    config = _config(eva02)
    sd = eva_case.image_state_dict(eva02=eva02)
    pixels = _pixels(config)
    found = _jitted(config)({"params": _params(config, sd)}, pixels)
    expected = [eva_case.forward(sd, x, eva02) for x in pixels]
    np.testing.assert_allclose(found, expected, atol=2e-5)


def test_rotary_positions_are_stretched_to_the_reference_grid():
    config = _config(image=20)
    sd = eva_case.image_state_dict(image=20)
    pixels = _pixels(config, 1)
    found = _jitted(config)({"params": _params(config, sd)}, pixels)[0]
    np.testing.assert_allclose(found, eva_case.forward(sd, pixels[0]), atol=2e-5)
    other = eva_case.forward(sd, pixels[0], reference=5)  # would be the angles without stretching
    assert np.abs(other - found).max() > 1e-3


def test_rotation_keeps_lengths_and_depends_on_distances_only():
    tables = eva.rotary_tables(4, 8, 4)
    rng = np.random.default_rng(0)
    q, k = (
        jnp.asarray(np.broadcast_to(rng.normal(size=8), (1, 17, 1, 8)), jnp.float32) for _ in "qk"
    )
    q, k = transformer.rotate(q, tables), transformer.rotate(k, tables)
    np.testing.assert_allclose(
        jnp.linalg.norm(q[0, :, 0], axis=-1), jnp.linalg.norm(q[0, 0]), rtol=1e-5
    )
    scores = np.asarray(q[0, 1:, 0] @ k[0, 1:, 0].T).reshape(4, 4, 4, 4)
    np.testing.assert_allclose(scores[:3, :3, :3, :3], scores[1:, 1:, 1:, 1:], atol=1e-5)
    assert transformer.rotate(q, None) is q


@pytest.mark.parametrize("eva02", [True, False])
def test_both_namings_give_the_same_parameters(eva02):
    config = _config(eva02)
    timms, original = (eva_case.state_dict(eva02=eva02, naming=n) for n in ("timm", "original"))
    assert not set(timms) & {key for key in original if key.startswith("visual.")}
    pair = eva_presets.pair(config, 8, 1, 2)
    trees = [
        [
            convert("file", sd, pair)
            for convert in (eva_towers.convert_image, eva_towers.convert_text)
        ]
        for sd in (timms, original)
    ]
    jax.tree.map(np.testing.assert_array_equal, *trees)
    tower = _params(config, eva_case.image_state_dict(eva02=eva02))
    jax.tree.map(np.testing.assert_array_equal, trees[0][0], tower)


@pytest.mark.slow
@pytest.mark.parametrize("eva02", [True, False])
def test_streaming_equals_the_tower_and_holds_one_layer(eva02):
    config = _config(eva02, depth=3)
    sd = eva_case.image_state_dict(eva02=eva02, depth=3)
    pixels, asked = _pixels(config, 5), []

    class Lazy(dict):
        def __getitem__(self, key):
            asked.append(key)
            return super().__getitem__(key)

    read = eva_tables.layer_reader(config, Lazy(sd))
    found = eva.stream_encode(config, read, pixels, dtype=jnp.float32, chunk=2)
    whole = _jitted(config)({"params": _params(config, sd)}, pixels)
    np.testing.assert_allclose(found, whole, atol=1e-5)
    assert sorted(asked) == sorted(sd)  # each array once
    blocks = [key.split(".")[1] for key in asked if key.startswith("blocks.")]
    assert blocks == sorted(blocks)
    half = eva.stream_encode(config, read, pixels, chunk=8)
    assert half.dtype == np.float32
    scale = np.abs(whole).max()
    np.testing.assert_allclose(half, whole, atol=0.05 * scale)  # bfloat16: 8 bits


def test_streaming_names_what_a_file_lacks():
    config, sd = _config(), eva_case.image_state_dict()
    del sd["blocks.1.norm2.bias"]
    read = eva_tables.layer_reader(config, sd)
    read("blocks_0")
    with pytest.raises(ValueError, match="EVA, blocks_1: .*\n.*missing: blocks.1.norm2.bias"):
        read("blocks_1")
    with pytest.raises(ValueError, match="expected .B, S, S, 3."):
        eva.stream_encode(config, read, np.zeros((0, 12, 12, 3)))


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(n, marks=[] if n in ("EVA02-B-16", "EVA02-L-14") else [pytest.mark.slow])
        for n in eva_presets.PRESETS
    ],
)
def test_published_sizes_have_the_published_number_of_parameters(name):
    pair = eva_presets.preset(name)
    shapes = name_tables.flat_shapes(eva.abstract_variables(pair.image))
    count = sum(math.prod(shape) for shape in shapes.values())
    published = PARAMETERS.get(name, PARAMETERS["EVA01-g-14"])
    assert abs(count / published - 1) < 1e-3
    fused = not pair.image.rotary
    table = eva_tables.image_table(pair.image, fused) + eva_tables.text_table(pair)
    text = {entry.ours for entry in table if entry.ours.startswith("text/")}
    assert {entry.ours for entry in table} - text == shapes.keys()
    assert len(table) == len({entry.theirs for entry in table})


def test_sizes_are_told_from_shapes():
    sd = eva_case.state_dict()
    found = eva_tables.sizes(eva_tables.image_view(sd).shapes())
    config = _config()
    assert found == {key: getattr(config, key) for key in found}
    with pytest.raises(ValueError, match="no EVA tower: it lacks 'visual.trunk.cls_token'"):
        eva_tables.image_view({"visual.conv1.weight": np.zeros(1)})
    with pytest.raises(ValueError, match="no published EVA-CLIP pair has these sizes"):
        eva_towers.architecture("file", sd)
    with pytest.raises(ValueError, match="file is no EVA02-B-16:\ndim: found 6, expected 512"):
        eva_towers.architecture("file", sd, "EVA02-B-16")


@pytest.mark.parametrize("naming", ["timm", "original"])
def test_pair_embeds_pictures_and_captions(naming, monkeypatch):
    pair = eva_presets.pair(_config(), 8, 1, 2)
    monkeypatch.setitem(eva_presets.PRESETS, "small", pair)
    sd = eva_case.state_dict(naming=naming)
    monkeypatch.setitem(towers.FOREIGN, "evaclip", eva_towers.__name__)
    found = towers.load("evaclip:file?licence=MIT", lambda path: sd)
    assert (found.name, found.dim, found.licence) == ("small", 6, "MIT")
    picture = np.random.default_rng(1).integers(0, 256, (16, 24, 3), dtype=np.uint8)
    ready = found.prepare_image(picture)
    assert ready.shape == (12, 12, 3)
    images = jax.jit(found.encode_images)(ready[None])
    mean, std = np.asarray(_MEAN), np.asarray(_STD)
    expected = eva_case.forward(eva_case.image_state_dict(), (ready / 255 - mean) / std)
    np.testing.assert_allclose(images[0], expected / np.linalg.norm(expected), atol=1e-5)
    texts = jax.jit(found.encode_texts)(found.tokenize(["a chair", "a table", "a chair"]))
    np.testing.assert_allclose(jnp.linalg.norm(texts, axis=-1), 1, rtol=1e-5)
    np.testing.assert_allclose(texts[0], texts[2], rtol=1e-6)
    assert np.abs(texts[0] - texts[1]).max() > 1e-3


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_streamed_pair_is_the_same_pair(dtype, monkeypatch):
    monkeypatch.setitem(eva_presets.PRESETS, "small", eva_presets.pair(_config(), 8, 1, 2))
    sd, asked = eva_case.state_dict(), []

    class Lazy(dict):
        def __getitem__(self, key):
            asked.append(key)
            return super().__getitem__(key)

        def shape(self, key):
            return super().__getitem__(key).shape

    whole, streamed = (
        eva_towers.build("evaclip", "file", Lazy(sd), dict(dtype=dtype, stream=stream))
        for stream in ("no", "yes")
    )
    assert whole.digest == streamed.digest and (whole.batch, streamed.batch) == (0, 1024)
    pictures = np.random.default_rng(1).integers(0, 256, (5, 12, 12, 3), dtype=np.uint8)
    asked.clear()
    found = streamed.encode_images(pictures)
    assert len(asked) == len(set(asked)) == len(eva_case.image_shapes())  # each array once a call
    tolerance = 1e-5 if dtype == "float32" else 0.03
    np.testing.assert_allclose(found, whole.encode_images(pictures), atol=tolerance)
    ids = whole.tokenize(["a chair"])
    np.testing.assert_array_equal(streamed.encode_texts(ids), whole.encode_texts(ids))


def test_a_streamed_file_is_checked_whole_before_any_array_of_it_is_read(monkeypatch):
    monkeypatch.setitem(eva_presets.PRESETS, "small", eva_presets.pair(_config(), 8, 1, 2))
    sd = eva_case.state_dict() | {"visual.trunk.extra": np.zeros(3)}
    del sd["visual.trunk.blocks.1.norm2.bias"]
    with pytest.raises(ValueError, match="missing: blocks.1.norm2.bias\nunexpected: extra"):
        eva_towers.build("evaclip", "file", sd, dict(stream="yes"))
    with pytest.raises(ValueError, match="option stream: unknown 'maybe'"):
        eva_towers.build("evaclip", "file", sd, dict(stream="maybe"))


_MEAN, _STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


def test_bad_options_are_refused():
    sd = eva_case.state_dict()
    with pytest.raises(ValueError, match="unknown options .'speed'."):
        eva_towers.build("evaclip", "file", sd, dict(speed="1"))
    with pytest.raises(ValueError, match="option dtype: unknown 'float8'"):
        eva_towers.build("evaclip", "file", sd, dict(dtype="float8"))
    with pytest.raises(ValueError, match="without its text tower"):
        eva_towers.build("evaclip", "file", {k: v for k, v in sd.items() if "text." not in k}, {})


def test_settings_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="13 is no multiple of patch 4"):
        _config(image=13)
    with pytest.raises(ValueError, match="rotary positions need a multiple of 4"):
        _config(heads=8)
    with pytest.raises(ValueError, match="unknown 'EVA03'; known: "):
        eva_presets.preset("EVA03")


def _openclip_config(**changed):
    text = dict(context_length=77, vocab_size=49_408, width=8, heads=2, layers=1)
    image = dict(image_size=12, timm_model_name="eva02_small_patch4_clip_12", timm_pool="token")
    model = dict(embed_dim=6, vision_cfg=image, text_cfg=text, custom_text=True)
    pixels = dict(mean=[0.5] * 3, std=[0.25] * 3, resize_mode="squash")
    return dict(model_cfg=model | changed, preprocess_cfg=pixels)


def test_pixels_follow_the_config_file_and_contradictions_are_refused(tmp_path, monkeypatch):
    monkeypatch.setitem(eva_presets.PRESETS, "small", eva_presets.pair(_config(), 8, 1, 2))
    sd, path = eva_case.state_dict(), tmp_path / "open_clip_config.json"
    path.write_text(json.dumps(_openclip_config()))
    found = eva_towers.build("evaclip", f"{tmp_path}/w", sd, dict(norm="clip"))
    assert "squash" in found.preprocessing and "std (0.25, 0.25, 0.25)" in found.preprocessing
    picture = np.random.default_rng(1).integers(0, 256, (16, 24, 3), dtype=np.uint8)
    ready = found.prepare_image(picture)
    np.testing.assert_array_equal(
        ready, eva_towers.image_preprocess.crop(picture, 12, resize="squash")
    )
    expected = eva_case.forward(eva_case.image_state_dict(), (ready / 255 - 0.5) / 0.25)
    expected /= np.linalg.norm(expected)
    np.testing.assert_allclose(found.encode_images(ready[None])[0], expected, atol=1e-5)
    for changed, message in (
        (dict(embed_dim=8), "embed_dim 8, the arrays have 6"),
        (dict(text_cfg=dict(heads=4)), "text_cfg.heads 4, the arrays have 2"),
        (dict(quick_gelu=True), "quick_gelu"),
        (dict(vision_cfg=dict(image_size=12)), "'a plain ViT', the arrays are EVA's"),
        (dict(vision_cfg=dict(timm_model_name="vit_so400m")), "'vit_so400m', the arrays are EVA's"),
    ):
        path.write_text(json.dumps(_openclip_config(**changed)))
        with pytest.raises(ValueError, match=f"open_clip_config.json: .*{message}"):
            eva_towers.check("evaclip", f"{tmp_path}/w", sd, {})


def test_a_check_reads_no_array(tmp_path, monkeypatch):
    monkeypatch.setitem(eva_presets.PRESETS, "small", eva_presets.pair(_config(), 8, 1, 2))

    class Unread(dict):
        def __getitem__(self, key):
            pytest.fail(f"{key} was read")

        def shape(self, key):
            return super().__getitem__(key).shape

    sd = Unread(eva_case.state_dict(naming="original"))
    options = dict(licence="MIT", stream="yes", norm="half")
    found = eva_towers.check("evaclip", f"{tmp_path}/w", sd, options)
    assert (found.name, found.dim, len(found.unused)) == ("small", 6, 2)
    assert found.options == dict(arch="small", licence="MIT", norm="half")
    for name, text in found.files.items():
        (tmp_path / name).write_text(text)
    again = eva_towers.check("evaclip", f"{tmp_path}/w", sd, {})
    assert dataclasses.replace(again, options=found.options) == found
    del sd["text.ln_final.bias"]
    with pytest.raises(ValueError, match="text tower: .*\nmissing: text.ln_final.bias"):
        eva_towers.check("evaclip", f"{tmp_path}/w", sd, {})


def test_another_vocabulary_than_the_tokenizers_is_refused(monkeypatch):
    pair = eva_presets.pair(_config(), 8, 1, 2, vocabulary=300)
    monkeypatch.setitem(eva_presets.PRESETS, "small", pair)
    sd = eva_case.state_dict()
    sd["text.token_embedding.weight"] = sd["text.token_embedding.weight"][:300]
    with pytest.raises(ValueError, match="table has 300 rows.* has 49408 ids"):
        eva_towers.build("evaclip", "file", sd, {})
