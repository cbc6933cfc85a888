"""Small files that ask for much: nesting, sizes and promises are judged before memory is taken for them."""

import contextlib
import gzip
import io
import json
import struct
import tracemalloc
import zipfile

import numpy as np
import pytest
from PIL import Image

from gsjax.io import archive, json_text, npz, picture_file, records, spz

MOST = 40 << 20  # bytes that a refusal may take


@contextlib.contextmanager
def little_memory():
    tracemalloc.start()
    try:
        yield
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < MOST, f"{peak >> 20} MiB were taken for a small file"


@pytest.mark.parametrize("text", ["[" * 5000 + "]" * 5000, '{"a":' * 5000 + "1" + "}" * 5000])
def test_json_nested_too_deeply_is_a_value_error(text):
    with pytest.raises(ValueError, match="x.json: not readable JSON .nested too deeply"):
        json_text.parse(text, "x.json")


@pytest.mark.parametrize("data", [b"{", b"\xff\xfe\xff", b"", b"1" + b"0" * 5000, b'{"a": }'])
def test_bytes_that_are_no_json_are_a_value_error(data):
    with pytest.raises(ValueError, match="x.json: not readable JSON"):
        json_text.parse(data, "x.json")


def test_json_of_another_kind_is_refused(tmp_path):
    (tmp_path / "a.json").write_bytes(b'\xef\xbb\xbf{"a": 1}')  # with a byte order mark
    assert json_text.read(tmp_path / "a.json", dict) == {"a": 1}
    with pytest.raises(ValueError, match="a.json: expected a list, found a dict"):
        json_text.read(tmp_path / "a.json", list)
    with pytest.raises(ValueError, match="not readable"):
        json_text.read(tmp_path)
    assert json_text.member({"a": 1}, "a", int, "x") == 1
    for value in ({}, {"a": True}, {"a": "1"}, [1], None):
        with pytest.raises(ValueError, match="x: 'a': expected int"):
            json_text.member(value, "a", int, "x")


def _npy(header: str, data: bytes = b"") -> bytes:
    head = header.encode("latin-1")
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(head)) + head + data


def _npz(content: bytes, method=zipfile.ZIP_STORED) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", method) as file:
        file.writestr("a.npy", content)
    return stream.getvalue()


HEADERS = {
    "a terabyte": "{'descr': '<f8', 'fortran_order': False, 'shape': (1000000000000,), }\n",
    "too many axes' product": "{'descr': '<f4', 'fortran_order': False, 'shape': (0, 2E62), }\n".replace(
        "2E62", str(2**62)
    ),
    "negative": "{'descr': '<f4', 'fortran_order': False, 'shape': (-1, -2), }\n",
    "truth value": "{'descr': '<f4', 'fortran_order': False, 'shape': (True,), }\n",
    "huge number": "{'descr': '<f4', 'fortran_order': False, 'shape': (" + "9" * 60 + ",), }\n",
    "objects": "{'descr': '|O', 'fortran_order': False, 'shape': (1,), }\n",
    "record type": "{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (0,), }\n",
    "not closed": "{'descr': '<f4', 'fortran_order': False, 'shape': (1,\n",
    "no literal": "{'descr': '<f4', 'fortran_order': False, 'shape': __import__('os'), }\n",
    "nested": "(" * 300 + ")" * 300 + "\n",
}


@pytest.mark.parametrize("header", HEADERS.values(), ids=HEADERS.keys())
def test_array_headers_are_judged_before_memory_is_taken(header):
    with little_memory(), pytest.raises(ValueError):
        npz.parse(_npy(header), "a.npy")
    with little_memory(), pytest.raises(ValueError, match="a.npy"):
        npz.read(_npz(_npy(header)))


def test_arrays_come_as_they_were_saved(tmp_path):
    made = {
        "a": np.arange(6.0).reshape(2, 3), "f": np.asfortranarray(np.ones((2, 3), np.float16)),
        "e": np.zeros((0, 4), np.int8), "s": np.asarray(["x", "yz"]), "n": np.float32(2), "b": np.ones(2, bool),
    }  # fmt: skip
    for save in (np.savez, np.savez_compressed):
        save(tmp_path / "a.npz", **made)
        found = npz.read(tmp_path / "a.npz")
        assert list(found) == list(made)
        for name, value in made.items():
            np.testing.assert_array_equal(found[name], value)
            assert found[name].dtype == np.asarray(value).dtype and found[name].flags.writeable
    assert list(npz.read((tmp_path / "a.npz").read_bytes(), ("s",))) == ["s"]
    with pytest.raises(ValueError, match="no array 'z'"):
        npz.read(tmp_path / "a.npz", ("z",))
    np.save(tmp_path / "a.npy", made["a"])
    np.testing.assert_array_equal(npz.mapped(tmp_path / "a.npy"), made["a"])


