"""Figures of features: clusters stay clusters, classes have colours, refusals."""

import numpy as np
import pytest

from gsjax.cli import tsne


def _clusters():
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1, 3], 20)
    return 20.0 * rng.normal(size=(4, 8))[labels] + rng.normal(size=(60, 8)), labels


def test_clusters_stay_apart_and_places_do_not_change():
    pytest.importorskip("sklearn")
    x, labels = _clusters()
    found = tsne.embedded(x)
    assert found.shape == (60, 2)
    middles = np.stack([found[labels == k].mean(0) for k in (0, 1, 3)])
    near = np.linalg.norm(found[:, None] - middles, axis=-1).argmin(1)
    np.testing.assert_array_equal(np.asarray([0, 1, 3])[near], labels)
    np.testing.assert_array_equal(found, tsne.embedded(x))
    with pytest.raises(ValueError, match="at least 4"):
        tsne.embedded(x[:3])


def test_a_figure_has_a_panel_for_each_set(tmp_path):
    pytest.importorskip("matplotlib")
    from PIL import Image

    x, labels = _clusters()
    places = {"Gaussians": x[:, :2], "4 views": x[:, 2:4]}
    names = ["bed", "chair", "desk", "sofa"]
    tsne.draw(places, labels, names, str(tmp_path / "a.png"))
    width, height = Image.open(tmp_path / "a.png").size
    assert width > 1.4 * height
    pixels = np.asarray(Image.open(tmp_path / "a.png").convert("RGB")).reshape(-1, 3)
    colours = {tuple(c) for c in pixels[np.ptp(pixels, axis=1) > 100].tolist()}
    assert len(colours) >= 3
