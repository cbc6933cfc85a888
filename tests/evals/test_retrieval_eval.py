"""evals.retrieval and evals.zero_shot on a system that is nothing but its data."""

import grain
import jax
import numpy as np
import pytest

from gsjax.evals import retrieval, zero_shot
from gsjax.systems import base

NUM, DIM = 13, 6
NAMES = ["chair", "table", "other"]


def _unit(x):
    return (x / np.linalg.norm(x, axis=-1, keepdims=True)).astype(np.float32)


def _system(constant=False):
    """Embeddings are the batch itself: objects equal their captions unless ``constant``."""
    rng = np.random.default_rng(0)
    text = _unit(rng.normal(size=(NUM, DIM)))
    classes = _unit(rng.normal(size=(len(NAMES), DIM)))
    examples = [
        dict(
            index=np.int32(i),
            valid=np.bool_(True),
            gaussian=_unit(np.ones(DIM)) if constant else text[i],
            text=text[i],
            image=_unit(np.stack([text[i], -text[i]])),
            caption_hash=np.uint32(i // 2),
            category=np.int32(i % 3),
        )
        for i in range(NUM)
    ]

    def embed(variables, batch):
        return {**batch, "gaussian": batch["gaussian"] * variables["params"]["one"]}

    return base.System(
        name="data",
        batch_spec={k: jax.ShapeDtypeStruct(v.shape, v.dtype) for k, v in examples[0].items()},
        init=lambda rng: {"params": {"one": np.float32(1)}},
        loss=lambda *args: None,
        predict_fns={"embed": embed},
        train_data=lambda: grain.MapDataset.source(examples),
        eval_data=lambda split: grain.MapDataset.source(examples),
        info=dict(class_names=NAMES, class_embeds={"name": classes.tolist()}),
    )


VARIABLES = {"params": {"one": np.float32(1)}}


def _run(evaluator, system, **options):
    return evaluator.Evaluator(system, options).run(VARIABLES, lambda batch: batch)


def test_perfect_embeddings_find_everything_in_all_four_directions():
    found = _run(retrieval, _system(), batch_size=8)
    assert found["num_objects"] == NUM  # the padded rows of the last batch are gone
    for name in ("text_to_gaussian", "gaussian_to_text", "image_to_gaussian", "gaussian_to_image"):
        assert found[f"{name}/R@1"] == found[f"{name}/R@1_pessimistic"] == 100.0
        assert found[f"{name}/median_rank"] == 1.0
    opposite = _run(retrieval, _system(), image_view=1)
    assert opposite["image_to_gaussian/R@1"] == 0.0


def test_constant_embeddings_find_nothing_when_ties_count_against_them():
    found = _run(retrieval, _system(constant=True))
    assert found["text_to_gaussian/R@1"] == 100.0
    assert found["text_to_gaussian/R@10_pessimistic"] == 0.0
    np.testing.assert_allclose(found["gaussian_to_text/R@1"], 100 / NUM)


def test_systems_without_captions_have_two_directions():
    system = _system()

    def space(variables, batch):
        return {k: v for k, v in batch.items() if k not in ("text", "caption_hash")}

    system.predict_fns["space"] = space
    found = _run(retrieval, system, predict="space", image_view=0)
    assert {name.split("/")[0] for name in found} == {
        "num_objects", "gaussian_to_image", "image_to_gaussian",
    }  # fmt: skip
    assert found["image_to_gaussian/R@1_pessimistic"] == 100.0
    assert "image_to_gaussian/R@1_any" not in found


def test_categories_can_be_left_out():
    system = _system()
    evaluator = retrieval.Evaluator(system, dict(exclude=("other",), bootstrap=50))
    found = evaluator.run(VARIABLES, lambda batch: batch)
    assert found["num_objects"] == 9.0 and set(evaluator.details["category"]) == {0, 1}
    assert found["text_to_gaussian/R@1_pessimistic_low"] == 100.0
    with pytest.raises(ValueError, match="unknown categories"):
        _run(retrieval, system, exclude=("sofa",))


def test_zero_shot_by_hand():
    system = _system()
    found = _run(zero_shot, system, templates="name", bootstrap=20)
    classes = np.asarray(system.info["class_embeds"]["name"])
    text = np.stack([e["text"] for e in system.train_data()])
    labels = np.arange(NUM) % 3
    hits = np.argmax(text @ classes.T, 1) == labels
    np.testing.assert_allclose(found["top1"], 100 * hits.mean())
    macro = 100 * np.mean([hits[labels == c].mean() for c in range(3)])
    np.testing.assert_allclose(found["top1_macro"], macro)
    assert found["top3"] == 100.0 and found["chance"] == 100 / 3
    np.testing.assert_allclose(found["majority"], 100 * 5 / 13)
    assert found["top1_low"] <= found["top1"] <= found["top1_high"]
    two = _run(zero_shot, system, templates="name", exclude=("other",))
    assert two["chance"] == 50.0


def test_unknown_options_are_refused():
    with pytest.raises(ValueError, match="unknown .'splits'."):
        retrieval.Evaluator(_system(), dict(splits="test"))
    with pytest.raises(ValueError, match="holds .'name'."):
        zero_shot.Evaluator(_system(), dict(templates="modelnet40_64"))


@pytest.mark.parametrize(
    "evaluator, options", [(retrieval, {}), (zero_shot, {"templates": "name"})]
)
def test_an_encoder_that_diverged_has_no_score(evaluator, options):
    broken = {"params": {"one": np.float32(np.nan)}}
    with pytest.raises(FloatingPointError, match="'gaussian' of 13 of 13 examples is not finite"):
        evaluator.Evaluator(_system(), options).run(broken, lambda batch: batch)


@pytest.mark.parametrize("view", [2, -2])
def test_a_view_that_is_not_there_is_refused(view):
    with pytest.raises(ValueError, match="image_view: found -?2; expected 0 to 1"):
        _run(retrieval, _system(), image_view=view)
