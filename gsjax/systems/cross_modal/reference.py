"""Checkpoints of the thesis's code as this system's variables.

A file of ``SimiOy/Self-Supervised-Learning-for-3DGS`` holds the state dicts of a PointNet or a PointNet++ with
several neighbourhoods, of a ResNet-18 and of the fusion head, beside what its optimiser needs. Which points
it reads shows in the shape of a first layer. Run what was imported with ``configs/cross_modal.py:parity``.
"""

import dataclasses
from collections.abc import Mapping

import numpy as np

from gsjax.data import paired
from gsjax.io import torch_pickle
from gsjax.models import name_tables, pointnet_tables, resnet, resnet_tables
from gsjax.models.backbones import pointnet, pointnet2
from gsjax.models.name_tables import Entry

_PARTS = ("pointnet_state_dict", "resnet18_state_dict", "fusion_network_state_dict")
_FUSION = [
    Entry("fc1.weight", "hidden/kernel", "linear"),
    Entry("fc1.bias", "hidden/bias"),
    Entry("fc2.weight", "logits/kernel", "linear"),
    Entry("fc2.bias", "logits/bias"),
]
SH_COLUMNS = "rest44"  # all that the reference knows


@dataclasses.dataclass(frozen=True)
class Weights:
    """Converted weights.

    Attributes:
        arrays: path in the system's variables ('params/pictures/stem_conv/kernel') -> f32 array.
        backbone: 'pointnet' or 'pointnet2', of size ``cross_modal``.
        features: of ``paired.FEATURE_SETS``.
        fusion_dim: width of the fusion's hidden layer.
    """

    arrays: dict[str, np.ndarray]
    backbone: str
    features: str
    fusion_dim: int


def read(path) -> Weights:
    """:func:`convert` of a file of ``torch.save``; nothing in it is executed.

    Raises:
        ValueError: no such file, a damaged one, or what :func:`convert` refuses.
    """
    return convert(torch_pickle.read(path), str(path))


def convert(checkpoint: Mapping, what: str = "checkpoint") -> Weights:
    """Variables of ``model.CrossModal`` from a checkpoint.

    Args:
        checkpoint: with the three state dicts, names -> arrays.
        what: the file, for messages.

    Raises:
        ValueError: a part is missing, arrays are missing, left over or of another shape, or the number of
            columns is no feature set's.
    """
    absent = [name for name in _PARTS if not isinstance(checkpoint.get(name), Mapping)]
    if absent:
        raise ValueError(
            f"{what}: lacks {', '.join(absent)}; expected a checkpoint of the cross-modal reference, with "
            f"{', '.join(_PARTS)}"
        )
    net, image, head = (checkpoint[name] for name in _PARTS)
    backbone, prefix, config = _network(net, what)
    points = pointnet_tables.convert(net, config, prefix=prefix)
    pictures = resnet_tables.convert(image, resnet.PRESETS["resnet18"])
    width = len(np.asarray(head["fc1.bias"])) if "fc1.bias" in head else 256
    joined = resnet.PRESETS["resnet18"].features + _pooled(config)
    shapes = {
        "hidden/kernel": (joined, width),
        "hidden/bias": (width,),
        "logits/kernel": (width, 2),
        "logits/bias": (2,),
    }
    fusion = name_tables.convert(head, _FUSION, shapes, what="fusion head", dtype=np.float32)
    arrays = {f"params/{k}": v for k, v in name_tables.flatten(fusion.variables).items()}
    for name, part in (("backbone", points), ("pictures", pictures)):
        for path, value in name_tables.flatten(part).items():
            collection, _, rest = path.partition("/")
            arrays[f"{collection}/{name}/{rest}"] = value
    return Weights(arrays, backbone, _feature_set(config.channels, what), width)


def _network(state: Mapping, what: str):
    """(backbone, prefix of its names, its sizes)."""
    for backbone, prefix, first, preset in (
        ("pointnet", "feat.", "feat.conv1.weight", pointnet.PRESETS["cross_modal"]),
        ("pointnet2", "", "sa1.conv_blocks.0.0.weight", pointnet2.PRESETS["cross_modal"]),
    ):
        if first in state:
            channels = np.shape(state[first])[1] - 3
            return backbone, prefix, dataclasses.replace(preset, channels=channels)
    raise ValueError(
        f"{what}: its points' network is neither a PointNet (feat.conv1.weight) nor a PointNet++ with "
        "several neighbourhoods (sa1.conv_blocks.0.0.weight)"
    )


def _pooled(config) -> int:
    return config.widths[-1] if isinstance(config, pointnet.Config) else config.top[-1]


def _feature_set(channels: int, what: str) -> str:
    known = {paired.num_channels(name, SH_COLUMNS): name for name in paired.FEATURE_SETS}
    if channels not in known:
        raise ValueError(
            f"{what}: reads {channels} columns beside the position; known are "
            f"{', '.join(f'{n} ({name})' for n, name in known.items())}"
        )
    return known[channels]
