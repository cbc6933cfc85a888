"""SPZ, against bytes made by hand from its definition and against a rotation of the scene."""

import gzip
import struct

import jax.numpy as jnp
import numpy as np
import pytest

from gsjax.core import gaussians, rotations
from gsjax.io import formats, records, spz


def _scene(n=60, k=16, seed=0):
    rng = np.random.default_rng(seed)
    return {
        "means": rng.normal(size=(n, 3)).astype(np.float32),
        "quats": rng.normal(size=(n, 4)).astype(np.float32),
        "log_scales": rng.uniform(-9, 1, (n, 3)).astype(np.float32),
        "logit_opacities": rng.normal(size=n).astype(np.float32),
        "sh": rng.uniform(-0.95, 0.95, (n, k, 3)).astype(np.float32),
    }


def _header(version=3, num=1, degree=0, bits=12, flags=0, magic=b"NGSP"):
    return magic + struct.pack("<IIBBBB", version, num, degree, bits, flags, 0)


def _body(rotation=bytes(3), rest=b""):
    """One Gaussian at (1, -2, 0.5) with 12 fractional bits."""
    position = b"".join((round(v * 4096) & 0xFFFFFF).to_bytes(3, "little") for v in (1, -2, 0.5))
    return position + bytes([51]) + bytes([0, 255, 51]) + bytes([0, 160, 255]) + rotation + rest


def _write(path, header, body):
    path.write_bytes(gzip.compress(header + body))
    return path


def _rotmats(quats):
    return np.asarray(rotations.quat_to_rotmat(jnp.asarray(quats)))


def _assert_close(found, expected, *, step=2.0**-12, shn=0.0042, rotation=0.003):
    """Half a step of each column, and a little for float32."""
    sigmoid = lambda x: 1 / (1 + np.exp(-x))  # noqa: E731
    np.testing.assert_allclose(found["means"], expected["means"], atol=0.51 * step)
    np.testing.assert_allclose(found["log_scales"], expected["log_scales"], atol=0.51 / 16)
    np.testing.assert_allclose(
        sigmoid(found["logit_opacities"]), sigmoid(expected["logit_opacities"]), atol=0.51 / 255
    )
    rotmats = _rotmats(found["quats"]), _rotmats(expected["quats"])
    np.testing.assert_allclose(*rotmats, atol=rotation)
    np.testing.assert_allclose(found["sh"][:, 0], expected["sh"][:, 0], atol=0.51 / 255 / 0.15)
    np.testing.assert_allclose(found["sh"][:, 1:], expected["sh"][:, 1:], atol=shn)


def test_version_2_by_hand(tmp_path):
    rotation = bytes([0, 128, 128])  # -1, 0.004, 0.004
    path = _write(tmp_path / "a.spz", _header(version=2), _body(rotation))
    found = spz.read(path, axes="raw")
    np.testing.assert_array_equal(found["means"], [[1, -2, 0.5]])
    np.testing.assert_allclose(1 / (1 + np.exp(-found["logit_opacities"])), [0.2], rtol=1e-5)
    np.testing.assert_allclose(found["sh"][0, 0], [-10 / 3, 10 / 3, -2], rtol=1e-5)
    np.testing.assert_array_equal(found["log_scales"], [[-10, 0, 5.9375]])
    np.testing.assert_allclose(found["quats"], [[0, -1, 0.004, 0.004]], atol=1e-4)
    assert all(value.dtype == np.float32 for value in found.values())


