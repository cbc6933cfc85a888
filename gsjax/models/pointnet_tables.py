"""Where each variable of PointNet and PointNet++ comes from: the names of the common PyTorch versions.

That is the layout of Pointnet_Pointnet2_pytorch and of the many projects that grew out of it:
``stn``, ``fstn``, ``conv1`` ... of PointNet; ``sa1`` ..., ``fp1`` ... of PointNet++.
"""

from collections.abc import Iterable, Mapping

import jax
import numpy as np

from gsjax.models import name_tables
from gsjax.models.backbones import base, pointnet, pointnet2
from gsjax.models.name_tables import Entry

# torch counts batches; that is not used.
IGNORE = (r".*num_batches_tracked$",)


def _layer(dense: str, norm: str, ours: str, layout: str = "conv1x1") -> list[Entry]:
    """Entries of one ``PointLayer``."""
    return [
        Entry(f"{dense}.weight", f"params/{ours}/dense/kernel", layout),
        Entry(f"{dense}.bias", f"params/{ours}/dense/bias"),
        Entry(f"{norm}.weight", f"params/{ours}/norm/scale"),
        Entry(f"{norm}.bias", f"params/{ours}/norm/bias"),
        Entry(f"{norm}.running_mean", f"batch_stats/{ours}/norm/mean"),
        Entry(f"{norm}.running_var", f"batch_stats/{ours}/norm/var"),
    ]


def _transform(config: pointnet.Config, theirs: str, ours: str) -> list[Entry]:
    num = len(config.transform_points)
    table = []
    for i in range(num):
        table += _layer(f"{theirs}.conv{i + 1}", f"{theirs}.bn{i + 1}", f"{ours}/points_{i}")
    dense = len(config.transform_dense)
    for i in range(dense):
        norm = f"{theirs}.bn{num + i + 1}"
        table += _layer(f"{theirs}.fc{i + 1}", norm, f"{ours}/dense_{i}", "linear")
    return [
        *table,
        Entry(f"{theirs}.fc{dense + 1}.weight", f"params/{ours}/last/kernel", "linear"),
        Entry(f"{theirs}.fc{dense + 1}.bias", f"params/{ours}/last/bias"),
    ]


def pointnet_table(config: pointnet.Config) -> list[Entry]:
    """Entries of ``pointnet.Model``."""
    table = []
    for i in range(len(config.widths)):
        table += _layer(f"conv{i + 1}", f"bn{i + 1}", f"blocks_{i}")
    if config.input_transform:
        table += _transform(config, "stn", "input_transform")
    if config.feature_transform:
        table += _transform(config, "fstn", "feature_transform")
    return table


def pointnet2_table(config: pointnet2.Config) -> list[Entry]:
    """Entries of ``pointnet2.Model``."""
    table = []
    levels = len(config.centers)
    for i, scales in enumerate(config.scales):
        for j, scale in enumerate(scales):
            # Stages with one neighbourhood have names of their own.
            convs, norms = ("mlp_convs", "mlp_bns")
            if len(scales) > 1:
                convs, norms = (f"conv_blocks.{j}", f"bn_blocks.{j}")
            table += _perceptron(f"sa{i + 1}", f"stage_{i}/scale_{j}", scale.widths, convs, norms)
    table += _perceptron(f"sa{levels + 1}", f"stage_{levels}", config.top)
    for i, widths in enumerate(config.decoder):
        table += _perceptron(f"fp{levels + 1 - i}", f"decoder_{i}", widths)
    return table


def _perceptron(theirs, ours, widths, convs="mlp_convs", norms="mlp_bns") -> list[Entry]:
    table = []
    for i in range(len(widths)):
        table += _layer(f"{theirs}.{convs}.{i}", f"{theirs}.{norms}.{i}", f"{ours}/layers_{i}")
    return table


def convert(
    state_dict: Mapping[str, np.ndarray],
    config: pointnet.Config | pointnet2.Config,
    *,
    prefix: str = "",
    ignore: Iterable[str] = (),
) -> dict:
    """Variables of ``pointnet.Model`` or ``pointnet2.Model`` from a state dict of theirs.

    Args:
        state_dict: name -> array.
        config: sizes; its ``order`` must be that of the file (theirs with several neighbourhoods has
            features first).
        prefix: of the network's names, 'feat.' in PointNet's classifier; names without it are left
            out.
        ignore: regular expressions of keys, without the prefix, that are not used: a classifier's.

    Raises:
        ValueError: keys are missing or unexpected, or shapes differ; one message lists them all.
    """
    found = {}
    for key in state_dict:
        if key.startswith(prefix):
            value = np.asarray(state_dict[key])
            # Convolutions of size 1 x 1 as those of size 1.
            found[key[len(prefix) :]] = value[..., 0] if value.ndim == 4 else value
    two = isinstance(config, pointnet2.Config)
    model = (pointnet2 if two else pointnet).Model(config)
    points = base.PointBatch(
        np.zeros((1, 2, 3), np.float32),
        np.zeros((1, 2, config.channels), np.float32),
        np.ones((1, 2), bool),
    )
    shapes = name_tables.flat_shapes(jax.eval_shape(model.init, jax.random.key(0), points))
    return name_tables.convert(
        found,
        pointnet2_table(config) if two else pointnet_table(config),
        shapes,
        what="PointNet++" if two else "PointNet",
        ignore=(*IGNORE, *ignore),
        dtype=np.float32,
    ).variables
