"""What shapes tell of CLIP, and what they cannot; tables and towers are in test_clip."""

import pytest

from gsjax.models import clip_tables
from tests.models import clip_case


@pytest.mark.parametrize("naming", clip_tables.NAMINGS)
@pytest.mark.parametrize("shape", [(), (7,), (0, 4), (2, 3, 4)])
def test_arrays_with_another_number_of_axes_are_named(naming, shape):
    state = clip_case.openclip_state()
    arrays = state if naming == "openclip" else clip_case.hf_state(state)
    shapes = {key: value.shape for key, value in arrays.items()}
    for key in clip_tables._TELLING[naming]:
        with pytest.raises(ValueError, match="file: arrays of other shapes") as error:
            clip_tables.sizes(shapes | {key: shape}, naming, "file")
        assert f"{key}: found shape {shape}, expected" in str(error.value)
