"""The command that lets a system learn one batch by heart, on a tiny model."""

import pytest

from gsjax.train import memorise
from tests.systems.unipre3d import tiny


@pytest.mark.slow
def test_scores_rise():
    config = tiny.config(train__batch_size=2)
    config.model.fusion, config.data.references = "none", 0
    config.loss.background = 1.0
    config.data.augment = False
    config.optim.lr = 5e-3
    found = memorise.run(config, 2, 2)
    assert found["steps"] == 2 and found["skipped"] == 0
    more = memorise.run(config, 40, 2)
    assert more["psnr_fg"] > found["psnr_fg"] + 1.0
    assert not memorise.learned(found)


def test_margins_are_differences_to_both_baselines_and_decide():
    names = ("novel/psnr_fg", "novel/psnr", "novel/iou", "blank/psnr_fg", "silhouette/psnr_fg")
    found = memorise._margins(dict(zip(names, (20.0, 21.0, 0.75, 9.5, 14.25), strict=True)))
    assert found == dict(psnr_fg=20.0, psnr=21.0, iou=0.75, over_blank=10.5, over_silhouette=5.75)
    good = dict(over_blank=8.0, over_silhouette=2.0, iou=0.8)
    assert memorise.learned(good)
    assert not any(memorise.learned({**good, name: value - 0.1}) for name, value in good.items())