def test_archives_that_are_not_stored_or_deflated_are_refused():
    whole = _npy("{'descr': '<f4', 'fortran_order': False, 'shape': (1,), }\n", bytes(4))
    np.testing.assert_array_equal(npz.read(_npz(whole))["a"], [0])
    with pytest.raises(ValueError, match="packed by method 14"):
        npz.read(_npz(whole, zipfile.ZIP_LZMA))
    data = _npz(whole)
    for cut in range(0, len(data), 7):
        with pytest.raises(ValueError):
            npz.read(data[:cut])


def test_an_archive_that_promises_more_than_it_can_hold_is_refused():
    data = bytearray(_npz(b"\x93NUMPY\x01\x00" + bytes(4000), zipfile.ZIP_DEFLATED))
    entry = data.rindex(b"PK\x01\x02")
    data[entry + 24 : entry + 28] = struct.pack("<I", 2**32 - 2)  # its size unpacked
    with little_memory(), pytest.raises(ValueError, match="cannot hold|damaged"):
        npz.read(bytes(data))


def test_weights_whose_notes_are_no_objects_are_refused(tmp_path):
    path = tmp_path / "a.npz"
    archive.save(path, "toy", {}, {"a": np.ones(2, np.float32)})
    stored = npz.read(path)
    for meta in (
        [],
        {"kind": "toy"},
        {**json.loads(stored["__meta__"].tobytes()), "bfloat16": ["b"]},
    ):
        text = np.frombuffer(json.dumps(meta).encode(), np.uint8)
        np.savez(path, __meta__=text, a=stored["a"])
        with pytest.raises(ValueError, match="not an archive of gsjax's, or is damaged"):
            archive.read(path)


def _spz(num: int, body: bytes, version: int = 3, flags: int = 0) -> bytes:
    return b"NGSP" + struct.pack("<IIBBBB", version, num, 0, 12, flags, 0) + body


def test_spz_headers_that_promise_too_much_are_refused(tmp_path):
    path = tmp_path / "a.spz"
    for num in (2**32 - 1, 10**8):
        path.write_bytes(gzip.compress(_spz(num, bytes(20))))
        with (
            little_memory(),
            pytest.raises(records.SplatFormatError, match="promises .* bytes, which a file of"),
        ):
            spz.read(path)


@pytest.mark.parametrize("flags", [0, 2])
def test_spz_streams_that_go_on_and_on_are_not_kept(tmp_path, flags):
    path = tmp_path / "a.spz"
    path.write_bytes(gzip.compress(_spz(1, bytes(20) + bytes(80 << 20), flags=flags), 1))
    if flags:  # extension records, of any length
        with little_memory():
            assert len(spz.read(path)["means"]) == 1
    else:
        with little_memory(), pytest.raises(records.SplatFormatError, match="too long"):
            spz.read(path)


def test_spz_streams_without_an_end_or_with_more_behind_it_are_refused(tmp_path):
    path, whole = tmp_path / "a.spz", gzip.compress(_spz(1, bytes(20)))
    path.write_bytes(whole)
    assert len(spz.read(path)["means"]) == 1
    for data in (whole[:-8], whole[:-1], whole + b"more"):
        path.write_bytes(data)
        with pytest.raises(records.SplatFormatError, match="truncated or damaged gzip stream"):
            spz.read(path)


def test_spz_frames_that_lie_about_their_size_are_refused(tmp_path):
    zstandard = pytest.importorskip("zstandard")
    sizes = [9, 1, 3, 3, 4]

    def write(streams):
        head = _spz(1, b"", 4)[:15] + bytes([5]) + struct.pack("<I", 32) + bytes(12)
        table = b"".join(struct.pack("<QQ", len(s), n) for s, n in zip(streams, sizes))
        (tmp_path / "a.spz").write_bytes(head + table + b"".join(streams))

    streams = [zstandard.compress(bytes(n)) for n in sizes]
    write(streams)
    assert len(spz.read(tmp_path / "a.spz")["means"]) == 1
    for big in (
        zstandard.compress(bytes(80 << 20)),
        b"\x28\xb5\x2f\xfd\xe0" + b"\xff" * 7 + b"\x0f\x01\x00\x00",
    ):
        write([big, *streams[1:]])
        with little_memory(), pytest.raises(records.SplatFormatError, match="stream 0"):
            spz.read(tmp_path / "a.spz")


def test_pictures_of_other_formats_are_not_even_tried(tmp_path):
    image = Image.fromarray(np.full((4, 6, 3), 9, np.uint8))
    for kind in picture_file.FORMATS:
        stream = io.BytesIO()
        image.save(stream, kind)
        found = picture_file.decoded(stream.getvalue(), "x", "RGB")
        assert found.shape == (4, 6, 3) and abs(int(found.mean()) - 9) < 3
    for kind in ("EPS", "GIF", "PPM", "TGA"):  # EPS would start Ghostscript
        image.save(tmp_path / "a.png", kind)
        with pytest.raises(ValueError, match="a.png: not a readable picture"):
            picture_file.opened(tmp_path / "a.png", "a.png")
    with pytest.raises(FileNotFoundError):
        picture_file.opened(tmp_path / "none.png", "x")
