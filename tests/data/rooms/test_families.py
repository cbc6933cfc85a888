"""Rooms for feed-forward models: held-out families of things, and glides whose frames overlap."""

import numpy as np
import pytest

from gsjax.data import clouds
from gsjax.data.rooms import layout, source, things
from gsjax.data.view_samplers import camera_centres

_BOTH = {"corner block", "rug", "pendant"}  # in rooms of either side
# Names that things carry, where they differ from their family's.
_OF = {name: "small thing" for name in ("bottle", "bowl", "candle")}


def _held(families, count=6):
    names = set()
    for seed in range(count):
        names |= set(layout.furnish(np.random.default_rng(seed), families=families).names)
    return {_OF.get(name, name) for name in names} - _BOTH


def test_families_are_split_and_all_known():
    assert set(layout.FAMILIES) == set(things.MAKERS) - {"rug"}
    assert not set(layout.SEEN) & set(layout.UNSEEN)


def test_rooms_hold_what_is_allowed_alone():
    seen, unseen = _held(layout.SEEN), _held(layout.UNSEEN)
    assert seen <= set(layout.SEEN) and len(seen) >= 6
    assert unseen <= set(layout.UNSEEN) and len(unseen) >= 4
    assert _held(()) - set(layout.SEEN) and _held(()) - set(layout.UNSEEN)


def test_unknown_families_are_named():
    with pytest.raises(ValueError, match=r"families: unknown \['couch'\]; known: table"):
        layout.furnish(np.random.default_rng(0), families=("couch",))
    with pytest.raises(ValueError, match="Recipe.families: unknown"):
        source.Recipe(families=("couch",))


def test_sets_that_were_made_before_families_keep_their_identity():
    assert "families" not in source.Recipe().identity()
    assert source.Recipe(families=layout.SEEN).identity()["families"] == layout.SEEN


@pytest.mark.parametrize("index", range(3))
def test_glides_are_short_even_and_overlap(index):
    recipe = source.Recipe(num_frames=8, width=32, height=32, path="glide")
    scene = source.RoomScene(index, seed=1, split="train", recipe=recipe)
    centres = camera_centres(scene.viewmats)
    steps = np.linalg.norm(np.diff(centres, axis=0), axis=-1)
    assert 0.3 < steps.sum() < 1.2 and np.ptp(steps) < 0.02
    assert (scene.caster.clearance(centres) > 0.1).all()
    # Most of what the first frame sees lies in the picture of the last.
    first = scene.view(0)
    points = clouds.back_project(first.depth, first.viewmat, first.K).reshape(-1, 3)
    pixels, depth = clouds.project(points, scene.viewmats[-1], recipe.K)
    inside = (depth > 0) & ((pixels > 0) & (pixels < 32)).all(-1)
    assert inside.mean() > 0.5
