"""What must work right after an install: imports, a picture, a gradient, a short training run."""

import importlib
import json
import os
import pathlib
import pkgutil
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gsjax

ROOT = pathlib.Path(__file__).resolve().parents[2]


def _modules():
    found = pkgutil.walk_packages(gsjax.__path__, "gsjax.")
    return sorted(m.name for m in found if not m.name.rsplit(".", 1)[-1].startswith("pallas_"))


@pytest.mark.parametrize("name", _modules())
def test_every_module_imports(name):
    importlib.import_module(name)


@pytest.mark.parametrize("backend", ["reference", "xla_loop", "xla_group"])
def test_one_gaussian_is_rendered_where_it_is(backend):
    """An opaque red ball two units ahead of the camera, and the gradient that moves it right."""
    viewmats, K = jnp.eye(4)[None], jnp.array([[40.0, 0, 16], [0, 40, 16], [0, 0, 1]])[None]

    def render(means):
        return gsjax.rasterize(
            means,
            jnp.array([[1.0, 0, 0, 0]]),
            jnp.full((1, 3), 0.1),
            jnp.array([0.95]),
            jnp.array([[1.0, 0, 0]]),
            viewmats,
            K,
            32,
            32,
            backend=backend,
        )[0][0]

    means = jnp.array([[0.0, 0.0, 2.0]])
    image = np.asarray(render(means))
    # Pixel centres beside the mean lie 0.5 px off in x and y; the spread is 2 px, low-pass 0.3 px^2.
    expected = 0.95 * np.exp(-0.5 * (0.5**2 + 0.5**2) / (2.0**2 + 0.3))
    np.testing.assert_allclose(image[15:17, 15:17, 0], expected, rtol=1e-5)
    assert image[0, 0, 0] == 0 and np.abs(image[..., 1:]).max() == 0
    gradient = jax.grad(lambda m: render(m)[:, 16:].sum() - render(m)[:, :16].sum())(means)
    assert gradient[0, 0] > 1


@pytest.mark.slow
def test_the_main_job_trains_and_resumes(tmp_path):
    """CLIP-GS on objects made in memory: four steps, then two more from the checkpoint."""
    command = [sys.executable, "main.py", "--config=configs/clip_gs.py:quick"]
    # A relative run folder, as a user would type it.
    command += [f"--workdir={os.path.relpath(tmp_path, ROOT)}", "--config.data.name=synthetic"]
    command += ["--config.data.num_objects=32", "--config.train.save_every=2"]
    command += ["--config.train.log_every=1", "--config.eval.evaluators={}"]
    for steps in (4, 6):
        done = subprocess.run(
            [*command, f"--config.train.num_steps={steps}"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, done.stderr[-3000:]
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if "loss" in row] == [1, 2, 3, 4, 5, 6]
    assert all(np.isfinite(row["loss"]) for row in rows if "loss" in row)
