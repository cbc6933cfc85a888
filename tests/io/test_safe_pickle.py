"""Programs may make plain data; whatever else they try is refused, and costs what they are long."""

import copy
import io
import pickle
import time

import pytest

from gsjax.io import safe_pickle
from tests.io import programs as p

PLAIN = {
    "numbers": [0, 1, -1, 255, 256, 65_536, 2**31, -(2**40), 2**77, 1.5, True, False, None],
    "texts": ["", "a", "ü" * 300, b"", b"\0\xff" * 200],
    "tuples": ((), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4), [[(), {}]]),
    3: {(1, "a"): {"b": []}},
}


class _Thing(safe_pickle.Buildable):
    __slots__ = ()


class _Value(safe_pickle.Standin):
    __slots__ = ("one", "two")


def _load(code, names=None, reference=None):
    return safe_pickle.load(io.BytesIO(code), names or {}, reference)


def _names():
    maker = safe_pickle.Maker(_Thing)
    return {("m", "Make"): maker, ("m", "Value"): _Value(1, 2), ("m", "make"): maker}


@pytest.mark.parametrize("protocol", range(1, 6))
def test_plain_data_comes_back(protocol):
    value = {k: v for k, v in PLAIN.items() if protocol > 2 or k != "texts"}
    value["sets"] = [{1, "a"}, frozenset((2, None))] if protocol > 3 else []
    value["shared"] = [value["numbers"]] * 2
    found = _load(pickle.dumps(value, protocol))
    assert found == value
    assert found["shared"][0] is found["shared"][1] is found["numbers"]
    many = list(range(3000)), {str(i): i for i in range(3000)}
    assert _load(pickle.dumps(many, protocol)) == many


def test_programs_follow_one_another_in_a_stream():
    stream = io.BytesIO(pickle.dumps([1], 2) + pickle.dumps("two", 4) + b"rest")
    assert [safe_pickle.load(stream, {}) for _ in range(2)] == [[1], "two"]
    assert stream.read() == b"rest"


def test_text_of_python_2_is_read_as_utf_8():
    assert _load(b"\x80\x02U\x03w\xc3\xbc.") == "wü"


def test_names_outside_the_table_are_refused_with_both_spellings():
    for code in (p.name("os", "system"), p.text("os") + p.text("system") + b"\x93"):
        with pytest.raises(safe_pickle.UnknownNameError, match=r"asks to load os\.system") as info:
            _load(p.program(code), _names())
        assert (info.value.module, info.value.name) == ("os", "system")


@pytest.mark.parametrize(
    "code",
    [
        b"(im\nMake\n",  # INST
        b"(" + p.name("m", "Make") + b"o",  # OBJ
        p.name("m", "Make") + b")\x81",  # NEWOBJ
        p.name("m", "Make") + b")}\x92",  # NEWOBJ_EX
        b"\x82\x01",  # EXT1
        b"\x83\x01\x00",  # EXT2
        b"\x84\x01\x00\x00\x00",  # EXT4
        b"P0\n",  # PERSID
        b"\x97",  # NEXT_BUFFER
        p.EMPTY_LIST + b"\x98",  # READONLY_BUFFER
        b"\x96" + (2).to_bytes(8, "little") + b"ab",  # BYTEARRAY8
    ],
)
def test_instructions_that_plain_data_does_not_need_are_refused(code):
    with pytest.raises(safe_pickle.ProgramError, match="the instruction [A-Z_0-9]+, which plain"):
        _load(p.program(code), _names())


@pytest.mark.parametrize("called", [p.name("m", "Value"), p.text("a"), p.EMPTY_DICT, p.NONE])
def test_only_functions_of_the_table_can_be_called(called):
    with pytest.raises(safe_pickle.ProgramError, match="a call of what is no function"):
        _load(p.program(called, b")", p.REDUCE), _names())


@pytest.mark.parametrize("made", [p.name("m", "Value"), p.name("m", "make"), p.EMPTY_LIST, b")"])
@pytest.mark.parametrize(
    "state",
    [
        p.mapping(one=p.number(7), kind=p.NONE, __class__=p.NONE),
        p.several(p.NONE, p.mapping(one=p.number(7), kind=p.NONE)),
        p.several(p.number(7), p.number(8)),
    ],
)
def test_what_a_program_is_given_cannot_be_altered(made, state):
    names = _names()
    with pytest.raises(safe_pickle.ProgramError, match="an attempt to alter a"):
        _load(p.program(made, state, p.BUILD), names)
    assert (names["m", "Value"].one, names["m", "Value"].two) == (1, 2)
    assert names["m", "make"].kind is _Thing


