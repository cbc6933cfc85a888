"""CLIP towers against a NumPy forward pass; against torch in tests/parity/test_clip.py."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from gsjax.models import (
    bpe,
    clip,
    clip_presets,
    clip_tables,
    clip_towers,
    image_preprocess,
    name_tables,
    towers,
)
from tests.models import clip_case

CONFIG = dataclasses.replace(clip_case.CONFIG, vocabulary=bpe.VOCABULARY)


def _convert(state, config=CONFIG, naming="openclip"):
    shapes = name_tables.flat_shapes(clip.abstract_variables(config))
    table, ignore = clip_tables.table(config, naming), clip_tables.IGNORE[naming]
    return name_tables.convert(state, table, shapes, what="test", ignore=ignore).variables


@pytest.fixture(scope="module")
def state():
    return clip_case.openclip_state(CONFIG)


@pytest.fixture(scope="module")
def inputs():
    rng = np.random.default_rng(1)
    pixels = rng.normal(size=(3, 24, 24, 3)).astype(np.float32)
    ids = np.array([[48, 1, 2, 49, 0, 0, 0, 0, 0], [48, 7, 7, 7, 7, 7, 7, 7, 49], [49, *[0] * 8]])
    return pixels, ids


@pytest.mark.parametrize("quick", [False, True], ids=["gelu", "quickgelu"])
def test_features_are_those_of_the_definition(state, inputs, quick):
    config = dataclasses.replace(CONFIG, quick_gelu=quick)
    pixels, ids = inputs
    images, texts = jax.jit(clip.Clip(config).apply)({"params": _convert(state)}, pixels, ids)
    expected = np.stack([clip_case.image_features(state, p, config) for p in pixels])
    np.testing.assert_allclose(images, expected, atol=1e-5, rtol=1e-5)
    expected = np.stack([clip_case.text_features(state, row, config) for row in ids])
    np.testing.assert_allclose(texts, expected, atol=1e-5, rtol=1e-5)


def test_both_namings_give_the_same_parameters(state):
    ours = name_tables.flatten(_convert(state))
    other = name_tables.flatten(_convert(clip_case.hf_state(state), naming="hf"))
    assert set(ours) == set(other)
    for path, value in ours.items():
        np.testing.assert_array_equal(value, other[path])


@pytest.mark.parametrize("naming", clip_tables.NAMINGS)
def test_tables_name_every_parameter_once_and_invert(state, naming):
    table = clip_tables.table(CONFIG, naming)
    shapes = name_tables.flat_shapes(clip.abstract_variables(CONFIG))
    assert sorted(entry.ours for entry in table) == sorted(shapes)
    theirs = state if naming == "openclip" else clip_case.hf_state(state)
    back = name_tables.invert(_convert(theirs, naming=naming), table)
    for key, value in back.items():
        np.testing.assert_array_equal(value, theirs[key])
    assert set(theirs) - set(back) <= {"vision_model.embeddings.position_ids"}


def test_text_after_the_end_token_does_not_matter(state, inputs):
    tower = jax.jit(clip.TextTower(CONFIG).apply)
    params = {"params": _convert(state)["text"]}
    ids = inputs[1].copy()
    first = tower(params, ids)
    ids[0, 4:] = 13
    np.testing.assert_allclose(tower(params, ids)[0], first[0], atol=1e-6)
    ids[0, 2] = 13  # before it
    assert np.abs(tower(params, ids)[0] - first[0]).max() > 1e-2


def test_bfloat16_is_close_and_its_features_are_float32(state, inputs):
    params = _convert(state)
    exact = jax.jit(clip.Clip(CONFIG).apply)({"params": params}, *inputs)
    halved = jax.tree.map(lambda x: jnp.asarray(x, jnp.bfloat16), params)
    rough = jax.jit(clip.Clip(CONFIG, jnp.bfloat16).apply)({"params": halved}, *inputs)
    for found, wanted in zip(rough, exact):
        assert found.dtype == jnp.float32
        cosine = (
            (found * wanted).sum(-1)
            / np.linalg.norm(found, axis=-1)
            / np.linalg.norm(wanted, axis=-1)
        )
        assert cosine.min() > 0.999


# Parameters of the published models, counted by their authors' code.
COUNTS = {
    "ViT-B-32": 151_277_313,
    "ViT-B-16": 149_620_737,
    "ViT-L-14": 427_616_513,
    "ViT-L-14-336": 427_944_193,
    "ViT-H-14": 986_109_441,
}
# In millions, where only that is published (docs/model_profile.csv of OpenCLIP).
MILLIONS = {"ViT-g-14": 1366.68, "ViT-bigG-14": 2539.57}


@pytest.mark.parametrize("name", [*COUNTS, *MILLIONS])
def test_presets_have_the_published_sizes(name):
    shapes = name_tables.flat_shapes(clip.abstract_variables(clip_presets.preset(name)))
    count = sum(int(np.prod(shape)) for shape in shapes.values())
    if name in COUNTS:
        assert count == COUNTS[name]
    else:
        assert round(count / 1e6, 2) == MILLIONS[name]
    twin = clip_presets.preset(f"{name}-quickgelu")
    assert twin.quick_gelu and dataclasses.replace(twin, quick_gelu=False) == clip_presets.preset(
        name
    )


def test_abstract_variables_are_those_of_the_model(inputs):
    made = jax.eval_shape(clip.Clip(CONFIG).init, jax.random.key(0), *inputs)["params"]
    found = clip.abstract_variables(CONFIG)
    assert name_tables.flat_shapes(found) == name_tables.flat_shapes(made)


def test_odd_sizes_are_refused():
    for field, value, message in (
        ("image_size", 25, "no multiple of patch 8"),
        ("text_heads", 5, "5 heads do not divide width 24"),
        ("image_layers", 0, "at least one layer"),
    ):
        with pytest.raises(ValueError, match=message):
            dataclasses.replace(CONFIG, **{field: value})


def test_sizes_are_read_from_shapes(state):
    known = {"image_heads", "text_heads", "quick_gelu"}
    expected = {k: v for k, v in dataclasses.asdict(CONFIG).items() if k not in known}
    for naming, arrays in (("openclip", state), ("hf", clip_case.hf_state(state))):
        shapes = {key: value.shape for key, value in arrays.items()}
        assert clip_tables.sizes(shapes, naming) == expected
    narrow = {**state, "text_projection": np.zeros((24, 8), np.float32)}
    with pytest.raises(ValueError, match="projects to 12 values, the text tower to 8"):
        clip_tables.sizes({key: value.shape for key, value in narrow.items()}, "openclip")


# ------------------------------------------------------------------------------ the loader


def _openclip_json(quick=False, **more):
    c = CONFIG
    image = dict(image_size=24, layers=2, width=32, patch_size=8, head_width=16, mlp_ratio=1.5)
    text = dict(context_length=9, vocab_size=49_408, width=24, heads=3, layers=2)
    model = dict(embed_dim=c.dim, quick_gelu=quick, vision_cfg=image | more, text_cfg=text)
    return json.dumps(dict(model_cfg=model, preprocess_cfg=dict(mean=[0.5] * 3, std=[0.25] * 3)))


def _hf_json(act="gelu"):
    image = dict(num_attention_heads=2, hidden_act=act)
    return json.dumps(
        dict(vision_config=image, text_config=dict(num_attention_heads=3, hidden_act=act))
    )


@pytest.fixture()
def folder(tmp_path):
    (tmp_path / "open_clip_config.json").write_text(_openclip_json())
    (tmp_path / "config.json").write_text(_hf_json())
    return tmp_path


def _load(spec, state):
    return towers.load(spec, open_state_dict=lambda path: state)


def test_towers_of_a_state_dict(folder, state):
    loaded = _load(f"openclip:{folder}/w.pt?licence=MIT", state)
    assert (loaded.name, loaded.dim, loaded.licence) == ("clip", 12, "MIT")
    rng = np.random.default_rng(2)
    pictures = np.stack(
        [loaded.prepare_image(p) for p in rng.integers(0, 256, (2, 30, 24, 4), np.uint8)]
    )
    assert pictures.shape == (2, 24, 24, 3) and pictures.dtype == np.uint8
    expected = np.stack([clip_case.image_features(state, (p / 255 - 0.5) / 0.25) for p in pictures])
    expected /= np.linalg.norm(expected, axis=-1, keepdims=True)
    np.testing.assert_allclose(loaded.encode_images(pictures), expected, atol=1e-5)
    ids = np.array([[48, 3, 4, 49, *[0] * 5]])
    expected = clip_case.text_features(state, ids[0])
    np.testing.assert_allclose(
        loaded.encode_texts(ids)[0], expected / np.linalg.norm(expected), atol=1e-5
    )


def test_hugging_faces_names_give_the_same_towers(folder, state):
    text = _openclip_json().replace("preprocess_cfg", "other")  # OpenAI's mean and deviation
    (folder / "open_clip_config.json").write_text(text)
    one = _load(f"openclip:{folder}/w.pt", state)
    other = _load(f"hf_clip:{folder}/w.pt", clip_case.hf_state(state))
    assert one.digest == other.digest and one.preprocessing == other.preprocessing


def test_digests_follow_weights_activation_and_precision(folder, state):
    digests = {_load(f"openclip:{folder}/w.pt{end}", state).digest for end in ("", "?licence=x")}
    assert len(digests) == 1
    digests.add(_load(f"openclip:{folder}/w.pt?dtype=bfloat16", state).digest)
    changed = {**state, "visual.proj": state["visual.proj"] * 1.01}
    digests.add(_load(f"openclip:{folder}/w.pt", changed).digest)
    (folder / "open_clip_config.json").write_text(_openclip_json(quick=True))
    digests.add(_load(f"openclip:{folder}/w.pt", state).digest)
    assert len(digests) == 4


def test_half_precision_files_are_cast(folder, state):
    halved = {key: value.astype(ml_dtypes.bfloat16) for key, value in state.items()}
    widened = {key: value.astype(np.float32) for key, value in halved.items()}
    one, other = (_load(f"openclip:{folder}/w.pt", x) for x in (widened, halved))
    assert one.digest == other.digest != _load(f"openclip:{folder}/w.pt", state).digest


def test_what_arrays_do_not_tell_must_be_told(tmp_path, state):
    with pytest.raises(ValueError, match="no known model has these sizes.*'dim': 12"):
        _load(f"openclip:{tmp_path}/w.pt", state)
    shapes = _abstract_state("ViT-B-32")
    with pytest.raises(ValueError, match=r"'ViT-B-32', 'ViT-B-32-quickgelu'.*\?arch=ViT-B-32"):
        _load(f"openclip:{tmp_path}/w.pt", shapes)
    with pytest.raises(ValueError, match="is no ViT-B-16:\npatch: found 32, expected 16"):
        _load(f"openclip:{tmp_path}/w.pt?arch=ViT-B-16", shapes)
    with pytest.raises(ValueError, match="arch: unknown 'ViT-B'; known: .*ViT-B-16"):
        _load(f"openclip:{tmp_path}/w.pt?arch=ViT-B", shapes)


def _abstract_state(name):
    """State dict of a preset whose arrays take no memory."""
    config = clip_presets.preset(name)
    shapes = name_tables.flat_shapes(clip.abstract_variables(config))
    zeros = {path: np.broadcast_to(np.float32(0), shape) for path, shape in shapes.items()}
    return name_tables.invert(name_tables.nest(zeros), clip_tables.table(config, "openclip"))


def test_other_models_are_refused_with_every_misfit(folder, state):
    broken = {key: value for key, value in state.items() if key != "ln_final.bias"}
    broken |= {"visual.extra": np.zeros(1), "visual.ln_pre.weight": np.zeros(31, np.float32)}
    with pytest.raises(ValueError) as info:
        _load(f"openclip:{folder}/w.pt", broken)
    for part in (
        "missing: ln_final.bias",
        "unexpected: visual.extra",
        "found (31,), expected (32,)",
    ):
        assert part in str(info.value)
    with pytest.raises(ValueError, match="load it as hf_clip:PATH"):
        _load(f"openclip:{folder}/w.pt", clip_case.hf_state(state))
    with pytest.raises(ValueError, match="load it as openclip:PATH"):
        _load(f"hf_clip:{folder}/w.pt", state)
    with pytest.raises(ValueError, match="a ResNet, which is not supported"):
        _load(f"openclip:{folder}/w.pt", {"visual.layer1.0.conv1.weight": np.zeros(1)})


def test_configs_of_other_architectures_are_refused(folder, state):
    (folder / "open_clip_config.json").write_text(_openclip_json(timm_model_name="vit"))
    with pytest.raises(ValueError, match="plain CLIP towers lack: .'timm_model_name'"):
        _load(f"openclip:{folder}/w.pt", state)
    (folder / "config.json").write_text(_hf_json("gelu_new"))
    with pytest.raises(ValueError, match="activations .'gelu_new'"):
        _load(f"hf_clip:{folder}/w.pt", clip_case.hf_state(state))


def test_config_file_and_arch_must_agree_and_pixels_follow_the_file(folder, state):
    with pytest.raises(
        ValueError, match=r"is no ViT-B-32:\n(.*\n)*image_heads: found 2, expected 12"
    ):
        _load(f"openclip:{folder}/w.pt?arch=ViT-B-32", state)
    one = _load(f"openclip:{folder}/w.pt?norm=half&resize=squash", state)
    assert "squash" in one.preprocessing and "std (0.25, 0.25, 0.25)" in one.preprocessing
    text = json.loads(_openclip_json())
    text["preprocess_cfg"] = dict(resize_mode="squash", interpolation="bicubic")
    (folder / "open_clip_config.json").write_text(json.dumps(text))
    two = _load(f"openclip:{folder}/w.pt?norm=half", state)
    assert "squash" in two.preprocessing and "std (0.5, 0.5, 0.5)" in two.preprocessing
    text["preprocess_cfg"] = dict(interpolation="bilinear")
    (folder / "open_clip_config.json").write_text(json.dumps(text))
    with pytest.raises(ValueError, match="interpolation 'bilinear'"):
        _load(f"openclip:{folder}/w.pt", state)


def test_options_are_checked(folder, state):
    for end, message in (
        ("size=3", r"unknown options \['size'\]"),
        ("dtype=half", "option dtype: unknown 'half'"),
        ("background=red", "option background: unknown 'red'"),
        ("arch", "not of the form option=value"),
    ):
        with pytest.raises(ValueError, match=message):
            _load(f"openclip:{folder}/w.pt?{end}", state)
    with pytest.raises(ValueError, match="pass open_state_dict="):
        towers.load(f"openclip:{folder}/w.pt")


def test_another_vocabulary_than_the_tokenizers_is_refused(folder):
    few = clip_case.openclip_state(dataclasses.replace(CONFIG, vocabulary=300))
    text = _openclip_json().replace("49408", "300")
    (folder / "open_clip_config.json").write_text(text)
    with pytest.raises(ValueError, match="table has 300 rows.* has 49408 ids.* take a pair"):
        _load(f"openclip:{folder}/w.pt", few)
    with pytest.raises(ValueError, match="table has 300 rows.* has 49408 ids"):
        _load(f"hf_clip:{folder}/w.pt", clip_case.hf_state(few))


def test_sizes_that_a_config_file_states_must_be_those_of_the_arrays(folder, state):
    (folder / "open_clip_config.json").write_text(_openclip_json(image_size=32, width=64))
    with pytest.raises(
        ValueError, match="vision_cfg.image_size 32, the arrays have 24; vision_cfg.width 64, the"
    ):
        _load(f"openclip:{folder}/w.pt", state)
    text = json.loads(_hf_json())
    text["text_config"]["vocab_size"] = 32_000
    (folder / "config.json").write_text(json.dumps(text))
    with pytest.raises(ValueError, match="text_config.vocab_size 32000, the arrays have 49408"):
        _load(f"hf_clip:{folder}/w.pt", clip_case.hf_state(state))


def test_pixels_of_hugging_faces_weights_follow_their_preprocessor(folder, state):
    stated = dict(
        image_mean=[0.5] * 3, image_std=[0.25] * 3, size=dict(height=24, width=24), resample=3
    )
    (folder / "preprocessor_config.json").write_text(json.dumps(stated))
    text = json.loads(_openclip_json())
    text["preprocess_cfg"]["resize_mode"] = "squash"
    (folder / "open_clip_config.json").write_text(json.dumps(text))
    one = _load(f"openclip:{folder}/w.pt", state)
    other = _load(f"hf_clip:{folder}/w.pt", clip_case.hf_state(state))
    assert "squash" in one.preprocessing and one.preprocessing == other.preprocessing
    picture = np.random.default_rng(3).integers(0, 256, (30, 44, 3), np.uint8)
    images = [pair.encode_images(pair.prepare_image(picture)[None]) for pair in (one, other)]
    np.testing.assert_array_equal(*images)
    (folder / "preprocessor_config.json").write_text(json.dumps(dict(stated, resample=2)))
    with pytest.raises(ValueError, match="preprocessor_config.json: .*resample 2; known: 3"):
        _load(f"hf_clip:{folder}/w.pt", clip_case.hf_state(state))


class Unread(dict):
    """A state dict that tells names and shapes alone."""

    def __getitem__(self, key):
        pytest.fail(f"{key} was read")

    def shape(self, key):
        return super().__getitem__(key).shape


@pytest.mark.parametrize("kind", ["openclip", "hf_clip"])
def test_a_check_reads_no_array_and_its_files_load_the_same_pair(tmp_path, folder, state, kind):
    arrays = state if kind == "openclip" else clip_case.hf_state(state)
    (folder / "preprocessor_config.json").write_text(json.dumps(dict(image_std=[0.25] * 3)))
    loaded = _load(f"{kind}:{folder}/w.pt?resize=squash", arrays)
    found = clip_towers.check(
        kind, f"{folder}/w.pt", Unread(arrays), dict(resize="squash", licence="MIT")
    )
    assert (found.dim, found.preprocessing) == (loaded.dim, loaded.preprocessing)
    assert found.options == dict(resize="squash", licence="MIT")
    other = tmp_path / "other"
    other.mkdir()
    for name, text in found.files.items():
        (other / name).write_text(text)
    again = _load(f"{kind}:{other}/w.pt", arrays)
    assert (again.digest, again.preprocessing) == (loaded.digest, loaded.preprocessing)
    assert again.licence == "MIT"  # of the config file
    assert _load(f"{kind}:{other}/w.pt?licence=X", arrays).licence == "X"
    broken = {key: value for key, value in arrays.items() if key != "logit_scale"}
    with pytest.raises(ValueError, match="missing: logit_scale"):
        clip_towers.check(kind, f"{folder}/w.pt", Unread(broken), {})


@pytest.mark.parametrize("name", clip_presets.PRESETS)
def test_files_of_published_sizes_say_these_sizes(tmp_path, name):
    found = clip_towers.check("openclip", f"{tmp_path}/w", _abstract_state(name), dict(arch=name))
    assert found.name == name and found.options == dict(arch=name)
    model = json.loads(found.files["open_clip_config.json"])["model_cfg"]
    config = clip_presets.preset(name)
    image = model["vision_cfg"]
    # OpenCLIP cuts off what is no whole number.
    assert int(image["width"] * image["mlp_ratio"]) == config.image_hidden
    assert image["width"] // image["head_width"] == config.image_heads
    assert model["quick_gelu"] == config.quick_gelu


# ------------------------------------------------------------------------------ pictures


def test_pictures_are_composited_resized_and_cut():
    clear = np.zeros((40, 60, 4), np.uint8)
    assert (image_preprocess.crop(clear, 16) == 255).all()
    assert (image_preprocess.crop(clear, 16, (128, 128, 128)) == 128).all()
    half = np.full((2, 2, 4), [200, 100, 0, 128], np.uint8)
    np.testing.assert_array_equal(image_preprocess.composite(half, (0, 0, 0))[0, 0], [100, 50, 0])
    # The middle of a wide picture, untouched where the short side fits already.
    wide = np.random.default_rng(0).integers(0, 256, (16, 25, 3), np.uint8)
    np.testing.assert_array_equal(image_preprocess.crop(wide, 16), wide[:, 4:20])
    assert image_preprocess.crop(wide, 16, resize="squash").shape == (16, 16, 3)
    with pytest.raises(ValueError, match="resize: unknown 'longest'"):
        image_preprocess.crop(wide, 16, resize="longest")
    with pytest.raises(ValueError, match="expected uint8"):
        image_preprocess.crop(np.zeros((0, 3, 3), np.uint8), 8)


def test_normalised_pixels():
    found = image_preprocess.normalize(np.full((1, 1, 3), 255, np.uint8))
    expected = (1 - np.array(image_preprocess.MEAN)) / image_preprocess.STD
    np.testing.assert_allclose(found[0, 0], expected, rtol=1e-6)


def test_stated_pixels_of_openclip_are_read_or_refused():
    read, default = image_preprocess.openclip_pixels, image_preprocess.Pixels()
    assert read({}, 224, default) == default
    stated = dict(mean=[0.1, 0.2, 0.3], std=[1, 1, 1], size=[224, 224], resize_mode="squash")
    expected = image_preprocess.Pixels((0.1, 0.2, 0.3), (1, 1, 1), "squash")
    assert read(stated, 224, default) == expected
    for change, message in (
        (dict(size=256), "size 256, but the image tower's positions are for 224"),
        (dict(mode="L"), "mode 'L'"),
        (dict(resize_mode="longest"), "resize_mode 'longest'"),
        (dict(mean=[0.5]), "mean: expected three numbers, found"),
        (dict(std=[1, 0, 1]), "std: expected three positive numbers"),
    ):
        with pytest.raises(ValueError, match=message):
            read({**stated, **change}, 224, default)


def test_stated_pixels_of_hugging_face_are_read_or_refused():
    read, default = image_preprocess.hugging_face_pixels, image_preprocess.Pixels()
    side = dict(height=224, width=224)
    usual = dict(
        do_resize=True, size=224, resample=3, do_center_crop=True, crop_size=224, do_normalize=True,
        image_mean=[0.1, 0.2, 0.3], image_std=[0.5] * 3, do_convert_rgb=True,
    )  # fmt: skip
    expected = image_preprocess.Pixels((0.1, 0.2, 0.3), (0.5,) * 3)
    assert read({}, 224, default) == default
    assert read(usual, 224, default) == expected
    assert read({**usual, "size": dict(shortest_edge=224), "crop_size": side}, 224, default) == (
        expected
    )
    square = {**usual, "size": side, "do_center_crop": False}
    assert read(square, 224, default) == dataclasses.replace(expected, resize="squash")
    for change, message in (
        (dict(do_resize=False), "do_resize False; known: True"),
        (dict(do_normalize=False), "do_normalize False"),
        (dict(do_rescale=False), "do_rescale False"),
        (dict(rescale_factor=1 / 127.5), "rescale_factor"),
        (dict(resample=0), "resample 0; known: 3"),
        (dict(size=256), "size 256, but the image tower takes 224"),
        (dict(size=dict(height=224, width=200)), "size .*200.*, but the image tower takes 224"),
        (dict(size=dict(longest_edge=224)), "size .*longest_edge"),
        (dict(crop_size=196), "crop_size 196, but"),
        (dict(do_center_crop=False), "do_center_crop False: only with"),
        (dict(image_mean=[0.5, 0.5]), "image_mean: expected three numbers"),
    ):
        with pytest.raises(ValueError, match=message):
            read({**usual, **change}, 224, default)
