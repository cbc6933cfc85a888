"""Settings of the documentation site: python -m sphinx -W -b html docs OUT

Pages are Markdown (MyST) that reads well on GitHub, too; the API pages come from docstrings. Building
imports gsjax and what it always needs, no optional extra.
"""

import os
import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
os.environ.setdefault("JAX_PLATFORMS", "cpu")

from gsjax.version import __version__  # noqa: E402

project = "gsjax"
author = "the authors of gsjax"
copyright = author
version = release = __version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
]
exclude_patterns = ["_build"]
templates_path = ["_templates"]
html_theme = "furo"
html_title = "gsjax"
html_show_sourcelink = False
smartquotes = False  # dots of shapes and dashes of options stay what they are

myst_heading_anchors = 3

autosummary_generate = True
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
python_maximum_signature_line_length = 88
napoleon_use_ivar = True
napoleon_use_rtype = False

_LITERAL = re.compile(r"(``.+?``|`[^`\n]+`)")
_BULLET = re.compile(r"\s*\* ")


def _as_written(app, what, name, obj, options, lines):
    """Keeps stars, bars and trailing underscores of docstrings from being read as markup."""
    for place, line in enumerate(lines):
        bullet = _BULLET.match(line)
        start = bullet[0] if bullet else ""
        parts = _LITERAL.split(line[len(start) :])
        for i in range(0, len(parts), 2):
            parts[i] = re.sub(r"([*|\\])", r"\\\1", parts[i])
            parts[i] = re.sub(r"(?<=\w)_(?!\w)", r"\\_", parts[i])
        lines[place] = start + "".join(parts)


def setup(app):
    # Before napoleon, which writes markup of its own.
    app.connect("autodoc-process-docstring", _as_written, priority=100)
