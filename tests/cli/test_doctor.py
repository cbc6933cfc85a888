"""gsjax doctor: bounds, extras, and what it says of a broken installation."""

import pathlib

import numpy as np
import pytest

from gsjax.cli import doctor, doctor_packages, doctor_render, main
from gsjax.cli.doctor_packages import BROKEN, NOTE, OK, WARNING, Finding
from gsjax.raster.blend import backends

SETUP = pathlib.Path(__file__).resolve().parents[2] / "setup.cfg"


def test_all_is_well_here(capsys):
    """Whole, render included; warnings are allowed."""
    assert main.run(["doctor"]) == 0
    printed = capsys.readouterr().out
    assert "xla_loop: the choice for this device" in printed
    assert "differs from reference by" in printed and "all is well" in printed
    assert "mosaic_gpu: " in printed and "cache " in printed and "FAIL" not in printed


def test_requirements_are_read_in_both_forms():
    item = doctor_packages.parse('orbax-checkpoint<1,>=0.12.0; extra == "x"')
    assert item.bounds == (("<", "1"), (">=", "0.12.0")) and item.extra == "x"
    assert doctor_packages.parse("jax[cuda12]").distribution == "jax-cuda12-plugin"
    with pytest.raises(ValueError, match="cannot read"):
        doctor_packages.parse("two words")


@pytest.mark.parametrize(
    "version, bounds, fits",
    [
        ("0.10.2", ">=0.10", True),
        ("0.9.9", ">=0.10", False),
        ("0.10", ">=0.10.0", True),
        ("1.0.0", "<1", False),
        ("0.12.8", ">=0.12.0,<1", True),
        ("2.0rc1", ">=2", True),
        ("3", "==3.0", True),
    ],
)
def test_versions_are_compared_as_numbers(version, bounds, fits):
    assert doctor_packages.meets(version, doctor_packages.parse("x" + bounds).bounds) == fits


def test_every_extra_of_setup_cfg_is_described():
    found, python = doctor_packages.from_setup_cfg(SETUP)
    extras = {item.extra for item in found} - {""}
    assert extras == {*doctor_packages.EXTRAS, *doctor_packages.DEVELOPERS} and python == ">=3.11"
    assert {"jax", "flax", "grain"} <= {item.name for item in found if not item.extra}


@pytest.fixture
def versions(monkeypatch):
    """{distribution: version or None}, instead of what is installed."""
    table = {}
    real = doctor_packages.installed
    monkeypatch.setattr(doctor_packages, "installed", lambda name: table.get(name, real(name)))
    monkeypatch.setattr(doctor_packages, "declared", lambda: doctor_packages.from_setup_cfg(SETUP))
    return table


def test_an_old_package_is_a_warning_and_an_absent_one_is_broken(versions):
    versions.update({"optax": "0.1.0", "chex": None})
    states = {f.text.split()[0]: f for f in doctor_packages.check_required()}
    assert (
        states["optax"].state == WARNING and states["optax"].remedy == "pip install 'optax>=0.2.6'"
    )
    assert states["chex"].state == BROKEN and states["chex"].remedy == "pip install 'chex>=0.1.91'"


def test_an_absent_extra_has_the_line_that_adds_it(versions):
    versions.update({"viser": None, "h5py": "3.11"})
    found = {f.text.split(":")[0]: f for f in doctor_packages.check_extras()}
    assert found["viewer"].state == NOTE
    assert found["viewer"].remedy == "pip install 'gsjax[viewer]'"
    assert found["h5"].state == OK and not found["h5"].remedy


def _sections(monkeypatch, *checks):
    monkeypatch.setattr(
        doctor, "SECTIONS", tuple((f"part {i}", c, "do this") for i, c in enumerate(checks))
    )


def test_a_check_that_raises_is_reported_and_the_others_run(monkeypatch, capsys):
    def bad():
        raise RuntimeError("driver too old")

    _sections(monkeypatch, bad, lambda: [Finding(OK, "second")])
    assert main.run(["doctor"]) == 1
    printed = capsys.readouterr().out
    assert "FAIL RuntimeError: driver too old" in printed and "-> do this" in printed
    assert "second" in printed and "1 broken" in printed


def test_warnings_alone_are_well(monkeypatch, capsys):
    _sections(monkeypatch, lambda: [Finding(WARNING, "old", "newer")])
    assert main.run(["doctor"]) == 0
    assert "with 1 warnings" in capsys.readouterr().out


def test_a_backend_that_draws_something_else_is_broken(monkeypatch):
    found = doctor_render.Rendered("x", 1.0, 0.1, 1e-7, 1e-7)
    assert found.well
    for wrong in (found._replace(image_error=0.1), found._replace(gradient_error=np.nan)):
        assert not wrong.well
        monkeypatch.setattr(doctor_render, "compare", lambda name, wrong=wrong: wrong)
        monkeypatch.setattr(backends, "choose", lambda: ("x", None))
        (finding,) = doctor.check_render()
        assert finding.state == BROKEN and "xla_group" in finding.remedy


def test_flags_of_the_users_own_without_the_threshold_are_a_warning(monkeypatch):
    from gsjax import runtime

    monkeypatch.setattr(runtime, "needs_loop_flag", lambda: True)
    monkeypatch.setenv("XLA_FLAGS", "--xla_backend_extra_options=other=1")
    (finding,) = doctor.check_flags()
    assert finding.state == WARNING and "xla_cpu_small_while_loop_byte_threshold=" in finding.remedy


def test_a_cache_on_a_full_disk_is_a_warning(monkeypatch, tmp_path):
    import collections

    usage = collections.namedtuple("usage", "total used free")
    monkeypatch.setenv("GSJAX_CACHE", str(tmp_path / "not" / "yet"))
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda place: usage(9, 9, 10**9))
    monkeypatch.setenv("GSJAX_DATA", str(tmp_path / "absent"))
    states = [f.state for f in doctor.check_folders()]
    assert states == [WARNING, WARNING, OK]
