"""Packing by Beam: the same records in the same order as the serial writer's."""

import importlib.util
import os
import subprocess
import sys

import numpy as np
import pytest

from gsjax.data import fitted, pack_beam, prepare, store

needs_beam = pytest.mark.skipif(
    importlib.util.find_spec("apache_beam") is None,
    reason="apache-beam is not installed (pip install 'gsjax[beam]')",
)
CATEGORIES = ("chair", "desk", "sofa")


def _object(number):
    rng = np.random.default_rng(number)
    count = 20 + 7 * number
    gaussians = {
        "means": rng.normal(size=(count, 3)), "quats": rng.normal(size=(count, 4)),
        "log_scales": rng.uniform(-4, -3, (count, 3)), "logit_opacities": rng.normal(size=count),
        "sh": rng.normal(size=(count, 4, 3)) * 0.3,
    }  # fmt: skip
    about = {
        "uid": f"object-{number}", "name": f"thing {number}", "captions": [f"a thing {number}"],
        "category": CATEGORIES[number % 3], "colored": True,
        "split": "test" if number % 4 == 3 else "train",
    }  # fmt: skip
    return fitted.Fitted(number, about, gaussians, {"psnr": 30.0})


@pytest.fixture(scope="module")
def waves(tmp_path_factory):
    """Eleven objects of two shards, in waves of three; object 4 lies in two files."""
    folder = tmp_path_factory.mktemp("waves")
    fitted.check_identity(folder, {"how": "made up"})
    for shard in (range(0, 11, 2), range(1, 11, 2)):
        numbers = list(shard)
        for at in range(0, len(numbers), 3):
            fitted.write_wave(folder, [_object(n) for n in numbers[at : at + 3]])
    fitted.write_wave(folder, [_object(4)])
    return folder


def _config(waves, folder):
    return dict(name="fitted", source=str(waves), dir=str(folder), num_gaussians=16, views=3,
                view_size=16)  # fmt: skip


def test_pieces_number_records_as_the_serial_writer_does(waves):
    elements, sizes, categories = pack_beam.pieces(waves)
    expected = fitted.sides(waves)
    assert sizes == {side: len(items) for side, items in expected.items()}
    assert categories == sorted(CATEGORIES)
    for side, items in expected.items():
        found = {}
        for piece in elements[side]:
            assert piece.start == (0 if side == "train" else sizes["train"])
            for position, item in zip(
                piece.positions, pack_beam.read_places(piece.path, piece.places), strict=True
            ):
                assert position not in found
                found[position] = item
        assert sorted(found) == list(range(len(items)))
        for position, item in enumerate(items):
            assert found[position].about == item.about
            for name in fitted.FIELDS:
                np.testing.assert_array_equal(found[position].gaussians[name], item.gaussians[name])


def test_a_folder_without_objects_is_refused(tmp_path):
    with pytest.raises(ValueError, match="no fitted object"):
        pack_beam.pieces(tmp_path)


def _records(folder):
    return {
        (split, position): records[position]
        for split in store.split_sizes(folder)
        for records in [store.open_split(folder, split, store.ALL_FIELDS)]
        for position in range(len(records))
    }


def _assert_same_sets(a, b):
    found, expected = _records(a), _records(b)
    assert found.keys() == expected.keys()
    for key, record in expected.items():
        for name, value in record.items():
            if isinstance(value, np.ndarray):
                np.testing.assert_array_equal(found[key][name], value, err_msg=f"{key} {name}")
            else:
                assert found[key][name] == value, (key, name)


@needs_beam
@pytest.mark.parametrize("num_shards", [0, 3])
def test_beam_packs_the_records_of_the_serial_writer(waves, tmp_path, num_shards):
    serial = prepare.ensure(_config(waves, tmp_path / "serial"))
    packed = pack_beam.pack(_config(waves, tmp_path / "beam"), num_shards=num_shards)
    assert packed.relative_to(tmp_path / "beam") == serial.relative_to(tmp_path / "serial")
    files = list(packed.glob("*-train.array_record*"))
    assert len(files) == max(num_shards, 1)
    _assert_same_sets(packed, serial)
    assert store.fingerprint(packed) == store.fingerprint(serial)
    # Training finds the packed set and makes none.
    assert prepare.ensure(_config(waves, tmp_path / "beam")) == packed
    assert not list(packed.parent.glob(".making*"))


@needs_beam
@pytest.mark.slow
def test_worker_processes_pack_the_same_set(waves, tmp_path):
    """By the command line: what travels to the workers can be pickled."""
    config = _config(waves, tmp_path / "beam")
    flags = [f"--{name}={value}" for name, value in config.items() if name != "name"]
    flags += ["--num_shards=2", "--direct_num_workers=2", "--direct_running_mode=multi_processing"]
    command = [sys.executable, "-m", "gsjax.data.pack_beam", *flags]
    subprocess.run(command, check=True, env=os.environ)
    packed = prepare.ensure(config)
    assert len(list(packed.glob("*-train.array_record*"))) == 2
    _assert_same_sets(packed, prepare.ensure(_config(waves, tmp_path / "serial")))
