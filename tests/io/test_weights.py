"""State dicts from files written here byte by byte; files by torch itself are in tests/parity.

Hostile files are in test_torch_pickle.
"""

import io
import json
import os
import pickle
import struct
import zipfile
from collections import OrderedDict

import ml_dtypes
import numpy as np
import pytest

from gsjax.io import torch_pickle, weights

# ------------------------------------------------------------------------------ torch, by hand
# A pickle program of torch.save, protocol 2, made with stand-in objects whose globals the pickler
# writes under torch's names.


class _Global:
    def __init__(self, module, name):
        self.module, self.name = module, name


class _Storage:
    def __init__(self, key, kind, numel):
        self.key, self.kind, self.numel = key, kind, numel


class _Call:
    """Pickled as ``function(*args)``."""

    def __init__(self, function, *args):
        self.function, self.args = function, args


class _Pickler(pickle._Pickler):  # the Python one: its save() can be taken over
    legacy = False

    def persistent_id(self, value):
        if isinstance(value, _Storage):
            pid = ("storage", _Global("torch", value.kind), value.key, "cpu", value.numel)
            return (*pid, None) if self.legacy else pid
        return None

    def save(self, value, *args, **kwargs):
        if isinstance(value, _Global):
            self.write(pickle.GLOBAL + f"{value.module}\n{value.name}\n".encode())
        elif isinstance(value, _Call):
            self.save(value.function)
            self.save(value.args)
            self.write(pickle.REDUCE)
        else:
            super().save(value, *args, **kwargs)


def _tensor(key, kind, numel, shape, strides, offset=0):
    function = _Global("torch._utils", "_rebuild_tensor_v2")
    storage = _Storage(key, kind, numel)
    return _Call(function, storage, offset, shape, strides, False, OrderedDict())


def _program(value, legacy=False):
    stream = io.BytesIO()
    pickler = _Pickler(stream, 2)
    pickler.legacy = legacy
    pickler.dump(value)
    return stream.getvalue()


def _write_zip(path, value, storages, **members):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("archive/data.pkl", _program(value))
        archive.writestr("archive/byteorder", members.get("byteorder", "little"))
        for key, data in storages.items():
            archive.writestr(f"archive/data/{key}", np.asarray(data).tobytes())
        for name in members.get("extra", ()):
            archive.writestr(f"archive/{name}", b"")


def _write_legacy(path, value, storages):
    with open(path, "wb") as file:
        for header in (
            0x1950A86A20F9469CFC6C,
            1001,
            dict(protocol_version=1001, little_endian=True, type_sizes=dict(short=2)),
        ):
            file.write(_program(header))
        file.write(_program(value, legacy=True))
        file.write(_program(sorted(storages)))
        for key in sorted(storages):
            data = np.asarray(storages[key])
            file.write(struct.pack("<q", data.size) + data.tobytes())


WRITERS = {"zip": _write_zip, "legacy": _write_legacy}


@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
def test_torch_files_give_arrays_as_they_were_strided(tmp_path, write):
    data = np.arange(12, dtype=np.float32)
    brain = np.arange(3).astype(ml_dtypes.bfloat16)
    tensors = OrderedDict(
        whole=_tensor("0", "FloatStorage", 12, (3, 4), (4, 1)),
        transposed=_tensor("0", "FloatStorage", 12, (4, 3), (1, 4)),
        row=_tensor("0", "FloatStorage", 12, (4,), (1,), offset=8),
        spread=_tensor("0", "FloatStorage", 12, (2, 3), (0, 1)),
        scalar=_tensor("0", "FloatStorage", 12, (), (), offset=5),
        empty=_tensor("0", "FloatStorage", 12, (0, 3), (3, 1)),
        half=_tensor("1", "BFloat16Storage", 3, (3,), (1,)),
        parameter=_Call(
            _Global("torch._utils", "_rebuild_parameter"),
            *(_tensor("0", "FloatStorage", 12, (2,), (5,)), True, OrderedDict()),
        ),
    )
    write(tmp_path / "w.pt", tensors, {"0": data, "1": brain})
    found = weights.open_state_dict(tmp_path / "w.pt")
    square = data.reshape(3, 4)
    expected = dict(
        *(),
        whole=square,
        transposed=square.T,
        row=data[8:],
        spread=np.stack([data[:3]] * 2),
        scalar=np.float32(5),
        empty=np.zeros((0, 3), np.float32),
        half=brain,
        parameter=data[[0, 5]],
    )
    assert list(found) == list(expected)
    for name, value in expected.items():
        assert found[name].dtype == value.dtype and found.shape(name) == value.shape
        np.testing.assert_array_equal(found[name], value)
    with pytest.raises(ValueError, match="read-only"):
        found["whole"][0] = 1


