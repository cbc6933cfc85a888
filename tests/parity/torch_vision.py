"""torchvision beside a CPU build of torch.

PyPI's torchvision is built for CUDA; without CUDA's torch its compiled operators are absent and it does
not import. Nothing here needs them: declaring the two that it asks for by name is enough.
"""

import sys

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")

_KEPT: list = []  # operators live as long as their library


def available() -> bool:
    """Imports torchvision, with its Python part alone where its compiled part does not fit torch."""
    try:
        import torchvision  # noqa: F401
    except ImportError:
        return False
    except RuntimeError:  # "operator torchvision::nms does not exist"
        for module in [m for m in sys.modules if m.split(".")[0] == "torchvision"]:
            del sys.modules[module]
        library = torch.library.Library("torchvision", "DEF")
        for name in ("nms", "qnms"):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _KEPT.append(library)
        import torchvision  # noqa: F401
    return True
