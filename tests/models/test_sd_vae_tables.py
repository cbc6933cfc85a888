import json

import ml_dtypes
import numpy as np
import pytest

from gsjax.models import name_tables, sd_vae, sd_vae_tables
from tests.models import sd_vae_case

CONFIG = sd_vae_case.CONFIG
TEXT = json.dumps(sd_vae_case.JSON)


@pytest.mark.parametrize("config", [CONFIG, sd_vae.Config()], ids=["tiny", "published"])
def test_tables_name_every_parameter_once(config):
    shapes = sorted(sd_vae.param_shapes(config))
    for naming in ("old", "new"):
        table = sd_vae_tables.table(config, naming)
        assert sorted(e.ours for e in table) == shapes
        assert len({e.theirs for e in table}) == len(table) == len({e.ours for e in table})


@pytest.mark.parametrize("naming", ["old", "new"])
def test_state_dicts_of_either_naming_give_the_parameters(naming):
    state = sd_vae_case.state_dict(naming=naming)
    key = "to_q" if naming == "new" else "query"
    assert state[f"encoder.mid_block.attentions.0.{key}.weight"].shape == (12, 12)
    assert state["decoder.up_blocks.1.resnets.0.conv_shortcut.weight"].shape == (8, 12, 1, 1)
    assert sd_vae_tables.naming(state) == naming
    found = sd_vae_tables.convert(state, CONFIG)
    expected = name_tables.flatten(sd_vae_case.params())
    for path, value in name_tables.flatten(found).items():
        np.testing.assert_array_equal(value, expected[path])


def test_half_precision_keeps_vectors_exact():
    found = sd_vae_tables.convert(sd_vae_case.state_dict(), CONFIG, dtype=ml_dtypes.bfloat16)
    for path, value in name_tables.flatten(found).items():
        assert value.dtype == (np.float32 if value.ndim == 1 else ml_dtypes.bfloat16), path


def test_everything_that_does_not_fit_is_told_at_once():
    state = sd_vae_case.state_dict()
    del state["quant_conv.bias"]
    state["decoder.mid_block.attentions.0.to_out.1.weight"] = np.zeros(3)
    state["encoder.conv_in.weight"] = np.zeros((9, 3, 3, 3))
    with pytest.raises(ValueError, match="3 problems") as error:
        sd_vae_tables.convert(state, CONFIG, "the file")
    text = str(error.value)
    assert text.startswith("the file") and "missing: quant_conv.bias" in text
    assert "unexpected: decoder.mid_block.attentions.0.to_out.1.weight" in text
    assert "found (3, 3, 3, 9), expected (3, 3, 3, 8)" in text


def test_sizes_are_read_off_shapes():
    shapes = {key: value.shape for key, value in sd_vae_case.state_dict().items()}
    assert sd_vae_tables.config_of_shapes(shapes, groups=4) == CONFIG
    with pytest.raises(ValueError, match="groups=32 must divide"):
        sd_vae_tables.config_of_shapes(shapes)
    shapes = sd_vae.param_shapes(sd_vae.Config())
    table = sd_vae_tables.table(sd_vae.Config())
    published = {entry.theirs: shapes[entry.ours] for entry in table}
    for key, shape in published.items():
        published[key] = (*shape[:1:-1], *shape[:2]) if len(shape) == 4 else shape
    assert sd_vae_tables.config_of_shapes(published) == sd_vae.Config()


def test_other_networks_are_refused_by_shape():
    with pytest.raises(ValueError, match="x.bin: no AutoencoderKL.*encoder.down.0.block.0"):
        sd_vae_tables.config_of_shapes(
            {"encoder.down.0.block.0.conv1.weight": (8, 8, 3, 3)}, "x.bin"
        )
    shapes = {key: value.shape for key, value in sd_vae_case.state_dict().items()}
    del shapes["encoder.down_blocks.0.resnets.0.conv1.weight"]
    with pytest.raises(ValueError, match="lacks encoder.down_blocks.0"):
        sd_vae_tables.config_of_shapes(shapes)
    shapes["encoder.down_blocks.0.resnets.0.conv1.weight"] = (8,)
    with pytest.raises(ValueError, match="expected 4 axes"):
        sd_vae_tables.config_of_shapes(shapes)


def test_sizes_are_read_from_the_config_file():
    assert sd_vae_tables.config_of_json(TEXT) == CONFIG
    published = sd_vae_tables.config_of_json("{}")
    assert published == sd_vae.Config()


@pytest.mark.parametrize(
    "text, message",
    [
        ("{", "not readable JSON"),
        ("[]", "expected an object, found a list"),
        (json.dumps({**sd_vae_case.JSON, "act_fn": "relu"}), "act_fn='relu', expected 'silu'"),
        (json.dumps({**sd_vae_case.JSON, "use_quant_conv": False}), "use_quant_conv=False"),
        (json.dumps({**sd_vae_case.JSON, "_class_name": "VQModel"}), "_class_name='VQModel'"),
        (
            json.dumps({**sd_vae_case.JSON, "up_block_types": ["AttnUpDecoderBlock2D"]}),
            "'UpDecoderBlock2D' alone",
        ),
        (json.dumps({**sd_vae_case.JSON, "norm_num_groups": 5}), "groups=5 must divide"),
        (
            json.dumps({**sd_vae_case.JSON, "layers_per_block": None}),
            "layers_per_block=None, expected whole",
        ),
        (json.dumps({**sd_vae_case.JSON, "latent_channels": 2.0}), "latent_channels=2.0, expected"),
        (json.dumps({**sd_vae_case.JSON, "norm_num_groups": [4]}), "expected whole numbers"),
        (
            json.dumps({**sd_vae_case.JSON, "block_out_channels": 8}),
            "block_out_channels=8, expected whole",
        ),
    ],
)
def test_config_files_of_other_networks_are_refused(text, message):
    with pytest.raises(ValueError, match=message):
        sd_vae_tables.config_of_json(text, "a/config.json")
