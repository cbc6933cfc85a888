"""A transfer study from pre-training to table, tiny: what each run hands to the next."""

import json

import pytest

from gsjax.cli import main, study

FILE = """
import ml_collections
from configs import finetune_objects
from tests.systems.unipre3d import tiny

CHANGES = dict(num_patches=8, patch_size=8, embed=(8, 16, 16, 16), width=16, depth=1, heads=2)

def _data(config):
    config.data.name, config.data.dir = "procedural", DIR
    config.data.num_objects, config.data.num_test = 104, 26
    config.data.num_gaussians, config.data.view_size, config.data.num_points = 128, 16, 48
    config.mesh.data = 1
    return config

def _pretrain():
    config = _data(tiny.config())
    config.data.views = 4
    config.train.num_steps = config.train.save_every = 2
    config.train.log_every = 1
    config.eval.evaluators.novel_view.batch_size = 13
    config.study = ml_collections.ConfigDict(dict(role="weights"))
    return dict(arm="net fusion", kind="pretrain", config=config, study="first")

def _tune(seed, **study):
    config = _data(finetune_objects.get_config("quick"))
    config.seed = seed
    config.model.backbone_changes = CHANGES
    config.model.hidden = (8,)
    config.data.validation = 0.3
    config.train.num_steps = config.train.save_every = 2
    config.train.batch_size = 8
    config.eval.evaluators.classification.bootstrap = 0
    config.study = ml_collections.ConfigDict(
        dict(role="", rates=(1e-3, 1e-2), time_added=False, init="") | study)
    return config

def get_study():
    weights = _pretrain()
    runs = []
    for arm, needs in (("A", []), ("B", [weights])):
        rate = dict(arm=f"net/classify/{arm}/rate", kind="choose_lr", needs=needs,
                    config=_tune(100, role="rate", init=arm))
        runs += [rate, dict(arm=f"net/classify/{arm}", kind="finetune", needs=[*needs, rate],
                            config=_tune(0, init=arm))]
    timed = _tune(0, role="pace")
    timed.optim.lr = 1e-3
    pace = dict(arm="net classify pace", kind="pace", config=timed, needs=[weights])
    runs.append(dict(arm="net/classify/A'", kind="finetune", config=_tune(0, time_added=True),
                     needs=[weights, runs[0], pace]))
    probe = _tune(0, init="probe")
    probe.eval.evaluators = dict(linear_probe=dict(train_split="fit", bootstrap=0, penalties=(0.1, 1.0),
                                                   standard="columns", folds=2, reestimate_norms=1,
                                                   batch_size=8))
    runs.append(dict(arm="net/probe/B", kind="probe", config=probe, needs=[weights]))
    runs.append(dict(arm="net/classify/Chamfer 1-NN", kind="nearest_task", config=_tune(0)))
    return dict(name="second", runs=runs, report="transfer")
"""


@pytest.mark.slow
def test_a_study_from_pretraining_to_table(tmp_path, capsys):
    (tmp_path / "configs" / "studies").mkdir(parents=True)
    file = tmp_path / "configs" / "studies" / "second.py"
    file.write_text(FILE.replace("DIR", repr(str(tmp_path / "data"))))
    results, runs = tmp_path / "results", tmp_path / "runs"
    options = [f"--results={results}", f"--workdir={runs}"]
    assert main.run(["study", str(file), *options]) == 0
    text = capsys.readouterr().out
    assert "B minus" in text and "Chamfer 1-NN" in text and "majority" in text
    (first,) = study.read_rows(results / "first.jsonl")
    rows = {row["arm"]: row for row in study.read_rows(results / "second.jsonl")}
    assert len(rows) == 8
    rate = rows["net/classify/B/rate"]["metrics"]
    assert rate["lr"] in (1e-3, 1e-2) and rate["lr"] == rows["net/classify/B"]["metrics"]["lr"]
    assert max(rate["val/0.001"], rate["val/0.01"]) == rate[f"val/{rate['lr']:g}"]
    assert first["metrics"]["train_seconds"] > 0
    # As many steps more as take as long as the two of the pre-training.
    pace = rows["net classify pace"]["metrics"]
    assert pace["first_seconds"] > 0 and pace["second_seconds"] > 0
    longer = rows["net/classify/A'"]["metrics"]
    assert longer["num_steps"] == 2 + round(2 * pace["ratio"])
    hits = {arm: row["outcomes"]["hit"] for arm, row in rows.items() if "hit" in row["outcomes"]}
    assert {len(h) for arm, h in hits.items() if "rate" not in arm} == {26}
    # The backbone lies beside the rows, so that later runs do without the pre-training's folder.
    (kept,) = (results / "backbones" / "first").iterdir()
    assert kept.suffix == ".safetensors"
    # A run began from the weights that it was given, another did not.
    configs = {
        path.parent.name: json.loads(path.read_text())
        for path in runs.glob("second/net*/config.json")
    }
    starts = {name: bool(config["init_backbone"]) for name, config in configs.items()}
    assert [starts[name] for name in sorted(starts)] == [False, False, True]
