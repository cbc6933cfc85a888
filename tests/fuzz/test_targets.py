"""Every target: its sound files are read, a few damaged ones are read or refused as documented.

Long runs are ``python -m tests.fuzz.run``. What such runs have found lies in ``regressions``, by target, as
the bytes of the input (``targets.join``); each came out with an undocumented error once.
"""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fuzz import inputs, run, targets, worker

REGRESSIONS = sorted((Path(__file__).parent / "regressions").glob("*/*"))
_SLOW = {"checkpoint_meta", "run_folder", "data_set"}  # import JAX and orbax, or TFDS
QUICK = sorted(set(targets.TARGETS) - _SLOW)
_EXTRAS = {
    "colmap_binary": "pycolmap", "colmap_text": "pycolmap", "hdf5": "h5py", "safetensors": "safetensors",
    "sharded_weights": "safetensors", "spz": "zstandard", "spz_header": "zstandard",
    **{f"mesh_{suffix}": "trimesh" for suffix in ("off", "obj", "ply", "stl", "glb")},
}  # fmt: skip


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """name -> (inputs of that target, its folder), made once each."""
    known = {}

    def make(name):
        if name in _EXTRAS:
            pytest.importorskip(_EXTRAS[name])
        if name not in known:
            folder = tmp_path_factory.mktemp(name)
            known[name] = inputs.Inputs(targets.TARGETS[name], folder), folder
        return known[name]

    return make


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", QUICK)
def test_sound_files_are_read_and_damaged_ones_read_or_refused(made, name):
    found, folder = made(name)
    for sound in found.sound:
        assert found.run(folder, sound) is None

    @settings(max_examples=8, deadline=None, derandomize=True, database=None)
    @given(st.integers(len(found.sound), 2**40))
    def read(index):
        found.run(folder, found.make(0, index))

    read()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["ply", "splat", "safe_pickle", "packed_arrays", "view_index"])
def test_any_bytes_are_read_or_refused(made, name):
    found, folder = made(name)

    @settings(max_examples=20, deadline=None, derandomize=True, database=None)
    @given(st.binary(max_size=200))
    def read(data):
        found.run(folder, targets.split(data, len(found.target.files)))

    read()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "path",
    [
        pytest.param(
            p, id=f"{p.parent.name}-{p.name}", marks=[pytest.mark.slow] * (p.parent.name in _SLOW)
        )
        for p in REGRESSIONS
    ],
)
def test_what_once_failed_is_read_or_refused(made, path):
    found, folder = made(path.parent.name)
    found.run(folder, targets.split(path.read_bytes(), len(found.target.files)))


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(_SLOW))
def test_targets_that_import_much(made, name):
    found, folder = made(name)
    for sound in found.sound:
        assert found.run(folder, sound) is None
    for index in range(1, 12):
        found.run(folder, found.make(0, index))


def test_inputs_depend_on_seed_and_number_alone(made):
    found, _ = made("ply")
    assert found.make(3, 77) == found.make(3, 77)
    assert len({found.make(3, i)[0] for i in range(50)}) > 40
    assert found.make(3, 77) != found.make(4, 77)


def test_several_files_are_one_input():
    parts = [b"abc", b"", b"\x00" * 9]
    assert targets.split(targets.join(parts), 3) == parts
    assert targets.split(b"\xff\xff\xff\xffabc", 2) == [b"abc", b""]


def test_shares_add_up():
    counts = run.plan(sorted(targets.TARGETS), 1_000_000)
    assert sum(counts.values()) == 1_000_000 and min(counts.values()) > 100


def test_errors_are_told_by_their_place():
    from gsjax.io import json_text

    with pytest.raises(ValueError) as caught:
        json_text.parse("{", "x")
    assert worker.place_of(caught.value).startswith("ValueError io/json_text.py:")


def test_a_run_finds_errors_time_and_crashes_and_goes_on(tmp_path):
    """By a target that fails on purpose; the worker is a process of its own."""
    command = [
        "--target=self_test",
        "--inputs=12",
        f"--keep={tmp_path}/keep",
        "--limit_seconds=0.5",
    ]
    command += [f"--out={tmp_path}/rows.jsonl"]
    assert run.main(command) == 1
    import json

    row = json.loads((tmp_path / "rows.jsonl").read_text())
    assert row["inputs"] == 12 and row["read"] + row["refused"] == 8
    assert (row["error"], row["slow"], row["crash"]) == (2, 1, 1)
    kept = {path.name for path in (tmp_path / "keep/self_test/findings").iterdir()}
    assert kept == {"0-3", "0-5", "0-7", "0-9"}
    assert run.main(command) == 0  # its row is there: nothing is left to do
