"""Small sets of labelled clouds from random numbers, in the layouts that are published."""

import json

import numpy as np

from gsjax.data import modelnet, scanobjectnn, shapenetpart


def write_h5(path, **arrays):
    """An HDF5 file of these arrays; None = left out."""
    import h5py

    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        for name, value in arrays.items():
            if value is not None:
                file[name] = value


def scanobjectnn_root(root, count=20, points=32, labels=None):
    """All three variants with both sides; returns {(variant, split): (data, label, mask)}."""
    rng = np.random.default_rng(0)
    made = {}
    for variant, (folder, suffix) in scanobjectnn.VARIANTS.items():
        for split, stem in scanobjectnn.SPLITS.items():
            data = rng.normal(size=(count, points, 3)).astype(np.float32)
            label = (np.arange(count) if labels is None else labels) % 15
            mask = rng.integers(-1, 2, (count, points))
            path = root / folder / f"{stem}_objectdataset{suffix}.h5"
            write_h5(path, data=data, label=label.astype(np.int32), mask=mask)
            made[variant, split] = data, label, mask
    return made


def modelnet_h5_root(root, counts=(3, 2), points=16, normals=True):
    """Two files a side; returns {split: (data, label, normal)} over the files in order."""
    rng = np.random.default_rng(1)
    folder = root / modelnet.FOLDERS["h5"]
    folder.mkdir(parents=True)
    (folder / "shape_names.txt").write_text("\n".join(modelnet.CATEGORIES["modelnet40"]) + "\n")
    made = {}
    for split in modelnet.SPLITS:
        names, arrays = [], []
        for number, count in enumerate(counts):
            data = rng.normal(size=(count, points, 3)).astype(np.float32)
            label = rng.integers(0, 40, (count, 1)).astype(np.uint8)
            normal = rng.normal(size=data.shape).astype(np.float32)
            name = f"ply_data_{split}{number}.h5"
            write_h5(folder / name, data=data, label=label, normal=normal if normals else None)
            names.append(f"data/modelnet40_ply_hdf5_2048/{name}")
            arrays.append((data, label[:, 0], normal))
        (folder / f"{split}_files.txt").write_text("\n".join(names) + "\n")
        made[split] = tuple(np.concatenate(column) for column in zip(*arrays))
    return made


def modelnet_text_root(root, points=16):
    """Two objects a category, one a side, with the lists of both sets; returns {name: rows [P, 6]}."""
    rng = np.random.default_rng(2)
    folder = root / modelnet.FOLDERS["text"]
    made, lists = {}, {split: [] for split in modelnet.SPLITS}
    for category in modelnet.CATEGORIES["modelnet40"]:
        (folder / category).mkdir(parents=True)
        for number, split in enumerate(modelnet.SPLITS, 1):
            name = f"{category}_{number:04d}"
            rows = rng.normal(size=(points, 6)).astype(np.float32)
            np.savetxt(folder / category / f"{name}.txt", rows, fmt="%.6f", delimiter=",")
            made[name] = rows
            lists[split].append((category, name))
    for which, categories in modelnet.CATEGORIES.items():
        (folder / f"{which}_shape_names.txt").write_text("\n".join(categories) + "\n")
        for split, items in lists.items():
            chosen = [name for category, name in items if category in categories]
            (folder / f"{which}_{split}.txt").write_text("\n".join(chosen))
    return made


def shapenetpart_root(root, points=24, each=2):
    """``each`` objects a category and side; returns {'synset/object': rows [P, 7]}."""
    rng = np.random.default_rng(3)
    folder = root / shapenetpart.FOLDER
    (folder / "train_test_split").mkdir(parents=True)
    titles = [
        f"{name.capitalize()}\t{s}"
        for name, s in zip(shapenetpart.CATEGORIES, shapenetpart.SYNSETS)
    ]
    (folder / "synsetoffset2category.txt").write_text("\n".join(titles) + "\n")
    made = {}
    for split in shapenetpart.SPLITS:
        entries = []
        for synset, own in zip(shapenetpart.SYNSETS, shapenetpart.CATEGORY_PARTS):
            (folder / synset).mkdir(exist_ok=True)
            for number in range(each):
                name = f"{synset}/{split}{number}"
                rows = rng.normal(size=(points, 7))
                rows[:, 6] = rng.choice(own, points)
                rows[: len(own), 6] = own  # every part at least once
                np.savetxt(folder / f"{name}.txt", rows, fmt="%.6f")
                made[name] = rows
                entries.append(f"shape_data/{name}")
        entries = [entries[i] for i in rng.permutation(len(entries))]
        path = folder / "train_test_split" / f"shuffled_{split}_file_list.json"
        path.write_text(json.dumps(entries))
    return made
