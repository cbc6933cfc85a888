"""ResNet-18 against torchvision's with the same random weights: inference, training, running statistics.

Needs torch and torchvision (any build); see BUILD_NOTES.md.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gsjax.models import resnet, resnet_tables
from tests.parity import torch_vision

torch = pytest.importorskip("torch", reason="torch is not installed")
if not torch_vision.available():
    pytest.skip("torchvision is not installed", allow_module_level=True)

pytestmark = pytest.mark.parity


def _theirs(name):
    import torchvision

    torch.manual_seed(0)
    model = getattr(torchvision.models, name)(weights=None)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
            torch.nn.init.normal_(module.bias, std=0.2)
            module.running_mean.normal_(std=0.2)
            module.running_var.uniform_(0.5, 1.5)
    model.fc = torch.nn.Identity()
    return model


@pytest.mark.parametrize("name", ["resnet18", "resnet34"])
@pytest.mark.parametrize("size", [64, 97])
def test_inference(name, size):
    theirs = _theirs(name).eval()
    config = resnet.PRESETS[name]
    state = {k: v.numpy() for k, v in theirs.state_dict().items()}
    variables = resnet_tables.convert(state, config)
    images = np.random.default_rng(1).uniform(size=(2, size, size, 3)).astype(np.float32)
    with torch.no_grad():
        expected = theirs(torch.from_numpy(images).permute(0, 3, 1, 2)).numpy()
    found = jax.jit(resnet.ResNet(config).apply)(variables, images)
    np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max())


def test_training_moves_running_statistics_but_for_the_unbiased_variance():
    theirs = _theirs("resnet18").double().train()
    config = resnet.PRESETS["resnet18"]
    state = {k: v.numpy().copy() for k, v in theirs.state_dict().items()}
    images = np.random.default_rng(2).uniform(size=(4, 64, 64, 3))
    with jax.enable_x64(True):
        variables = resnet_tables.convert(state, config)
        variables = jax.tree.map(lambda x: jnp.asarray(x, jnp.float64), variables)
        model = resnet.ResNet(config, jnp.float64)
        found, new = model.apply(variables, jnp.asarray(images), True, mutable=["batch_stats"])
    with torch.no_grad():
        expected = theirs(torch.from_numpy(images).permute(0, 3, 1, 2)).numpy()
    np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(expected).max())
    stem = new["batch_stats"]["stem_norm"]
    after = theirs.state_dict()
    np.testing.assert_allclose(stem["mean"], after["bn1.running_mean"].numpy(), atol=1e-6)
    rows = 4 * 32 * 32
    batch = (np.asarray(stem["var"]) - 0.9 * state["bn1.running_var"]) / 0.1
    expected = 0.9 * state["bn1.running_var"] + 0.1 * batch * rows / (rows - 1)
    np.testing.assert_allclose(after["bn1.running_var"].numpy(), expected, rtol=1e-5)