def test_version_3_by_hand(tmp_path):
    # x = -0.6 is the largest of x y z w, so all signs turn: y = -0.5 and w = 0.36 are stored.
    magnitudes = [round(v / np.sqrt(0.5) * 511) for v in (0.5, 0.0, 0.36)]
    packed = 0 << 30 | (512 | magnitudes[0]) << 20 | magnitudes[1] << 10 | magnitudes[2]
    body = _body(struct.pack("<I", packed), bytes([0, 64, 128, 192, 255, 129, 127, 1, 2]))
    found = spz.read(_write(tmp_path / "a.spz", _header(degree=1), body), axes="raw")
    w, x, y, z = found["quats"][0]
    np.testing.assert_allclose((w, y, z), (0.36, -0.5, 0), atol=0.7 / 511)
    np.testing.assert_allclose(x, np.sqrt(1 - w * w - y * y - z * z), rtol=1e-5)
    expected = (np.array([[0, 64, 128], [192, 255, 129], [127, 1, 2]]) - 128) / 128
    np.testing.assert_array_equal(found["sh"][0, 1:], expected)  # colour channel fastest


def test_axes_turn_as_a_rotation_of_the_scene(tmp_path):
    """Half a turn about x by the general rotation of scenes, which also solves for the SH."""
    for k in records.SH_COUNTS[:4]:
        scene = _scene(k=k)
        spz.write(tmp_path / "a.spz", scene)
        raw = spz.read(tmp_path / "a.spz", axes="raw")
        turned = gaussians.transform(
            gaussians.RawGaussians(**scene), 1.0, jnp.diag(jnp.array([1.0, -1, -1])), jnp.zeros(3)
        )
        expected = {name: np.asarray(getattr(turned, name)) for name in records.FIELDS}
        # Half a turn about its own x axis maps an ellipsoid to itself; here it makes the quaternions,
        # not only the ellipsoids, comparable.
        own_turn = jnp.array([0.0, 1, 0, 0])
        expected["quats"] = np.asarray(rotations.quat_multiply(turned.quats, own_turn))
        _assert_close(raw, expected)


def test_degree_4_turns_as_a_rotation_of_the_scene(tmp_path):
    """Versions 2 and 3 are written up to degree 3; newer writers put degree 4 into the same column."""
    rest = np.random.default_rng(0).integers(0, 256, 72, np.uint8)
    path = _write(tmp_path / "a.spz", _header(degree=4), _body(bytes(4), rest.tobytes()))
    raw, found = spz.read(path, axes="raw"), spz.read(path)
    turned = gaussians.transform(
        gaussians.RawGaussians(**raw), 1.0, jnp.diag(jnp.array([1.0, -1, -1])), jnp.zeros(3)
    )
    np.testing.assert_allclose(found["sh"], turned.sh, atol=1e-5)


@pytest.mark.parametrize("axes", ["spz", "raw"])
@pytest.mark.parametrize("k", [1, 4, 9, 16])
def test_round_trip_within_half_a_step(tmp_path, k, axes):
    spz.write(tmp_path / "a.spz", _scene(k=k), axes=axes)
    _assert_close(spz.read(tmp_path / "a.spz", axes=axes), _scene(k=k))
    header = spz.read_header(tmp_path / "a.spz")
    assert (header.version, header.num, header.sh_degree) == (3, 60, round(k**0.5) - 1)


def test_version_2_round_trip(tmp_path):
    scene = _scene(k=4)
    spz.write(tmp_path / "a.spz", scene, version=2)
    found = spz.read(tmp_path / "a.spz")
    # w = sqrt(1 - x^2 - y^2 - z^2) is badly determined near 0; x, y, z are not.
    _assert_close(found, scene, rotation=0.2)
    unit = records.unit_quats(scene["quats"])
    unit *= np.sign(np.sum(unit * found["quats"], axis=1, keepdims=True))
    np.testing.assert_allclose(found["quats"][:, 1:], unit[:, 1:], atol=0.6 / 127.5)


def test_more_fractional_bits_are_finer(tmp_path):
    spz.write(tmp_path / "a.spz", _scene(), fractional_bits=20)
    _assert_close(spz.read(tmp_path / "a.spz"), _scene(), step=2.0**-20)


