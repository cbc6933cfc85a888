"""Categories kept out of training: the split 'novel', and sets from before the option."""

import pytest

from configs import clip_gs
from gsjax.data import objects_cc0, prepare
from gsjax.evals import episodes

ENTRIES = [dict(category=name) for name in ("chair", "night_stand", "chair", "lamp", "lamp")]
SIDES = dict(train=[0, 1, 3], test=[2, 4])


def test_excluded_categories_leave_both_sides_for_one_of_their_own():
    assert objects_cc0.hold_out(ENTRIES, SIDES, ()) == SIDES
    found = objects_cc0.hold_out(ENTRIES, SIDES, ["lamp", "night stand"])
    assert found == dict(train=[0], test=[2], novel=[1, 3, 4])
    with pytest.raises(ValueError, match=r"unknown \['sofa'\]; known: chair, lamp, night_stand"):
        objects_cc0.hold_out(ENTRIES, SIDES, ["sofa"])
    with pytest.raises(ValueError, match="no object is left for training"):
        objects_cc0.hold_out(ENTRIES, SIDES, ["chair", "lamp", "night_stand"])


def test_only_one_set_has_the_option():
    config = dict(name="procedural", exclude_categories=("chair",))
    with pytest.raises(ValueError, match="only objects_cc0 has the option"):
        prepare.plan(config)


def test_without_exclusions_a_set_stays_what_it_was(gsjax_data):
    config = dict(name="objects_cc0", source=str(gsjax_data / "objects_cc0"))
    plain = prepare.plan(config)
    assert prepare.plan(dict(config, exclude_categories=())).identity == plain.identity
    # what sets made before the option are keyed with
    assert set(plain.identity) == {
        *("set", "views", "view_size", "ordered", "render_version", "source", "split", "limit"),
        *("seed", "gaussians", "version"),
    }


def test_the_config_trains_without_the_categories_of_the_episodes(gsjax_data):
    config = clip_gs.get_config("data=objects_cc0,few_shot")
    shipped = episodes.load("objects_cc0")
    assert tuple(config.data.exclude_categories) == shipped.categories
    assert config.eval.evaluators.few_shot.splits == ("novel",)
    assert "exclude_categories" not in clip_gs.get_config("data=objects_cc0").data
    config.data.source = str(gsjax_data / "objects_cc0")
    plan = prepare.plan(config.data)
    assert plan.splits == dict(train=758, test=201, novel=374)
    assert prepare.plan(
        {**config.data, "exclude_categories": shipped.categories[::-1]}
    ).identity == (plan.identity)
    collection = objects_cc0.Collection(config.data.source)
    novel = {e["id"] for e in collection.entries if e["category"] in shipped.categories}
    assert shipped.uids <= novel and len(novel) == 374
    with pytest.raises(ValueError, match="shipped: .*objects_cc0"):
        clip_gs.get_config("few_shot")  # no episodes of procedural objects
