"""timm's EVA classes, their random weights, and what their parts put out."""

import pytest

from tests.parity import torch_vision

torch = pytest.importorskip("torch", reason="torch is not installed")


def load():
    """Module ``timm.models.eva``; skips the test where timm is absent."""
    torch_vision.available()
    pytest.importorskip("timm.models.eva", reason="timm is not installed", exc_type=ImportError)
    from timm.models import eva

    return eva


def randomised(module, seed: int):
    """Every parameter and buffer drawn anew: norms near one, variances positive; in eval mode."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, x in [*module.named_parameters(), *module.named_buffers()]:
            if not x.is_floating_point() or "rope" in name or name.endswith("k_bias"):
                continue
            draw = torch.randn(x.shape, generator=generator)
            if name.endswith("running_var"):
                draw = 0.5 + draw**2
            elif name.endswith("weight") and x.ndim == 1:
                draw = 1 + 0.2 * draw
            elif name.endswith("weight"):
                draw = draw / x[0].numel() ** 0.5
            elif name.endswith("logit_scale"):
                draw = torch.tensor(4.25)
            else:
                draw = 0.3 * draw
            x.copy_(draw)
    return module.eval()


def outputs(module, names, run):
    """{name: output as NumPy} of submodules while ``run()`` runs, and its result under ''."""
    found, hooks = {}, []

    def keep(name):
        return lambda _module, _inputs, out: found.__setitem__(name, out.detach().numpy().copy())

    for name, part in module.named_modules():
        if name in names:
            hooks.append(part.register_forward_hook(keep(name)))
    with torch.no_grad():
        found[""] = run().numpy()
    for hook in hooks:
        hook.remove()
    return found
