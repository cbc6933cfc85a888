"""The example of docs/own_backbone.md passes the suite of our own backbones and is found by its name."""

import pathlib
import re

import pytest

from gsjax.models.backbones import base
from tests.models.backbones import suite

PAGE = pathlib.Path(__file__).parents[3] / "docs" / "own_backbone.md"


@pytest.fixture(autouse=True)
def package(tmp_path_factory, monkeypatch):
    root = tmp_path_factory.mktemp("packages")
    (root / "mylab").mkdir()
    (code,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.S)
    (root / "mylab" / "dgcnn.py").write_text(code)
    (root / "mylab" / "half.py").write_text("PRESETS = {}\n")
    monkeypatch.syspath_prepend(root)


@pytest.fixture()
def model():
    return base.build("mylab.dgcnn", "small", channels=1, neighbours=3, widths=(6, 8), pooled=8)


@pytest.mark.parametrize("check", ["check_padding", "check_batch", "check_gradients"])
def test_contract_of_backbones(model, check):
    getattr(suite, check)(model, suite.cloud(0, 2, 24, 1))


def test_what_is_no_backbone_is_named():
    with pytest.raises(ValueError, match="lacks Config, Model, FUSE_AT"):
        base.module("mylab.half")
    with pytest.raises(ValueError, match="PYTHONPATH"):
        base.module("mylab.absent")
    with pytest.raises(ValueError, match=r"dotted name.*own_backbone"):
        base.module("pointcnn")
