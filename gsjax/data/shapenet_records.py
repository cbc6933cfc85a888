"""Models of ``shapenet_renders`` as the records that ``view_examples`` reads.

Points have no colours and no parts there: they are grey, and no label is known. The up axis becomes +y, as
everywhere with objects; pictures are scaled to one size. Imports no JAX.
"""

import numpy as np
from PIL import Image

from gsjax.data import pictures, shapenet_renders

_TO_Y_UP = np.array([[1.0, 0, 0], [0, 0, 1], [0, -1, 0]])  # (x, y, z) -> (x, z, -y)


class Records:
    """Random access to models: ``index``, ``uid``, ``category``, ``means``, ``sh0``, ``parts``, ``views``,
    ``viewmats`` and ``Ks``.

    Args:
        models: to read.
        size: of the pictures in pixels; rendered ones are scaled to it, and ``Ks`` with them.
    """

    def __init__(self, models: shapenet_renders.ShapeNetRenders, size: int):
        self._models, self._size = models, size

    def __len__(self) -> int:
        return len(self._models)

    def __getitem__(self, index: int) -> dict:
        """One model.

        Raises:
            FileNotFoundError: its folder is incomplete.
            ValueError: a file is damaged, or its pictures are not square.
        """
        model = self._models[index]
        height, width = model.images.shape[1:3]
        if height != width:
            raise ValueError(
                f"{model.name}: pictures of {width} x {height} pixels; expected square ones"
            )
        turn = np.eye(4)
        turn[:3, :3] = _TO_Y_UP
        Ks = model.Ks.copy()
        Ks[:, :2] *= self._size / width
        points = (model.points @ _TO_Y_UP.T).astype(np.float32)
        return dict(
            index=np.int32(index),
            uid=model.name,
            category=np.int32(model.category),
            means=points,
            sh0=np.zeros_like(points),
            parts=np.zeros(len(points), np.int32),
            views=np.stack([_scaled(image, self._size) for image in model.images]),
            viewmats=(model.viewmats @ turn.T).astype(np.float32),
            Ks=Ks.astype(np.float32),
        )


def _scaled(image: np.ndarray, size: int) -> np.ndarray:
    """uint8 [S, S, 4]; colours are weighted by opacity, so that none bleeds in from outside."""
    if image.shape[0] == size:
        return image
    scaled = Image.fromarray(image, "RGBA").convert("RGBa")
    scaled = scaled.resize((size, size), Image.Resampling.BOX, reducing_gap=None)
    return np.asarray(scaled.convert("RGBA"))


def open_split(
    root, split: str, size: int, memory: int = pictures.MEMORY
) -> tuple[pictures.KeptRecords, tuple[str, ...]]:
    """Models of one split, kept in memory while they fit, and the names of all categories.

    Incomplete models are left out and counted.

    Raises:
        FileNotFoundError, ValueError: as ``ShapeNetRenders``.
    """
    models = shapenet_renders.ShapeNetRenders(root, split, check=True)
    return pictures.KeptRecords(Records(models, size), memory), tuple(models.synsets)
