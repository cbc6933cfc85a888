import numpy as np
import pytest

from gsjax.cli import main, study_plot, study_transfer

HITS = {
    "A": [[1, 0, 0, 0], [1, 1, 0, 0]],
    "B": [[1, 1, 1, 0], [1, 1, 1, 1]],
    "Chamfer 1-NN": [[0, 0, 0, 1]],
}


def _rows():
    rows = [
        dict(arm=f"net/classify 10 %/{arm}", seed=seed, metrics={}, seconds=1.0,
             outcomes=dict(index=[3, 5, 7, 9], category=[0, 0, 1, 1], hit=hit))
        for arm, hits in HITS.items() for seed, hit in enumerate(hits)
    ]  # fmt: skip
    rows[-1]["metrics"] = dict(majority=50.0, chance=2.5)
    return rows


def _cells(text):
    lines = [line for line in text.splitlines() if line]
    return {line[:48].strip(): line[48:].strip() for line in lines}, lines


def test_arms_are_means_over_seeds_and_differences_are_paired():
    rows = [*_rows(), dict(arm="net/classify 10 %/B/rate", seed=100, metrics={}, outcomes={})]
    found, lines = _cells(study_transfer.transfer(rows))
    assert lines[0].split() == ["net", "classify", "10", "%"]
    assert found["B pre-trained"].startswith("87.5 [")  # (75 + 100) / 2
    assert found["A from scratch"].startswith("37.5 [")
    assert found["Chamfer 1-NN"].startswith("62.5 [")  # B minus it: 87.5 - 25, in the last block
    assert found["A"].startswith("50.0 [") and found["majority"] == "50.0"
    assert found["chance"] == "2.5"


def test_what_needs_no_backbone_stands_beside_every_one():
    other = [dict(row, arm=row["arm"].replace("net/", "other/")) for row in _rows()]
    text = study_transfer.transfer(_rows() + [r for r in other if "Chamfer" not in r["arm"]])
    assert text.count("\nChamfer 1-NN") == 4 and text.count("\nmajority") == 2


def test_rows_about_other_objects_are_refused():
    rows = _rows()
    rows[0]["outcomes"]["index"] = [0, 1, 2, 3]
    with pytest.raises(ValueError, match="about other objects"):
        study_transfer.transfer(rows)


def test_iou_outcomes_are_per_cent_already():
    rows = [dict(arm="net/parts/B", seed=0, outcomes=dict(index=[0, 1], iou=[40.0, 60.0]))]
    np.testing.assert_allclose(study_transfer.outcomes(rows), [[40.0, 60.0]])


def test_views_shows_scores_with_intervals_and_baselines_once():
    scores = {"psnr_fg": 20.0, "psnr_fg_low": 19.0, "psnr_fg_high": 21.0, "iou": 0.9}
    metrics = {f"novel_view/novel/{k}": v for k, v in scores.items()} | dict(step_seconds=0.5)
    for name in ("novel", "blank"):
        metrics |= {f"novel_view/{name}/psnr": 18.0, f"novel_view/{name}/ssim": 0.8}
    metrics |= {"novel_view/blank/psnr_fg": 9.0, "novel_view/blank/iou": 0.0}
    rows = [dict(arm="net fusion", seed=s, metrics=metrics, seconds=60.0) for s in (0, 1)]
    other = metrics | {"novel_view/blank/psnr_fg": 7.0}
    rows.append(dict(arm="net room", seed=0, metrics=other, seconds=60.0))
    found, lines = _cells(study_transfer.views(rows))
    assert "20.0 [19.0, 21.0]" in found["net fusion (0)"] and "90.0" in found["net fusion (0)"]
    at = [lines.index(f"baselines of {name}") for name in ("net fusion", "net room")]
    assert [lines[i + 1].split()[:2] for i in at] == [["blank", "9.0"], ["blank", "7.0"]]
    assert len([x for x in lines if x.strip().startswith("blank")]) == 2
    assert study_transfer.views([]) == study_transfer.transfer([]) == "no finished runs"


def test_a_plot_is_written(tmp_path):
    pytest.importorskip("matplotlib")
    study_plot.transfer(_rows(), str(tmp_path / "plot.png"))
    assert (tmp_path / "plot.png").read_bytes()[:4] == b"\x89PNG"
    with pytest.raises(ValueError, match="no finished runs"):
        study_plot.transfer([], str(tmp_path / "none.png"))


def test_studies_without_pictures_are_not_plotted(tmp_path, capsys):
    file = "configs/studies/clip_gs_few_shot.py"
    options = ["--report", f"--results={tmp_path}", "--plot", str(tmp_path / "x.png")]
    assert main.run(["study", file, *options]) == 2
    assert "of 'transfer' or 'posed'" in capsys.readouterr().err
