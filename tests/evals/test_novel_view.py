"""Rendering scores of predictors whose scores are known."""

import jax.numpy as jnp
import numpy as np
import pytest

from gsjax.data import examples
from gsjax.evals import novel_view
from gsjax.systems import base

SIZE, OBJECTS, VIEWS = 16, 5, 3


def _example(index):
    rng = np.random.default_rng(index)
    alpha = np.zeros((VIEWS, SIZE, SIZE), np.float32)
    alpha[:, 4:12, 2 + index : 10 + index] = 1.0
    colour = rng.uniform(size=3)
    return dict(
        index=np.int32(index),
        valid=np.bool_(True),
        picture=(alpha[..., None] * colour).astype(np.float32),
        alpha=alpha,
    )


def _targets(variables, batch):
    return dict(
        target=batch["picture"],
        target_alpha=batch["alpha"],
        index=batch["index"],
        valid=batch["valid"],
    )


def _off_by(error):
    def render(variables, batch):
        found = _targets(variables, batch)
        image = found["target"] + error * found["target_alpha"][..., None]
        return dict(found, image=image, alpha=found["target_alpha"])

    return render


@pytest.fixture
def system():
    def data(split):
        return examples.in_memory([_example(i) for i in range(OBJECTS)])

    return base.System(
        name="drawn",
        batch_spec={},
        init=None,
        loss=None,
        predict_fns=dict(render=_off_by(-0.01), blind=_off_by(-0.1), targets=_targets),
        train_data=lambda: data("train"),
        eval_data=data,
        info=dict(references=1),
    )


def _run(system, **options):
    evaluator = novel_view.Evaluator(system, dict(batch_size=4, **options))
    put = lambda batch: {k: jnp.asarray(v) for k, v in batch.items()}  # noqa: E731
    return evaluator.run({}, put), evaluator.details


def test_known_errors_give_known_scores(system):
    found, details = _run(system)
    assert found["num_objects"] == OBJECTS
    # Colours below the error are clipped to black: a little better than 40 dB.
    assert found["novel/psnr_fg"] == pytest.approx(40.0, abs=1.0)
    assert found["reference/psnr_fg"] == pytest.approx(found["novel/psnr_fg"], abs=1e-3)
    assert found["blind/psnr_fg"] == pytest.approx(20.0, abs=1.5)
    assert found["novel/iou"] == 1.0
    # A quarter of the pixels is foreground: 6 dB more over the whole picture.
    assert found["novel/psnr"] - found["novel/psnr_fg"] == pytest.approx(6.02, abs=0.1)
    assert sorted(details["index"]) == list(range(OBJECTS))


def test_baselines_know_nothing_and_score_so(system):
    found, _ = _run(system)
    assert found["blank/iou"] == 0.0 and found["silhouette/iou"] == 1.0
    assert found["blank/psnr_fg"] < found["silhouette/psnr_fg"] < found["novel/psnr_fg"]
    truth = np.stack([_example(i)["picture"] for i in range(OBJECTS)])
    mean = truth.mean((0, 1))
    error = np.square(truth[:, 1:] - mean).mean((2, 3, 4))
    assert found["mean/psnr"] == pytest.approx(float((-10 * np.log10(error)).mean()), abs=1e-3)


def test_intervals_contain_the_mean(system):
    found, _ = _run(system, bootstrap=200, baselines=False)
    low, high = found["novel/psnr_fg_low"], found["novel/psnr_fg_high"]
    assert low <= found["novel/psnr_fg"] <= high
    assert "blank/psnr" not in found


def test_unknown_options_are_refused(system):
    with pytest.raises(ValueError, match=r"eval.evaluators.novel_view: unknown \['views'\]"):
        novel_view.Evaluator(system, dict(views=3))
