"""Plain clouds in PLY files, as they are written."""

import numpy as np
import pytest

from gsjax.io import point_cloud

POINTS = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)


def test_a_cloud_comes_back_as_it_was(tmp_path):
    colors = np.arange(15, dtype=np.uint8).reshape(5, 3) * 17
    point_cloud.write(tmp_path / "a.ply", POINTS, colors)
    points, found = point_cloud.read(tmp_path / "a.ply")
    np.testing.assert_array_equal(points, POINTS)
    np.testing.assert_array_equal(found, colors)
    point_cloud.write(tmp_path / "b.ply", POINTS)
    points, found = point_cloud.read(tmp_path / "b.ply")
    np.testing.assert_array_equal(points, POINTS)
    assert found is None


def test_what_no_viewer_could_show_is_refused(tmp_path):
    path = tmp_path / "a.ply"
    with pytest.raises(ValueError, match="points: 1 of 5 are not finite"):
        point_cloud.write(
            path, np.where(np.eye(5, 3) * (np.arange(5) == 1)[:, None], np.nan, POINTS)
        )
    with pytest.raises(ValueError, match=r"colors: expected uint8 \[5, 3\], found float32"):
        point_cloud.write(path, POINTS, POINTS)
    with pytest.raises(ValueError, match=r"points: expected shape \[M, 3\].* found \[0, 3\]"):
        point_cloud.write(path, POINTS[:0])
    assert not path.exists()
