"""A whole fit from its config: stopped and resumed it gives the bits of an uninterrupted one."""

import json

import numpy as np
import pytest
from PIL import Image

from configs import scene_fit
from gsjax.io import formats
from gsjax.train import checkpoint, loop, preemption
from tests.train import processes

pytestmark = pytest.mark.slow  # two or three programs are compiled for each strategy

STEPS, EVERY, SIZE = 40, 10, 32
# What each strategy is run with besides: all that a state can hold takes part in one of the two.
FITS = {
    # Cameras and exposures that are fitted, the 3D filter, a count that grows.
    "mcmc": dict(lr_pose=1e-4, lr_exposure=1e-3, antialiased=True, start_fraction=0.5, sh_degree=1),
    # All rows are in use and ask for copies at the first refinement: rows become 300, then 450.
    "default": dict(
        start_fraction=1.0, grow_grad=1e-9, max_gaussians=450, sh_degree=0, reset_every=20
    ),
}  # fmt: skip


def _config(strategy, **train):
    config = scene_fit.get_config(f"quick,strategy={strategy}")
    config.data.update(views=18, view_size=SIZE, test_views=2, points=300)
    config.fit.update(
        num_gaussians=300, num_steps=STEPS, refine_every=EVERY, refine_start=5, refine_stop=STEPS,
        sh_every=10, **FITS[strategy],
    )  # fmt: skip
    settings = dict(log_every=EVERY, save_every=0, compilation_cache="off") | train
    config.train.update(settings)
    return config


def _rows(folder, step):
    meta = checkpoint.read_meta(folder / "checkpoints" / str(step))
    return meta["leaves"]["alive"][0][0]


@pytest.fixture(scope="module", params=sorted(FITS))
def whole(request, tmp_path_factory):
    """Strategy, run folder and results of an uninterrupted run."""
    folder = tmp_path_factory.mktemp(request.param)
    return request.param, folder, loop.run(_config(request.param), folder)


def test_the_folder_holds_the_results(whole):
    strategy, folder, results = whole
    config = _config(strategy)
    scene = formats.load_gaussians(folder / "scene.ply")
    count = len(scene["means"])
    assert all(np.isfinite(value).all() for value in scene.values())
    fitted = int(results["gaussians"])
    if strategy == "mcmc":  # half of 300, then 5 % more at the steps 10, 20, 30
        assert fitted == int(1.05 * int(1.05 * int(1.05 * 150)))
        assert 0.8 * fitted < count <= fitted  # thin ones that the 3D filter fades stay
    else:
        assert fitted == count and 100 < count <= 450
    assert scene["sh"].shape == (count, (config.fit.sh_degree + 1) ** 2, 3)
    cameras = json.loads((folder / "cameras.json").read_text())
    assert cameras["size"] == [SIZE, SIZE]
    assert np.shape(cameras["train"]["viewmats"]) == (18, 4, 4)
    assert np.shape(cameras["test"]["Ks"]) == (2, 3, 3)
    picture = np.asarray(Image.open(folder / "pictures" / "held_out.png"))
    assert picture.shape == (3 * SIZE + 8, 2 * SIZE + 4, 3) and picture.std() > 10
    report = json.loads((folder / "eval.json").read_text())
    assert report["step"] == STEPS and report["metrics"] == pytest.approx(results)
    assert results["test_psnr"] > 10


def test_stopped_and_resumed_it_gives_the_same_bits(whole, tmp_path):
    strategy, folder, results = whole
    stops = []
    while len(stops) < STEPS // EVERY - 1:
        with pytest.raises(preemption.Preempted) as error:
            loop.run(_config(strategy, time_limit=1e-9), tmp_path)
        stops.append(error.value.step)
    assert stops == [10, 20, 30]
    if strategy == "default":  # the checkpoint before the rows grew, or the one after, is restored
        config = _config(strategy)
        assert _rows(tmp_path, 20) == 450 > config.fit.num_gaussians
    assert loop.run(_config(strategy, time_limit=1e-9), tmp_path) == results
    found, expected = (processes.digests(f, STEPS) for f in (tmp_path, folder))
    assert found == expected and {"alive", "params/means", "opt/mu/means", "key"} <= set(found)
    for name in ("scene.ply", "cameras.json", "pictures/held_out.png"):
        assert (tmp_path / name).read_bytes() == (folder / name).read_bytes(), name


def test_mode_eval_repeats_the_scores_without_a_step(whole):
    strategy, folder, results = whole
    config = _config(strategy)
    config.mode = "eval"
    lines = (folder / "metrics.jsonl").read_text()
    assert loop.run(config, folder) == results
    assert (folder / "metrics.jsonl").read_text() == lines
