"""Small sound files for each target, made by the library's own writers and by the tests' helpers.

``SEEDS`` has, for each target, functions that write into a folder; all of one target write the files that
are not damaged (photographs beside cameras) alike. Generators have fixed seeds: the same files every time.
"""

import gzip
import json
import struct
from pathlib import Path

import numpy as np
from PIL import Image

from tests.fuzz import splat_seeds
from tests.io import chunk_files as c
from tests.io import posed_scenes
from tests.io import programs as p

# Photographs with cameras.


def _colmap(binary: bool):
    def make(folder: Path):
        from gsjax.io import colmap, posed

        posed_scenes.nerfstudio(folder, 3)
        images = posed.load_posed(folder)
        (folder / "transforms.json").unlink()
        rng = np.random.default_rng(0)
        import dataclasses

        images = dataclasses.replace(
            images,
            points=rng.normal(size=(5, 3)) * 0.1,
            point_colors=rng.integers(0, 255, (5, 3), np.uint8),
        )
        colmap.write_model(folder / "sparse" / "0", images, binary=binary)

    return make


def _nerfstudio(folder: Path, **keys):
    from gsjax.io import point_cloud

    posed_scenes.nerfstudio(folder, 3)
    point_cloud.write(folder / "points.ply", np.random.default_rng(0).normal(size=(5, 3)) * 0.1)
    for kind in ("mask", "depth"):
        (folder / kind).mkdir(exist_ok=True)
        for i in range(3):
            Image.fromarray(np.full((8, 12), 200, np.uint8)).save(folder / kind / f"{i:03d}.png")
    np.save(folder / "depth" / "001.npy", np.ones((8, 12), np.float32))
    posed_scenes.edit(folder / "transforms.json", lambda meta: meta.update(keys))


def _all_keys(folder: Path):
    _nerfstudio(
        folder, ply_file_path="points.ply", camera_model="OPENCV", k1=0.0, depth_scale_m=0.01,
        applied_transform=np.eye(4)[:3].tolist(), convention="opengl",
        train_filenames=["images/000.png", "images/001.png"], test_filenames=["images/002.png"],
    )  # fmt: skip
    _with_files(folder)


def _with_files(folder: Path):
    def change(meta):
        for frame in meta["frames"]:
            number = frame["file_path"][7:10]
            frame["mask_path"] = f"mask/{number}.png"
            frame["depth_file_path"] = f"depth/{number}." + ("npy" if number == "001" else "png")

    posed_scenes.edit(folder / "transforms.json", change)


def _blender(folder: Path):
    posed_scenes.blender(folder, {"train": 3, "test": 2})


def _picture_kinds(kind: str):
    """Photographs of one kind under the names that the cameras give."""

    def make(folder: Path):
        _nerfstudio(folder)
        _with_files(folder)
        rng = np.random.default_rng(0)
        for name in ("images/000.png", "images/001.png"):
            pixels = Image.fromarray(rng.integers(0, 255, (8, 12, 3), np.uint8))
            with open(folder / name, "wb") as file:
                pixels.save(file, kind)

    return make


# Chunks, checkpoints, records.


def _jpegs(count: int) -> list[bytes]:
    rng = np.random.default_rng(0)
    return [c.jpeg(rng.integers(0, 255, (8, 12, 3), np.uint8)) for _ in range(count)]


def _chunk(folder: Path):
    storages = c.Storages()
    rows = np.stack([c.row(pose=np.c_[np.eye(3), [0.1 * i, 0, 0]]) for i in range(2)])
    scenes = [c.scene(storages, key, rows, _jpegs(2)) for key in ("a", "b")]
    c.write(folder / "0.torch", storages, *scenes)
    (folder / "index.json").write_text(json.dumps({"a": "0.torch", "b": "0.torch"}))


def _weights_program() -> tuple[bytes, dict[str, bytes]]:
    code = p.mapping(
        **{"layer.weight": p.tensor((2, 2), (2, 1)), "layer.bias": p.tensor((4,), (1,), 0)},
        step=p.tensor((), (), 1),
    )
    return p.program(p.mapping(state_dict=code)), {"0": np.arange(4, dtype="<f4").tobytes()}


