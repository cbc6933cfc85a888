"""Posed photographs as scenes, and as records that keep their files."""

import numpy as np
import pytest

from gsjax.data import photo_scene, posed_examples, scene_records, view_samplers


def test_photographs_become_records_byte_by_byte(tmp_path, gsjax_data):
    folder = gsjax_data / "scenes" / "fox"
    scene = photo_scene.PhotoScene(folder)
    assert scene.name == "fox" and scene.num_frames == 44 and scene.neighbours(0) is None
    photo_scene.convert([folder], tmp_path)
    stored = scene_records.SceneRecords(tmp_path)
    assert stored.names == ["fox"] and stored.lengths == [44]
    for frame in (0, 43):
        one, two = scene.view(frame), stored[0].view(frame)
        assert one.image.shape == (480, 270, 3)
        np.testing.assert_array_equal(one.image, two.image)
        np.testing.assert_allclose(one.K, two.K)
        np.testing.assert_allclose(one.viewmat, two.viewmat)
    files = sum(path.stat().st_size for path in (folder / "images").iterdir())
    size = sum(path.stat().st_size for path in tmp_path.glob("*.array_record"))
    assert files <= size < files + 3 * 2**16  # the files as they are, and blocks filled up
    sample = view_samplers.Sample(np.array([0, 6]), np.array([3]))
    spec = posed_examples.PosedSpec(64, 64, 0.5, 20)
    made = posed_examples.posed_example(stored[0], sample, spec, index=0)
    assert made["context_images"].std() > 20
    np.testing.assert_allclose(made["context_Ks"][:, 0, 0], one.K[0, 0] / 270, rtol=1e-6)


def test_smaller_photographs_are_encoded_again(tmp_path, gsjax_data):
    folder = gsjax_data / "scenes" / "fox"
    scene = photo_scene.PhotoScene(folder, downscale=5, name="small")
    found = scene_records.RecordScene(scene.encoded())
    assert found.name == "small"
    np.testing.assert_array_equal(found.view(1).image, scene.view(1).image)
    assert found.view(1).image.shape == (96, 54, 3)
    np.testing.assert_allclose(found.view(1).K, scene.view(1).K)


def test_folders_of_one_name_are_refused(tmp_path):
    with pytest.raises(ValueError, match="two scenes have one name"):
        photo_scene.convert([tmp_path / "a" / "x", tmp_path / "b" / "x"], tmp_path / "out")
