"""LPIPS against the paper's own package, at random backbones and its published heads."""

import numpy as np
import pytest

from gsjax.metrics import lpips
from tests.parity import torch_vision

torch = pytest.importorskip("torch", reason="torch is not installed")
if not torch_vision.available():
    pytest.skip("torchvision is not installed", allow_module_level=True)
package = pytest.importorskip("lpips", reason="lpips is not installed")

pytestmark = pytest.mark.parity


@pytest.mark.parametrize("net", ["alex", "vgg"])
def test_distances_agree(net, record_property):
    torch.manual_seed(0)
    theirs = package.LPIPS(net=net, pnet_rand=True, verbose=False).eval()
    # The package names slices; torchvision's files name the layers of `features`.
    backbone, layers = {}, {"alex": lpips.ALEX, "vgg": lpips.VGG}[net]
    convs = [m for m in theirs.net.modules() if isinstance(m, torch.nn.Conv2d)]
    for layer, conv in zip(layers, convs, strict=True):
        backbone[f"features.{layer.number}.weight"] = conv.weight.detach().numpy()
        backbone[f"features.{layer.number}.bias"] = conv.bias.detach().numpy()
    heads = {k: v.numpy() for k, v in theirs.state_dict().items() if k.startswith("lin")}
    rng = np.random.default_rng(0)
    a = rng.random((2, 72, 64, 3)).astype(np.float32)
    b = np.clip(a + 0.2 * rng.normal(size=a.shape), 0, 1).astype(np.float32)
    with torch.no_grad():
        wanted = theirs(*(torch.from_numpy(2 * x - 1).permute(0, 3, 1, 2) for x in (a, b)))
    found = lpips.Lpips.of(backbone, heads)(a, b)
    error = np.abs(np.asarray(found) - wanted.numpy().ravel()).max()
    record_property("max_error", float(error))
    assert 0 < wanted.min() and error < 1e-5 * float(wanted.max()) + 1e-7