def _torch_zip(folder: Path):
    p.write(folder / "a.pt", *_weights_program())


def _torch_plain(folder: Path):
    state = p.tensor((3,), (1,), 0, p.storage(6, "7", "HalfStorage"))
    p.write(folder / "a.pt", p.program(p.mapping(w=state)), {"7": bytes(12)})


def _torch_legacy(folder: Path):
    code, storages = _weights_program()
    system = p.program(p.mapping(protocol_version=p.number(1001), little_endian=b"\x88"))
    held = p.several(
        p.text("storage"), p.name("torch", "FloatStorage"), p.text("0"), p.text("cpu"), p.number(4),
        b"N",
    )  # fmt: skip
    code = code.replace(p.storage(), held + p.BINPERSID)
    keys = p.program(p.EMPTY_LIST + p.text("0") + p.APPEND)
    data = struct.pack("<q", 4) + storages["0"]
    whole = [c.legacy_head(), p.program(p.number(1001)), system, code, keys, data]
    (folder / "a.pth").write_bytes(b"".join(whole))


def _pickles():
    import pickle

    plain = {"a": [1, 2.5, None, True, ("x", 2**70)], "b": {1: "z" * 9, "c": [[], {}, ()]}}
    made = [pickle.dumps(plain, protocol) for protocol in (2, 3)]
    made += [pickle.dumps({**plain, "d": {3, 4}, "e": b"f"}, protocol) for protocol in (4, 5)]
    made += [_weights_program()[0], p.program(p.tower(12))]

    def writer(data):
        return lambda folder: (folder / "a.pkl").write_bytes(data)

    return [writer(data) for data in made]


def _safetensors(name: str):
    def make(folder: Path):
        from gsjax.io import safetensors_file

        arrays = {"a.b": np.ones((2, 3), np.float32), "c": np.arange(4, dtype=np.int64)}
        safetensors_file.save_arrays(folder / name, arrays, {"what": "a test"})

    return make