@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
def test_a_hostile_program_is_refused_by_name_and_not_run(tmp_path, write):
    target = tmp_path / "trace"
    for module, name in (("os", "system"), ("builtins", "eval"), ("builtins", "getattr")):
        call = _Call(_Global(module, name), f"touch {target}")
        write(tmp_path / "w.pt", {"a": call}, {})
        with pytest.raises(ValueError, match=rf"load {module}\.{name}, which no tensor needs"):
            weights.read_state_dict(tmp_path / "w.pt")
        assert not os.path.exists(target)


@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
@pytest.mark.parametrize(
    "shape, strides, offset",
    [((3, 4), (4, 1), 1), ((13,), (1,), 0), ((2,), (12,), 0), ((1,), (-1,), 0), ((1,), (1,), 12)],
)
def test_tensors_outside_their_storage_are_refused(tmp_path, write, shape, strides, offset):
    tensor = _tensor("0", "FloatStorage", 12, shape, strides, offset)
    write(tmp_path / "w.pt", {"a": tensor}, {"0": np.zeros(12, np.float32)})
    with pytest.raises(ValueError, match="leaves its storage|a tensor of shape"):
        weights.read_state_dict(tmp_path / "w.pt")


def test_torchscript_archives_say_what_to_get_instead(tmp_path):
    _write_zip(tmp_path / "w.pt", {}, {}, extra=("constants.pkl", "code/model.py"))
    with pytest.raises(ValueError, match=r"TorchScript.*open_clip_model\.safetensors"):
        weights.read_state_dict(tmp_path / "w.pt")


@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
def test_damaged_torch_files_are_refused(tmp_path, write):
    path = tmp_path / "w.pt"
    tensor = _tensor("0", "FloatStorage", 12, (12,), (1,))
    write(path, {"a": tensor}, {"0": np.zeros(11, np.float32)})
    with pytest.raises(ValueError, match="expected"):
        weights.read_state_dict(path)
    write(path, {"a": tensor}, {"0": np.zeros(12, np.float32)})
    whole = path.read_bytes()
    for kept in range(0, len(whole) - 1, 37):
        path.write_bytes(whole[:kept])
        with pytest.raises(torch_pickle.TorchFileError):
            weights.read_state_dict(path)


def test_missing_storages_and_foreign_byte_orders_are_refused(tmp_path):
    tensor = _tensor("7", "FloatStorage", 1, (1,), (1,))
    _write_zip(tmp_path / "w.pt", {"a": tensor}, {})
    with pytest.raises(ValueError, match="storage 7 is missing"):
        weights.read_state_dict(tmp_path / "w.pt")
    _write_zip(tmp_path / "w.pt", {"a": tensor}, {"7": np.zeros(1, np.float32)}, byteorder="big")
    with pytest.raises(ValueError, match="big-endian"):
        weights.read_state_dict(tmp_path / "w.pt")


# ------------------------------------------------------------------------------ wrappers


def test_wrappers_and_prefixes_are_taken_off():
    inner = {"module.a.weight": np.zeros(2), "module.b.weight": np.ones(3)}
    for loaded in (
        inner,
        {"epoch": 3, "state_dict": inner},
        {"module": {f"module.{key}": value for key, value in inner.items()}},
        {"model": {"state_dict": inner}, "optimizer": {"lr": 1.0}},
    ):
        found = weights.unwrap(loaded)
        assert weights.shapes(found) == {"a.weight": (2,), "b.weight": (3,)}
    # One name without it: the prefix means something.
    found = weights.unwrap({**inner, "scale": np.ones(())})
    assert set(found) == {*inner, "scale"}


def test_what_is_no_state_dict_is_refused():
    with pytest.raises(ValueError, match="holds a list, not a state dict"):
        weights.unwrap([1])
    with pytest.raises(ValueError, match="holds nothing"):
        weights.unwrap({})
    with pytest.raises(ValueError, match="entry 'epoch' of w.pt is a int, not a tensor"):
        weights.unwrap({"epoch": 3, "a": np.zeros(2)}, "w.pt")


# ------------------------------------------------------------------------------ safetensors


