"""Examples by ``config.data``: fields, views of each split, teachers, refusals."""

import functools
import json

import numpy as np
import pytest

from gsjax.data import loader, pointmap_cache
from gsjax.systems.pm_loss import data
from tests.systems.pm_loss import tiny


@functools.cache
def _built():
    return tiny.system()


def _matches(example, spec):
    assert set(example) >= set(spec)
    for name, struct in spec.items():
        assert example[name].shape == struct.shape and example[name].dtype == struct.dtype, name


def test_training_examples_are_what_the_spec_says():
    example = _built().train_data()[0]
    _matches(example, _built().batch_spec)
    assert example["pointmaps"].shape == (2, 16, 16, 3) and (example["pointmap_conf"] > 0).any()
    # The exact teacher: points of the first view lie at its depth.
    known = example["pointmap_conf"][0] > 0
    np.testing.assert_allclose(
        example["pointmaps"][0, known, 2], example["context_depths"][0][known], rtol=1e-5
    )


def test_evaluation_examples_have_no_pointmaps_and_are_never_mirrored():
    for split in ("test", "test_seen"):
        examples = list(_built().eval_data(split))
        assert len(examples) == 2 and not any(e["flipped"] for e in examples)
        assert "pointmaps" not in examples[0]
        _matches(examples[0], {k: v for k, v in _built().batch_spec.items() if "pointmap" not in k})


def test_targets_lie_inside_or_outside_as_the_split_says():
    built = tiny.system(data__eval__gap=(2, 2), data__eval__reach=1)
    for example in built.eval_data("test"):
        low, high = example["context_frames"]
        assert high - low == 2 and (example["target_frames"] == low + 1).all()
    for example in built.eval_data("test/extrapolation"):
        low, high = example["context_frames"]
        assert high - low == 2 and set(example["target_frames"]) == {low - 1, high + 1}
    names = built.info["uids"]("test/extrapolation")
    assert len(names) == 2 and all("test" in name for name in names)


def test_an_index_file_chooses_frames(tmp_path):
    path = tmp_path / "index.json"
    frames = dict(context=[1, 5], target=[0, 3, 6])
    path.write_text(json.dumps({"000001": frames, "other": None}))
    (example,) = tiny.system(data__eval__index=str(path)).eval_data("test/index")
    assert example["context_frames"].tolist() == [1, 5]
    assert example["target_frames"].tolist() == [0, 3, 6]


def test_the_order_and_views_of_training_do_not_depend_on_the_teacher():
    draws = []
    for arg in ("quick", "quick,loss=none", "quick,teacher=noisy"):
        with loader.train_iterator(
            tiny.system(arg).train_data(), seed=3, global_batch=2, num_threads=0
        ) as iterator:
            batches = [next(iterator) for _ in range(4)]
        draws.append([(b["index"].tolist(), b["target_frames"].tolist()) for b in batches])
    assert draws[0] == draws[1] == draws[2]


def test_the_number_of_views_is_one_for_each_batch():
    built = tiny.system(data__context_views=(2, 4))
    with loader.train_iterator(
        built.train_data(), seed=0, global_batch=4, num_threads=0
    ) as iterator:
        batches = [next(iterator) for _ in range(8)]
    found = [b["context_images"].shape[1] for b in batches]
    assert set(found) <= {2, 3, 4} and len(set(found)) > 1
    assert all(b["pointmaps"].shape[1] == v for b, v in zip(batches, found))
    assert built.batch_spec["context_images"].shape[0] == 2


def test_a_cache_of_pointmaps_decides_the_context_views(tmp_path):
    plain = tiny.system()
    name = plain.info["uids"]("train")
    identity = pointmap_cache.identity(
        mode="tuple", teacher="made up", revision="1", height=16, width=16
    )
    with pointmap_cache.Writer(tmp_path / "maps", identity) as writer:
        for scene in name:
            points = np.full((2, 8, 8, 3), 2.0)
            writer.add(scene, [1, 4], points, np.ones((2, 8, 8)))
    pointmap_cache.seal(tmp_path / "maps", identity)
    built = tiny.system("quick,teacher=cache", data__teacher__cache=str(tmp_path / "maps"))
    example = built.train_data()[0]
    assert example["context_frames"].tolist() == [1, 4]
    assert example["pointmaps"].shape == (2, 16, 16, 3)


@pytest.mark.parametrize(
    "overrides, message",
    [
        (dict(data__draw="random"), "data.draw: unknown 'random'; known: many, bounded, paired"),
        (dict(data__draw="bounded", data__context_views=(2, 3)), "'bounded' gives two context"),
        (dict(data__draw="paired", data__context_views=(2, 3)), "one number of views"),
        (dict(data__context_views=(1, 2)), "data.context_views: expected 2 <= least"),
        (dict(data__near=9.0), "expected 0 < near < far"),
    ],
)
def test_settings_that_do_not_go_together(overrides, message):
    with pytest.raises(ValueError, match=message):
        tiny.system(**overrides)


def test_unknown_splits_are_refused():
    with pytest.raises(ValueError, match="split: unknown 'outside' in 'test/outside'"):
        _built().eval_data("test/outside")
    with pytest.raises(ValueError, match="data.eval.index=FILE"):
        _built().eval_data("test/index")
    with pytest.raises(ValueError, match="there is no extrapolation"):
        tiny.system(data__draw="paired").eval_data("test/extrapolation")


def test_the_recorded_room_is_read_in_pairs(gsjax_data):
    built = tiny.system("data=hololens_room,loss=pm", model__changes={}, data__height=16)
    example = built.train_data()[0]
    _matches(example, built.batch_spec)
    known = example["pointmap_conf"] > 0
    assert 0.1 < known.mean() < 1  # a sensor's depth has holes
    held = built.eval_data("test")
    assert len(held) == 32
    train = set(
        np.concatenate([built.train_data()[i]["context_frames"] for i in range(3)]).tolist()
    )
    assert train  # frames are numbered within their split
    assert data.as_pictures(example["context_images"]).max() <= 1