def _sharded(folder: Path):
    _safetensors("one.safetensors")(folder)
    index = {"metadata": {}, "weight_map": {"a.b": "one.safetensors", "c": "one.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def _packed(folder: Path):
    from gsjax.io import packed_arrays

    arrays = {"a": np.ones((3, 2), np.float32), "b": np.arange(5), "c": np.zeros((2, 2), bool)}
    (folder / "a.bin").write_bytes(packed_arrays.pack({"name": "x", "size": [1, 2]}, arrays))


def _scene_record_bytes(depth: bool = True) -> bytes:
    from gsjax.data import scene_records

    Ks = np.tile(np.array([[0.9, 0, 0.5], [0, 1.6, 0.5], [0, 0, 1]]), (2, 1, 1))
    depths = np.ones((2, 8, 12), np.float16) if depth else None
    near = [[1], [0]] if depth else None
    return scene_records.encode(
        "a", _jpegs(2), Ks, np.tile(np.eye(4), (2, 1, 1)), depths=depths, neighbours=near
    )


def _scene_record(depth: bool):
    return lambda folder: (folder / "a.bin").write_bytes(_scene_record_bytes(depth))


def _pointmap(folder: Path):
    from gsjax.data import pointmap_cache

    points = np.random.default_rng(0).normal(size=(2, 3, 4, 3))
    data = pointmap_cache.encode("a", [3, 5], points, np.ones((2, 3, 4)))
    (folder / "a.bin").write_bytes(data)


def _record_set(folder: Path):
    from gsjax.data import record_shards

    identity = {"kind": "posed scenes"}
    with record_shards.Writer(folder, identity) as writer:
        writer._token = "0"
        for key in ("a", "b"):
            writer.add(key, _scene_record_bytes(False), frames=2, order=0)
    record_shards.seal(folder, identity)


def _archive(folder: Path):
    import ml_dtypes

    from gsjax.io import archive

    arrays = {"a/kernel": np.ones((2, 3), np.float32), "b": np.zeros(4, ml_dtypes.bfloat16)}
    archive.save(folder / "a.npz", "clip_gs", {"width": 8}, arrays, {"licence": "none"})


def _gallery(folder: Path):
    from gsjax.data import splats

    splats.Gallery(("a.ply", "b.ply"), np.eye(2, 4), {"up": "y"}).save(folder / "a.npz")


def _hdf5(folder: Path):
    import h5py

    with h5py.File(folder / "a.h5", "w", libver="earliest") as file:
        file["data"] = np.ones((2, 4, 3), np.float32)
        file.create_dataset("label", data=np.arange(2, dtype=np.uint8), compression="gzip")


# Meshes.

_VERTICES = np.float32([[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]])
_FACES = np.int32([[0, 2, 1], [0, 1, 3], [0, 3, 2], [1, 2, 3]])


def _mesh_npz(folder: Path):
    Image.fromarray(np.full((4, 4, 3), 99, np.uint8)).save(folder / "a_tex0.png")
    np.savez(
        folder / "a.npz", vertices=_VERTICES, faces=_FACES, uv=_VERTICES[:, :2],
        face_texture=np.zeros(4, np.int32), vertex_rgb=np.full((4, 3), 7, np.uint8),
    )  # fmt: skip


def _mesh_off(folder: Path):
    rows = [" ".join(map(str, row)) for row in _VERTICES.tolist()]
    rows += ["3 " + " ".join(map(str, row)) for row in _FACES.tolist()]
    (folder / "a.off").write_text("OFF\n4 4 0\n" + "\n".join(rows) + "\n")


def _mesh_obj(folder: Path):
    Image.fromarray(np.full((4, 4, 3), 99, np.uint8)).save(folder / "a.png")
    (folder / "a.mtl").write_text("newmtl m\nKd 0.5 0.2 0.1\nmap_Kd a.png\n")
    rows = ["v " + " ".join(map(str, row)) for row in _VERTICES.tolist()]
    rows += ["vt 0 0", "vt 1 0", "vt 0 1"]
    rows += [
        "f " + " ".join(f"{i + 1}/{j + 1}" for j, i in enumerate(row)) for row in _FACES.tolist()
    ]
    (folder / "a.obj").write_text("mtllib a.mtl\nusemtl m\n" + "\n".join(rows) + "\n")


def _mesh_by_trimesh(suffix: str):
    def make(folder: Path):
        import trimesh

        trimesh.Trimesh(_VERTICES, _FACES, process=False).export(folder / f"a.{suffix}")

    return make


# What data sets say of themselves.


def _view_index(folder: Path):
    found = {
        "a": {"context": [1, 5], "target": [2, 3, 4]},
        "b_00": None,
        "b": {"context": [0], "target": [9]},
    }
    (folder / "index.json").write_text(json.dumps(found))


def _data_set(folder: Path):
    from gsjax.data import store

    meta = dict(
        format=store.FORMAT, identity={"name": "x"}, categories=["night_stand", "chair"],
        parts=["none"], splits={"train": 3, "test": 1}, content="00ff",
    )  # fmt: skip
    (folder / store.META_FILE).write_text(json.dumps(meta))


def _points() -> dict[str, np.ndarray]:
    return dict(
        xyz=np.ones((5, 3), np.float32), rgb=np.full((5, 3), 8, np.uint8),
        normal=np.ones((5, 3), np.float32), label=np.zeros(5, np.int32),
    )  # fmt: skip


def _stored_scene(folder: Path):
    arrays = {
        "images": np.zeros((2, 4, 6, 3), np.uint8), "depths": np.ones((2, 4, 6), np.float32),
        "viewmats": np.tile(np.eye(4), (2, 1, 1)), "Ks": np.tile(np.eye(3), (2, 1, 1)), **_points(),
    }  # fmt: skip
    for name, value in arrays.items():
        np.save(folder / f"{name}.npy", value)
    meta = {"format": 1, "name": "a", "num_frames": 2, "neighbours": [[1], [0]]}
    (folder / "scene.json").write_text(json.dumps(meta))


def _stored_cloud(folder: Path):
    np.savez(folder / "cloud.npz", **_points())


def _scene_arrays(folder: Path):
    for name in ("coord", "color", "normal"):
        np.save(folder / f"{name}.npy", np.ones((5, 3), np.float32))
    np.save(folder / "segment.npy", np.array([0, 1, -1, 3, 19], np.int16))


def _captions_csv(folder: Path):
    (folder / "table.csv").write_text(
        'uid,caption,category,split\na,"a chair, red",chair,train\nb,a lamp,lamp,test\na,a seat,,\n'
    )


def _captions_json(kind: str):
    lvis = {"chair": ["a", "b"], "lamp": ["c"]}
    rows = [{"uid": "a", "caption": "a chair", "category": "chair", "split": "train"}, {"uid": "b"}]

    def make(folder: Path):
        text = json.dumps(lvis if kind == "lvis" else rows).encode()
        (folder / "table.json.gz").write_bytes(gzip.compress(text, mtime=0))
        lists = {"train": ["x/a.pkl"], "val": ["x/b.pkl"], "test": ["x/c.pkl"]}
        (folder / "sample_all.json").write_text(json.dumps({"original": lists}))

    return make


def _fitted(folder: Path):
    from gsjax.data import fitted

    fitted.check_identity(folder, {"collection": "x", "how": "made up"})
    made = [
        fitted.Fitted(i, {"uid": f"{i}"}, splat_seeds.splat(3, 1), {"psnr": 30.0}) for i in range(2)
    ]
    fitted.write_wave(folder, made)
    fitted.add_failure(folder, 7, "c", "no surface")
    fitted.add_run(folder, {"seconds": 1.5})


def embedding_key():
    from gsjax.data import embeddings

    return embeddings.CacheKey("toy", "w" * 64, "64 px, sRGB", "d" * 64)


def _embeddings(folder: Path):
    from gsjax.data import embedding_writer

    writer = embedding_writer.CacheWriter(
        folder, embedding_key(), num_records=2, num_views=2, dim=3, shard_records=2
    )
    rows = [
        dict(uid=uid, image_embed=np.ones((2, 3)), text_embed=np.ones((2, 3)), score=np.ones(2),
             caption_hash=np.arange(2, dtype=np.uint32))
        for uid in "ab"
    ]  # fmt: skip
    writer.write_shard(0, rows)
    writer.finish(["chair", "table"], {"plain": np.ones((2, 3))}, {"note": "test"})


def _recorded_room(folder: Path):
    (folder / "images").mkdir(parents=True)
    (folder / "depth").mkdir()
    frames = []
    for i in range(8):
        pose = np.eye(4)
        pose[0, 3] = 0.1 * i
        Image.fromarray(np.full((6, 8, 3), 90, np.uint8)).save(folder / f"images/{i}.png")
        Image.fromarray(np.full((6, 8), 2000, np.uint16)).save(folder / f"depth/{i}.png")
        frames.append(
            dict(file_path=f"images/{i}.png", depth_path=f"depth/{i}.png",
                 camera_to_world=pose.tolist())
        )  # fmt: skip
    meta = dict(fl_x=9.0, fl_y=9.0, cx=4.0, cy=3.0, w=8, h=6, depth_scale_m=0.001, frames=frames)
    (folder / "cameras.json").write_text(json.dumps(meta))
    pairs = [dict(i=i, j=i + 1, visible=0.8) for i in range(7)]
    (folder / "pairs.json").write_text(json.dumps(pairs))


def _part_lists(folder: Path):
    from gsjax.data import shapenetpart

    (folder / "train_test_split").mkdir()
    names = [f"shape_data/{synset}/{i}" for i, synset in enumerate(shapenetpart.SYNSETS)]
    file = folder / "train_test_split" / "shuffled_train_file_list.json"
    file.write_text(json.dumps(names[:3]))
    lines = [f"{name}\t{synset}" for name, synset, _ in shapenetpart._CATEGORIES]
    (folder / "synsetoffset2category.txt").write_text("\n".join(lines) + "\n")


def _episodes(folder: Path):
    from gsjax.evals import episodes

    trial = dict(order=["x", "y"], support={"x": [0, 1], "y": [1, 0]}, query={"x": [2], "y": [2]})
    stored = dict(
        format=episodes.FORMAT, name="test", settings={"way": [2], "shot": [1]},
        categories={"x": ["a", "b", "c"], "y": ["d", "e", "f"]}, trials=[trial],
    )  # fmt: skip
    (folder / "episodes.json").write_text(json.dumps(stored))


# Runs and networks.


def _vae_config(folder: Path):
    config = dict(
        _class_name="AutoencoderKL", block_out_channels=[8, 16], down_block_types=["DownEncoderBlock2D"] * 2,
        up_block_types=["UpDecoderBlock2D"] * 2, latent_channels=4, layers_per_block=1,
        scaling_factor=0.18, norm_num_groups=4, in_channels=3, sample_size=64,
    )  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))


