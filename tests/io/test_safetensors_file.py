"""Safetensors files written here, read by the package that defines the format, and by hand."""

import json
import weakref

import ml_dtypes
import numpy as np
import pytest

from gsjax.io import safetensors_file, weights

DTYPES = [np.dtype(getattr(ml_dtypes, name, name)) for name in safetensors_file.TYPES]
# The package checks 8-bit floats but gives them to no NumPy array.
READABLE = [dtype for dtype in DTYPES if "float8" not in dtype.name]
SHAPES = {"matrix": (3, 5), "cube": (2, 1, 3), "none": (0, 4), "empty": (0,), "one": ()}


def _array(dtype, shape, seed=0):
    values = np.random.default_rng(seed).normal(size=shape) * 40
    return np.asarray(np.abs(values) if dtype.kind == "u" else values).astype(dtype)


def _parsed(path):
    """(header, data) by the format's definition."""
    stored = path.read_bytes()
    start = 8 + int.from_bytes(stored[:8], "little")
    return json.loads(stored[8:start]), stored[start:], start


def _assert_same(found, wanted):
    assert found.dtype == wanted.dtype and found.shape == wanted.shape
    assert found.tobytes() == wanted.tobytes()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_type_and_shape_comes_back(tmp_path, dtype):
    safetensors = pytest.importorskip("safetensors", reason="safetensors is not installed")
    path = tmp_path / "a.safetensors"
    arrays = {name: _array(dtype, shape) for name, shape in SHAPES.items()}
    safetensors_file.save_arrays(path, arrays, dict(licence="MIT", of="é"))
    found = dict(safetensors.deserialize(path.read_bytes()))
    assert found.keys() == arrays.keys()
    for name, array in arrays.items():
        assert found[name]["dtype"] == safetensors_file.TYPES[str(dtype)]
        assert found[name]["shape"] == list(array.shape)
        assert bytes(found[name]["data"]) == array.tobytes()
    with safetensors.safe_open(str(path), framework="np") as file:
        assert file.metadata() == dict(licence="MIT", of="é")
        for name in arrays if dtype in READABLE else ():
            _assert_same(file.get_tensor(name), arrays[name])


def test_files_mix_types_and_are_read_as_state_dicts(tmp_path):
    pytest.importorskip("safetensors", reason="safetensors is not installed")
    path = tmp_path / "new" / "folder" / "a.safetensors"
    arrays = {f"{dtype}/ü": _array(dtype, (3,)) for dtype in READABLE}
    arrays["turned"] = np.arange(12.0).reshape(3, 4).T  # not row-major
    arrays["every second"] = np.arange(10)[::2]
    arrays["scalar"] = np.float32(2.5)
    safetensors_file.save_arrays(path, arrays)
    found = weights.read_state_dict(path)
    assert found.keys() == arrays.keys()
    for name, array in arrays.items():
        _assert_same(found[name], np.asarray(array))
    safetensors_file.save_arrays(path, {})
    assert _parsed(path)[:2] == ({"__metadata__": {}}, b"")


@pytest.mark.parametrize("length", range(1, 9))
def test_data_are_aligned_and_without_gaps(tmp_path, length):
    path = tmp_path / "a.safetensors"
    # Bytes first by name, odd counts, and headers of every length beside a multiple of 8.
    arrays = {
        f"{'x' * length}{i}": _array(dtype, (2 * i + 1,))
        for i, dtype in enumerate(sorted(DTYPES, key=lambda dtype: dtype.itemsize))
    }
    safetensors_file.save_arrays(path, arrays)
    header, data, start = _parsed(path)
    assert start % 8 == 0 and header.pop("__metadata__") == {}
    end = 0
    for name, about in header.items():
        array, (first, last) = arrays[name], about["data_offsets"]
        assert first == end and (start + first) % array.dtype.itemsize == 0
        assert data[first:last] == array.tobytes() and about["shape"] == list(array.shape)
        end = last
    assert end == len(data) and header.keys() == arrays.keys()


def test_arrays_are_read_once_and_held_one_at_a_time(tmp_path):
    types = {f"a{i}": (np.dtype(np.float32), (100 + i,)) for i in range(6)}
    alive, most, asked = weakref.WeakSet(), [], []

    class Counted(np.ndarray):
        pass

    def read(name):
        asked.append(name)
        array = np.full(types[name][1], 3, np.float32).view(Counted)
        alive.add(_Handle(array))
        most.append(len(alive))
        return array

    class _Handle:
        """Lives as long as its array."""

        def __init__(self, array):
            array.handle = self

    safetensors_file.save(tmp_path / "a.safetensors", types, read, {})
    assert sorted(asked) == sorted(types) and max(most) == 1


class _Broken(Exception):
    pass


@pytest.mark.parametrize("old", [None, b"the old file"])
def test_a_reader_that_fails_midway_leaves_no_file_behind(tmp_path, old):
    path = tmp_path / "a.safetensors"
    if old:
        path.write_bytes(old)
    read = []

    def fail_at_the_second(name):
        if read:
            raise _Broken
        read.append(name)
        assert list(tmp_path.glob(".*"))  # it is being written, under another name
        return np.zeros(1000, np.float32)

    types = dict.fromkeys("abc", (np.dtype(np.float32), (1000,)))
    with pytest.raises(_Broken):
        safetensors_file.save(path, types, fail_at_the_second, {})
    assert read == ["a"]
    assert [p.read_bytes() for p in tmp_path.iterdir()] == ([old] if old else [])


@pytest.mark.parametrize(
    ("arrays", "notes", "message"),
    [
        ({"a": np.zeros(2, np.complex64)}, {}, r"no type for \['complex64'\]; cast .*'float32'"),
        ({"a": np.zeros(2, ">f4"), "b": np.zeros(2, "U3")}, {}, r"no type for \['<U3', '>f4'\]"),
        ({"a": np.array([None])}, {}, r"no type for \['object'\]"),
        ({"__metadata__": np.zeros(2)}, {}, "'__metadata__' is the metadata's name"),
        ({"a": np.zeros(2)}, {"step": 3}, "notes: expected texts by name, found {'step': 3}"),
    ],
)
def test_what_the_format_lacks_is_named_before_anything_is_written(
    tmp_path, arrays, notes, message
):
    path = tmp_path / "new" / "a.safetensors"
    with pytest.raises(ValueError, match=rf"a\.safetensors: .*{message}"):
        safetensors_file.save_arrays(path, arrays, notes)
    assert not path.parent.exists()


@pytest.mark.parametrize(
    "found", [np.zeros((2, 3), np.float16), np.zeros((3, 2), np.float32), np.zeros(6, np.float32)]
)
def test_an_array_that_is_not_as_announced_is_refused(tmp_path, found):
    path = tmp_path / "a.safetensors"
    types = {"w": (np.dtype(np.float32), (2, 3))}
    message = rf"a\.safetensors: array 'w': expected float32 \[2, 3\], found {found.dtype} \["
    with pytest.raises(ValueError, match=message):
        safetensors_file.save(path, types, lambda name: found, {})
    assert not list(tmp_path.iterdir())
