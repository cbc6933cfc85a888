"""Config files beside weights: what is written is read back, whatever the sizes."""

import json

import pytest

from gsjax.models import clip_configs, clip_presets, image_preprocess

DEFAULT = image_preprocess.Pixels()
OTHER = image_preprocess.Pixels((0.5, 0.25, 0.75), (0.5, 0.125, 1.0), "squash")
HEADS = ("image_heads", "text_heads", "quick_gelu")


def _found(config):
    """What arrays tell of sizes."""
    return {name: value for name, value in vars(config).items() if name not in HEADS}


def _put(folder, files):
    for name, text in files.items():
        (folder / name).write_text(text)


@pytest.mark.parametrize("kind", clip_configs.CONFIG_FILES)
@pytest.mark.parametrize("name", clip_presets.PRESETS)
def test_files_are_read_back(tmp_path, name, kind):
    config = clip_presets.preset(name)
    _put(tmp_path, clip_configs.files(kind, config, OTHER, "CC BY 4.0, é"))
    for path in (tmp_path, tmp_path / "weights.pt"):  # a folder of weights, or a file
        more, pixels, licence = clip_configs.read(kind, str(path), _found(config), DEFAULT)
        assert more == {name: getattr(config, name) for name in HEADS}
        assert licence == "CC BY 4.0, é"
        if kind == "hf_clip":
            assert pixels == DEFAULT  # they are in the other file
            pixels = clip_configs.read_preprocessor(str(path), config.image_size, DEFAULT)
        assert pixels == OTHER


@pytest.mark.parametrize("kind", clip_configs.CONFIG_FILES)
def test_without_files_nothing_is_stated(tmp_path, kind):
    found = _found(clip_presets.preset("ViT-B-32"))
    assert clip_configs.read(kind, str(tmp_path / "w.pt"), found, DEFAULT) is None
    assert clip_configs.read_preprocessor(str(tmp_path / "w.pt"), 224, OTHER) == OTHER


@pytest.mark.parametrize("kind", clip_configs.CONFIG_FILES)
def test_every_size_that_contradicts_the_arrays_is_named(tmp_path, kind):
    config = clip_presets.preset("ViT-B-32")
    _put(tmp_path, clip_configs.files(kind, config, DEFAULT, "MIT"))
    for field, value in _found(config).items():
        if kind == "openclip" and field.endswith("_hidden"):
            continue  # a ratio there, which OpenCLIP rounds; arrays decide
        other = {**_found(config), field: value + 64}
        with pytest.raises(ValueError, match=rf" {value}, the arrays have {value + 64}"):
            clip_configs.read(kind, str(tmp_path), other, DEFAULT)


def test_a_file_that_cannot_be_used_is_named_with_the_way_out(tmp_path):
    file = tmp_path / "open_clip_config.json"
    timm = dict(vision_cfg=dict(timm_model_name="x"), text_cfg={})
    for text, message in (
        ("{", "JSONDecodeError"),
        ("[]", "TypeError"),
        ("{}", "KeyError: 'model_cfg'"),
        (json.dumps(dict(model_cfg=timm)), "that plain CLIP towers lack: ['timm_model_name']"),
        (json.dumps(dict(model_cfg=2)), "TypeError"),
    ):
        file.write_text(text)
        with pytest.raises(ValueError, match="cannot be used .*give .arch= with one of") as caught:
            clip_configs.read("openclip", str(tmp_path), {}, DEFAULT)
        assert str(file) in str(caught.value) and message in str(caught.value)


def test_a_licence_is_a_text():
    assert clip_configs.stated_licence({}) == ""
    with pytest.raises(ValueError, match=r"licence: expected a text, found \['MIT'\]"):
        clip_configs.stated_licence(dict(licence=["MIT"]))
