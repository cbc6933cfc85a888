"""Groups of near twins in objects_cc0, and the group-disjoint split made from them.

Two objects are twins if they have the same name stem in the same pack (``chair_A``,
``chair_A_wood``), or if the Chamfer distance of their surfaces is within 1.25 times of what two
samples of one of them differ by. Groups are the connected components. Run once::

    python -m gsjax.data.twins --source=$GSJAX_DATA/objects_cc0

which writes ``gsjax/data/splits/objects_cc0_v2.json``: ids only, no data.
"""

import argparse
import collections
import json
import pathlib
from collections.abc import Sequence

import numpy as np

from gsjax.data import features, objects_cc0

NOISE_FACTOR = 1.25
NUM_POINTS = 2048
TEST_SHARE = 0.2
SEED = 2
# Words that tell variants of one design apart: finish, size, state, side. Numbers and single
# letters go too.
VARIANT_WORDS = frozenset(
    "black blue brown color dark gold green grey light orange pink purple red silver white yellow "
    "glass metal stone wood wooden "
    "big extralarge high large little long low medium short small tall thin tiny wide "
    "broken burnt chopped closed cooked cracked decorated detailed dirty empty full half lit "
    "melted open slice sliced stacked uncooked whole "
    "back bottom center end front inner left middle outer right side straight top "
    "and both covered double single triple quad with without base".split()
)


def name_stem(name: str) -> str:
    """A name without the words that tell variants apart; the first word always stays.

    ``name_stem('chair a wood') == 'chair'``, ``name_stem('tower square top roof high') ==
    'tower square roof'``.
    """
    words = name.lower().replace("_", " ").split()
    bare = [w.rstrip("0123456789") for w in words]
    kept = [w for w in bare if len(w) > 1 and w not in VARIANT_WORDS]
    return " ".join(kept or words[:1])


def stem_pairs(entries: Sequence[dict]) -> list[tuple[int, int]]:
    """Pairs of objects of one pack with equal stems (each with the first of its kind)."""
    first: dict[tuple[str, str], int] = {}
    pairs = []
    for number, entry in enumerate(entries):
        key = (entry["pack"], name_stem(entry["name"]))
        if key in first:
            pairs.append((first[key], number))
        first.setdefault(key, number)
    return pairs


def chamfer(a: np.ndarray, b: np.ndarray) -> float:
    """Mean nearest-neighbour distance between clouds [P, 3] and [Q, 3], both ways averaged."""
    from scipy import spatial

    there = spatial.cKDTree(b).query(a)[0].mean()
    back = spatial.cKDTree(a).query(b)[0].mean()
    return float((there + back) / 2)


def sample_all(collection: objects_cc0.Collection, seed: int) -> np.ndarray:
    """One cloud an object, f32 [num_objects, NUM_POINTS, 3]."""
    clouds = []
    for number, entry in enumerate(collection.entries):
        rng = np.random.default_rng(features.stable_seed("twins", seed, entry["id"]))
        clouds.append(objects_cc0.sample_mesh(collection.mesh(number), NUM_POINTS, rng)[0])
    return np.asarray(clouds, np.float32)


def chamfer_pairs(clouds: np.ndarray, again: np.ndarray) -> list[tuple[int, int]]:
    """Twins by shape.

    Args:
        clouds, again: two independent samples of every object, [M, P, 3] in [-0.5, 0.5].

    Returns:
        Pairs (i, j), i < j, with chamfer(i, j) <= 1.25 times the larger of the two objects' own
        resampling noise, chamfer(clouds[k], again[k]).
    """
    noise = np.array([chamfer(a, b) for a, b in zip(clouds, again)])
    limit = NOISE_FACTOR * np.maximum(noise[:, None], noise)
    rough = _rough_chamfer(clouds)
    # The rough value errs by less than half a voxel's diagonal on each side.
    slack = np.sqrt(3) * 0.5 / _GRID
    pairs = np.argwhere(np.triu(rough <= limit + slack, 1))
    return [(int(i), int(j)) for i, j in pairs if chamfer(clouds[i], clouds[j]) <= limit[i, j]]


_GRID = 48


