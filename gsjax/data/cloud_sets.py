"""Sets of labelled point clouds by name, with their training, validation and held-out sides.

Read as they are published: nothing is prepared, and nothing is downloaded. Imports no JAX.
"""

import dataclasses
import os

from gsjax.data import labelled_clouds, modelnet, scanobjectnn, shapenetpart

NAMES = ("scanobjectnn", "modelnet40", "modelnet10", "shapenetpart")


@dataclasses.dataclass(frozen=True)
class CloudSet:
    """The sides of a set.

    Attributes:
        train, test: objects.
        val: objects to choose settings by; None = the set has no such side.
    """

    train: labelled_clouds.LabelledClouds
    test: labelled_clouds.LabelledClouds
    val: labelled_clouds.LabelledClouds | None = None


def load(name: str, source: str, variant: str = "") -> CloudSet:
    """The set of that name.

    Args:
        name: one of ``NAMES``.
        source: its folder; '' = ``$GSJAX_DATA/<name>``.
        variant: scanobjectnn: a key of its ``VARIANTS`` ('' = 'pb_t50_rs'); modelnet40: 'h5' or
            'text', the layout ('' = the one that is there); the others have none.

    Raises:
        FileNotFoundError, ImportError: see the sets' own modules.
        ValueError: unknown set or variant, no folder named, or what the sets' own modules say.
    """
    if name not in NAMES:
        raise ValueError(f"data.name: unknown set {name!r}; known: {', '.join(NAMES)}")
    if not source:
        if not os.environ.get("GSJAX_DATA"):
            raise ValueError(
                f"data.source: the set {name} reads a folder; name it with --config.data.source="
                "FOLDER, or set GSJAX_DATA to the folder above it"
            )
        source = os.path.join(os.environ["GSJAX_DATA"], name)
    if name == "scanobjectnn":
        chosen = variant or "pb_t50_rs"
        return CloudSet(
            *(scanobjectnn.ScanObjectNN(source, s, variant=chosen) for s in scanobjectnn.SPLITS)
        )
    if name == "modelnet40":
        return CloudSet(*(modelnet.open_split(source, s, layout=variant) for s in modelnet.SPLITS))
    if variant:
        raise ValueError(f"data.variant: the set {name} has no variants, found {variant!r}")
    if name == "modelnet10":
        return CloudSet(*(modelnet.open_split(source, s, name=name) for s in modelnet.SPLITS))
    train, val, test = (shapenetpart.ShapeNetPart(source, s) for s in shapenetpart.SPLITS)
    return CloudSet(train, test, val)
