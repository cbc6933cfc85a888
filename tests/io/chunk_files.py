"""Chunk files as torch.save lays them out, put together without torch."""

import io

import numpy as np
from PIL import Image

from tests.io import programs as p


def jpeg(image: np.ndarray, kind: str = "JPEG") -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, kind, quality=95)
    return buffer.getvalue()


def row(fx=0.9, fy=1.6, cx=0.5, cy=0.5, pose=None) -> np.ndarray:
    """A camera row; ``pose`` [3, 4] world to camera."""
    pose = np.eye(4)[:3] if pose is None else pose
    return np.float32([fx, fy, cx, cy, 0, 0, *np.ravel(pose)])


class Storages:
    """Tensors of a file that is being put together."""

    def __init__(self):
        self.data: dict[str, bytes] = {}

    def tensor(self, array: np.ndarray) -> bytes:
        kinds = {"uint8": "ByteStorage", "int64": "LongStorage", "float32": "FloatStorage"}
        key = str(len(self.data))
        self.data[key] = np.ascontiguousarray(array).tobytes()
        strides = np.array(array.strides) // array.itemsize
        held = p.storage(array.size, key, kinds[array.dtype.name])
        return p.tensor(array.shape, strides.tolist(), 0, held)


def scene(storages: Storages, key: str, cameras: np.ndarray, images, **more: bytes) -> bytes:
    """The program of one scene's dict; ``images``: bytes of files."""
    listed = p.EMPTY_LIST + b"".join(
        storages.tensor(np.frombuffer(data, np.uint8)) + p.APPEND for data in images
    )
    times = np.arange(len(cameras), dtype=np.int64) * 33_000
    return p.mapping(
        **dict(url=p.text("https://example.org/video"), key=p.text(key)),
        **dict(timestamps=storages.tensor(times), cameras=storages.tensor(cameras), images=listed),
        **more,
    )


def write(path, storages: Storages, *scenes: bytes):
    """A chunk of several scenes."""
    code = p.EMPTY_LIST + b"(" + b"".join(scenes) + b"e"  # MARK ... APPENDS
    return p.write(path, p.program(code), storages.data)


def legacy_head() -> bytes:
    """How files of PyTorch before 1.6 begin: the pickle of their magic number."""
    return b"\x80\x02" + b"\x8a\x0a" + (0x1950A86A20F9469CFC6C).to_bytes(10, "little") + b"."
