import json

import ml_collections
import numpy as np
import pytest

from gsjax.cli import main, study, study_kinds, study_report

FILE = """
import ml_collections

def _config(seed, rate):
    return ml_collections.ConfigDict(dict(seed=seed, rate=rate, data=dict(dir="", name="toy")))

def get_study():
    runs = [dict(arm="good", kind="toy", config=_config(seed, 1.0)) for seed in (0, 1)]
    runs.append(dict(arm="bad", kind="toy", config=_config(0, 0.0)))
    return dict(name="toy", runs=runs, report="arms", against="good")
"""
LABELS = [0, 0, 0, 1, 1, 2]


@pytest.fixture()
def folder(tmp_path, monkeypatch):
    """A study whose runs give the truth ('good') or always the last rank ('bad')."""
    calls = []

    def measure(config, workdir):
        calls.append((config.rate, config.seed))
        ranks = [1 if config.rate else 6] * len(LABELS)
        outcomes = dict(index=list(range(6)), category=LABELS, text_rank=ranks, class_rank=ranks)
        return {"zero_shot/chance": 25.0}, outcomes

    monkeypatch.setitem(study_kinds.KINDS, "toy", measure)
    (tmp_path / "configs" / "studies").mkdir(parents=True)
    (tmp_path / "configs" / "studies" / "toy.py").write_text(FILE)
    return tmp_path, calls


def _run(root, *options):
    file = root / "configs" / "studies" / "toy.py"
    return main.run(["study", str(file), f"--results={root / 'results'}", *options])


def test_finished_runs_are_kept_and_not_run_again(folder, capsys):
    root, calls = folder
    assert _run(root, "--only=good/0") == 0
    assert calls == [(1.0, 0)]
    assert _run(root) == 0
    assert calls == [(1.0, 0), (1.0, 1), (0.0, 0)]
    rows = [json.loads(x) for x in (root / "results" / "toy.jsonl").read_text().splitlines()]
    assert [(row["arm"], row["seed"]) for row in rows] == [("good", 0), ("good", 1), ("bad", 0)]
    assert {"config_hash", "commit", "seconds", "versions", "metrics"} <= set(rows[0])
    capsys.readouterr()
    assert _run(root, "--report") == 0 and len(calls) == 3
    text = capsys.readouterr().out
    assert "good (2 seeds)" in text and "100.0 [100.0, 100.0]" in text


def test_rows_of_other_studies_count(folder, capsys):
    root, calls = folder
    _run(root, "--only=good")
    file = root / "configs" / "studies" / "other.py"
    text = FILE.replace('dict(name="toy", runs', 'dict(name="other", rows_of=["toy"], runs')
    file.write_text(text)
    assert main.run(["study", str(file), f"--results={root / 'results'}"]) == 0
    assert calls[2:] == [(0.0, 0)]  # 'bad' alone
    assert len((root / "results" / "other.jsonl").read_text().splitlines()) == 1
    assert "good (2 seeds)" in capsys.readouterr().out


NEEDY = """
import ml_collections

def _config(seed):
    return ml_collections.ConfigDict(dict(seed=seed, rate=1.0, data=dict(dir="", name="toy")))

def get_study():
    first = dict(arm="first/step", kind="toy", config=_config(0), study="basics")
    last = dict(arm="last", kind="reads", config=_config(1), needs=[first])
    return dict(name="needy", runs=[last])
"""


def test_needed_runs_go_first_and_into_their_own_studys_file(folder, monkeypatch, capsys):
    root, calls = folder
    seen = []

    def reads(config, workdir, needs):
        config.rate = 7.0  # what a run fills in does not change what it is
        seen.extend(needs)
        return dict(value=2.0), {}

    monkeypatch.setitem(study_kinds.KINDS, "reads", reads)
    file = root / "configs" / "studies" / "needy.py"
    file.write_text(NEEDY)
    options = [f"--results={root / 'results'}", f"--workdir={root / 'runs'}"]
    for _ in range(2):
        assert main.run(["study", str(file), *options]) == 0
    assert calls == [(1.0, 0)] and len(seen) == 1  # each was run once
    (need,) = seen
    assert need.row["arm"] == "first/step" and need.config.seed == 0
    assert need.folder.parent == root / "runs" / "basics" and "/" not in need.folder.name[:5]
    assert len(study.read_rows(root / "results" / "basics.jsonl")) == 1
    text = capsys.readouterr().out
    assert "last (seed 1" in text and "first" not in text.splitlines()[-1]


def test_the_table_names_majority_and_chance(folder, capsys):
    root, _ = folder
    _run(root)
    lines = {line[:30].strip(): line.split() for line in capsys.readouterr().out.splitlines()}
    assert lines["chance"][1:] == ["16.7", "83.3", "16.7", "25.0", "25.0"]
    assert lines["bad"][1:4] == ["100.0", "[100.0,", "100.0]"]  # the paired difference


def test_majority_counts_objects_and_classes():
    assert study_report._majority(np.array(LABELS)) == ["50.0", "33.3"]


def test_where_data_lies_does_not_change_the_hash():
    def config(**data):
        return ml_collections.ConfigDict(dict(seed=0, data=dict(name="toy") | data))

    assert study.config_hash(config(dir="a")) == study.config_hash(config(dir="b"))
    assert study.config_hash(config(name="other")) != study.config_hash(config())


def test_rows_about_other_objects_are_refused():
    outcomes = dict(index=[0, 1], category=[0, 1], class_rank=[1, 1])
    rows = [dict(arm="a", seed=0, metrics={}, outcomes=outcomes)]
    rows.append(dict(arm="b", seed=0, metrics={}, outcomes={**outcomes, "index": [0, 2]}))
    with pytest.raises(ValueError, match="'b': its rows are about other objects"):
        study_report.arms(rows, "a")


def test_a_missing_study_file_says_where_studies_lie(tmp_path, capsys):
    assert main.run(["study", str(tmp_path / "none.py")]) == 2
    assert "configs/studies" in capsys.readouterr().err


def test_few_shot_tables_pair_the_trials():
    def row(arm, **found):
        return dict(arm=arm, seed=0, outcomes=dict(few_shot=found))

    rows = [
        row("ours", **{"linear/5w1s": [60.0, 80.0], "linear/10w1s": [50.0, 50.0]}),
        row("points", **{"linear/5w1s": [50.0, 70.0], "linear/10w1s": [40.0, 60.0]}),
        row("Chamfer", **{"nearest/5w1s": [60.0, 80.0], "nearest/10w1s": [0.0, 0.0]}),
    ]
    lines = study_report.few_shot(rows, "ours").splitlines()
    assert lines[0].split() == ["arm,", "head", "5w1s", "10w1s"]
    assert lines[1].split()[2:] == ["70.0", "+-", "10.0", "50.0", "+-", "0.0"]
    assert lines[4].split() == ["chance", "20.0", "10.0"]
    assert lines[7].split()[2:5] == ["10.0", "[10.0,", "10.0]"]  # the same in every trial
    assert lines[8].split()[2:] == ["0.0", "[0.0,", "0.0]", "50.0", "[50.0,", "50.0]"]
    assert study_report.few_shot([], "ours") == "no finished runs"


def test_rows_of_another_collection_are_not_taken_for_ones_own(folder, monkeypatch):
    root, calls = folder
    monkeypatch.setattr(study, "collection", lambda config: "one")
    _run(root)
    monkeypatch.setattr(study, "collection", lambda config: "two")
    assert _run(root) == 2 and len(calls) == 3
    assert _run(root, "--report") == 0
