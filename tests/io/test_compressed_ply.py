"""PlayCanvas' compressed PLY, against bytes made by hand and the bounds of its columns."""

import struct

import numpy as np
import pytest

from gsjax.core import gaussians
from gsjax.io import compressed_ply, formats, ply, records

_CORNERS = [f"{e}_{a}" for e in ("min", "max") for a in "xyz"]
_CORNERS += [f"{e}_scale_{a}" for e in ("min", "max") for a in "xyz"]
_COLORS = [f"{e}_{c}" for e in ("min", "max") for c in "rgb"]
_PACKED = ["packed_position", "packed_rotation", "packed_scale", "packed_color"]


def _scene(n=700, k=16, seed=0):
    rng = np.random.default_rng(seed)
    return {
        "means": rng.normal(size=(n, 3)).astype(np.float32),
        "quats": rng.normal(size=(n, 4)).astype(np.float32),
        "log_scales": rng.uniform(-8, 1, (n, 3)).astype(np.float32),
        "logit_opacities": rng.normal(size=n).astype(np.float32),
        "sh": rng.uniform(-1.5, 1.5, (n, k, 3)).astype(np.float32),
    }


def _file(vertices, chunk, columns=_CORNERS + _COLORS, rest=(), chunks=None, form="little"):
    """A file with one chunk; rest is a list of byte strings, one a vertex."""
    header = f"ply\nformat binary_{form}_endian 1.0\ncomment by hand\nelement chunk {chunks or 1}\n"
    header += "".join(f"property float {name}\n" for name in columns)
    header += f"element vertex {len(vertices)}\n"
    header += "".join(f"property uint {name}\n" for name in _PACKED)
    if rest:
        header += f"element sh {len(rest)}\n"
        header += "".join(f"property uchar f_rest_{i}\n" for i in range(len(rest[0])))
    body = struct.pack(f"<{len(chunk)}f", *chunk)
    body += b"".join(struct.pack("<4I", *v) for v in vertices) + b"".join(rest)
    return header.encode() + b"end_header\n" + body


_CHUNK = [-1, -2, 0, 1, 2, 4, -6, -5, -4, -2, -1, 0, 0, 0, 0, 1, 2, 0.5]
# Ends and middles of each range; the largest component is y (index 2 of w x y z).
_ROTATION = 2 << 30 | 1023 << 20 | 0 << 10 | 512
_VERTEX = (2047 << 21 | 0 << 11 | 2047, _ROTATION, 0 << 21 | 1023 << 11 | 0, 0x00FF8033)


def _sigmoid(x):
    return 1 / (1 + np.exp(-x))


def _rotmats(quats):
    w, x, y, z = records.unit_quats(quats).T
    rows = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ]
    return np.array(rows).transpose(2, 0, 1)


def test_a_vertex_by_hand(tmp_path):
    path = tmp_path / "a.compressed.ply"
    rest = bytes([0, 255, 128, 96, 160, 127, 1, 254, 64])
    path.write_bytes(_file([_VERTEX], _CHUNK, rest=[rest]))
    found = compressed_ply.read(path)
    np.testing.assert_array_equal(found["means"], [[1, -2, 4]])
    np.testing.assert_array_equal(found["log_scales"], [[-6, -1, -4]])
    rgb = found["sh"][0, 0] * records.SH_C0 + 0.5
    np.testing.assert_allclose(rgb, [0, 2, 0.5 * 128 / 255], atol=1e-6)
    np.testing.assert_allclose(_sigmoid(found["logit_opacities"]), [0.2], rtol=1e-5)
    # w = sqrt(1/2), x = -sqrt(1/2), z almost 0: nothing is left for y.
    np.testing.assert_allclose(found["quats"], [[0.5**0.5, -(0.5**0.5), 0, 0]], atol=1e-3)
    byte = np.frombuffer(rest, np.uint8).reshape(3, 3)  # channel-major
    expected = (byte + 0.5) / 32 - 4
    expected[0, 0], expected[0, 1] = -4, 4
    np.testing.assert_allclose(found["sh"][0, 1:], expected.T, rtol=1e-6)
    assert all(value.dtype == np.float32 for value in found.values())


def test_older_files_hold_colour_without_ranges(tmp_path):
    path = tmp_path / "a.ply"
    path.write_bytes(_file([_VERTEX], _CHUNK[:12], _CORNERS))
    rgb = formats.load_gaussians(path)["sh"][0, 0] * records.SH_C0 + 0.5
    np.testing.assert_allclose(rgb, [0, 1, 128 / 255], atol=1e-6)


