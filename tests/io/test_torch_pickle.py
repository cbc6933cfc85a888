"""Hostile and damaged .pt files: refused with the file's name, at the cost of what they are long."""

import os
import struct
import time
import zipfile

import numpy as np
import pytest

from gsjax.io import safe_pickle, torch_pickle, weights
from tests.io import programs as p

DATA = np.arange(4, dtype="<f4")
STATES = {
    "dict": p.mapping(dtype=p.text("int32"), name=p.text("int32"), shape=p.numbers([8])),
    "slots": p.several(p.NONE, p.mapping(dtype=p.text("int32"), name=p.text("int32"))),
    "fields": p.several(p.text("int32")),
    "five": p.several(
        p.storage(), p.text("float32"), p.number(0), p.numbers([8]), p.numbers([-(1 << 28)])
    ),
}


def _write(path, code, storages=None):
    storages = {"0": DATA.tobytes()} if storages is None else storages
    return p.write(path / "w.pt", p.program(code), storages)


def _assert_honest(path):
    found = torch_pickle.read(_write(path, p.mapping(w=p.tensor())))["w"]
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, DATA)


@pytest.mark.parametrize("state", STATES)
def test_a_tensor_cannot_be_rewritten_after_its_checks(tmp_path, state):
    _write(tmp_path, p.mapping(w=p.tensor() + STATES[state] + p.BUILD))
    with pytest.raises(torch_pickle.TorchFileError, match=r"w\.pt.*an attempt to alter a _Tensor"):
        torch_pickle.read(tmp_path / "w.pt")


@pytest.mark.parametrize("state", STATES)
def test_no_name_can_be_altered_for_this_file_or_the_next(tmp_path, state):
    for module, name in torch_pickle._names():
        alter = p.name(module, name) + STATES[state] + p.BUILD + p.POP
        _write(tmp_path, p.mapping(w=alter + p.tensor()))
        with pytest.raises(torch_pickle.TorchFileError, match="an attempt to alter"):
            torch_pickle.read(tmp_path / "w.pt")
    _assert_honest(tmp_path)


@pytest.mark.parametrize(
    "call",
    [
        lambda module, name: f"(i{module}\n{name}\n".encode(),  # INST
        lambda module, name: b"(" + p.name(module, name) + b"o",  # OBJ
        lambda module, name: p.name(module, name) + b")\x81",  # NEWOBJ
        lambda module, name: p.name(module, name) + b")}\x92",  # NEWOBJ_EX
        lambda module, name: p.name(module, name) + p.several(*[b"N"] * 9) + p.REDUCE,
    ],
    ids=["INST", "OBJ", "NEWOBJ", "NEWOBJ_EX", "REDUCE"],
)
def test_no_name_makes_more_than_tensors(tmp_path, call):
    for module, name in torch_pickle._names():
        _write(tmp_path, p.mapping(a=call(module, name), w=p.tensor()))
        with pytest.raises(torch_pickle.TorchFileError, match=r"w\.pt: damaged"):
            torch_pickle.read(tmp_path / "w.pt")
    _assert_honest(tmp_path)


def test_names_are_made_anew_for_every_program():
    one, two = torch_pickle._names(), torch_pickle._names()
    assert all(one[name] is not two[name] for name in one)
    assert all(isinstance(value, safe_pickle.Standin) for value in one.values())


@pytest.mark.parametrize(
    "fields",
    [
        dict(offset=-1),
        dict(shape=(-4,)),
        dict(strides=(-1,)),
        dict(shape=(8,)),
        dict(strides=(1 << 40,)),
        dict(shape=(4, 1)),
        dict(shape=(4.0,)),
        dict(dtype="object"),
        dict(storage=torch_pickle._Storage("0", "float32", 4, -2)),
        dict(storage=torch_pickle._Storage("1", "float32", 4, 0)),
    ],
)
def test_what_a_tensor_says_is_checked_where_its_array_is_made(fields):
    """Even if a ``_Tensor`` came about in a way that nobody thought of."""
    honest = dict(
        storage=torch_pickle._Storage("0", "float32", 4, 0),
        **dict(dtype="float32", offset=0, shape=(4,), strides=(1,)),
    )
    buffers = {"0": np.frombuffer(DATA.tobytes(), np.uint8)}
    found = torch_pickle._array(torch_pickle._Tensor(*honest.values()), buffers)
    np.testing.assert_array_equal(found, DATA)
    with pytest.raises(safe_pickle.ProgramError):
        torch_pickle._array(torch_pickle._Tensor(*(honest | fields).values()), buffers)