def _rough_chamfer(clouds: np.ndarray) -> np.ndarray:
    """Chamfer distances [M, M] read off distance fields on a grid over [-0.5, 0.5]^3."""
    from scipy import ndimage

    cells = np.clip(((clouds + 0.5) * _GRID).astype(np.int64), 0, _GRID - 1)
    flat = (cells[..., 0] * _GRID + cells[..., 1]) * _GRID + cells[..., 2]
    one_way = np.zeros((len(clouds), len(clouds)), np.float32)
    for j, own in enumerate(flat):
        empty = np.ones(_GRID**3, bool)
        empty[own] = False
        field = ndimage.distance_transform_edt(empty.reshape((_GRID,) * 3)) / _GRID
        one_way[:, j] = field.astype(np.float32).ravel()[flat].mean(-1)
    return (one_way + one_way.T) / 2


def components(count: int, pairs: Sequence[tuple[int, int]]) -> list[list[int]]:
    """Connected components of ``count`` nodes, each sorted, ordered by their first node."""
    parent = list(range(count))

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    for i, j in pairs:
        a, b = root(i), root(j)
        parent[max(a, b)] = min(a, b)
    groups = collections.defaultdict(list)
    for i in range(count):
        groups[root(i)].append(i)
    return list(groups.values())


def split_groups(
    groups: Sequence[Sequence[int]], categories: Sequence[str], *, seed: int, share: float
) -> tuple[list[int], list[int]]:
    """Whole groups to train or test, about ``share`` of each category's objects to test.

    A group counts for its commonest category. A category of one group stays in train; one of
    several has at least one group on each side.

    Returns:
        Sorted object numbers (train, test).
    """
    by_category = collections.defaultdict(list)
    for group in groups:
        counts = collections.Counter(categories[i] for i in group)
        by_category[min(counts, key=lambda c: (-counts[c], c))].append(group)
    test: list[int] = []
    for category in sorted(by_category):
        own = by_category[category]
        rng = np.random.default_rng(features.stable_seed("split", seed, category))
        target = share * sum(len(g) for g in own)
        taken: list[int] = []
        order = [own[i] for i in rng.permutation(len(own))]
        for group in order[: len(own) - 1]:
            if abs(len(taken) + len(group) - target) < abs(len(taken) - target):
                taken += group
        if not taken and len(own) > 1:
            taken = list(min(order, key=len))
        test += taken
    chosen = set(test)
    return [i for i in range(len(categories)) if i not in chosen], sorted(test)


def make_split(collection: objects_cc0.Collection) -> dict:
    """The whole of ``objects_cc0_v2.json``: train and test ids, and the groups of twins."""
    entries = collection.entries
    pairs = stem_pairs(entries) + chamfer_pairs(
        sample_all(collection, SEED), sample_all(collection, SEED + 1)
    )
    groups = components(len(entries), pairs)
    categories = [entry["category"] for entry in entries]
    train, test = split_groups(groups, categories, seed=SEED, share=TEST_SHARE)
    ids = [entry["id"] for entry in entries]
    return {
        "about": "group-disjoint split of objects_cc0, written by python -m gsjax.data.twins",
        "rule": {"noise_factor": NOISE_FACTOR, "points": NUM_POINTS, "seed": SEED},
        "train": [ids[i] for i in train],
        "test": [ids[i] for i in test],
        "groups": [[ids[i] for i in group] for group in groups if len(group) > 1],
    }


def main() -> None:
    """Command line: makes the split and writes it into the package's sources."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--source", required=True, help="folder of objects_cc0")
    default = pathlib.Path(__file__).parent / "splits" / "objects_cc0_v2.json"
    parser.add_argument("--output", default=default, type=pathlib.Path)
    args = parser.parse_args()
    split = make_split(objects_cc0.Collection(args.source))
    args.output.parent.mkdir(parents=True, exist_ok=True)
    args.output.write_text(json.dumps(split, indent=0) + "\n")
    sizes = {side: len(split[side]) for side in ("train", "test")}
    print(f"{args.output}: {sizes}, {len(split['groups'])} groups of twins")


if __name__ == "__main__":
    main()