def test_standins_refuse_to_be_altered_or_copied_by_anyone():
    value = _Value(1, 2)
    for attempt in (
        lambda: setattr(value, "one", 3),
        lambda: setattr(value, "three", 3),
        lambda: setattr(value, "__class__", _Thing),
        lambda: delattr(value, "one"),
    ):
        with pytest.raises(AttributeError, match="_Value cannot be altered"):
            attempt()
    with pytest.raises(safe_pickle.ProgramError, match="_Value cannot be altered"):
        value.__setstate__((None, {"one": 3}))
    for attempt in (copy.copy, copy.deepcopy, pickle.dumps):
        with pytest.raises(TypeError, match="cannot be pickled or copied"):
            attempt(value)
    assert (value.one, value.two) == (1, 2)


def test_an_object_is_filled_once():
    made = p.name("m", "Make") + p.several(p.number(5)) + p.REDUCE
    found = _load(p.program(made, p.number(6), p.BUILD), _names())
    assert (found.args, found.state) == ((5,), 6)
    with pytest.raises(safe_pickle.ProgramError, match="_Thing is filled twice"):
        _load(p.program(made, p.number(6), p.BUILD, p.number(7), p.BUILD), _names())


def test_attributes_of_ordered_dicts_are_dropped():
    names = {("collections", "OrderedDict"): safe_pickle.OrderedDict()}
    made = p.name("collections", "OrderedDict") + b")" + p.REDUCE
    state = p.mapping(_metadata=p.EMPTY_DICT, items=p.NONE, keys=p.NONE)
    for given in (state, p.several(p.NONE, p.mapping(__class__=p.NONE, items=p.NONE))):
        found = _load(p.program(made, p.text("a"), p.number(1), p.SETITEM, given, p.BUILD), names)
        assert type(found) is dict and found == {"a": 1}


def test_ordered_dicts_of_python_2_take_their_pairs_and_multiply_nothing():
    names = {("collections", "OrderedDict"): safe_pickle.OrderedDict()}
    pairs = b"]q\x01(]q\x02(" + p.text("a") + p.number(1) + b"ee"
    made = p.name("collections", "OrderedDict")
    assert _load(p.program(made, pairs, b"\x85", p.REDUCE), names) == {"a": 1}
    again = made + pairs + b"\x85" + p.REDUCE + made + b"h\x01\x85" + p.REDUCE + b"\x86"
    assert _load(p.program(again), names) == ({"a": 1}, {})


@pytest.mark.parametrize(
    "use", [b"}" + p.tower(400) + b"Ns", b"(" + p.tower(400) + b"\x91", b"\x8f(" + p.tower(400) + b"\x90"]
)  # fmt: skip
def test_keys_that_would_take_exponential_time_are_refused_at_once(use):
    began = time.process_time()
    with pytest.raises(safe_pickle.ProgramError, match="a key that is neither text nor a number"):
        _load(p.program(use))
    assert time.process_time() - began < 1


def test_memo_indices_cost_no_memory_and_integers_are_bounded():
    assert _load(p.program(p.number(1), b"r\xff\xff\xff\x7f")) == 1  # 16 GB in a list of slots
    with pytest.raises(safe_pickle.ProgramError, match="an integer of 1599 bits"):
        _load(p.program(b"\x8a\xc8" + b"\xff" * 199 + b"\x7f"))
    with pytest.raises(safe_pickle.ProgramError, match="a call with 17 arguments"):
        _load(p.program(p.name("m", "Make"), p.several(*[b"N"] * 17), p.REDUCE), _names())


@pytest.mark.parametrize(
    "code",
    [
        *(b"", b"\x80\x02", b".", b"t.", b"(1", b"0.", b"h\x07.", b"q\x00.", b"NN.", b"(N.", b"a."),
        *(b"Nb.", b"Na.", b"N\x85\x87.", b"}Ns.", b"}(Nu.", b"](Ne", b"\xff.", b"NQ.", b"N\x93."),
        *(b"J\x00\x00", b"X\xff\xff\xff\xffab.", b"X\x01\x00\x00\x00\xff.", b"I1x\n.", b"NNR."),
        p.program(p.name("m", "Make"), b"]", p.REDUCE),
        p.program(p.name("m", "Make")[:-3]),
    ],
)
def test_broken_programs_give_one_kind_of_error(code):
    with pytest.raises(safe_pickle.ProgramError):
        _load(code, _names())


def test_every_cut_and_many_changed_bytes_give_one_kind_of_error():
    whole = pickle.dumps(PLAIN, 2)
    for cut in range(len(whole) - 1):
        with pytest.raises(safe_pickle.ProgramError):
            _load(whole[:cut])
    for place in range(2, len(whole), 3):
        for changed in (0x00, 0x28, 0x52, 0x62, 0x81, 0xFF):
            code = bytearray(whole)
            code[place] = changed
            try:
                _load(bytes(code))
            except safe_pickle.ProgramError:
                pass
