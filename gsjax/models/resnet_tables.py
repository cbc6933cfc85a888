"""Where each variable of a ResNet comes from: the names of torchvision's state dicts.

The same names are in checkpoints of most projects in torch, behind a prefix or not.
"""

from collections.abc import Iterable, Mapping

import jax
import numpy as np

from gsjax.models import name_tables, resnet
from gsjax.models.name_tables import Entry

# torch counts batches, and a classifier may follow; neither is used.
IGNORE = (r".*num_batches_tracked$", r"fc\.(weight|bias)$")


def _norm(theirs: str, ours: str) -> list[Entry]:
    return [
        Entry(f"{theirs}.weight", f"params/{ours}/scale"),
        Entry(f"{theirs}.bias", f"params/{ours}/bias"),
        Entry(f"{theirs}.running_mean", f"batch_stats/{ours}/mean"),
        Entry(f"{theirs}.running_var", f"batch_stats/{ours}/var"),
    ]


def _conv(theirs: str, ours: str) -> list[Entry]:
    return [Entry(f"{theirs}.weight", f"params/{ours}/kernel", "conv2d")]


def table(config: resnet.Config) -> list[Entry]:
    """Entries of ``resnet.ResNet``."""
    entries = _conv("conv1", "stem_conv") + _norm("bn1", "stem_norm")
    for i, count in enumerate(config.blocks):
        for j in range(count):
            theirs, ours = f"layer{i + 1}.{j}", f"stage_{i}_block_{j}"
            for k in range(2):
                entries += _conv(f"{theirs}.conv{k + 1}", f"{ours}/conv_{k}")
                entries += _norm(f"{theirs}.bn{k + 1}", f"{ours}/norm_{k}")
            if i and not j:  # where stride and channels change
                entries += _conv(f"{theirs}.downsample.0", f"{ours}/shortcut_conv")
                entries += _norm(f"{theirs}.downsample.1", f"{ours}/shortcut_norm")
    return entries


def convert(
    state_dict: Mapping[str, np.ndarray],
    config: resnet.Config,
    *,
    prefix: str = "",
    ignore: Iterable[str] = (),
) -> dict:
    """Variables of ``resnet.ResNet`` from a state dict of torchvision's layout.

    Args:
        state_dict: name -> array.
        config: sizes.
        prefix: of the network's names; names without it are left out.
        ignore: regular expressions of further keys, without the prefix, that are not used.

    Raises:
        ValueError: keys are missing or unexpected, or shapes differ; one message lists them all.
    """
    found = {k[len(prefix) :]: v for k, v in state_dict.items() if k.startswith(prefix)}
    model = resnet.ResNet(config)
    images = jax.ShapeDtypeStruct((1, 32, 32, 3), np.float32)
    shapes = name_tables.flat_shapes(jax.eval_shape(model.init, jax.random.key(0), images))
    return name_tables.convert(
        found, table(config), shapes, what="ResNet", ignore=(*IGNORE, *ignore), dtype=np.float32
    ).variables
