"""A study of cross-modal self-supervision from training to its five tables, tiny."""

import pytest

from gsjax.cli import main, study

FILE = """
from tests.systems.cross_modal import tiny

def _config(seed=0, task="self_supervised"):
    config = tiny.config(DIR)
    config.seed, config.task = seed, task
    config.train.num_steps = config.train.save_every = 2
    config.train.log_every = 1
    config.eval.evaluators = dict(
        cross_modal=dict(bootstrap=0, passes=2),
        shape_recognition=dict(views=(1, 4), fractions=(1.0, 0.5), memory=True, bootstrap=0, draws=2),
        matching=dict(bootstrap=0, draws=1),
    )
    if task != "self_supervised":
        config.data.supervised_views = 2
        split = "test/views" if task == "classify_views" else "test"
        config.eval.evaluators = dict(classification=dict(split=split, batch_size=4, bootstrap=0))
    return config

def get_study():
    def run(arm, kind, *args):
        return dict(arm=arm, kind=kind, config=_config(*args))
    runs = [run("pointnet/positions/fps", "self_supervised", seed) for seed in (0, 1)]
    runs += [
        run("random weights/pointnet", "random_weights"),
        run("supervised/pointnet", "pretrain", 0, "classify_points"),
        run("supervised/mvcnn", "pretrain", 0, "classify_views"),
        run("Chamfer 1-NN", "nearest_paired"),
    ]
    return dict(name="tiny", runs=runs, report="cross_modal")
"""


@pytest.mark.slow
def test_a_study_from_training_to_tables(tmp_path, capsys):
    (tmp_path / "configs" / "studies").mkdir(parents=True)
    file = tmp_path / "configs" / "studies" / "tiny.py"
    file.write_text(FILE.replace("DIR", repr(str(tmp_path / "data"))))
    options = [f"--results={tmp_path / 'results'}", f"--workdir={tmp_path / 'runs'}"]
    assert main.run(["study", str(file), *options]) == 0
    text = capsys.readouterr().out
    for number in range(1, 6):
        assert f"Table {number}:" in text
    assert "not run" in text and "(2 seeds)" in text and "4 novel" in text
    rows = {
        (row["arm"], row["seed"]): row for row in study.read_rows(tmp_path / "results/tiny.jsonl")
    }
    assert len(rows) == 6
    trained = rows["pointnet/positions/fps", 0]
    for name in ("cross_modal/accuracy", "shape_recognition/points@0.5", "shape_recognition/between/4",
                 "matching/image_to_gaussian/1/R@1"):  # fmt: skip
        assert name in trained["metrics"], name
    random = rows["random weights/pointnet", 0]
    assert random["outcomes"]["index"] == trained["outcomes"]["index"]
    assert random["metrics"]["cross_modal/pos"] != trained["metrics"]["cross_modal/pos"]
    nearest = rows["Chamfer 1-NN", 0]
    assert nearest["outcomes"]["index"] == trained["outcomes"]["index"]
    assert nearest["metrics"]["chance"] == 50.0
    assert set(nearest["outcomes"]["points@0.5"]) <= {0, 1}
    # Nothing is run twice.
    assert main.run(["study", str(file), *options]) == 0
    assert len(study.read_rows(tmp_path / "results/tiny.jsonl")) == 6
