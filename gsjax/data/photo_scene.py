"""A folder of posed photographs as a scene, read frame by frame; imports no JAX."""

from pathlib import Path

import numpy as np

from gsjax.data import features, record_shards, scene_records, view_fit
from gsjax.data.scenes import View
from gsjax.io import posed, posed_pixels


class PhotoScene:
    """Photographs with a COLMAP model or a ``transforms.json``: a ``scenes.Scene`` but for ``cloud``.

    Frames are in the order of their names, which is that of the recording for videos.

    Args:
        folder: see ``io.posed.load_posed``, whose other options follow.
        name: of the scene; '' = the folder's.
        downscale, axes: see there.

    Raises:
        FileNotFoundError, ValueError: see there.
    """

    def __init__(self, folder, *, name: str = "", downscale: int = 1, axes: str | None = None):
        found = posed.load_posed(folder, downscale=downscale, axes=axes)
        self._posed = found.subset(np.argsort(found.names, kind="stable"))
        self.name = name or Path(folder).name

    @property
    def num_frames(self) -> int:
        return len(self._posed)

    @property
    def viewmats(self) -> np.ndarray:
        return self._posed.viewmats

    def neighbours(self, frame: int) -> None:
        """Not known beforehand: frames close in time."""
        del frame

    def view(self, frame: int) -> View:
        """Frame 0 .. F - 1; depth is 0 where there is none."""
        one = self._posed.subset([frame])
        image = posed_pixels.load_images(one)[0][..., :3]
        depths = posed_pixels.load_depths(one)
        depth = np.zeros(image.shape[:2], np.float32) if depths is None else depths[0]
        return View(image, depth, None, self._posed.viewmats[frame], self._posed.Ks[frame])

    def encoded(self) -> bytes:
        """The scene as a record (``scene_records``), photographs byte by byte where they have this size.

        Raises:
            ValueError: photographs with transparency.
        """
        if self._posed.alpha:
            raise ValueError(
                f"{self.name}: photographs with transparency; lay them on a background and save them again"
            )
        sizes = np.stack([self._posed.height, self._posed.width], 1)
        stored = [posed_pixels.image_header(path)[:2] for path in self._posed.image_paths]
        pictures = [
            path.read_bytes()
            if tuple(size[::-1]) == tuple(found)
            else features.encode_png(np.ascontiguousarray(self.view(frame).image))
            for frame, (path, size, found) in enumerate(
                zip(self._posed.image_paths, sizes.tolist(), stored)
            )
        ]
        Ks = [view_fit.normalised(K, *size) for K, size in zip(self._posed.Ks, sizes)]
        return scene_records.encode(self.name, pictures, np.stack(Ks), self.viewmats)


def convert(folders, out, *, downscale: int = 1, axes: str | None = None) -> None:
    """Writes scenes of posed photographs to a set of records; an interrupted run goes on.

    Args:
        folders: one a scene; their names must differ.
        out: folder of the records.
        downscale, axes: see :class:`PhotoScene`.

    Raises:
        ValueError: two folders of one name, or see :class:`PhotoScene`.
    """
    folders = [Path(folder) for folder in folders]
    names = [folder.name for folder in folders]
    identity = dict(
        kind=scene_records.KIND, photographs=names, downscale=downscale, axes=axes or ""
    )
    if len(set(names)) < len(names):
        raise ValueError(f"folders: two scenes have one name in {sorted(names)[:8]}; rename them")
    with record_shards.Writer(out, identity) as writer:
        for order, folder in enumerate(folders):
            if folder.name not in writer.written:
                scene = PhotoScene(folder, downscale=downscale, axes=axes)
                writer.add(scene.name, scene.encoded(), frames=scene.num_frames, order=order)
    record_shards.seal(out, identity, expected=len(folders))