def test_shared_parts_are_resolved_once(tmp_path):
    began = time.process_time()
    code = p.EMPTY_LIST + p.tower(60) + p.APPEND
    found = torch_pickle.read(_write(tmp_path, code))[0]
    assert time.process_time() - began < 2
    assert found[0] is found[1] and found[0][0] is found[1][1]
    tied = p.EMPTY_DICT + p.text("a") + p.tensor() + b"q\x05s" + p.text("b") + b"h\x05s"
    found = weights.open_state_dict(_write(tmp_path, tied))
    assert found["a"] is found["b"]


def test_cycles_and_depth_are_refused(tmp_path):
    for code, message in (
        (b"]q\x00h\x00a", "a list that contains itself"),
        (b"}q\x00" + p.text("a") + b"h\x00s", "a dict that contains itself"),
        (b"]q\x00h\x00\x85a", "that contains itself"),
        (b")" + b"\x85" * 100_000, "nested more than 100 deep"),
    ):
        with pytest.raises(torch_pickle.TorchFileError, match=rf"w\.pt.*{message}"):
            torch_pickle.read(_write(tmp_path, code))
    assert torch_pickle.read(_write(tmp_path, b")" + b"\x85" * 99)) != ()


@pytest.mark.parametrize(
    "code",
    [
        p.tower(60) + p.BINPERSID,
        p.name("torch", "Size") + p.tower(60) + b"\x85" + p.REDUCE,
        p.several(p.text("storage"), p.tower(60), p.text("0"), p.text("cpu"), p.number(4)) + b"Q",
        p.name("torch._utils", "_rebuild_tensor_v2")
        + p.several(p.storage(), p.number(0), p.tower(60), p.numbers([1]))
        + p.REDUCE,
    ],
)
def test_no_message_spells_out_what_a_program_made(tmp_path, code):
    began = time.process_time()
    with pytest.raises(torch_pickle.TorchFileError) as info:
        torch_pickle.read(_write(tmp_path, code))
    assert time.process_time() - began < 2 and len(str(info.value)) < 1000


def test_values_that_are_no_tensors(tmp_path):
    found = torch_pickle.read(_write(tmp_path, p.mapping(a=p.name("torch", "float16"))))
    assert found == {"a": np.dtype(np.float16)}
    for code in (p.storage(), p.name("torch", "FloatStorage"), p.name("torch", "Size")):
        with pytest.raises(torch_pickle.TorchFileError, match="in the place of a value"):
            torch_pickle.read(_write(tmp_path, p.mapping(a=code)))


def test_an_expanded_tensor_may_not_stand_for_gigabytes(tmp_path):
    small = torch_pickle.read(_write(tmp_path, p.mapping(w=p.tensor((1 << 20, 4), (0, 1)))))["w"]
    np.testing.assert_array_equal(small[99], DATA)
    _write(tmp_path, p.mapping(w=p.tensor((1 << 30, 4), (0, 1))))
    with pytest.raises(torch_pickle.TorchFileError, match="expanded from 4 elements"):
        torch_pickle.read(tmp_path / "w.pt")


def test_compressed_members_are_refused_before_they_are_read(tmp_path):
    numel = 5_000_000
    code = p.program(p.mapping(w=p.tensor((numel,), held=p.storage(numel))))
    zeros, path = bytes(4 * numel), tmp_path / "w.pt"
    p.write(path, code, {"0": zeros}, zipfile.ZIP_DEFLATED)
    with pytest.raises(torch_pickle.TorchFileError, match=r"data\.pkl is compressed \(method 8\)"):
        torch_pickle.read(path)
    with zipfile.ZipFile(path, "w") as archive:  # the storage alone
        archive.writestr("archive/data.pkl", code)
        archive.writestr("archive/data/0", zeros, zipfile.ZIP_DEFLATED)
    with pytest.raises(torch_pickle.TorchFileError, match=r"w\.pt.*data/0 is compressed.*zip -0"):
        torch_pickle.read(path)


def _patched(path, local: dict[int, int], central: dict[int, int]):
    """Bytes of the first member's two headers, by their place in each."""
    data = bytearray(path.read_bytes())
    for start, changes in ((0, local), (data.find(b"PK\x01\x02"), central)):
        for place, value in changes.items():
            data[start + place] = value
    path.write_bytes(data)


