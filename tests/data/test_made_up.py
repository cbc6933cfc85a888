"""Made-up data has the size and layout of what it stands for, and is read by the same code."""

import ml_collections
import numpy as np
import pytest

from configs import clip_gs, cross_modal, pm_loss, unipre3d_scene
from gsjax.data import features, made_up, made_up_scenes, scannet, scene_records
from gsjax.systems import base


def test_pictures_are_neither_blank_nor_noise():
    for channels in (3, 4):
        pixels = made_up.picture(64, 64, channels, 3)
        assert pixels.shape == (64, 64, channels) and pixels.dtype == np.uint8
        size = len(features.encode_png(pixels))
        assert 0.2 * pixels.size < size < 0.7 * pixels.size
    assert (made_up.picture(64, 64, 3, 1) != made_up.picture(64, 64, 3, 2)).any()
    assert 0.1 < len(made_up.jpeg(96, 128, 0)) / (96 * 128) < 0.3


def quick(module, arg, folder, **data):
    config = module.get_config(arg)
    config.data.update(data)
    config.data.update_from_flattened_dict(made_up.stand_in(config.data, folder, 4))
    return config


def check(config):
    """Examples of every training row fit the batch spec."""
    system = base.build(config)
    source = system.train_data()
    for place in range(len(source)):
        example = source[place]
        for name, spec in system.batch_spec.items():
            assert np.shape(example[name]) == spec.shape, name
            assert np.asarray(example[name]).dtype == spec.dtype, name
    return source


def test_objects_stand_for_a_folder_of_files(tmp_path):
    config = quick(clip_gs, "quick,data=folder", tmp_path, num_gaussians=64, views=6)
    source = check(config)
    assert len(source) == 4
    lengths = np.linalg.norm(source[0]["image_embed"], axis=-1)
    np.testing.assert_allclose(lengths, 1, atol=2e-3)
    assert source[0]["image_embed"].shape == (6, made_up.DIM)


def test_paired_objects_stand_for_meshes(tmp_path):
    config = quick(cross_modal, "quick,data=meshes", tmp_path)
    assert config.data.name == made_up.NAME and len(check(config)) == 4


def test_scans_have_the_layout_of_scannet(tmp_path, monkeypatch):
    for name, value in dict(SCAN_COLOR=(97, 130), SCAN_DEPTH=(48, 64), SCAN_POINTS=500).items():
        monkeypatch.setattr(made_up_scenes, name, value)
    found = made_up_scenes.scannet(tmp_path, 2, frames=8)
    scans = scannet.ScanNet(found["source"], found["frames_source"])
    assert len(scans) == 2 and scans[1].num_frames == 8 and len(scans[0].cloud()) == 500
    assert len(scannet.ScanNet(found["source"], found["frames_source"], "val")) == 1
    view = scans[0].view(3)
    assert view.image.shape == (97, 130, 3) and 1 < np.median(view.depth) < 4
    before = sorted(tmp_path.rglob("*"))
    assert made_up_scenes.scannet(tmp_path, 2, frames=8) == found
    assert sorted(tmp_path.rglob("*")) == before  # made once
    config = unipre3d_scene.get_config("quick,data=scannet")
    config.data.update(found)
    config.model.image_encoder = "rgb"
    check(config)


def test_videos_come_with_the_pointmaps_of_their_tuples(tmp_path, monkeypatch):
    monkeypatch.setattr(made_up_scenes, "VIDEO_SIZE", (36, 48))
    config = pm_loss.get_config("quick,data=records,teacher=cache,loss=pm")
    made = made_up_scenes.posed(config.data, tmp_path, 3, frames=20)
    config.data.update_from_flattened_dict(made)
    records = scene_records.SceneRecords(f"{made['source']}/train")
    assert len(records) == 3 and records.lengths == [20] * 3
    check(config)


def test_sets_that_nothing_stands_for_are_named():
    with pytest.raises(ValueError, match="nothing made up stands for 'rooms'; known: .*scannet"):
        made_up.stand_in(ml_collections.ConfigDict(dict(name="rooms")), "x", 1)