def test_fewer_sh_bits_keep_zero_and_stay_within_their_bucket(tmp_path):
    scene = _scene(200)
    scene["sh"][0, 1:] = 0
    spz.write(tmp_path / "a.spz", scene, sh_bits=(5, 4))
    found = spz.read(tmp_path / "a.spz")
    np.testing.assert_array_equal(found["sh"][0, 1:], 0)
    np.testing.assert_allclose(found["sh"][:, 1:4], scene["sh"][:, 1:4], atol=4.6 / 128)
    np.testing.assert_allclose(found["sh"][:, 4:], scene["sh"][:, 4:], atol=8.6 / 128)
    assert np.abs(found["sh"][:, 4:] - scene["sh"][:, 4:]).max() > 0.05


def test_a_second_write_changes_nothing(tmp_path):
    spz.write(tmp_path / "a.spz", _scene())
    spz.write(tmp_path / "b.spz", spz.read(tmp_path / "a.spz"))
    assert (tmp_path / "a.spz").read_bytes() == (tmp_path / "b.spz").read_bytes()


def test_the_antialiasing_flag_survives(tmp_path):
    for flag in (False, True):
        spz.write(tmp_path / "a.spz", _scene(), antialiased=flag)
        assert spz.read_header(tmp_path / "a.spz").antialiased is flag


def test_version_4_by_hand(tmp_path):
    """The same columns as version 3, each a Zstandard stream behind a table of contents."""
    zstandard = pytest.importorskip("zstandard", reason="SPZ version 4 needs zstandard")
    spz.write(tmp_path / "a.spz", _scene(k=4))
    body = gzip.decompress((tmp_path / "a.spz").read_bytes())[16:]
    ends = np.cumsum([0, 9, 1, 3, 3, 4, 9]) * 60
    columns = [body[i:j] for i, j in zip(ends[:-1], ends[1:], strict=True)]
    streams = [zstandard.ZstdCompressor().compress(c) for c in columns]
    toc = b"".join(
        struct.pack("<QQ", len(s), len(c)) for s, c in zip(streams, columns, strict=True)
    )
    header = b"NGSP" + struct.pack("<IIBBBBI", 4, 60, 1, 12, 0, 6, 40) + bytes(12) + b"8 unread"
    whole = header + toc + b"".join(streams)
    (tmp_path / "b.spz").write_bytes(whole)
    one, other = spz.read(tmp_path / "a.spz"), spz.read(tmp_path / "b.spz")
    for name in records.FIELDS:
        np.testing.assert_array_equal(one[name], other[name])
    for cut in (20, 100, len(whole) - 1):
        (tmp_path / "b.spz").write_bytes(whole[:cut])
        with pytest.raises(records.SplatFormatError, match="truncated|table of contents"):
            spz.read(tmp_path / "b.spz")
    damaged = bytearray(whole)
    damaged[40 + len(toc) + 5] ^= 0xFF
    (tmp_path / "b.spz").write_bytes(
        damaged[: 40 + len(toc)] + b"\0" * (len(whole) - 40 - len(toc))
    )
    with pytest.raises(records.SplatFormatError, match="stream 0"):
        spz.read(tmp_path / "b.spz")


@pytest.mark.parametrize(
    "header, body, message",
    [
        (_header(magic=b"NGSQ"), _body(bytes(4)), "not an SPZ file.*NGSQ"),
        (_header(version=1), _body(bytes(4)), "SPZ version 1; known are 2, 3 and 4"),
        (_header(version=9), _body(bytes(4)), "SPZ version 9"),
        (_header(degree=5), _body(bytes(4)), "SH degree 5"),
        (_header(bits=40), _body(bytes(4)), "40 fractional bits"),
        (_header(), _body(bytes(4))[:-1], "truncated: 1 Gaussians.*20 bytes, found 19"),
        (_header(), _body(bytes(5)), "too long"),
        (_header(degree=1), _body(bytes(4)), "29 bytes, found 20"),
        (_header(num=0), b"", "zero Gaussians"),
        (_header()[:10], b"", "not an SPZ file"),
    ],
)
def test_damaged_files(tmp_path, header, body, message):
    path = _write(tmp_path / "a.spz", header, body)
    with pytest.raises(records.SplatFormatError, match=message):
        formats.load_gaussians(path)


