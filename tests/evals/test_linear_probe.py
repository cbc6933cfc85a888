"""evals.linear_probe on features made by hand."""

import grain
import jax
import numpy as np
import pytest

from gsjax.evals import linear_probe
from gsjax.systems import base

NAMES, DIM = ["chair", "table", "lamp", "other"], 8


def _examples(count, noise, seed, start):
    rng = np.random.default_rng(seed)
    centers = np.random.default_rng(99).normal(size=(len(NAMES), DIM))
    return [
        dict(
            index=np.int32(start + i),
            valid=np.bool_(True),
            category=np.int32(i % len(NAMES)),
            gaussian=(centers[i % len(NAMES)] + noise * rng.normal(size=DIM)).astype(np.float32),
        )
        for i in range(count)
    ]


def _system(train, test):
    splits = dict(train=train, test=test)
    return base.System(
        name="data",
        batch_spec={k: jax.ShapeDtypeStruct(v.shape, v.dtype) for k, v in train[0].items()},
        init=lambda rng: {"params": {}},
        loss=lambda *args: None,
        predict_fns={"embed": lambda variables, batch: batch},
        train_data=lambda: grain.MapDataset.source(train),
        eval_data=lambda split: grain.MapDataset.source(splits[split]),
        info=dict(class_names=NAMES),
    )


def _run(system, **options):
    evaluator = linear_probe.Evaluator(system, dict(bootstrap=200) | options)
    return evaluator.run({"params": {}}, lambda batch: batch), evaluator.details


def test_separable_classes_give_a_hundred_per_cent():
    system = _system(_examples(80, 0.02, 0, 0), _examples(21, 0.02, 1, 80))
    found, details = _run(system, shots=(1, 4), draws=3)
    assert found["top1"] == found["top1_macro"] == found["train_top1"] == 100.0
    assert found["top1_low"] == 100.0 and found["num_train"] == 80 and found["num_objects"] == 21
    assert found["top1_1shot/mean"] == 100.0 and found["top1_4shot/std"] == 0.0
    assert details["hit"].all() and sorted(details["index"]) == list(range(80, 101))


def test_noise_gives_chance_within_its_interval():
    rng = np.random.default_rng(0)
    parts = [_examples(400, 0.0, 0, 0), _examples(400, 0.0, 1, 400)]
    for example in parts[0] + parts[1]:
        example["gaussian"] = rng.normal(size=DIM).astype(np.float32)
    found, _ = _run(_system(*parts))
    assert found["top1_low"] < 25.0 < found["top1_high"] and found["majority"] == 25.0
    # 400 Bernoulli draws: a standard error of 2.2 points, 8.5 between the ends
    assert 5 < found["top1_high"] - found["top1_low"] < 12


def test_the_order_of_records_changes_nothing():
    train, test = _examples(120, 1.5, 0, 0), _examples(60, 1.5, 1, 120)
    rng = np.random.default_rng(2)
    mixed = [[part[i] for i in rng.permutation(len(part))] for part in (train, test)]
    plain, first = _run(_system(train, test), shots=(3,), bootstrap=0)
    again, second = _run(_system(*mixed), shots=(3,), bootstrap=0, batch_size=16)
    assert plain == again and 30 < plain["top1"] < 99
    order = np.argsort(second["index"])
    np.testing.assert_array_equal(first["hit"], second["hit"][order])


def test_more_shots_help_and_unknown_classes_count_as_wrong():
    train, test = _examples(200, 1.0, 0, 0), _examples(200, 1.0, 1, 200)
    found, _ = _run(_system(train, test), shots=(1, 16))
    assert found["top1_1shot/mean"] + 5 < found["top1_16shot/mean"] <= found["top1"] + 5
    blind = [e for e in train if e["category"] != 2]
    missing, details = _run(_system(blind, test))
    assert not details["hit"][details["category"] == 2].any()
    assert missing["top1"] < found["top1"] - 10


def test_categories_can_be_left_out_and_bad_options_are_refused():
    system = _system(_examples(40, 0.1, 0, 0), _examples(20, 0.1, 1, 40))
    found, details = _run(system, exclude=("other",))
    assert found["num_train"] == 30 and found["num_objects"] == 15 and 3 not in details["category"]
    with pytest.raises(ValueError, match="unknown categories"):
        _run(system, exclude=("sofa",))
    with pytest.raises(ValueError, match="shots and draws from 1 on"):
        _run(system, shots=(0,))
    with pytest.raises(ValueError, match="unknown .'shot'."):
        _run(system, shot=(1,))


def test_a_draw_takes_the_same_number_of_every_class():
    labels = np.array([0] * 10 + [1] * 3 + [2] * 6)
    rows = linear_probe.draw_rows(labels, 4, np.random.default_rng(0))
    np.testing.assert_array_equal(np.bincount(labels[rows]), [4, 3, 4])
    assert len(set(rows)) == 11
