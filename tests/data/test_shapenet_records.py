import numpy as np
import pytest

from gsjax.data import clouds, shapenet_records, shapenet_renders
from gsjax.systems import base
from tests.data import test_shapenet_renders as renders
from tests.systems.unipre3d import tiny


def test_points_and_cameras_are_turned_together_and_pictures_scaled(tmp_path):
    renders._tree(tmp_path)
    plain = shapenet_renders.ShapeNetRenders(tmp_path, "all")[1]
    record = shapenet_records.open_split(tmp_path, "all", 8)[0][1]
    assert record["uid"] == "02691156/b" and record["views"].shape == (3, 8, 8, 4)
    np.testing.assert_allclose(record["means"][:, 1], plain.points[:, 2])  # up is +y now
    point = 0.3 * plain.points[7].astype(np.float64)
    turned = 0.3 * record["means"][7].astype(np.float64)
    for view in range(3):
        wanted, depth = clouds.project(point, plain.viewmats[view], plain.Ks[view])
        found, same = clouds.project(turned, record["viewmats"][view], record["Ks"][view])
        np.testing.assert_allclose(found, wanted / 2, atol=1e-4)  # half the size
        assert same == pytest.approx(depth, abs=1e-5)


def test_transparent_pixels_do_not_bleed(tmp_path):
    image = np.zeros((4, 4, 4), np.uint8)
    image[..., 0] = 255  # red where it is transparent
    image[:, ::2] = (0, 200, 0, 255)
    scaled = shapenet_records._scaled(image, 2)
    np.testing.assert_allclose(scaled[..., :3], np.broadcast_to((0, 200, 0), (2, 2, 3)), atol=2)
    np.testing.assert_allclose(scaled[..., 3], 128, atol=1)


def test_the_system_reads_them(tmp_path):
    models = tuple(("02691156", f"m{i}") for i in range(8))
    renders._tree(tmp_path, models)
    config = tiny.config(data__source=str(tmp_path))
    config.data.name = "shapenet_renders"
    config.data.targets = 2
    built = base.build(config)
    example = built.train_data()[0]
    for name, spec in built.batch_spec.items():
        assert example[name].shape == spec.shape and example[name].dtype == spec.dtype, name
    assert np.linalg.norm(example["xyz"], axis=-1).max() <= 0.5 + 1e-5
    config.data.source = ""
    with pytest.raises(ValueError, match=r"--config.data.source=FOLDER"):
        base.build(config)
