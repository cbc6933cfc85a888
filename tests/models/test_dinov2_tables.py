"""Name tables of DINOv2: each naming both ways, prefixes found, one message of all that is wrong."""

import jax
import numpy as np
import pytest

from gsjax.models import dinov2, dinov2_tables, name_tables
from tests.models import vit_case


def _both(name, naming):
    """Parameters, and the same as a state dict of a naming."""
    config = dinov2.PRESETS[name]
    params = vit_case.random_params(dinov2.abstract_variables(config))
    return params, name_tables.invert(params, dinov2_tables.table(config, naming))


@pytest.mark.parametrize("naming", dinov2_tables.NAMINGS)
@pytest.mark.parametrize("name", ["tiny", "tiny_reg"])
def test_every_array_of_a_state_dict_finds_its_place(naming, name):
    params, theirs = _both(name, naming)
    mask = "mask_token" if naming == "facebook" else "embeddings.mask_token"
    for prefix in dinov2_tables.PREFIXES[naming.rstrip("5")]:
        file = {f"{prefix}{key}": value for key, value in (theirs | {mask: np.zeros(16)}).items()}
        assert dinov2_tables.find(file) == (naming, prefix)
        if prefix:
            file["depth_head.projects.0.weight"] = np.zeros(3)
        back = dinov2_tables.convert(file, dinov2.PRESETS[name])
        jax.tree.map(np.testing.assert_array_equal, back, jax.tree.map(np.asarray, params))


def test_names_and_shapes_of_the_public_files():
    _, facebook = _both("tiny_reg", "facebook")
    assert facebook["patch_embed.proj.weight"].shape == (16, 3, 14, 14)
    assert facebook["pos_embed"].shape == (1, 17, 16)
    assert facebook["register_tokens"].shape == (1, 4, 16)
    assert facebook["blocks.3.attn.qkv.weight"].shape == (48, 16)
    assert facebook["blocks.0.mlp.fc1.weight"].shape == (64, 16)
    _, hub = _both("tiny_reg", "transformers")
    assert hub["encoder.layer.3.attention.attention.key.weight"].shape == (16, 16)
    # queries, keys and values are joined in this order
    np.testing.assert_array_equal(
        facebook["blocks.3.attn.qkv.bias"][16:32],
        hub["encoder.layer.3.attention.attention.key.bias"],
    )


def test_all_that_is_wrong_is_in_one_message():
    _, theirs = _both("tiny", "facebook")
    del theirs["blocks.1.ls1.gamma"], theirs["norm.bias"]
    theirs["pos_embed"] = np.zeros((1, 26, 16))
    theirs["blocks.4.norm1.weight"] = np.zeros(16)
    with pytest.raises(ValueError) as error:
        dinov2_tables.convert(theirs, dinov2.PRESETS["tiny"], what="x.pth")
    for line in (
        "x.pth: the checkpoint does not fit (4 problems)",
        "missing: blocks.1.ls1.gamma",
        "missing: norm.bias",
        "shape of pos_embed -> positions: found (1, 26, 16), expected (1, 17, 16)",
        "unexpected: blocks.4.norm1.weight",
    ):
        assert line in str(error.value)
    with pytest.raises(ValueError, match="no DINOv2: it lacks .* it has e.g. .'depth_head.x'"):
        dinov2_tables.convert({"depth_head.x": np.zeros(1)}, dinov2.PRESETS["tiny"])
    with pytest.raises(ValueError, match="known: "):
        dinov2_tables.table(dinov2.PRESETS["tiny"], "timm")
