"""What shapes tell of EVA-CLIP, and what they cannot; tables and towers are in test_eva."""

import pytest

from gsjax.models import eva_tables
from tests.models import eva_case


@pytest.mark.parametrize("shape", [(), (7,), (0, 4), (1, 2, 3, 4, 5)])
def test_arrays_with_another_number_of_axes_are_named(shape):
    shapes = eva_tables.image_view(eva_case.state_dict(eva02=False)).shapes()
    keys = ("patch_embed.proj", "head", "blocks.0.mlp.fc1", "blocks.0.mlp.fc2")
    for key in (*(f"{key}.weight" for key in keys), "pos_embed"):
        with pytest.raises(ValueError, match="file: arrays of other shapes") as error:
            eva_tables.sizes(shapes | {key: shape}, "file")
        assert f"{key}: found shape {shape}, expected" in str(error.value)
