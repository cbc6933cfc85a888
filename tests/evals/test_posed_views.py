"""Scores of predictions that are off by known amounts, and of baselines on a wall that one plane explains."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gsjax.evals import posed_views
from gsjax.metrics import lpips
from tests.evals import made_up_views as made_up
from tests.metrics import test_lpips

ROWS = [made_up.example(i, step=0.5 if i == 2 else 0.0) for i in range(3)]


def _run(system, **options):
    evaluator = posed_views.Evaluator(system, dict(batch_size=2, planes=29, **options))
    put = lambda batch: {k: jnp.asarray(v) for k, v in batch.items()}  # noqa: E731
    return evaluator.run({}, put), evaluator.details


@pytest.fixture(scope="module")
def found():
    training = [made_up.example(i + 7, step=0.5 * (i == 1)) for i in range(2)]
    return _run(made_up.system(ROWS, training), bootstrap=100, thresholds=(0.04, 0.1))


def test_known_errors_give_known_scores(found):
    scores, details = found
    # No colour is clipped: those of the wall are within 0.1 and 0.9.
    assert scores["render/psnr"] == pytest.approx(20, abs=0.01)
    assert scores["oracle/psnr"] == pytest.approx(40, abs=0.1)
    assert scores["render/coverage"] == 1 and scores["num_scenes"] == 3
    assert scores["render/abs_rel"] == pytest.approx(0.1, rel=1e-4)
    for name in ("abs_rel", "abs_rel_rest"):
        assert scores[f"depth/{name}"] == pytest.approx(0.1, rel=1e-4)
    # A tenth of 2, and in the last scene of 2 and 1.5 in equal parts.
    by_hand = [0.2, 0.2, np.sqrt((0.2**2 + 0.15**2) / 2)]
    np.testing.assert_allclose(details["depth/rmse"], by_hand, rtol=1e-4)
    assert scores["depth/delta"] == 1
    assert details["index"].tolist() == [0, 1, 2]
    np.testing.assert_allclose(details["render/psnr"], 20, atol=0.01)


def test_clouds_are_compared_without_transparent_gaussians(found):
    scores, _ = found
    assert scores["cloud/accuracy_median"] == pytest.approx(0.05, rel=1e-3)
    assert 0.045 < scores["cloud/completeness_mean"] <= 0.0501
    assert scores["cloud/f_0.1"] == 1 and scores["cloud/f_0.04"] == 0


def test_bands_are_of_the_scenes_that_have_jumps(found):
    scores, details = found
    assert np.isnan(details["render/psnr_band"][:2]).all()
    assert scores["render/psnr_band"] == pytest.approx(20, abs=0.01)
    assert scores["depth/abs_rel_band"] == pytest.approx(0.1, rel=1e-4)


def test_the_plane_explains_a_wall_and_a_copy_does_not(found):
    _, details = found
    for i in range(2):
        plane, nearest = details["plane/psnr"][i], details["nearest/psnr"][i]
        assert plane > 40 and plane > nearest + 12
        assert details["plane/psnr_rest"][i] > 40
    # No plane explains a step.
    assert details["plane/psnr"][2] < details["plane/psnr"][:2].min() - 4


def test_baselines_by_hand(found):
    scores, details = found
    first = ROWS[0]
    truth, context = first["target_images"] / 255, first["context_images"] / 255
    # The first target is nearest to the second context view, the second to the first.
    mean = lambda pictures: np.mean(-10 * np.log10(((pictures - truth) ** 2).mean((1, 2, 3))))  # noqa: E731
    assert details["nearest/psnr"][0] == pytest.approx(mean(context[[1, 0]]), abs=1e-3)
    assert details["blend/psnr"][0] == pytest.approx(mean(context.mean(0)), abs=1e-3)
    training = [made_up.example(i + 7, step=0.5 * (i == 1)) for i in range(2)]
    picture = np.mean([row["target_images"] / 255 for row in training], (0, 1))
    assert details["mean/psnr"][0] == pytest.approx(mean(picture), abs=1e-3)
    # Three quarters of the training depths are 2, as are all of the first scene's.
    assert details["median/abs_rel"][0] == 0
    assert details["median/abs_rel"][2] == pytest.approx(0.5 * (2 / 1.5 - 1), rel=1e-5)


def test_differences_are_paired_and_intervals_hold_the_means(found):
    scores, details = found
    difference = details["render/psnr"] - details["plane/psnr"]
    assert scores["render-plane/psnr"] == pytest.approx(difference.mean())
    for name in ("render/ssim", "cloud/accuracy_mean", "depth-median/abs_rel"):
        assert scores[f"{name}_low"] <= scores[name] <= scores[f"{name}_high"]


@pytest.mark.slow
def test_scores_do_not_depend_on_the_devices_that_hold_the_batch(found):
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    spread = jax.NamedSharding(mesh, jax.P("data"))
    evaluator = posed_views.Evaluator(
        made_up.system(ROWS), dict(batch_size=8, planes=29, train_split="", thresholds=(0.04, 0.1))
    )
    with jax.set_mesh(mesh):
        scores = evaluator.run({}, lambda batch: jax.device_put(dict(batch), spread))
    assert scores["num_scenes"] == 3 and "plane/psnr" in scores and "cloud/f_0.1" in scores
    for name, value in scores.items():
        assert value == pytest.approx(found[0][name], rel=1e-4, abs=1e-4), name


def test_examples_of_one_scene_are_averaged_first():
    rows = [made_up.example(i, targets=((0.05 + 0.1 * i, 0.0),)) for i in range(4)]
    names = ["b", "a", "b", "c"]
    system = made_up.system(rows, uids=lambda split: names)
    scores, details = _run(system, cloud=False, train_split="", limit=3)
    assert scores["num_scenes"] == 2 and scores["num_examples"] == 3
    assert details["index"].tolist() == [0, 1]
    every, single = _run(made_up.system(rows), cloud=False, train_split="", limit=3)
    alone = single["nearest/psnr"]
    np.testing.assert_allclose(details["nearest/psnr"], [(alone[0] + alone[2]) / 2, alone[1]])
    assert scores["nearest/psnr"] != pytest.approx(every["nearest/psnr"])
    names[2:] = []
    with pytest.raises(ValueError, match="2 names for split 'test', which has an example 2"):
        _run(system, cloud=False, baselines=False, limit=3)
    assert "mean/psnr" not in scores and "median/abs_rel" not in scores


def test_a_model_that_diverged_is_no_score():
    system = made_up.system(ROWS[:1], error=np.nan)
    with pytest.raises(FloatingPointError, match="predictions of 1 of 1 examples are not finite"):
        _run(system, baselines=False, cloud=False)


@pytest.mark.slow
def test_lpips_with_the_users_weights_is_that_of_the_metric(monkeypatch):
    files = dict(zip(("net", "heads"), test_lpips.weights("alex"), strict=True))
    monkeypatch.setattr(posed_views.weights, "read_state_dict", files.get)
    rows = [made_up.example(i, size=(32, 36)) for i in range(2)]
    options = dict(lpips_backbone="net", lpips_heads="heads", baselines=False, cloud=False)
    _, details = _run(made_up.system(rows), **options)
    metric = jax.jit(lpips.Lpips.of(*files.values()).__call__)
    for row, found in zip(rows, details["render/lpips"], strict=True):
        truth = jnp.asarray(row["target_images"] / 255, jnp.float32)
        assert found == pytest.approx(float(metric(truth + 0.1, truth).mean()), rel=1e-3)
    assert details["render/lpips"].min() > 0


def test_options_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"eval.evaluators.posed_views: unknown \['views'\]"):
        posed_views.Evaluator(made_up.system(ROWS), dict(views=3))
    with pytest.raises(ValueError, match="LPIPS needs both"):
        posed_views.Evaluator(made_up.system(ROWS), dict(lpips_heads="vgg.pth"))
