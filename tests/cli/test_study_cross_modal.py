"""The thesis's tables from rows: cells, seeds, what was not run, paired differences."""

import numpy as np
import pytest

from configs.studies import cross_modal
from gsjax.cli import study_cross_modal, study_report


def _row(arm, seed=0, hits=(1, 1, 0, 0), **metrics):
    found = {
        "cross_modal/accuracy": 0.9, "cross_modal/balanced": 0.85, "cross_modal/pos": 2.0,
        "cross_modal/neg": 5.0, "shape_recognition/points": 50.0,
        "shape_recognition/points@0.5": 40.0, "shape_recognition/image/1": 60.0,
        "shape_recognition/image/64": 80.0, "shape_recognition/memory/64": 79.0,
        "shape_recognition/between/64": 78.0, "cross_modal/ratio": 2.5, "cross_modal/loss": 1.1,
    } | metrics  # fmt: skip
    outcomes = {"index": [4, 5, 6, 7], "points": list(hits), "image/64": list(hits)}
    outcomes |= {"memory/64": [0.5] * 4, "between/64": [0.25] * 4}
    return dict(arm=arm, seed=seed, metrics=found, outcomes=outcomes, seconds=1.0)


ROWS = [
    _row("pointnet/positions/fps", 0),
    _row("pointnet/positions/fps", 1, **{"cross_modal/accuracy": 0.8}),
    _row("random weights/pointnet", hits=(1, 0, 0, 0), **{"shape_recognition/points": 25.0}),
    _row(
        "Chamfer 1-NN",
        **{"shape_recognition/points": 33.3, "chance": 4.0, "shape_recognition/majority": 8.0},
    ),
]


def _blocks(rows=ROWS):
    found = {}
    for block in study_report.TABLES["cross_modal"](rows, "").split("\n\n"):
        title, head, *lines = block.splitlines()
        found[title.split(":")[0]] = {line[:33].strip(): line[33:].split("  ") for line in lines}
        found[title.split(":")[0]]["head"] = head
    return {
        name: {k: [x.strip() for x in v if x.strip()] if k != "head" else v for k, v in b.items()}
        for name, b in found.items()
    }


def test_cells_are_means_over_seeds_and_others_say_that_they_were_not_run():
    one = _blocks()["Table 1"]
    assert one["positions"] == ["0.850 ± 0.635 (2 seeds)", "not run", "not run", "not run"]
    assert one["+ SH"] == ["not run"] * 4
    assert one["always yes"] == ["0.667"] * 4
    two = _blocks()["Table 2"]
    assert two["positions"][0] == "2.00 / 5.00"
    assert two["positions, ratio"][0] == "2.50 ± 0.00 (2 seeds)"
    assert two["positions, L_cm"][0] == "1.10 ± 0.00 (2 seeds)"
    assert two["+ SH, L_cm"][0] == "not run"


def test_table_three_shows_views_then_gaussians():
    three = _blocks()["Table 3"]
    assert three["head"].split("  ")[-1].strip() == "64 novel"
    assert three["positions, PointNet"] == [
        f"{x} ± 0.0 (2 seeds)" for x in ("60.0", "80.0", "79.0", "78.0")
    ]
    assert three["random weights, PointNet"][1] == "80.0"
    assert three["positions, PointNet++"] == ["not run"] * 4


def test_tables_four_and_five():
    found = _blocks()
    assert found["Table 4"]["positions"] == ["50.0 ± 0.0 (2 seeds)", "not run"]
    assert found["Table 4"]["Chamfer 1-NN, raw points"] == ["33.3", "33.3"]
    assert found["Table 5"]["100 %"][2] == "50.0 ± 0.0 (2 seeds)"
    assert found["Table 5"]["50 %"][2] == "40.0 ± 0.0 (2 seeds)"
    assert found["Table 5"]["10 %"][2] == "not run"


def test_labelled_twins_stand_in_table_five():
    rows = [*ROWS, _row("supervised/mvcnn@0.5", **{"classification/top1": 71.0})]
    five = _blocks(rows)["Table 5"]
    assert five["50 %"][4] == "71.0" and five["100 %"][4] == "not run"


def test_objects_in_their_own_colours_have_a_row_where_there_are_any():
    assert "positions, coloured" not in _blocks()["Table 1"]
    rows = [*ROWS, _row("pointnet/positions/fps/coloured", **{"cross_modal/accuracy": 0.95})]
    found = _blocks(rows)
    assert found["Table 1"]["positions, coloured"] == ["0.950", "not run", "not run", "not run"]
    assert found["Table 3"]["positions, coloured, PointNet"][0] == "60.0"
    assert found["Table 4"]["positions, coloured"] == ["50.0", "not run"]


def test_published_figures_stand_beside_modelnet10_alone():
    assert not any("published" in name for name in _blocks()["Table 1"])
    rows = [_row("pointnet/positions/fps", modelnet10=1.0)]
    assert _blocks(rows)["Table 1"]["published, positions"] == ["0.941", "0.924", "0.952", "0.931"]


def test_differences_are_paired():
    text = study_cross_modal.tables(ROWS)
    trained, shown = (x for x in text.split("\n\n")[-1].splitlines() if x.startswith("PointNet "))
    assert trained.split()[1].startswith("25.0")  # 2 of 4 against 1 of 4
    assert shown.split()[1] == "0.0" and shown.split()[4] == "-25.0"  # 2, and 1 of 4, against 2
    ROWS[2]["outcomes"]["index"], kept = [0, 1, 2, 3], ROWS[2]["outcomes"]["index"]
    with pytest.raises(ValueError, match="about other objects"):
        study_cross_modal.tables(ROWS)
    ROWS[2]["outcomes"]["index"] = kept


def test_the_study_has_the_cells_of_the_tables():
    runs = cross_modal.get_study()["runs"]
    arms = [run["arm"] for run in runs]
    assert arms.count("pointnet/positions/fps") == 3 and arms.count("pointnet/sh/uniform") == 1
    assert len(arms) == 6 + 4 + 2 + 1 + 2 + 9 + 1
    assert len({(run["arm"], run["config"].seed) for run in runs}) == len(runs)
    np.testing.assert_array_equal([run["config"].data.view_size for run in runs], 64)
