"""Where each parameter of ``vggt.Vggt`` comes from: the names of ``facebook/VGGT-1B``.

The file also holds heads for cameras, depths and tracks, which are dropped. Some trainers store the
network behind ``model.`` or ``module.``; ``io.weights`` takes wrappers off.
"""

from collections.abc import Mapping

import numpy as np

from gsjax.models import dinov2_tables, dpt_tables, name_tables, vggt
from gsjax.models.name_tables import Entry

IGNORE = (
    r"camera_head\.",
    r"depth_head\.",
    r"track_head\.",
    r"aggregator\.patch_embed\.mask_token$",
    r"aggregator\._resnet_(mean|std)$",
    r"point_head\.scratch\.refinenet4\.resConfUnit1\.",
)


def table(config: vggt.VggtConfig) -> list[Entry]:
    """Entries of ``vggt.Vggt``."""
    entries = dinov2_tables.table(
        config.vit, theirs="aggregator.patch_embed.", ours="aggregator/vit/"
    )
    entries += [
        Entry("aggregator.camera_token", "aggregator/camera_token"),
        Entry("aggregator.register_token", "aggregator/register_token"),
    ]
    for i in range(config.depth):
        for kind in ("frame", "global"):
            theirs = f"aggregator.{kind}_blocks.{i}"
            entries += dinov2_tables.block(theirs, f"aggregator/{kind}_{i}", qk_norm=True)
    return entries + dpt_tables.table(config.point, theirs="point_head.", ours="point_head/")


def convert(
    state_dict: Mapping[str, np.ndarray],
    config: vggt.VggtConfig,
    what: str = "VGGT",
    dtype=np.float32,
) -> dict:
    """Parameters of ``vggt.Vggt`` from a state dict with the names of VGGT-1B.

    Args:
        state_dict: name -> array, read one at a time.
        config: sizes.
        what: the file, for messages.
        dtype: of the aggregator's kernels and tokens; the head and all vectors stay float32.

    Raises:
        ValueError: keys are missing or unexpected, or shapes differ: one message lists them all.
    """
    found = name_tables.convert(
        state_dict,
        table(config),
        name_tables.flat_shapes(vggt.abstract_variables(config)),
        what=what,
        ignore=IGNORE,
    )
    cast = {}
    for path, value in name_tables.flatten(found.variables).items():
        keep = value.ndim == 1 or path.startswith("point_head/")
        cast[path] = np.array(value, np.float32 if keep else dtype, order="C")
    return name_tables.nest(cast)