def _towers(folder: Path):
    from gsjax.models import towers

    towers.save(folder / "towers.npz", "toy_clip", {"dim": 4}, {"a": {"kernel": np.ones((2, 2))}})


def _checkpoint(folder: Path):
    import jax.numpy as jnp

    from gsjax.train import checkpoint

    store = checkpoint.Checkpoints(folder, keep=1)
    store.save(7, {"params": {"w": jnp.ones((2, 2))}}, {"next": 1}, {"hash": "x"}, wait=True)
    store.close()


def _run_folder(folder: Path):
    _checkpoint(folder)
    (folder / "config.json").write_text(json.dumps({"system": "clip_gs", "model": {"width": 8}}))
    (folder / "towers.json").write_text(json.dumps({"name": "toy"}))


def _numbers(number: int):
    return lambda folder: (folder / "number").write_text(str(number))


SEEDS = {
    **splat_seeds.SEEDS,
    "self_test": [_numbers(number) for number in range(12)],
    "colmap_binary": [_colmap(True)],
    "colmap_text": [_colmap(False)],
    "transforms": [_all_keys, _nerfstudio],
    "blender": [_blender],
    "pictures": [_picture_kinds(k) for k in ("PNG", "JPEG", "WEBP", "TIFF", "BMP")],
    "chunk": [_chunk],
    "torch_zip": [_torch_zip, _torch_plain],
    "torch_legacy": [_torch_legacy],
    "safe_pickle": _pickles(),
    "safetensors": [_safetensors("a.safetensors")],
    "sharded_weights": [_sharded],
    "packed_arrays": [_packed],
    "scene_record": [_scene_record(True), _scene_record(False)],
    "pointmap": [_pointmap],
    "record_set": [_record_set],
    "record_sidecar": [_record_set],
    "archive": [_archive],
    "gallery": [_gallery],
    "hdf5": [_hdf5],
    "mesh_npz": [_mesh_npz],
    "mesh_off": [_mesh_off],
    "mesh_obj": [_mesh_obj],
    **{f"mesh_{suffix}": [_mesh_by_trimesh(suffix)] for suffix in ("ply", "stl", "glb")},
    "view_index": [_view_index],
    "data_set": [_data_set],
    "stored_scene": [_stored_scene],
    "stored_cloud": [_stored_cloud],
    "scene_arrays": [_scene_arrays],
    "captions_csv": [_captions_csv],
    "captions_json": [_captions_json("lvis"), _captions_json("rows")],
    "fitted": [_fitted],
    "embeddings": [_embeddings],
    "recorded_room": [_recorded_room],
    "part_lists": [_part_lists],
    "episodes": [_episodes],
    "vae_config": [_vae_config],
    "towers": [_towers],
    "checkpoint_meta": [_checkpoint],
    "run_folder": [_run_folder],
}
