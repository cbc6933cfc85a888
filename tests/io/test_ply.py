"""The 3DGS PLY: layout, round trips, and one clear error for each kind of bad file."""

import numpy as np
import pytest

from gsjax.io import ply, records

_COLUMNS = (
    ["x", "y", "z", "f_dc_0", "f_dc_1", "f_dc_2", "opacity"]
    + [f"scale_{i}" for i in range(3)]
    + [f"rot_{i}" for i in range(4)]
)


def scene(n=5, count=4, seed=0):
    rng = np.random.default_rng(seed)
    shapes = {
        "means": (n, 3),
        "quats": (n, 4),
        "log_scales": (n, 3),
        "logit_opacities": (n,),
        "sh": (n, count, 3),
    }
    return {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


def assert_equal(a, b):
    assert sorted(a) == sorted(b)
    for name in a:
        assert a[name].dtype == np.float32
        np.testing.assert_array_equal(a[name], b[name], err_msg=name)


def _header(columns, count, form="binary_little_endian", kind="float"):
    lines = ["ply", f"format {form} 1.0", "comment made by hand", f"element vertex {count}"]
    return "\n".join(lines + [f"property {kind} {c}" for c in columns] + ["end_header", ""])


def _file(tmp_path, text, body=b""):
    path = tmp_path / "bad.ply"
    path.write_bytes(text.encode() + body)
    return path


@pytest.mark.parametrize("count", records.SH_COUNTS)
@pytest.mark.parametrize("normals", [True, False])
def test_every_degree_round_trips(tmp_path, count, normals):
    path = tmp_path / "a.ply"
    ply.write(path, scene(count=count), normals=normals)
    assert_equal(ply.read(path), scene(count=count))
    assert (b"property float nx" in path.read_bytes()) == normals
    assert [p.name for p in tmp_path.iterdir()] == ["a.ply"]  # no temporary left


def test_rest_coefficients_are_channel_major(tmp_path):
    columns = _COLUMNS + [f"f_rest_{i}" for i in range(9)]
    row = np.arange(len(columns), dtype="<f4")
    path = _file(tmp_path, _header(columns, 1), row.tobytes())
    rest = ply.read(path)["sh"][0, 1:]
    first = len(_COLUMNS)
    np.testing.assert_array_equal(rest[:, 0], first + np.arange(3))  # red: f_rest_0..2
    np.testing.assert_array_equal(rest[:, 2], first + 6 + np.arange(3))


@pytest.mark.parametrize("form", ["binary_little_endian", "binary_big_endian", "ascii"])
@pytest.mark.parametrize("kind", ["float", "double"])
def test_columns_are_found_by_name_in_any_encoding(tmp_path, form, kind):
    columns = ["nx", *_COLUMNS[::-1], "surprise"]
    table = np.random.default_rng(0).normal(size=(3, len(columns))).astype(np.float32)
    if form == "ascii":
        body = "\n".join(" ".join(repr(float(v)) for v in row) for row in table).encode()
    else:
        order = "<" if "little" in form else ">"
        body = table.astype(order + ("f4" if kind == "float" else "f8")).tobytes()
    found = ply.read(_file(tmp_path, _header(columns, 3, form, kind), body))
    np.testing.assert_array_equal(found["means"][:, 1], table[:, columns.index("y")])
    np.testing.assert_array_equal(found["quats"][:, 0], table[:, columns.index("rot_0")])
    np.testing.assert_array_equal(found["logit_opacities"], table[:, columns.index("opacity")])


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
@pytest.mark.parametrize("encoding", ["utf-8", "latin-1"])
def test_comments_may_say_anything(tmp_path, encoding, newline):
    lines = "comment de René\ncomment no end_header yet\ncomment end_header\n"
    text = _header(_COLUMNS, 1).replace("comment made by hand\n", lines)
    row = np.arange(len(_COLUMNS), dtype="<f4")
    path = tmp_path / "a.ply"
    path.write_bytes(text.replace("\n", newline).encode(encoding) + row.tobytes())
    np.testing.assert_array_equal(ply.read(path)["means"], [[0, 1, 2]])
    assert ply.read_comments(path)[1:] == ["no end_header yet", "end_header"]


def test_comments_are_written_and_read_and_change_nothing_else(tmp_path):
    path, plain = tmp_path / "a.ply", tmp_path / "b.ply"
    ply.write(path, scene(), comments=[ply.ANTIALIASED, "second"])
    ply.write(plain, scene())
    assert ply.read_comments(path) == [ply.ANTIALIASED, "second"]
    assert ply.read_comments(plain) == []
    assert_equal(ply.read(path), scene())
    lines = f"comment {ply.ANTIALIASED}\ncomment second\n".encode()
    assert path.read_bytes().replace(lines, b"") == plain.read_bytes()
    for text in ("two\nend_header", "André"):
        with pytest.raises(ValueError, match="comments: expected single lines of ASCII"):
            ply.write(path, scene(), comments=[text])


def test_other_elements_are_stepped_over(tmp_path):
    before = "ply\nformat binary_little_endian 1.0\nelement info 2\nproperty uchar tag\n"
    vertex = _header(_COLUMNS, 1).split("\n", 3)[3]
    after = "element camera 1\nproperty double t\nend_header\n"
    text = before + vertex.replace("end_header\n", after)
    row = np.arange(len(_COLUMNS), dtype="<f4")
    found = ply.read(_file(tmp_path, text, b"\1\2" + row.tobytes() + bytes(8)))
    np.testing.assert_array_equal(found["means"], [[0, 1, 2]])


def test_a_real_capture_reads_and_is_rewritten_byte_for_byte(gsjax_data, tmp_path):
    source = gsjax_data / "splats" / "sh2" / "playbot_lod4.ply"
    found = ply.read(source)
    assert found["means"].shape == (8406, 3) and found["sh"].shape == (8406, 9, 3)
    # w first: unit quaternions whose real part may be chosen positive in the source's encoding.
    np.testing.assert_allclose(np.linalg.norm(found["quats"], axis=1), 1, atol=0.01)
    assert (found["log_scales"] < 0).all()  # logarithms, of a figure about two units wide
    ply.write(tmp_path / "copy.ply", found)
    assert (tmp_path / "copy.ply").read_bytes() == source.read_bytes()


@pytest.mark.parametrize("keep", [0.999, 0.5])
def test_truncated_body(tmp_path, keep):
    ply.write(tmp_path / "a.ply", scene(50))
    data = (tmp_path / "a.ply").read_bytes()
    path = tmp_path / "cut.ply"
    path.write_bytes(data[: int(len(data) * keep)])
    with pytest.raises(records.SplatFormatError, match="truncated: the header promises 50 vert"):
        ply.read(path)


def test_truncated_ascii_and_bad_numbers(tmp_path):
    line = " ".join(["0.5"] * len(_COLUMNS))
    text = _header(_COLUMNS, 3, "ascii")
    with pytest.raises(records.SplatFormatError, match="truncated.*promises 3 lines.*found 2"):
        ply.read(_file(tmp_path, text, f"{line}\n{line}\n".encode()))
    body = f"{line}\n{line} 7\n{line}\n".encode()
    with pytest.raises(records.SplatFormatError, match="vertex 1: expected 14 numbers"):
        ply.read(_file(tmp_path, text, body))


def test_bytes_beyond_the_promised_vertices(tmp_path):
    body = bytes(4 * len(_COLUMNS) + 3)
    with pytest.raises(records.SplatFormatError, match="longer than its header says by 3 bytes"):
        ply.read(_file(tmp_path, _header(_COLUMNS, 1), body))


def test_a_vast_vertex_count_is_not_allocated(tmp_path):
    with pytest.raises(records.SplatFormatError, match="truncated"):
        ply.read(_file(tmp_path, _header(_COLUMNS, 10**15)))


@pytest.mark.parametrize(
    "columns, message",
    [
        ([c for c in _COLUMNS if c != "opacity"], r"missing columns \['opacity'\]"),
        (["x", "y", "z", "red"], "plain point cloud"),
        ([c for c in _COLUMNS if c != "scale_2"], "2D Gaussian splatting"),
        (["packed_position", "packed_scale"], "compressed PLY"),
        ([*_COLUMNS, "f_rest_0", "f_rest_1"], "found 2 f_rest columns"),
        ([*_COLUMNS, *(f"f_rest_{i}" for i in range(1, 10))], "without gaps"),
        ([*_COLUMNS, "x"], "'x' of element 'vertex' appears twice"),
    ],
)
def test_wrong_columns_are_named(tmp_path, columns, message):
    with pytest.raises(records.SplatFormatError, match=message):
        ply.read(_file(tmp_path, _header(columns, 1), bytes(4 * len(columns))))


@pytest.mark.parametrize(
    "data, message",
    [
        (b"", "not a PLY file"),
        (b"\x89PNG\r\n\x1a\n" + bytes(99), "not a PLY file: it starts with b'.x89PNG"),
        (b"ply\nformat binary_little_endian 1.0\n" + bytes(99), "no 'end_header'"),
        (b"ply\n\xff\xfe\nend_header\n", "line not understood"),
        (b"ply\nformat ascii 1.0\ncomment end_header\n" + bytes(99), "no 'end_header'"),
        (b"ply\nformat ascii 1.0\nend_header here\n" + bytes(99), "no 'end_header'"),
        (b"ply\nelement vertex 1\nend_header\n", "no 'format' line"),
        (b"ply\nformat middle_endian 1.0\nend_header\n", "not understood: 'format middle"),
        (b"ply\nformat ascii 1.0\nelement vertex -1\nend_header\n", "not understood"),
        (b"ply\nformat ascii 1.0\nelement vertex 1\nproperty real x\nend_header\n", "known types"),
        (b"ply\nformat ascii 1.0\nelement face 0\nend_header\n", "no 'vertex' element"),
    ],
)
def test_garbage_headers(tmp_path, data, message):
    path = tmp_path / "bad.ply"
    path.write_bytes(data)
    with pytest.raises(records.SplatFormatError, match=message):
        ply.read(path)


def test_zero_gaussians(tmp_path):
    with pytest.raises(records.SplatFormatError, match="zero Gaussians"):
        ply.read(_file(tmp_path, _header(_COLUMNS, 0)))
    with pytest.raises(ValueError, match="zero Gaussians"):
        ply.write(tmp_path / "a.ply", scene(0))


def _with_bad_rows(tmp_path):
    table = np.zeros((6, len(_COLUMNS)), "<f4")
    table[:, _COLUMNS.index("x")] = np.arange(6)
    table[1, _COLUMNS.index("z")] = np.nan
    table[3, _COLUMNS.index("opacity")] = np.inf
    table[4, _COLUMNS.index("scale_1")] = 1e6
    return _file(tmp_path, _header(_COLUMNS, 6), table.tobytes())


def test_bad_rows_are_counted_and_located(tmp_path):
    path = _with_bad_rows(tmp_path)
    with pytest.raises(records.SplatFormatError) as caught:
        ply.read(path)
    text = str(caught.value)
    for part in (
        "3 of 6 Gaussians are unusable",
        "1 with NaN or infinite means, first at row 1",
        "1 with NaN or infinite logit_opacities, first at row 3",
        "1 with absurd scales (log outside -50 .. 20), first at row 4",
        "on_bad_rows='drop'",
    ):
        assert part in text


def test_bad_rows_can_be_dropped_with_a_count(tmp_path):
    path = _with_bad_rows(tmp_path)
    found, dropped = ply.read_counted(path, on_bad_rows="drop")
    assert dropped == 3 and found["means"][:, 0].tolist() == [0, 2, 5]
    assert all(len(value) == 3 for value in found.values())
    with pytest.raises(ValueError, match="on_bad_rows: expected 'error' or 'drop', found 'skip'"):
        ply.read(path, on_bad_rows="skip")


def test_nothing_left_is_an_error_even_when_dropping(tmp_path):
    body = np.full(len(_COLUMNS), np.nan, "<f4").tobytes()
    with pytest.raises(records.SplatFormatError, match="all 1 Gaussians are unusable"):
        ply.read(_file(tmp_path, _header(_COLUMNS, 1), body), on_bad_rows="drop")


def test_doubles_beyond_float32_are_bad_rows(tmp_path):
    body = np.full(len(_COLUMNS), 1e300, "<f8").tobytes()
    with pytest.raises(records.SplatFormatError, match="NaN or infinite means"):
        ply.read(_file(tmp_path, _header(_COLUMNS, 1, kind="double"), body))


def test_writing_a_wrong_scene_is_refused_and_leaves_the_old_file(tmp_path):
    path = tmp_path / "a.ply"
    ply.write(path, scene())
    before = path.read_bytes()
    bad = scene()
    bad["means"][2, 0] = np.nan
    with pytest.raises(ValueError, match="not written.*NaN or infinite means"):
        ply.write(path, bad)
    with pytest.raises(ValueError, match=r"quats: expected shape \[5, 4\]"):
        ply.write(path, {**scene(), "quats": scene()["means"]})
    with pytest.raises(ValueError, match="field 'sh' is missing"):
        ply.write(path, {k: v for k, v in scene().items() if k != "sh"})
    with pytest.raises(ValueError, match=r"sh: expected shape \[5, K, 3\]"):
        ply.write(path, {**scene(), "sh": scene()["sh"][:, :3]})
    assert path.read_bytes() == before and len(list(tmp_path.iterdir())) == 1