def _safetensors(path, arrays):
    names = {np.dtype(np.float32): "F32", np.dtype(np.float16): "F16"}
    names |= {np.dtype(ml_dtypes.bfloat16): "BF16", np.dtype(np.int64): "I64"}
    header, data = {"__metadata__": {"format": "pt"}}, b""
    for name, value in arrays.items():
        place = [len(data), len(data) + value.nbytes]
        header[name] = dict(dtype=names[value.dtype], shape=value.shape, data_offsets=place)
        data += value.tobytes()
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


@pytest.fixture()
def arrays():
    rng = np.random.default_rng(0)
    return {
        "module.w": rng.normal(size=(2, 3)).astype(np.float32),
        "module.h": rng.normal(size=(4,)).astype(np.float16),
        "module.b": rng.normal(size=(5,)).astype(ml_dtypes.bfloat16),
        "module.n": np.arange(3),
    }


def _same(found, arrays):
    assert set(found) == {name.removeprefix("module.") for name in arrays}
    for name, value in arrays.items():
        array = found[name.removeprefix("module.")]
        assert array.dtype == value.dtype
        np.testing.assert_array_equal(array, value)


def test_safetensors_files(tmp_path, arrays):
    pytest.importorskip("safetensors", reason="the extra clip is not installed")
    _safetensors(tmp_path / "model.safetensors", arrays)
    _same(weights.read_state_dict(tmp_path / "model.safetensors"), arrays)
    _same(weights.open_state_dict(tmp_path), arrays)  # the folder
    opened = weights.open_state_dict(tmp_path / "model.safetensors")
    assert opened.shape("w") == (2, 3) and "w" in opened and "v" not in opened


def test_damaged_safetensors_files_are_refused(tmp_path, arrays):
    pytest.importorskip("safetensors", reason="the extra clip is not installed")
    path = tmp_path / "model.safetensors"
    _safetensors(path, arrays)
    whole = path.read_bytes()
    for data in (whole[:-1], whole[:20], whole[:4], b"", b"\xff" * 8 + whole[8:]):
        path.write_bytes(data)
        with pytest.raises(ValueError, match="damaged, or not a safetensors file"):
            weights.open_state_dict(path)


def test_sharded_checkpoints(tmp_path, arrays):
    pytest.importorskip("safetensors", reason="the extra clip is not installed")
    names = list(arrays)
    shards = {"a-1.safetensors": names[:1], "a-2.safetensors": names[1:]}
    for file, held in shards.items():
        _safetensors(tmp_path / file, {name: arrays[name] for name in held})
    index = tmp_path / "model.safetensors.index.json"
    places = {name: file for file, held in shards.items() for name in held}
    index.write_text(json.dumps(dict(metadata={}, weight_map=places)))
    _same(weights.open_state_dict(index), arrays)
    _same(weights.open_state_dict(tmp_path), arrays)
    (tmp_path / "a-2.safetensors").unlink()
    with pytest.raises(ValueError, match="names a-2.safetensors, which is missing; 2 shards"):
        weights.open_state_dict(index)
    index.write_text(json.dumps(dict(weight_map={"x": "../secret.safetensors"})))
    with pytest.raises(ValueError, match="not a file name in the same folder"):
        weights.open_state_dict(index)
    index.write_text(json.dumps(dict(weight_map={"x": "a-1.safetensors"})))
    with pytest.raises(ValueError, match=r"a-1.safetensors lacks \['x'\]"):
        weights.open_state_dict(index)
    index.write_text("[]")
    with pytest.raises(ValueError, match="no index of a sharded checkpoint"):
        weights.open_state_dict(index)


def test_sharded_torch_checkpoints(tmp_path):
    for i in range(2):
        tensor = _tensor("0", "FloatStorage", 2, (2,), (1,))
        _write_zip(tmp_path / f"s{i}.bin", {f"w{i}": tensor}, {"0": np.full(2, i, np.float32)})
    index = tmp_path / "pytorch_model.bin.index.json"
    index.write_text(json.dumps(dict(weight_map={"w0": "s0.bin", "w1": "s1.bin"})))
    found = weights.read_state_dict(tmp_path)
    np.testing.assert_array_equal(found["w1"], [1, 1])
    assert list(found) == ["w0", "w1"]


def test_names_of_files_are_checked(tmp_path):
    with pytest.raises(ValueError, match="there is no file"):
        weights.open_state_dict(tmp_path / "absent.pt")
    (tmp_path / "w.h5").write_bytes(b"")
    with pytest.raises(ValueError, match="unknown extension"):
        weights.open_state_dict(tmp_path / "w.h5")
    with pytest.raises(ValueError, match="holds none of"):
        weights.open_state_dict(tmp_path)
