"""From a data config to a prepared set on disk: made once, found again ever after.

    python -m gsjax.data.prepare --name=procedural --num_objects=512

``ensure`` is what systems call. Sets live under ``<dir>/<name>/<hash of what they are>``, so
different settings never mix, and an unfinished set is never taken for a finished one. This file
imports no JAX; making a set (``build``) does.
"""

import argparse
import dataclasses
import hashlib
import json
import os

from etils import epath

from gsjax.data import collections, fitted, folder, made_up, objects_cc0, procedural, store

NAMES = ("procedural", "objects_cc0", "folder", "fitted", *collections.NAMES, made_up.NAME)
# Every field of the data config that decides what a prepared set holds, with its default. Other
# fields (read threads, ...) are of no concern here.
DEFAULTS = dict(
    name="procedural",
    dir="",  # cache root, local or gs://; '' = $GSJAX_CACHE or ~/.cache/gsjax
    source="",  # raw data; '' = $GSJAX_DATA/<name> for objects_cc0 and collections
    captions_csv="",  # folder; collections: a CSV or JSON by uid, '' = their own
    num_objects=512,  # procedural and made_up only: training objects
    num_test=0,  # procedural only; 0 = one for every eight, but every category once
    num_gaussians=2048,  # that an example will have
    stored_gaussians=0,  # in a record; 0 = twice as many (procedural: as many), to draw from
    views=8,
    view_size=64,
    alpha=False,  # pictures keep their transparency (PNG of four channels); else they are on white
    seed=0,
    split="v2",  # objects_cc0 only: 'v2' (group-disjoint) or 'shipped'
    limit=0,  # objects_cc0 and collections: objects a side at most; 0 = all
    exclude_categories=(),  # objects_cc0 only: kept out of 'train' and 'test', as the split 'novel'
    up_axis="",  # folder and collections: of the files; '' = 'y', the collection's own
    on_bad_rows="error",  # folder and collections: or 'drop'
)
RENDER_VERSION = 1  # raise it when pictures change


def settings(data_config) -> dict:
    """All fields of ``DEFAULTS`` as the config sets them.

    Raises:
        ValueError: unknown set, or a number out of range.
    """
    get = getattr(data_config, "get", None) or (lambda k, d: getattr(data_config, k, d))
    result = {name: get(name, default) for name, default in DEFAULTS.items()}
    if result["name"] not in NAMES:
        raise ValueError(f"data.name: unknown set {result['name']!r}; known: {list(NAMES)}")
    if result["exclude_categories"] and result["name"] != "objects_cc0":
        raise ValueError(
            f"data.exclude_categories: found {tuple(result['exclude_categories'])} with the set "
            f"{result['name']!r}; only objects_cc0 has the option"
        )
    for name in ("num_gaussians", "views", "view_size", "num_objects"):
        if int(result[name]) < 1:
            raise ValueError(f"data.{name}: expected at least 1, found {result[name]}")
    return result


def plan(data_config):
    """What the set of a config holds, as ``build.Plan``.

    Raises:
        ValueError: see ``settings``, and the sets' own modules for what may be wrong with sources.
    """
    from gsjax.data import build

    s = settings(data_config)
    parts = {
        "procedural": _procedural, "objects_cc0": _objects_cc0, "folder": _folder, "fitted": _fitted,
        made_up.NAME: made_up.plan_fields, **dict.fromkeys(collections.NAMES, _collection),
    }  # fmt: skip
    fields = parts[s["name"]](s)
    identity = {
        "set": s["name"],
        "views": int(s["views"]),
        "view_size": int(s["view_size"]),
        "ordered": int(s["num_gaussians"]),  # rows in farthest-point order
        "render_version": RENDER_VERSION,
        # absent where off: sets from before the option stay what they are
        **({"alpha": True} if s["alpha"] else {}),
        **fields.pop("identity"),
    }
    return build.Plan(
        name=s["name"],
        identity=identity,
        views=int(s["views"]),
        view_size=int(s["view_size"]),
        alpha=bool(s["alpha"]),
        **fields,
    )


