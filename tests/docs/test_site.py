"""The site builds without a warning, where Sphinx is installed (`pip install '.[docs]'`; CI does).

Slow: it reads the docstrings of all modules with an API page.
"""

import os
import shutil
import subprocess
import sys

import pytest

from tests.docs import pages

pytest.importorskip("sphinx", reason="the site needs gsjax[docs]")
pytest.importorskip("myst_parser", reason="the site needs gsjax[docs]")
pytest.importorskip("furo", reason="the site needs gsjax[docs]")


@pytest.mark.slow
def test_the_site_builds_without_a_warning(tmp_path):
    """On a copy: API pages are written beside their index."""
    for name in ("docs", "gsjax", "launch"):
        ignore = shutil.ignore_patterns("__pycache__", "modules", "_build")
        shutil.copytree(pages.ROOT / name, tmp_path / name, ignore=ignore)
    for name in ("README.md", "BUILD_NOTES.md"):
        shutil.copy(pages.ROOT / name, tmp_path)
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-b", "html"]
    env = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(
        [*command, "docs", "out"], cwd=tmp_path, env=env, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-4000:]
    page = (tmp_path / "out" / "api" / "modules" / "gsjax.core.cameras.html").read_text()
    assert "look_at" in page and "viewmats [..., 4, 4]" in page
    system = (tmp_path / "out" / "systems" / "clip_gs.html").read_text()
    assert "From the paper to the code" in system and 'href="../weights.html"' in system