@pytest.mark.parametrize("k", [1, 4, 9, 16])
@pytest.mark.parametrize("n", [1, 256, 700])
def test_round_trip_within_half_a_step(tmp_path, n, k):
    scene, path = _scene(n, k), tmp_path / "a.compressed.ply"
    compressed_ply.write(path, scene, keep_order=True)
    found = compressed_ply.read(path)
    for start in range(0, n, 256):
        rows = slice(start, start + 256)
        for name in ("means", "log_scales"):
            extent = np.ptp(scene[name][rows], axis=0)
            error = np.abs(found[name][rows] - scene[name][rows]).max(axis=0)
            assert (error <= 0.501 * extent / (2047, 1023, 2047) + 1e-6).all(), name
        extent = np.ptp(scene["sh"][rows, 0], axis=0)
        error = np.abs(found["sh"][rows, 0] - scene["sh"][rows, 0]).max(axis=0)
        assert (error <= 0.501 * extent / 255 + 1e-6).all()
    np.testing.assert_allclose(
        _sigmoid(found["logit_opacities"]), _sigmoid(scene["logit_opacities"]), atol=0.51 / 255
    )
    np.testing.assert_allclose(_rotmats(found["quats"]), _rotmats(scene["quats"]), atol=0.004)
    np.testing.assert_allclose(found["sh"][:, 1:], scene["sh"][:, 1:], atol=1 / 64 + 1e-6)


def test_reordering_loses_nobody_and_makes_errors_smaller(tmp_path):
    scene, path = _scene(3000, 4), tmp_path / "a.compressed.ply"
    # The opacity numbers the rows: 3000 of them cannot be told apart by a byte, the scales can.
    scene["log_scales"][:, 0] = np.linspace(-4, 0, 3000)
    compressed_ply.write(path, scene)
    found = compressed_ply.read(path)
    rows = [np.abs(scene["means"] - m).max(axis=1).argmin() for m in found["means"]]
    assert sorted(rows) == list(range(3000))
    for name in ("log_scales", "sh"):
        np.testing.assert_allclose(found[name], scene[name][rows], atol=0.016)
    np.testing.assert_allclose(_rotmats(found["quats"]), _rotmats(scene["quats"])[rows], atol=0.004)
    error = np.abs(found["means"] - scene["means"][rows]).mean()
    compressed_ply.write(path, scene, keep_order=True)
    assert error < 0.7 * np.abs(compressed_ply.read(path)["means"] - scene["means"]).mean()


def test_constant_columns_are_exact(tmp_path):
    scene = {name: np.repeat(value, 300, axis=0) for name, value in _scene(1).items()}
    compressed_ply.write(tmp_path / "a.compressed.ply", scene)
    found = compressed_ply.read(tmp_path / "a.compressed.ply")
    np.testing.assert_array_equal(found["means"], scene["means"])
    np.testing.assert_array_equal(found["log_scales"], scene["log_scales"])
    np.testing.assert_allclose(found["sh"][:, 0], scene["sh"][:, 0], atol=1e-6)


def test_dispatch_is_by_header_for_reading_and_by_name_for_writing(tmp_path):
    raw = gaussians.RawGaussians(**_scene(k=4))
    formats.save_gaussians(tmp_path / "a.Compressed.PLY", raw, keep_order=True)
    formats.save_gaussians(tmp_path / "b.ply", raw)
    assert compressed_ply.is_compressed(tmp_path / "a.Compressed.PLY")
    assert not compressed_ply.is_compressed(tmp_path / "b.ply")
    (tmp_path / "a.Compressed.PLY").rename(tmp_path / "c.ply")
    (tmp_path / "b.ply").rename(tmp_path / "b.compressed.ply")
    assert (
        8 * (tmp_path / "c.ply").stat().st_size < 3 * (tmp_path / "b.compressed.ply").stat().st_size
    )
    packed = formats.load_gaussians(tmp_path / "c.ply")
    plain = formats.load_gaussians(tmp_path / "b.compressed.ply")
    np.testing.assert_array_equal(plain["means"], raw.means)
    np.testing.assert_allclose(packed["means"], raw.means, atol=0.004)


