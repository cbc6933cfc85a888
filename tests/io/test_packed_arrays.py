"""Packed records come back as they were; damaged ones are refused."""

import struct

import numpy as np
import pytest

from gsjax.io import packed_arrays

ARRAYS = {
    "points": np.arange(24, dtype=np.float16).reshape(2, 4, 3),
    "empty": np.zeros((0, 3), np.float32),
    "one": np.array(7, np.int64),
    "turned": np.arange(6, dtype=np.float64).reshape(2, 3).T,
    "flags": np.array([True, False]),
}


def test_records_come_back_as_views():
    data = packed_arrays.pack({"name": "a", "frames": [1, 2]}, ARRAYS)
    meta, arrays = packed_arrays.unpack(data)
    assert meta == {"name": "a", "frames": [1, 2]} and list(arrays) == list(ARRAYS)
    for name, value in ARRAYS.items():
        np.testing.assert_array_equal(arrays[name], value)
        assert arrays[name].dtype == value.dtype and not arrays[name].flags.writeable
    assert not arrays["points"].flags.owndata


def test_other_types_and_other_bytes_are_refused():
    with pytest.raises(ValueError, match=r"arrays\['x'\]: type object"):
        packed_arrays.pack({}, {"x": np.array([None])})
    data = packed_arrays.pack({}, ARRAYS)
    for bad, message in (
        (b"", "0 bytes that are no packed record"),
        (b"x" * 40, "no packed record"),
        (data[:-40], "leaves the record"),
        (data[:30], "damaged record"),
        (data.replace(b'"float16"', b'"object"'), "damaged record"),
        (data[:8] + struct.pack("<I", 2**31) + data[12:], "damaged record"),
    ):
        with pytest.raises(ValueError, match=message):
            packed_arrays.unpack(bad)
