"""Small sound files of splats and point clouds; see ``seeds``."""

import gzip
import struct
from pathlib import Path

import numpy as np

from tests.io import programs as p


def splat(n: int = 7, k: int = 4) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(n + k)
    return {
        "means": rng.normal(size=(n, 3)).astype(np.float32),
        "quats": rng.normal(size=(n, 4)).astype(np.float32),
        "log_scales": rng.uniform(-9, 1, (n, 3)).astype(np.float32),
        "logit_opacities": rng.normal(size=n).astype(np.float32),
        "sh": rng.uniform(-0.9, 0.9, (n, k, 3)).astype(np.float32),
    }


def _saved(name: str, n: int = 7, k: int = 4, **options):
    def make(folder: Path):
        from gsjax.io import formats

        formats.save_gaussians(folder / name, splat(n, k), **options)

    return make


def _ascii_ply(folder: Path):
    from gsjax.io import ply

    ply.write(folder / "b.ply", splat(3, 1), normals=False)
    data = (folder / "b.ply").read_bytes()
    head, _, body = data.partition(b"end_header\n")
    rows = np.frombuffer(body, "<f4").reshape(3, -1)
    text = "".join(" ".join(f"{x:g}" for x in row) + "\n" for row in rows)
    head = head.replace(b"binary_little_endian", b"ascii")
    (folder / "a.ply").write_bytes(head + b"end_header\n" + text.encode())


def _many_elements_ply(folder: Path):
    """Big-endian, with an element before the vertices and one of lists behind them."""
    from gsjax.io import ply

    ply.write(folder / "b.ply", splat(3, 1), normals=False)
    head, _, body = (folder / "b.ply").read_bytes().partition(b"end_header\n")
    head = head.replace(b"little_endian", b"big_endian")
    head = head.replace(b"element vertex", b"element camera 1\nproperty double fov\nelement vertex")
    head += b"element face 1\nproperty list uchar int vertex_indices\n"
    body = np.frombuffer(body, "<f4").astype(">f4").tobytes()
    body = struct.pack(">d", 0.5) + body + b"\x03" + struct.pack(">3i", 0, 1, 2)
    (folder / "a.ply").write_bytes(head + b"end_header\n" + body)


def _spz_4(folder: Path):
    import zstandard

    _saved("b.spz", 5, 4)(folder)
    body = gzip.decompress((folder / "b.spz").read_bytes())[16:]
    ends = np.cumsum([0, 9, 1, 3, 3, 4, 9]) * 5
    columns = [body[i:j] for i, j in zip(ends[:-1], ends[1:])]
    streams = [zstandard.compress(column) for column in columns]
    head = b"NGSP" + struct.pack("<IIBBBB", 4, 5, 1, 12, 0, 6) + struct.pack("<I", 32) + bytes(12)
    table = b"".join(
        struct.pack("<QQ", len(s), len(x)) for s, x in zip(streams, columns, strict=True)
    )
    (folder / "a.spz").write_bytes(head + table + b"".join(streams))


def _unigs(folder: Path):
    """A record as torch.save makes it of a dict with a NumPy table."""
    from gsjax.io import gaussian_array

    table = gaussian_array.to_table(splat(4, 1)).astype("<f4")
    made = p.name("numpy.core.multiarray", "_reconstruct") + p.several(
        p.name("numpy", "ndarray"), p.several(p.number(0)), b"C\x01b"
    )
    kind = p.name("numpy", "dtype") + p.several(p.text("f4"), b"\x89", b"\x88") + p.REDUCE
    state = p.several(p.number(3), p.text("<"), *[b"N"] * 3, *[p.number(-1)] * 2, p.number(0))
    kind += state + p.BUILD
    raw = b"B" + struct.pack("<I", table.nbytes) + table.tobytes()
    state = p.several(p.number(1), p.numbers(table.shape), kind, b"\x89", raw)
    array = made + p.REDUCE + state + p.BUILD
    words = p.EMPTY_LIST + p.text("a chair") + p.APPEND
    code = p.mapping(
        **{"3dgs": array}, name=p.text("x"), label=p.text("chair"), human_prompt=words,
        machine_prompt=p.text("a red chair"),
    )  # fmt: skip
    p.write(folder / "a.pkl", b"\x80\x03" + code + b".")


def _cloud(colors: bool):
    def make(folder: Path):
        from gsjax.io import point_cloud

        points = np.random.default_rng(0).normal(size=(6, 3))
        point_cloud.write(
            folder / "a.ply", points, np.full((6, 3), 9, np.uint8) if colors else None
        )

    return make


SEEDS = {
    "ply": [_saved("a.ply"), _saved("a.ply", 2, 1, normals=False), _ascii_ply, _many_elements_ply],
    "ply_compressed": [_saved("a.compressed.ply"), _saved("a.compressed.ply", 300, 1)],
    "splat": [_saved("a.splat", drop_sh=True), _saved("a.splat", 1, 1)],
    "spz": [_saved("a.spz"), _saved("a.spz", 5, 16, version=2), _saved("a.spz", 1, 1), _spz_4],
    "spz_header": [_saved("a.spz"), _spz_4],
    "npy_table": [_saved("a.npy"), _saved("a.npy", 2, 1)],
    "unigs": [_unigs],
    "point_cloud": [_cloud(True), _cloud(False), _ascii_ply, _many_elements_ply],
}
