"""Tables of feed-forward splatting, by hand, and a tiny study from the base run to its table."""

import numpy as np
import pytest

from gsjax.cli import main, study, study_posed

NAME = "posed_views/interpolation"


def _row(arm, seed, psnr, **metrics):
    outcomes = {NAME: {"index": [0, 1, 2], "render/psnr": psnr, "depth/abs_rel": [0.1, None, 0.3]}}
    return dict(arm=f"rooms/{arm}", seed=seed, metrics=metrics, outcomes=outcomes)


def _cells(text, start):
    (line,) = (line for line in text.splitlines() if line.startswith(start))
    return line[40:]


def test_values_and_differences_by_hand():
    rows = [
        _row("base", 0, [9.0, 9.0, 9.0], **{f"{NAME}/nearest/psnr": 8.0, f"{NAME}/median/abs_rel": 0.5}),
        _row("none", 0, [10.0, 11.0, 12.0]),
        _row("none", 1, [12.0, 13.0, 14.0]),
        _row("PM", 0, [11.0, 12.0, 13.0]),
        _row("PM", 1, [13.0, 14.0, 15.0]),
        _row("PM", 2, [50.0, 50.0, 50.0]),  # a seed that the other arm lacks: in its mean alone
    ]  # fmt: skip
    text = study_posed.tables(rows, "none")
    assert "rooms, interpolation: 3 scenes" in text
    assert _cells(text, "none (2 seeds)").split()[0] == "12.00"
    assert float(_cells(text, "PM (3 seeds)").split()[0]) == pytest.approx(
        (12 + 14 + 50) / 3, abs=0.01
    )
    assert _cells(text, "PM  ").split()[0] == "1.00"  # every run and scene alike: no interval
    assert "20.00 [10.00, 30.00]" in _cells(
        text, "none (2 seeds)"
    )  # the scene without a depth is out
    assert _cells(text, "  nearest context picture").split() == ["8.00"]
    assert _cells(text, "  median depth").split() == ["50.00"]


def test_runs_on_other_scenes_are_refused():
    other = _row("PM", 0, [1.0, 2.0, 3.0])
    other["outcomes"][NAME]["index"] = [0, 1, 5]
    with pytest.raises(ValueError, match="rooms: rows of .* different scenes"):
        study_posed.tables([_row("none", 0, [1.0, 2.0, 3.0]), other])
    assert study_posed.tables([]) == "no finished runs"


FILE = """
import ml_collections
from tests.systems.pm_loss import tiny

def _config(arg, **overrides):
    config = tiny.config(arg, **overrides)
    config.train.num_steps = config.train.save_every = 2
    config.train.log_every = 1
    config.eval.show, config.mesh.data = False, 1
    config.eval.evaluators = {
        "posed_views/interpolation": dict(split="test/interpolation", bootstrap=0, planes=4),
        "posed_views/extrapolation": dict(
            split="test/extrapolation", bootstrap=0, baselines=False, batch_size=2,
        ),
    }
    config.data.eval.update(dict(gap=(4, 4), reach=1))
    return config

def get_study():
    base = _config("quick,loss=none")
    base.study = ml_collections.ConfigDict(dict(role="base"))
    base = dict(arm="rooms/base", kind="posed", config=base)
    again = dict(arm="rooms/again", kind="posed_measure", config=_config("quick,loss=none"), needs=[base])
    runs = [base, again]
    for arm in ("none", "pm"):
        config = _config(f"quick,loss={arm},init=base")
        runs.append(dict(arm=f"rooms/{arm}", kind="posed_finetune", config=config, needs=[base]))
    drawn = ["rooms/none", "rooms/pm"]
    return dict(name="tiny", runs=runs, report="posed", against="none", pictures=drawn)
"""


@pytest.mark.slow
def test_a_study_from_the_base_run_to_its_table(tmp_path, capsys):
    (tmp_path / "configs" / "studies").mkdir(parents=True)
    file = tmp_path / "configs" / "studies" / "tiny.py"
    file.write_text(FILE)
    options = [f"--results={tmp_path / 'results'}", f"--workdir={tmp_path / 'runs'}"]
    assert main.run(["study", str(file), *options]) == 0
    text = capsys.readouterr().out
    assert "rooms, extrapolation: 2 scenes" in text and "minus none" in text
    rows = {row["arm"]: row for row in study.read_rows(tmp_path / "results" / "tiny.jsonl")}
    assert len(rows) == 4
    kept = {arm: row["outcomes"][NAME]["render/psnr"] for arm, row in rows.items()}
    np.testing.assert_allclose(kept["rooms/again"], kept["rooms/base"], atol=1e-3)
    assert kept["rooms/none"] != kept["rooms/base"] and kept["rooms/pm"] != kept["rooms/none"]
    assert len(list((tmp_path / "results" / "backbones" / "tiny").iterdir())) == 1
    pictures = tmp_path / "pictures"
    assert main.run(["study", str(file), *options, "--report", f"--plot={pictures}"]) == 0
    assert (pictures / "novel_views.png").stat().st_size > 1000
    assert (pictures / "0_none_gaussians.ply").exists() and (pictures / "0_pm_points.ply").exists()
