"""Scores and baselines: which pixels count, what is held in memory; and what a fit writes."""

import dataclasses

import numpy as np
import pytest

from gsjax.io import formats, ply
from gsjax.systems.scene_fit import data, evaluate, model, state, steps, system
from gsjax.systems.scene_fit.recipe import Recipe
from tests.systems.scene_fit import scenes

SIZE = 6


def _views(num: int, seed: int, masks: bool, channels: int = 3) -> state.Views:
    """Noise seen by cameras along a line; a mask leaves out the left half of every picture."""
    rng = np.random.default_rng(seed)
    viewmats = np.tile(np.eye(4, dtype=np.float32), (num, 1, 1))
    viewmats[:, 0, 3] = -np.arange(num) - 0.1 * seed
    images = rng.integers(0, 256, (num, SIZE, SIZE, channels), np.uint8)
    kept = np.broadcast_to(np.arange(SIZE) >= SIZE // 2, (num, SIZE, SIZE))
    return state.Views(
        images, viewmats, np.tile(np.eye(3, dtype=np.float32), (num, 1, 1)), kept if masks else None
    )


@pytest.mark.parametrize("channels", [3, 4])
def test_baselines_are_the_mean_and_the_nearest_photograph(channels):
    train, test = _views(4, 1, False, channels), _views(2, 2, False, channels)
    found = evaluate.baselines(train, test, 1.0)
    known, wanted = (evaluate.targets(views, 1.0) for views in (train, test))
    # Cameras of test 0 and 1 stand at 0.2 and 1.2, those of training at 0.1, 1.1, 2.1 and 3.1.
    for name, guess in (("mean", known.mean(0)[None]), ("nearest", known[:2])):
        mse = ((guess - wanted) ** 2).mean((1, 2, 3))
        assert found[f"psnr_{name}_image"] == pytest.approx(np.mean(-10 * np.log10(mse)), abs=1e-4)


def test_baselines_heed_masks():
    train, test = _views(4, 1, True), _views(2, 2, True)
    found = evaluate.baselines(train, test, 0.0)
    for views in (train, test):  # what is masked may be anything
        views.images[:, :, : SIZE // 2] = 255 - views.images[:, :, : SIZE // 2]
    assert evaluate.baselines(train, test, 0.0) == found
    unmasked = [v._replace(masks=None) for v in (train, test)]
    assert evaluate.baselines(*unmasked, 0.0) != pytest.approx(found, abs=1e-3)
    right = [v._replace(images=v.images[:, :, SIZE // 2 :], masks=None) for v in (train, test)]
    assert evaluate.baselines(*right, 0.0) == pytest.approx(found, abs=1e-4)


def test_baselines_hold_one_photograph_at_a_time(monkeypatch):
    held, targets = [], evaluate.targets
    monkeypatch.setattr(
        evaluate, "targets", lambda v, grey: held.append(len(v.images)) or targets(v, grey)
    )
    evaluate.baselines(_views(4, 1, False), _views(2, 2, False), 0.0)
    assert set(held) == {1}


@pytest.mark.slow
def test_the_psnr_of_training_heeds_masks(monkeypatch):
    """The render is replaced by black: PSNR is that of the photographs' own brightness."""

    def black(scene, viewmats, Ks, width, height, backgrounds, **options):
        shape = (len(viewmats), height, width)
        meta = {"radii": np.zeros((len(viewmats), scene.num, 2), np.int32)}
        return np.zeros((*shape, 3), np.float32), np.zeros((*shape, 1), np.float32), meta

    monkeypatch.setattr(model, "render", black)
    recipe = Recipe(num_gaussians=60, sh_degree=0, opacity_reg=0.0, scale_reg=0.0)
    images = np.full((1, 24, 24, 3), 255, np.uint8)
    images[:, :, 12:] = 51  # 0.2
    mask = np.zeros((1, 24, 24), bool)
    mask[:, :, 12:] = True
    views = scenes.views(0, alpha=False)
    current = scenes.first(recipe, 0, views)
    batch = state.Views(images, views.viewmats[:1], views.Ks[:1])
    for masks, expected in ((mask, 0.04), (None, 0.52)):
        fixed = (batch._replace(masks=masks), np.zeros(1, int), None, current)
        _, (mse, _) = steps._loss(recipe, fixed, (current.params, current.views, np.zeros(())))
        assert float(mse) == pytest.approx(expected, rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("antialiased", [False, True])
def test_the_scene_says_whether_it_is_to_be_drawn_antialiased(tmp_path, monkeypatch, antialiased):
    monkeypatch.setattr(evaluate, "write_grid", lambda *_: None)
    views = scenes.views(0, alpha=False)
    points, rgb = scenes.ball(0)
    scene = data.Scene("ball", views, views, points, rgb, None, ("a",) * scenes.VIEWS)
    recipe = Recipe(num_gaussians=60, sh_degree=0, antialiased=antialiased)
    fit = system.Fit(recipe, scene)
    fit.finish(fit.begin(), tmp_path)
    assert ply.read_comments(tmp_path / "scene.ply") == [ply.ANTIALIASED] * antialiased
    assert len(formats.load_gaussians(tmp_path / "scene.ply")["means"]) == 60


@pytest.mark.parametrize(
    "field, value", [("init_opacity", 1.0), ("init_opacity", 0.0), ("start_fraction", 1.1)]
)
def test_shares_out_of_range_are_refused(field, value):
    with pytest.raises(ValueError, match=rf"fit\.{field}: found {value}, expected within \(0, 1"):
        dataclasses.replace(Recipe(), **{field: value})
    dataclasses.replace(Recipe(), start_fraction=1.0, init_opacity=0.999)
