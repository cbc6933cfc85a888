"""Tables [N, 14] of Gaussians as .npy, and UniGS's records: layout, round trips, refusals."""

import collections
import os
import pickle
import zipfile

import numpy as np
import pytest

from gsjax.io import formats, gaussian_array, records
from tests.io import programs


def _scene(n=7, count=1, seed=0):
    rng = np.random.default_rng(seed)
    shapes = dict(means=(n, 3), quats=(n, 4), log_scales=(n, 3), logit_opacities=(n,))
    shapes["sh"] = (n, count, 3)
    return {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


def _torch_file(path, content, protocol=2, member="object/data.pkl"):
    """As torch.save writes an object without tensors: its program in a zip archive."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr(member, pickle.dumps(content, protocol))
        archive.writestr("object/version", "3\n")
    return path


def _record(**changes):
    content = {
        "machine_prompt": "a small  red chair",
        "human_prompt": ["red chair", " "],
        "name": "0a1b",
        "label_count": 3,
        "dataset": "objaverse",
        "label": "folding_chair",
        "3dgs": np.arange(28, dtype=np.float32).reshape(2, 14) / 10,
    }
    return {key: value for key, value in (content | changes).items() if value is not None}


def _assert_equal(a, b):
    assert sorted(a) == sorted(b)
    for name in a:
        assert a[name].dtype == np.float32
        np.testing.assert_array_equal(a[name], b[name], err_msg=name)


def test_columns_by_hand(tmp_path):
    np.save(tmp_path / "a.npy", np.arange(14, dtype=np.float32)[None] / 10)
    found = gaussian_array.read(tmp_path / "a.npy")
    np.testing.assert_allclose(found["means"], [[0, 0.1, 0.2]], atol=1e-7)
    np.testing.assert_allclose(found["sh"], [[[0.3, 0.4, 0.5]]], atol=1e-7)
    np.testing.assert_allclose(found["logit_opacities"], [0.6], atol=1e-7)
    np.testing.assert_allclose(found["log_scales"], [[0.7, 0.8, 0.9]], atol=1e-7)
    np.testing.assert_allclose(found["quats"], [[1.0, 1.1, 1.2, 1.3]], atol=1e-7)


def test_higher_coefficients_stand_between_colour_and_opacity(tmp_path):
    np.save(tmp_path / "a.npy", np.arange(23, dtype=np.float64)[None])
    found = gaussian_array.read(tmp_path / "a.npy", on_bad_rows="error")
    np.testing.assert_array_equal(found["sh"][0], np.arange(3, 15).reshape(4, 3))
    assert found["logit_opacities"] == [15] and found["quats"][0, 0] == 19


@pytest.mark.parametrize("count", records.SH_COUNTS)
def test_round_trip_is_exact(tmp_path, count):
    formats.save_gaussians(tmp_path / "a.npy", _scene(count=count))
    assert np.load(tmp_path / "a.npy", allow_pickle=False).shape == (7, 14 + 3 * (count - 1))
    _assert_equal(formats.load_gaussians(tmp_path / "a.npy"), _scene(count=count))


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_every_float_and_order_is_read(tmp_path, dtype, order):
    table = np.asarray(gaussian_array.to_table(_scene()), dtype, order=order)
    np.save(tmp_path / "a.npy", table)
    found = gaussian_array.to_table(gaussian_array.read(tmp_path / "a.npy"))
    np.testing.assert_array_equal(found, table.astype(np.float32))
    _torch_file(tmp_path / "a.pkl", _record(**{"3dgs": table}))
    found = gaussian_array.to_table(gaussian_array.read(tmp_path / "a.pkl"))
    np.testing.assert_array_equal(found, table.astype(np.float32))


@pytest.mark.parametrize(
    "array, message",
    [
        (np.zeros((3, 13), np.float32), r"shape \(3, 13\).*\[N, 14\].*f_dc_0..2"),
        (np.zeros(14, np.float32), r"shape \(14,\)"),
        (np.zeros((3, 14), np.int64), "int64"),
        (np.zeros((0, 14), np.float32), "zero Gaussians"),
        (np.full((2, 14), np.nan, np.float32), "unusable"),
        (np.zeros((3, 14), ">f4")[:, :13], r"shape \(3, 13\)"),
    ],
)
def test_other_arrays_are_refused(tmp_path, array, message):
    np.save(tmp_path / "a.npy", array)
    with pytest.raises(records.SplatFormatError, match=message):
        formats.load_gaussians(tmp_path / "a.npy")


def test_bad_rows_are_dropped_on_request(tmp_path):
    table = gaussian_array.to_table(_scene())
    table[2, 7] = np.inf
    np.save(tmp_path / "a.npy", table)
    with pytest.raises(records.SplatFormatError, match="first at row 2"):
        gaussian_array.read(tmp_path / "a.npy")
    found, dropped = formats.load_gaussians_counted(tmp_path / "a.npy", on_bad_rows="drop")
    assert dropped == 1
    np.testing.assert_array_equal(gaussian_array.to_table(found), np.delete(table, 2, axis=0))


def test_damaged_npy_files_are_named(tmp_path):
    np.save(tmp_path / "a.npy", gaussian_array.to_table(_scene()))
    data = (tmp_path / "a.npy").read_bytes()
    for bad, message in (
        (data[:-8], "truncated"),
        (data + b"\0", "overlong"),
        (data[:40], "damaged"),
        (b"ply\n" + data, "not a .npy file"),
        (b"", "not a .npy file"),
    ):
        (tmp_path / "b.npy").write_bytes(bad)
        with pytest.raises(records.SplatFormatError, match=f"b.npy: .*{message}|{message}"):
            gaussian_array.read(tmp_path / "b.npy")


class _Touch:
    """Unpickled, it would write a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_pickled_objects_are_refused_and_not_run(tmp_path):
    trap = _Touch(tmp_path / "was_here")
    array = np.empty((2, 14), object)
    array[:] = trap
    np.save(tmp_path / "a.npy", array, allow_pickle=True)
    with pytest.raises(records.SplatFormatError, match="objects"):
        gaussian_array.read(tmp_path / "a.npy")
    _torch_file(tmp_path / "a.pkl", _record(extra=trap))
    with pytest.raises(records.SplatFormatError, match="mkdir.*refused"):
        gaussian_array.read_record(tmp_path / "a.pkl")
    _torch_file(tmp_path / "b.pkl", _record(**{"3dgs": array}))
    with pytest.raises(records.SplatFormatError, match="mkdir.*refused"):
        gaussian_array.read_record(tmp_path / "b.pkl")
    assert not (tmp_path / "was_here").exists()


@pytest.mark.parametrize("protocol", [2, 3, 4])
def test_a_record_gives_gaussians_label_and_captions(tmp_path, protocol):
    path = _torch_file(tmp_path / "0a1b.pkl", _record(), protocol)
    found = gaussian_array.read_record(path)
    assert (found.name, found.label) == ("0a1b", "folding_chair")
    assert found.captions == ("red chair", "a small red chair")
    np.testing.assert_array_equal(found.table, _record()["3dgs"])
    np.testing.assert_array_equal(formats.load_gaussians(path)["means"], found.table[:, :3])


def test_records_of_older_numpy_are_read(tmp_path):
    program = pickle.dumps(_record(), 2)
    old, new = b"cnumpy.core.multiarray\n", b"cnumpy._core.multiarray\n"
    assert (old in program) != (new in program)
    other = program.replace(new, old) if new in program else program.replace(old, new)
    with zipfile.ZipFile(tmp_path / "a.pkl", "w") as archive:
        archive.writestr("a/data.pkl", other)
    found = gaussian_array.read_record(tmp_path / "a.pkl")
    np.testing.assert_array_equal(found.table, _record()["3dgs"])


def test_records_may_lack_all_but_the_table(tmp_path):
    content = _record(machine_prompt=["one", "one"], human_prompt=None, name=None, label="")
    found = gaussian_array.read_record(_torch_file(tmp_path / "a.pkl", content))
    assert (found.name, found.label, found.captions) == ("", "", ("one",))


@pytest.mark.parametrize(
    "content, message",
    [
        ({"xyz": 1}, r"found \['xyz'\].*'3dgs'"),
        ([1, 2], "found list"),
        (_record(**{"3dgs": [[0.0] * 14]}), "'3dgs'"),
        (_record(**{"3dgs": np.zeros((2, 14), np.int32)}), "floats"),
        (_record(**{"3dgs": np.zeros((2, 12), np.float32)}), r"\(2, 12\)"),
        (_record(**{"3dgs": np.zeros((2, 14), ">f4")}), "little-endian"),
        (_record(when=collections.Counter()), "collections.Counter.*refused"),
    ],
)
def test_other_records_are_refused(tmp_path, content, message):
    path = _torch_file(tmp_path / "a.pkl", content)
    with pytest.raises(records.SplatFormatError, match=message):
        formats.load_gaussians(path)


def test_other_archives_are_refused(tmp_path):
    path = tmp_path / "a.pkl"
    path.write_bytes(pickle.dumps(_record()))
    with pytest.raises(records.SplatFormatError, match="torch.save"):
        gaussian_array.read(path)
    _torch_file(path, _record(), member="object/other.pkl")
    with pytest.raises(records.SplatFormatError, match="without data.pkl"):
        gaussian_array.read(path)
    for program, message in (
        (pickle.dumps(_record(), 2)[:-30], "damaged"),
        (b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n.", "torch tensors.*npy"),
    ):
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("object/data.pkl", program)
        with pytest.raises(records.SplatFormatError, match=message):
            gaussian_array.read(path)


def _recorded(table: bytes) -> bytes:
    return programs.program(programs.mapping(**{"3dgs": table}))


_STATES = {
    "dict": programs.mapping(__defaults__=programs.several(programs.text("latin1"))),
    "slots": programs.several(
        programs.NONE, programs.mapping(__defaults__=programs.several(programs.text("latin1")))
    ),
}


@pytest.mark.parametrize("state", _STATES)
def test_a_program_cannot_alter_what_it_may_name(tmp_path, state):
    for module, name in gaussian_array._names():
        code = _recorded(programs.name(module, name) + _STATES[state] + programs.BUILD)
        with pytest.raises(records.SplatFormatError, match=r"a\.pkl: damaged.*attempt to alter a"):
            gaussian_array.read_record(programs.write(tmp_path / "a.pkl", code))
    code = _recorded(
        programs.name("_codecs", "encode") + programs.several(programs.text("a")) + programs.REDUCE
    )
    with pytest.raises(records.SplatFormatError, match="not spelt in latin1"):
        gaussian_array.read_record(programs.write(tmp_path / "a.pkl", code))
    one, two = gaussian_array._names(), gaussian_array._names()
    assert all(one[key] is not two[key] for key in one)


_MADE = programs.name("numpy.core.multiarray", "_reconstruct") + b")" + programs.REDUCE
_FLOAT = programs.name("numpy", "dtype") + programs.several(programs.text("f4")) + programs.REDUCE


@pytest.mark.parametrize(
    "state, message",
    [
        (programs.NONE, "filled twice, or with nothing"),
        (programs.tower(60), "damaged NumPy array"),
        (programs.several(*[programs.tower(60)] * 5), "damaged NumPy array"),
        (
            programs.several(programs.NONE, programs.numbers([-1]), _FLOAT, b"\x89", b"C\x00"),
            "damaged NumPy array",
        ),
        (
            programs.several(programs.NONE, programs.numbers([4]), _FLOAT, b"\x89", b"C\x01a"),
            r"truncated: an array of shape \(4,\), float32 has 16 bytes, found 1",
        ),
        (
            programs.several(
                programs.NONE,
                programs.numbers([0]),
                _FLOAT + programs.several(programs.NONE, programs.tower(60)) + programs.BUILD,
                *(b"\x89", b"C\x00"),
            ),
            "a damaged type",
        ),
    ],
)
def test_damaged_arrays_in_records_are_refused(tmp_path, state, message):
    path = programs.write(tmp_path / "a.pkl", _recorded(_MADE + state + programs.BUILD))
    with pytest.raises(records.SplatFormatError, match=message):
        gaussian_array.read_record(path)


def test_the_same_text_asked_for_again_costs_no_memory():
    encode = gaussian_array._names()["_codecs", "encode"]
    text = "\xff" * 1000
    assert encode(text, "latin1") is encode(text, "latin1") == b"\xff" * 1000


def test_compressed_records_are_refused_before_they_are_read(tmp_path):
    code = _recorded(programs.text("a" * 1_000_000))
    path = programs.write(tmp_path / "a.pkl", code, method=zipfile.ZIP_DEFLATED)
    with pytest.raises(records.SplatFormatError, match=r"a\.pkl.*is compressed \(method 8\)"):
        gaussian_array.read_record(path)


@pytest.mark.parametrize("human", [0, 1.5, {"a": 1}, [None, 3, "red chair"], "red chair"])
def test_captions_of_odd_types_are_left_out(tmp_path, human):
    path = _torch_file(tmp_path / "a.pkl", _record(human_prompt=human, name=7))
    found = gaussian_array.read_record(path)
    known = ("red chair",) if "red chair" in str(human) else ()
    assert found.captions == (*known, "a small red chair") and found.name == ""
    content = _record() | dict(human_prompt=None, machine_prompt=None, label=None)
    assert gaussian_array.read_record(_torch_file(path, content)).captions == ()


def test_records_are_read_only_and_not_looked_for(tmp_path):
    with pytest.raises(ValueError, match="read only.*npy"):
        formats.save_gaussians(tmp_path / "a.pkl", _scene())
    assert not {".npy", ".pkl"} & set(formats.FORMATS)


def test_what_torch_saves_is_read(tmp_path):
    torch = pytest.importorskip("torch", reason="writes the record with PyTorch itself")
    torch.save(_record(), tmp_path / "a.pkl")
    found = gaussian_array.read_record(tmp_path / "a.pkl")
    np.testing.assert_array_equal(found.table, _record()["3dgs"])
    torch.save(_record(**{"3dgs": torch.zeros(2, 14)}), tmp_path / "a.pkl")
    with pytest.raises(records.SplatFormatError, match="torch tensors.*numpy"):
        gaussian_array.read_record(tmp_path / "a.pkl")
