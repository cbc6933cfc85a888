"""A file that torch wrote, as the thesis's training script does, through the command line into a run."""

import jax
import numpy as np
import pytest

from gsjax.cli import main
from gsjax.train import state as state_lib
from gsjax.train import warm_start
from tests.systems.cross_modal.test_reference import _checkpoint, _shapes

torch = pytest.importorskip("torch", reason="torch is not installed")

pytestmark = pytest.mark.parity


def _tensors(content):
    if isinstance(content, dict):
        return {name: _tensors(x) for name, x in content.items()}
    return torch.tensor(content) if isinstance(content, np.ndarray | np.generic) else content


def test_a_file_of_torch_becomes_the_start_of_a_run(tmp_path, capsys):
    expected, content = _checkpoint("pointnet", "positions")
    weight = torch.nn.Parameter(torch.ones(3))
    optimizer = torch.optim.SGD([weight], lr=1e-3, momentum=0.9, weight_decay=5e-4)
    (weight**2).sum().backward()
    optimizer.step()
    content["optimizer_state_dict"] = optimizer.state_dict()
    torch.save(_tensors(content), tmp_path / "checkpoint.pth")
    out = tmp_path / "weights.npz"
    argv = ["convert", "cross_modal", str(tmp_path / "checkpoint.pth"), f"--out={out}"]
    assert main.run(argv) == 0
    assert "backbone=pointnet,features=positions" in capsys.readouterr().out
    abstract = _shapes("pointnet", "positions")
    local = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    abstract = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=local), abstract
    )
    found = warm_start.load_variables(out, abstract)
    assert found.missing == []
    assert set(found.arrays) == set(expected) == set(state_lib.flat(abstract))
    for name, value in expected.items():
        np.testing.assert_array_equal(np.asarray(found.arrays[name]), value, err_msg=name)
