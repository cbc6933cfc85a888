"""Config arguments, and every config file in all its sizes."""

import importlib
import pathlib

import pytest

from configs import common

NAMES = sorted(
    p.stem
    for p in (pathlib.Path(__file__).parents[1] / "configs").glob("*.py")
    if p.stem not in ("common", "__init__")
)


def test_values_take_the_type_of_their_default():
    arg = common.parse_arg("res=32,quick, lr=1e-2,size=base", quick=False, res=64, lr=0.1, size="")
    assert arg.to_dict() == {"quick": True, "res": 32, "lr": 0.01, "size": "base"}
    assert common.parse_arg(None, quick=False).quick is False
    assert common.parse_arg("quick=false", quick=True).quick is False


@pytest.mark.parametrize("text", ["ress=3", "res=big", "quick=2"])
def test_what_cannot_be_understood_is_refused(text):
    with pytest.raises(ValueError, match="config argument"):
        common.parse_arg(text, res=64, quick=False)


# A procedure trains no network on batches: no model, loss or optimiser, and data of its own kind.
PROCEDURES = {"scene_fit": {"system", "mode", "seed", "data", "fit", "train", "eval"}}


@pytest.mark.parametrize("name", sorted(set(NAMES) - set(PROCEDURES)))
@pytest.mark.parametrize("size", [None, "quick", "paper"])
def test_every_config_has_three_sizes_and_the_shared_blocks(name, size):
    config = importlib.import_module(f"configs.{name}").get_config(size)
    assert config.system and config.mode == "train"
    for block, fields in common.base("").items():
        if hasattr(fields, "keys"):
            assert set(fields) <= set(config[block]), block


@pytest.mark.parametrize("name", sorted(PROCEDURES))
@pytest.mark.parametrize("size", [None, "quick", "paper"])
def test_every_procedure_has_three_sizes_and_the_rhythm_of_a_run(name, size):
    config = importlib.import_module(f"configs.{name}").get_config(size)
    assert config.system == name and config.mode == "train"
    assert set(config) == PROCEDURES[name]
    rhythm = {"log_every", "eval_every", "save_every", "keep", "compilation_cache"}
    assert rhythm <= set(config.train) & set(common.base("").train)
