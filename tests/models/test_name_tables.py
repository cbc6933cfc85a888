import re

import numpy as np
import pytest

from gsjax.models import name_tables
from gsjax.models.name_tables import Entry

TABLE = [
    Entry("fc.weight", "fc/kernel", "linear"),
    Entry("conv.weight", "conv/kernel", "conv2d"),
    Entry("line.weight", "line/kernel", "conv1d"),
    Entry("point.weight", "point/kernel", "conv1x1"),
    Entry(("q", "k", "v"), "qkv/kernel", "linear"),
    Entry("scale", "scale"),
]


@pytest.fixture()
def state():
    rng = np.random.default_rng(0)
    shapes = {
        "fc.weight": (3, 2),
        "conv.weight": (5, 3, 2, 4),
        "line.weight": (5, 3, 2),
        "point.weight": (4, 3, 1),
        **{"q": (2, 6), "k": (2, 6), "v": (2, 6), "scale": ()},
    }
    return {key: np.asarray(rng.normal(size=shape)) for key, shape in shapes.items()}


@pytest.fixture()
def shapes():
    return {
        "fc/kernel": (2, 3),
        "conv/kernel": (2, 4, 3, 5),
        "line/kernel": (2, 3, 5),
        "point/kernel": (3, 4),
        "qkv/kernel": (6, 6),
        "scale": (),
    }


def test_layouts_and_joins(state, shapes):
    found = name_tables.convert(state, TABLE, shapes, what="net").variables
    assert found["fc"]["kernel"][1, 2] == state["fc.weight"][2, 1]
    assert found["conv"]["kernel"][1, 3, 2, 4] == state["conv.weight"][4, 2, 1, 3]
    assert found["line"]["kernel"][1, 2, 4] == state["line.weight"][4, 2, 1]
    assert found["point"]["kernel"][2, 3] == state["point.weight"][3, 2, 0]
    np.testing.assert_array_equal(found["qkv"]["kernel"][:, 2:4], state["k"].T)


def test_inverting_gives_the_state_dict_back(state, shapes):
    found = name_tables.convert(state, TABLE, shapes, what="net").variables
    back = name_tables.invert(found, TABLE)
    assert set(back) == set(state)
    for key, value in state.items():
        np.testing.assert_array_equal(back[key], value)


def test_unequal_joins_cannot_be_taken_apart():
    table = [Entry(("a", "b"), "ab")]
    with pytest.raises(ValueError, match=r"ab: shape \(3,\) cannot be taken apart"):
        name_tables.invert({"ab": np.zeros(3)}, table)


def test_one_error_lists_everything(state, shapes):
    del state["k"]
    state["extra"] = np.zeros(1)
    state["fc.weight"] = np.zeros((3, 7))
    state["point.weight"] = np.zeros((4, 3))
    with pytest.raises(ValueError) as info:
        name_tables.convert(state, TABLE, shapes | {"left": (1,)}, what="net")
    text = str(info.value)
    assert text.startswith("net: the checkpoint does not fit (5 problems)")
    assert "missing: k" in text and "unexpected: extra" in text
    assert "fc.weight -> fc/kernel: found (7, 3), expected (2, 3)" in text
    assert "point.weight" in text and "not in the checkpoint's format: left" in text


def test_known_keys_may_be_ignored(state, shapes):
    state["known.1"] = state["unknown.1"] = np.zeros(1)
    with pytest.raises(ValueError, match=r"\(1 problems\).*\nunexpected: unknown\.1$"):
        name_tables.convert(state, TABLE, shapes, what="net", ignore=[r"known\."])


@pytest.mark.parametrize(
    "changes, found",
    [
        (dict(q=np.zeros((2, 5))), r"\(2, 5\) float64, \(2, 6\) float64, \(2, 6\) float64"),
        (dict(k=np.zeros(6)), r"\(2, 6\) float64, \(6,\) float64, \(2, 6\) float64"),
        (dict(q=np.zeros(()), k=np.zeros(()), v=np.zeros(())), r"\(\) float64, \(\) float64, "),
    ],
)
def test_arrays_that_cannot_be_joined_are_listed_among_the_rest(state, shapes, changes, found):
    state |= changes
    del state["scale"]
    state["conv.weight"] = np.zeros((5, 3))
    with pytest.raises(ValueError, match=r"net: .*\(3 problems\)") as info:
        name_tables.convert(state, TABLE, shapes, what="net", dtype=np.float32)
    text = str(info.value)
    assert re.search(r"shape of \('q', 'k', 'v'\): found " + found, text) and "joined" in text
    assert "conv.weight: found (5, 3) float64; not that of a conv2d" in text
    assert "missing: scale" in text


def test_ranks_are_checked_all_at_once():
    shapes = {"a": (2, 3), "b": (), "c": (2,), "d": (0, 3), "other": ()}
    name_tables.check_ranks(shapes, {"a": 2, "c": 1, "absent": 3}, "net")
    with pytest.raises(ValueError) as info:
        name_tables.check_ranks(shapes, {"a": 2, "b": 1, "c": 2, "d": 2}, "net")
    assert str(info.value).splitlines()[1:] == [
        "b: found shape (), expected 1 axes, none of length 0",
        "c: found shape (2,), expected 2 axes, none of length 0",
        "d: found shape (0, 3), expected 2 axes, none of length 0",
    ]


def test_types_are_cast_on_request(state, shapes):
    found = name_tables.convert(state, TABLE, shapes, what="net", dtype=np.float16).variables
    kernel = found["fc"]["kernel"]
    assert kernel.dtype == np.float16 and kernel.flags.c_contiguous and kernel.flags.owndata
    assert found["scale"].shape == ()


def test_a_table_that_names_what_the_model_lacks_is_a_mistake(state, shapes):
    with pytest.raises(ValueError, match="the table names 'scale', which the model lacks"):
        del shapes["scale"]
        name_tables.convert(state, TABLE, shapes, what="net")