@pytest.mark.parametrize("newline", [b"\n", b"\r\n"])
def test_comments_do_not_say_what_a_file_is(tmp_path, newline):
    def with_comment(data, text):
        header, end, body = data.partition(b"end_header\n")
        header = header.replace(b"ply\n", b"ply\ncomment " + text + b"\n", 1)
        return (header + end).replace(b"\n", newline) + body

    path, scene = tmp_path / "a.ply", _scene(300, 4)
    compressed_ply.write(path, scene, keep_order=True)
    path.write_bytes(with_comment(path.read_bytes(), b"before end_header come columns"))
    assert compressed_ply.is_compressed(path)
    np.testing.assert_allclose(formats.load_gaussians(path)["means"], scene["means"], atol=0.01)
    ply.write(path, scene)
    body = path.read_bytes()
    for text in (b"once had a column packed_position", b"property uint packed_position"):
        path.write_bytes(with_comment(body, text))
        assert not compressed_ply.is_compressed(path)
        np.testing.assert_array_equal(formats.load_gaussians(path)["means"], scene["means"])
    # Nor do the data.
    path.write_bytes(body + b"\nproperty uint packed_position\n")
    assert not compressed_ply.is_compressed(path)


def test_real_file_keeps_its_looks(gsjax_data, tmp_path):
    scene = formats.load_gaussians(gsjax_data / "splats" / "sh2" / "playbot_lod4.ply")
    compressed_ply.write(tmp_path / "a.compressed.ply", scene, keep_order=True)
    found = compressed_ply.read(tmp_path / "a.compressed.ply")
    extent = np.ptp(scene["means"], axis=0).max()
    np.testing.assert_allclose(found["means"], scene["means"], atol=extent / 2046)
    beyond = np.abs(scene["sh"][:, 1:]) > 4
    assert np.abs(found["sh"] - scene["sh"])[:, 1:][~beyond].max() <= 1 / 64 + 1e-6
    np.testing.assert_allclose(_rotmats(found["quats"]), _rotmats(scene["quats"]), atol=0.004)


_GOOD = _file([_VERTEX], _CHUNK)


@pytest.mark.parametrize(
    "data, message",
    [
        (_GOOD[:-1], "truncated"),
        (_GOOD[:-17], "truncated"),
        (_GOOD + b"x", "longer than its header says by 1 bytes"),
        (_GOOD[:200], "no 'end_header'"),
        (_file([], _CHUNK, chunks=1), "0 vertices need 0 chunks"),
        (_file([_VERTEX] * 257, _CHUNK), "257 vertices need 2 chunks of 256, found 1"),
        (_file([_VERTEX], _CHUNK[:13], _CORNERS + _COLORS[:1]), "element 'chunk' has columns"),
        (_GOOD.replace(b"uint packed_scale", b"int packed_scale"), "element 'vertex' has columns"),
        (_file([_VERTEX], _CHUNK, rest=[bytes(72)]), "72 columns; expected 1 rows of"),
        (_file([_VERTEX], _CHUNK, rest=[bytes(9)] * 2), "2 rows of 9 columns"),
        (_GOOD.replace(b"element chunk", b"element block"), "expected elements 'chunk'"),
        (_file([_VERTEX], _CHUNK, form="big"), "binary_little_endian"),
        (_file([_VERTEX], [np.nan, *_CHUNK[1:]]), "NaN or infinite means"),
    ],
)
def test_damaged_files(tmp_path, data, message):
    path = tmp_path / "a.ply"
    path.write_bytes(data)
    with pytest.raises(records.SplatFormatError, match=message):
        formats.load_gaussians(path)


def test_zero_gaussians(tmp_path):
    path = tmp_path / "a.ply"
    data = _file([], []).replace(b"element chunk 1", b"element chunk 0")
    path.write_bytes(data)
    with pytest.raises(records.SplatFormatError, match="zero Gaussians"):
        formats.load_gaussians(path)
    with pytest.raises(records.SplatFormatError, match="zero Gaussians"):
        compressed_ply.write(path, _scene(0))
    assert path.read_bytes() == data


def test_losses_beyond_the_steps_are_refused_or_logged(tmp_path, caplog):
    path = tmp_path / "a.compressed.ply"
    with pytest.raises(ValueError, match="holds degree 3 at most, found K = 25"):
        formats.save_gaussians(path, _scene(k=25))
    formats.save_gaussians(path, _scene(k=25), drop_sh=True)
    assert compressed_ply.read(path)["sh"].shape == (700, 16, 3)
    scene = _scene(k=4)
    scene["log_scales"][0] = -30
    scene["sh"][:2, 1] = 5
    with caplog.at_level("WARNING"):
        compressed_ply.write(path, scene, keep_order=True)
    assert "3 of 2100 values of log_scales" in caplog.text
    assert "6 of 6300 values of sh" in caplog.text
    found = compressed_ply.read(path)
    assert (found["log_scales"][0] == -20).all() and (found["sh"][:2, 1] == 4).all()


def test_the_plain_reader_says_what_the_file_is(tmp_path):
    path = tmp_path / "a.ply"
    path.write_bytes(_GOOD)
    with pytest.raises(records.SplatFormatError, match="PlayCanvas' compressed PLY"):
        ply.read(path)