def _procedural(s: dict) -> dict:
    count, test = int(s["num_objects"]), int(s["num_test"])
    test = test or max(len(procedural.CATEGORIES), count // 8)
    splits = {"train": count, "test": test}
    seed, stored = int(s["seed"]), int(s["stored_gaussians"]) or int(s["num_gaussians"])

    def objects(split: str):
        for index in range(splits[split]):
            made = procedural.generate(
                index,
                seed=seed,
                split=split,
                num_gaussians=stored,
                fps_length=int(s["num_gaussians"]),
            )
            yield {
                "uid": made.uid,
                "name": made.name,
                "category": made.category,
                "captions": list(made.captions),
                "colored": True,
                "gaussians": made.gaussians,
            }

    version = procedural.VERSION
    return dict(
        identity=dict(splits=splits, seed=seed, gaussians=stored, version=version),
        categories=procedural.CATEGORIES,
        parts=procedural.PARTS,
        splits=splits,
        objects=objects,
    )


def _objects_cc0(s: dict) -> dict:
    source = s["source"]
    if not source:
        if not os.environ.get("GSJAX_DATA"):
            raise ValueError(
                "data.source: the set objects_cc0 reads meshes from a folder; name it with "
                "--config.data.source=FOLDER, or set GSJAX_DATA to the folder above it"
            )
        source = os.path.join(os.environ["GSJAX_DATA"], "objects_cc0")
    collection = objects_cc0.Collection(source)
    sides = objects_cc0.load_split(collection.entries, s["split"])
    excluded = sorted({name.replace(" ", "_") for name in s["exclude_categories"]})
    sides = objects_cc0.hold_out(collection.entries, sides, excluded)
    limit = int(s["limit"])
    if limit:
        sides = {side: numbers[:limit] for side, numbers in sides.items()}
    seed = int(s["seed"])
    stored = int(s["stored_gaussians"]) or 2 * int(s["num_gaussians"])

    def objects(split: str):
        return objects_cc0.objects(
            collection,
            sides[split],
            num_gaussians=stored,
            seed=seed,
            fps_length=int(s["num_gaussians"]),
        )

    return dict(
        identity=dict(
            source=collection.digest(),
            split=s["split"],
            limit=limit,
            seed=seed,
            gaussians=stored,
            version=objects_cc0.VERSION,
            # absent where nothing is excluded: sets from before the option stay what they are
            **({"exclude_categories": excluded} if excluded else {}),
        ),
        categories=collection.categories,
        parts=("",),
        splits={side: len(numbers) for side, numbers in sides.items()},
        objects=objects,
    )


def _folder(s: dict) -> dict:
    items = folder.read_captions(s["source"], s["captions_csv"])
    return _files(s, folder.assign_splits(items), up_axis="y", version=folder.VERSION)


def _collection(s: dict) -> dict:
    source, known = s["source"], collections.COLLECTIONS[s["name"]]
    if not source and os.environ.get("GSJAX_DATA"):
        source = os.path.join(os.environ["GSJAX_DATA"], s["name"])
    items = collections.list_items(s["name"], source, s["captions_csv"])
    # the side goes into the identity: hashes of what the limit leaves out decide it too
    sides = {
        side: [
            dataclasses.replace(o, split=side) for o in collections.thin(chosen, int(s["limit"]))
        ]
        for side, chosen in folder.assign_splits(items).items()
    }
    version = [folder.VERSION, collections.VERSION]
    return _files(s, sides, up_axis=known.up_axis, version=version)


def _files(s: dict, sides: dict[str, list[folder.Item]], *, up_axis: str, version) -> dict:
    """Sets of one file an object; ``up_axis`` is the files' where the config leaves it open."""
    items = sorted((item for chosen in sides.values() for item in chosen), key=lambda o: o.uid)
    categories = sorted({item.category for item in items})
    stored = int(s["stored_gaussians"]) or 2 * int(s["num_gaussians"])
    reading = dict(up_axis=s["up_axis"] or up_axis, on_bad_rows=s["on_bad_rows"])

    def objects(split: str):
        return folder.objects(
            sides[split],
            categories,
            num_stored=stored,
            fps_length=int(s["num_gaussians"]),
            **reading,
        )

    return dict(
        identity=dict(source=folder.digest(items), gaussians=stored, version=version, **reading),
        categories=categories,
        parts=("",),
        splits={side: len(chosen) for side, chosen in sides.items()},
        objects=objects,
    )


def _fitted(s: dict) -> dict:
    if not s["source"]:
        raise ValueError(
            "data.source: the set 'fitted' reads a folder of `gsjax fit-objects`; name it with "
            "--config.data.source=FOLDER"
        )
    sides = fitted.sides(s["source"])
    categories = sorted({o.about["category"] for items in sides.values() for o in items})
    stored = int(s["stored_gaussians"]) or 2 * int(s["num_gaussians"])

    def objects(split: str):
        return fitted.objects(
            sides[split], categories, num_stored=stored, fps_length=int(s["num_gaussians"])
        )

    return dict(
        identity=dict(source=fitted.digest(s["source"]), gaussians=stored, version=fitted.VERSION),
        categories=categories,
        parts=("",),
        splits={side: len(items) for side, items in sides.items()},
        objects=objects,
    )


def dataset_dir(data_config, identity: dict) -> epath.Path:
    """Where the set of that identity lies."""
    text = json.dumps(identity, sort_keys=True, default=str)
    digest = hashlib.sha256(text.encode()).hexdigest()[:16]
    s = settings(data_config)
    return store.cache_root(s["dir"]) / s["name"] / digest


def ensure(data_config) -> epath.Path:
    """The folder of the set that a config describes, made first if it is not there.

    Atomic and idempotent. With several processes all must call it together; the first one works.

    Args:
        data_config: a mapping or ConfigDict with fields of ``DEFAULTS``; absent ones default.

    Returns:
        The folder, for ``store.open_split``.

    Raises:
        ValueError: see ``plan``.
    """
    from gsjax.data import build

    wanted = plan(data_config)
    return build.ensure(wanted, dataset_dir(data_config, wanted.identity))


def _names(text: str) -> tuple[str, ...]:
    """'a,b' as ('a', 'b')."""
    return tuple(name.strip() for name in text.split(",") if name.strip())


def _flag(text: str) -> bool:
    """'true' or 'false'."""
    known = {"true": True, "1": True, "false": False, "0": False}
    if text.lower() not in known:
        raise argparse.ArgumentTypeError(f"expected true or false, found {text!r}")
    return known[text.lower()]


def main() -> None:
    """Command line: prepares a set and prints its folder."""
    from gsjax import runtime

    runtime.configure_environment()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, default in DEFAULTS.items():
        kind = {tuple: _names, bool: _flag}.get(type(default), type(default))
        parser.add_argument(f"--{name}", type=kind, default=default)
    made = ensure(vars(parser.parse_args()))
    meta = store.read_meta(made)
    print(f"{made}: {meta['splits']} objects, prepared in {meta['seconds']} s")


if __name__ == "__main__":
    main()
