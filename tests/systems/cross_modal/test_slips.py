"""Each slip of the reference behind its switch, one by one, on what the networks are given.

The norms of three calls, the decay of norms and biases, and the balance of pairs are in ``test_system.py`` and
``test_losses.py``; the threshold on a logit in ``tests/data/test_paired.py``.
"""

import numpy as np
import pytest

from configs import cross_modal
from gsjax.systems.cross_modal import system
from tests.systems.cross_modal import tiny

SWITCHES = {
    "model.calls": ("one", "each"),
    "loss.negatives": ("batch", "dataset"),
    "data.sh_columns": ("rest45", "rest44"),
    "data.activate_features": (True, False),
    "data.uniform_replace": (False, True),
    "optim.wd_all": (False, True),
}


def _points(folder, split="test", **changes):
    built = system.build(tiny.config(folder, **changes))
    data = built.eval_data(split)
    return np.stack([data[i]["points"] for i in range(len(data))])


def _fields(tree, prefix=""):
    for name, value in tree.items():
        if hasattr(value, "items"):
            yield from _fields(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def test_parity_throws_these_switches_and_no_other():
    plain, parity = (dict(_fields(cross_modal.get_config(arg))) for arg in (None, "parity"))
    found = {k: (plain[k], parity[k]) for k in plain if plain[k] != parity[k]}
    assert found == SWITCHES
    paper = cross_modal.get_config("paper,parity")
    assert paper.data.num_points == 2048 and paper.data.sh_columns == "rest44"


@pytest.mark.slow
def test_the_last_coefficient_is_lost(folder):
    whole = _points(folder, data__features="sh")
    short = _points(folder, data__features="sh", data__sh_columns="rest44")
    assert (whole.shape[-1], short.shape[-1]) == (3 + 45 + 7, 3 + 44 + 7)
    np.testing.assert_array_equal(short, np.delete(whole, 3 + 44, axis=-1))


def test_scales_stay_logarithms_in_units_of_the_object(folder):
    """Both say the same of a Gaussian up to one factor an object; positions are normalised in both."""
    clean = _points(folder, data__features="scale_rotation")
    raw = _points(folder, data__features="scale_rotation", data__activate_features=False)
    np.testing.assert_array_equal(clean[..., :3], raw[..., :3])
    shrunk = np.log(clean[..., 3:6]) - raw[..., 3:6]
    spread = shrunk.max((1, 2)) - shrunk.min((1, 2))
    assert (spread < 1e-3).all() and (np.abs(shrunk.mean((1, 2))) > 1e-3).all()
    lengths = np.linalg.norm(raw[..., 6:], axis=-1, keepdims=True)
    same = np.abs(np.sum(clean[..., 6:] * raw[..., 6:] / lengths, -1))
    np.testing.assert_allclose(same, 1, atol=1e-3)


@pytest.mark.parametrize("replace", [False, True])
def test_uniform_samples_repeat_points(folder, replace):
    points = _points(folder, data__sampling="uniform", data__uniform_replace=replace)
    repeats = [len(x) - len(np.unique(x, axis=0)) for x in points]
    assert all(n > 0 for n in repeats) if replace else not any(repeats)


def test_the_third_picture_is_of_another_object_of_the_set(folder):
    built = system.build(tiny.config(folder, loss__negatives="dataset"))
    shown, data = built.eval_data("train/views"), built.train_data()
    owner = {}
    for i in range(len(shown)):
        for picture in shown[i]["images"]:
            owner.setdefault(picture.tobytes(), set()).add(int(shown[i]["index"]))
    strangers = set()
    for i in range(2 * len(shown)):
        example = data[i]
        own, other = int(example["index"]), owner[example["images"][2].tobytes()]
        assert all(own in owner[picture.tobytes()] for picture in example["images"][:2])
        assert other != {own}
        strangers |= other
    assert len(strangers) > len(shown) / 2  # of any object, not of the next one