def test_a_truncated_stream_and_another_format(tmp_path):
    path = _write(tmp_path / "a.spz", _header(), _body(bytes(4)))
    path.write_bytes(path.read_bytes()[:-12])
    with pytest.raises(records.SplatFormatError, match="truncated or damaged gzip"):
        spz.read(path)
    path.write_bytes(b"ply\nformat ascii 1.0\nend_header\n")
    with pytest.raises(records.SplatFormatError, match="not an SPZ file.*ply"):
        spz.read(path)


def test_trailing_extension_records_are_allowed_where_the_header_says_so(tmp_path):
    path = _write(tmp_path / "a.spz", _header(flags=2), _body(bytes(4)) + b"records")
    assert spz.read_header(path).has_extensions and len(spz.read(path)["means"]) == 1


def test_what_cannot_be_held_is_refused(tmp_path):
    path = tmp_path / "a.spz"
    far = _scene(k=1)
    far["means"][3, 1] = 5000
    with pytest.raises(ValueError, match=r"means.*\+-2048, found 5000; pass fractional_bits=10"):
        spz.write(path, far)
    spz.write(path, far, fractional_bits=10)
    assert spz.read(path)["means"][3, 1] == 5000
    with pytest.raises(ValueError, match="sh: .spz holds degree 3 at most, found K = 25"):
        spz.write(path, _scene(k=25))
    spz.write(path, _scene(k=25), drop_sh=True)
    assert spz.read(path)["sh"].shape == (60, 16, 3)
    with pytest.raises(records.SplatFormatError, match="zero Gaussians"):
        spz.write(path, _scene(0))


def test_clipping_is_logged(tmp_path, caplog):
    scene = _scene(k=4)
    scene["log_scales"][:5, 0] = -14
    scene["sh"][:3, 2, 0] = 1.5
    scene["sh"][:2, 0, 0] = -7
    with caplog.at_level("WARNING"):
        spz.write(tmp_path / "a.spz", scene)
    text = caplog.text
    assert "5 of 180 values of log_scales" in text and "2 of 180 values of sh (degree 0)" in text
    assert "3 of 540 values of sh (above degree 0)" in text
    assert spz.read(tmp_path / "a.spz")["log_scales"][0, 0] == -10


@pytest.mark.parametrize(
    "option, message",
    [
        ({"version": 4}, "version: expected 2 or 3, found 4"),
        ({"axes": "ply"}, "axes: expected 'spz' or 'raw', found 'ply'"),
        ({"fractional_bits": 24}, "fractional_bits: expected 0 to 23"),
        ({"sh_bits": (5, 9)}, "sh_bits"),
    ],
)
def test_options_are_checked(tmp_path, option, message):
    with pytest.raises(ValueError, match=message):
        spz.write(tmp_path / "a.spz", _scene(), **option)
    assert not (tmp_path / "a.spz").exists()


def test_formats_dispatch_and_pass_options(tmp_path):
    path = tmp_path / "A.SPZ"
    formats.save_gaussians(path, gaussians.RawGaussians(**_scene()), version=2, axes="raw")
    found, dropped = formats.load_gaussians_counted(path, axes="raw")
    assert dropped == 0 and spz.read_header(path).version == 2
    np.testing.assert_allclose(found["means"], _scene()["means"], atol=2e-4)


def test_zero_quaternion_is_the_identity(tmp_path):
    for version in (2, 3):
        scene = {**_scene(), "quats": np.zeros((60, 4))}
        spz.write(tmp_path / "a.spz", scene, version=version)
        np.testing.assert_allclose(
            spz.read(tmp_path / "a.spz")["quats"], [[1, 0, 0, 0]] * 60, atol=0.005
        )