@pytest.mark.parametrize(
    "local, central, message",
    [
        ({6: 1}, {8: 1}, "data.pkl is encrypted; save it again"),
        ({8: 99}, {10: 99}, r"is compressed \(method 99\)"),
        ({}, {6: 99}, "no zip archive"),  # a version of the format that nobody knows
        ({}, {24: 200}, "sizes that do not agree"),
        ({}, {20: 0xFF, 22: 0xFF, 24: 0xFF, 26: 0xFF}, "leaves the file"),
        ({}, {16: 7}, "data.pkl is damaged"),  # another checksum
    ],
)
def test_headers_of_members_are_checked(tmp_path, local, central, message):
    path = _write(tmp_path, p.mapping(w=p.tensor()))
    _patched(path, local, central)
    with pytest.raises(torch_pickle.TorchFileError, match=rf"w\.pt.*{message}"):
        torch_pickle.read(path)


def test_damaged_compressed_members_are_refused_too(tmp_path):
    path = p.write(tmp_path / "w.pt", p.program(p.EMPTY_DICT), method=zipfile.ZIP_DEFLATED)
    _patched(path, {45: 0xFF, 47: 0x81}, {})
    with pytest.raises(torch_pickle.TorchFileError, match=r"w\.pt.*is compressed"):
        torch_pickle.read(path)


def test_two_members_of_one_name_are_refused(tmp_path):
    path = tmp_path / "w.pt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/data.pkl", p.program(p.EMPTY_DICT))
        archive.writestr("b/data.pkl", p.program(p.EMPTY_LIST))
    with pytest.raises(torch_pickle.TorchFileError, match=r"two members with the name data\.pkl"):
        torch_pickle.read(path)


def test_torchscript_is_told_apart_though_its_code_is_compressed(tmp_path):
    path = tmp_path / "w.pt"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in ("data.pkl", "constants.pkl", "code/model.py"):
            archive.writestr(f"clip/{name}", bytes(100))
    with pytest.raises(torch_pickle.TorchFileError, match="a TorchScript archive"):
        torch_pickle.read(path)


def test_keys_that_are_no_text_are_no_names_of_parameters(tmp_path):
    code = p.EMPTY_DICT + p.number(0) + p.tensor() + p.SETITEM
    path = _write(tmp_path, code)
    np.testing.assert_array_equal(torch_pickle.read(path)[0], DATA)  # as optimisers have them
    with pytest.raises(torch_pickle.TorchFileError, match=r"1 of 1 keys of .*w\.pt are no text"):
        weights.open_state_dict(path)


@pytest.mark.parametrize(
    "system, keys, message",
    [
        (p.tower(60), p.EMPTY_LIST, "another version"),
        (p.mapping(little_endian=b"\x89"), p.EMPTY_LIST, "big-endian"),
        (p.EMPTY_DICT, p.tower(60), "does not list its storages"),
        (p.EMPTY_DICT, p.EMPTY_LIST + p.tower(60) + p.APPEND, "does not list its storages"),
        (p.EMPTY_DICT, p.EMPTY_LIST + p.text("7") + p.APPEND, "has 4 elements, expected none"),
        (p.EMPTY_DICT, p.EMPTY_LIST, "storage 0 is missing"),
    ],
)
def test_the_older_format_is_checked_as_well(tmp_path, system, keys, message):
    path, magic = tmp_path / "w.pt", (0x1950A86A20F9469CFC6C).to_bytes(10, "little")
    heads = p.program(b"\x8a\x0a" + magic), p.program(p.number(1001)), p.program(system)
    held = p.storage()[:-2] + p.NONE + b"tQ"
    bodies = p.program(p.mapping(w=p.tensor(held=held))), p.program(keys)
    path.write_bytes(b"".join((*heads, *bodies)) + struct.pack("<q", 4) + DATA.tobytes())
    with pytest.raises(torch_pickle.TorchFileError, match=message):
        torch_pickle.read(path)


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="counts open files as Linux does")
def test_a_file_of_many_storages_keeps_few_files_open(tmp_path):
    keys = [str(i) for i in range(60)]
    code = p.mapping(**{f"w{key}": p.tensor(held=p.storage(key=key)) for key in keys})
    path = _write(tmp_path, code, {key: (DATA + int(key)).tobytes() for key in keys})
    before = len(os.listdir("/proc/self/fd"))
    found = torch_pickle.read(path)
    assert len(os.listdir("/proc/self/fd")) <= before + 2
    np.testing.assert_array_equal(found["w59"], DATA + 59)
