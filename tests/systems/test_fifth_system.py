"""A paper of one's own: the files of docs/adding_a_system.md, as a user would lay them out, and nothing else.

No file of gsjax is touched: the package is written elsewhere, found by its dotted name, trained by the
loop, evaluated by its own evaluator, stopped, resumed, and refused where it is incomplete.
"""

import json
import os
import pathlib
import subprocess
import sys

import jax
import numpy as np
import pytest

from gsjax.systems import base
from gsjax.train import checkpoint, config_files, loop
from tests.docs import pages
from tests.systems import resume_case

ROOT = pathlib.Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "adding_a_system.md"


@pytest.fixture
def mylab(tmp_path, monkeypatch):
    """The folder that holds the package, importable."""
    for block in pages.blocks(PAGE):
        if block.file:
            path = tmp_path / block.file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(block.text)
    for folder in ("mylab", "mylab/moments"):
        (tmp_path / folder / "__init__.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    for name in [n for n in sys.modules if n.partition(".")[0] == "mylab"]:
        del sys.modules[name]


def config(folder, arg="quick", **changes):
    found = config_files.load(f"{folder}/mylab/config.py:{arg}")
    found.train.compilation_cache = "off"
    found.mesh.data = 1
    found.data.num_threads = 1
    found.update_from_flattened_dict({k.replace("__", "."): v for k, v in changes.items()})
    return found


def test_it_trains_and_is_evaluated_by_its_own_evaluator(mylab, tmp_path):
    results = loop.run(config(mylab), tmp_path / "run")
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").open()]
    losses = [row["loss"] for row in rows]
    assert len(losses) == 40 and np.mean(losses[-8:]) < 0.5 * np.mean(losses[:4])
    assert results["moments/error"] < 0.85 * results["moments/blind"]
    # mode 'eval' finds the same with the stored parameters
    again = loop.run(config(mylab, mode="eval"), tmp_path / "run")
    assert again == pytest.approx(results)


def test_a_run_that_is_stopped_goes_on_as_if_it_had_not_been(mylab, tmp_path, monkeypatch):
    def make():
        return config(mylab, train__num_steps=4, eval__evaluators={})

    digests, earlier = resume_case.check_resumed_run_is_the_whole(make, tmp_path, monkeypatch)
    assert digests != earlier
    meta = checkpoint.read_meta(tmp_path / "parts" / "checkpoints" / "4")
    assert meta["defines"]["system"] == "mylab.moments"


def test_rules_of_its_parameters_are_its_own(mylab):
    system = base.build(config(mylab))
    shapes = jax.eval_shape(system.init, jax.random.key(0))["params"]
    assert set(shapes) == {"point", "head"}
    assert system.param_rules[0].lr_scale == 0.5


def test_what_is_no_system_is_named(mylab):
    settings = config(mylab)
    settings.system = "mylab.absent"
    with pytest.raises(ValueError, match="No module named 'mylab.absent'.*PYTHONPATH"):
        base.build(settings)
    settings.system = "absent.moments"
    with pytest.raises(ValueError, match="No module named 'absent'.*PYTHONPATH"):
        base.build(settings)
    settings.system = "moments"
    with pytest.raises(ValueError, match=r"known: \['clip_gs'.*adding_a_system"):
        base.build(settings)
    (mylab / "mylab" / "moments" / "system.py").write_text("")
    settings.system = "mylab.moments"
    with pytest.raises(ValueError, match="exports no build"):
        base.build(settings)


def test_an_import_that_fails_inside_it_is_not_blamed_on_the_path(mylab):
    (mylab / "mylab" / "moments" / "system.py").write_text("import not_there\n")
    with pytest.raises(ModuleNotFoundError, match="not_there"):
        base.build(config(mylab))


def test_it_touches_no_existing_file():
    """Every file of the page lies in a package of its own, and gsjax names none of them."""
    files = [block.file for block in pages.blocks(PAGE) if block.file]
    assert len(files) == 6 and all(name.startswith("mylab/") for name in files)
    sources = [*(ROOT / "gsjax").rglob("*.py"), *(ROOT / "configs").rglob("*.py")]
    naming = [p.name for p in sources if "mylab" in p.read_text()]
    assert set(naming) <= {"base.py"}  # a docstring


@pytest.mark.slow
def test_the_command_of_the_page_trains_it(mylab):
    command = [sys.executable, "-m", "gsjax.cli.main", "train", "--config", "mylab/config.py:quick"]
    done = subprocess.run(
        [*command, "--workdir", "run"], cwd=mylab, capture_output=True, text=True, timeout=600,
        env={**os.environ, "PYTHONPATH": f"{mylab}:{ROOT}", "JAX_PLATFORMS": "cpu"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert (mylab / "run" / "eval.json").exists()
