"""Fixed few-shot episodes: which objects are labelled and which are asked about, in which trial.

    python -m gsjax.evals.episodes --name=objects_cc0 --way 5 10 --shot 1 5 10 --trials 10 \\
        --queries 10 --seed 0

writes ``gsjax/data/splits/few_shot_objects_cc0.json``. Objects are named by uid, so the order of
records does not matter, and runs of any age are comparable. Episodes are nested: a trial has one
order of the categories and one list of labelled objects a category; an N-way K-shot episode takes
the first N and the first K of them, and its queries are the same for every K. Within a trial all
objects of a category are of different groups of near twins (``gsjax.data.twins``): a query is never a
repainted copy of a labelled object.

Reading needs no JAX and no data set; configs read the categories from here.
"""

import argparse
import collections
import dataclasses
import json
import pathlib
from collections.abc import Mapping, Sequence
from importlib import resources

import numpy as np

from gsjax.io import json_text

FORMAT = 1
NO_CATEGORY = ("other", "object")  # names that say what a thing is not


@dataclasses.dataclass(frozen=True)
class Trial:
    """One draw.

    Attributes:
        order: categories; an N-way episode takes the first N.
        support: {category: uids}; a K-shot episode takes the first K of each.
        query: {category: uids}.
    """

    order: tuple[str, ...]
    support: Mapping[str, tuple[str, ...]]
    query: Mapping[str, tuple[str, ...]]

    def episode(self, way: int, shot: int) -> tuple[list[str], list[int], list[str], list[int]]:
        """(labelled uids, their labels 0 to N-1, uids asked about, their labels)."""
        names = self.order[:way]
        support = [(uid, i) for i, n in enumerate(names) for uid in self.support[n][:shot]]
        query = [(uid, i) for i, n in enumerate(names) for uid in self.query[n]]
        return (*map(list, zip(*support)), *map(list, zip(*query)))


@dataclasses.dataclass(frozen=True)
class Episodes:
    """All trials of a file.

    Attributes:
        name: of the data set.
        ways, shots: the settings that the file serves, ascending.
        categories: their names.
        trials: see :class:`Trial`.
    """

    name: str
    ways: tuple[int, ...]
    shots: tuple[int, ...]
    categories: tuple[str, ...]
    trials: tuple[Trial, ...]

    @property
    def uids(self) -> set[str]:
        """Every object that some trial uses."""
        parts = [part for t in self.trials for part in (t.support, t.query)]
        return {uid for part in parts for uids in part.values() for uid in uids}


def shipped() -> list[str]:
    """Names of the data sets that episodes are shipped for."""
    folder = resources.files("gsjax.data") / "splits"
    names = [item.name for item in folder.iterdir()]
    return sorted(
        n.removeprefix("few_shot_").removesuffix(".json")
        for n in names
        if n.startswith("few_shot_")
    )


def load(spec: str) -> Episodes:
    """Reads episodes.

    Args:
        spec: name of a data set that episodes are shipped for, or the path of a .json file.

    Raises:
        ValueError: no such file, or one that is no set of episodes; the message says what is wrong.
    """
    if str(spec).endswith(".json"):
        path = pathlib.Path(spec)
    else:
        path = resources.files("gsjax.data") / "splits" / f"few_shot_{spec}.json"
    if not path.is_file():
        raise ValueError(
            f"episodes: there is no file {path}; shipped: {shipped()}; others are made with "
            "`python -m gsjax.evals.episodes`"
        )
    try:
        stored = json_text.parse(path.read_bytes(), str(path), dict)
        return _parse(stored)
    except (KeyError, TypeError, AttributeError, IndexError) as error:
        raise ValueError(
            f"episodes: {path} is no file of `python -m gsjax.evals.episodes` ({error!r})"
        ) from None


def _parse(stored: dict) -> Episodes:
    if stored["format"] != FORMAT:
        raise ValueError(
            f"episodes: format {stored['format']!r} found, {FORMAT} expected; make the file again"
        )
    uids, settings = stored["categories"], stored["settings"]
    if not all(type(x) is str for names in uids.values() for x in names):
        raise TypeError("categories: {name: [uid, ...]} expected")

    def named(places):
        return {name: tuple(uids[name][i] for i in found) for name, found in places.items()}

    trials = tuple(
        Trial(tuple(t["order"]), named(t["support"]), named(t["query"])) for t in stored["trials"]
    )
    for number, trial in enumerate(trials):
        for name in uids:
            both = set(trial.support[name]) & set(trial.query[name])
            if both:
                raise ValueError(
                    f"episodes: trial {number} asks about objects that it labels, such as "
                    f"{min(both)!r}; make the file again"
                )
    ways, shots = tuple(sorted(settings["way"])), tuple(sorted(settings["shot"]))
    return Episodes(stored["name"], ways, shots, tuple(uids), trials)


def make(
    objects: Sequence[tuple[str, str]],
    groups: Sequence[Sequence[str]],
    *,
    name: str,
    way: Sequence[int],
    shot: Sequence[int],
    trials: int,
    queries: int,
    seed: int,
    categories: Sequence[str] = (),
) -> dict:
    """The content of an episode file.

    Args:
        objects: (uid, category) of every object.
        groups: uids of near twins; objects in none stand alone.
        name: of the data set.
        way, shot: the N and the K that are wanted.
        trials, queries: draws, and objects asked about of each category.
        seed: of all draws; a draw depends on it, the trial and the category alone.
        categories: names; () = of those with enough groups, the ones with the fewest objects, so
            that most objects stay for training. 'other' never counts.

    Raises:
        ValueError: numbers below 1, an unknown category, or too few categories with
            ``max(shot) + queries`` groups.
    """
    numbers = (*way, *shot, trials, queries)
    if not way or not shot or min(numbers) < 1 or min(way) < 2:
        raise ValueError(
            "way, shot, trials, queries: expected numbers from 1 on (way from 2 on), found "
            f"{way}, {shot}, {trials}, {queries}"
        )
    group_of = {uid: min(group) for group in groups for uid in group}
    by_category: dict[str, dict[str, list[str]]] = collections.defaultdict(dict)
    for uid, category in sorted(objects):
        by_category[category].setdefault(group_of.get(uid, uid), []).append(uid)
    chosen = _choose(by_category, max(shot) + queries, max(way), categories)
    uids = {n: sorted(u for g in by_category[n].values() for u in g) for n in chosen}
    drawn = []
    for trial in range(trials):
        order = [chosen[i] for i in _rng(seed, trial, "").permutation(len(chosen))]
        support, query = {}, {}
        for category in chosen:
            found = _one_a_group(by_category[category], _rng(seed, trial, category))
            places = [uids[category].index(uid) for uid in found]
            support[category] = places[: max(shot)]
            query[category] = places[max(shot) :][:queries]
        drawn.append(dict(order=order, support=support, query=query))
    return dict(
        about="few-shot episodes, written by python -m gsjax.evals.episodes",
        format=FORMAT,
        name=name,
        settings=dict(
            way=sorted(way), shot=sorted(shot), trials=trials, queries=queries, seed=seed
        ),
        categories=uids,
        trials=drawn,
    )


def _rng(seed: int, trial: int, category: str) -> np.random.Generator:
    return np.random.default_rng([seed, trial, *category.encode()])


def _one_a_group(groups: Mapping[str, Sequence[str]], rng: np.random.Generator) -> list[str]:
    """One object of each group, groups and objects at random."""
    names = sorted(groups)
    return [
        groups[n][rng.integers(len(groups[n]))]
        for n in (names[i] for i in rng.permutation(len(names)))
    ]


def _choose(by_category, needed: int, count: int, wanted: Sequence[str]) -> list[str]:
    """Category names, sorted."""
    unknown = sorted(set(wanted) - set(by_category))
    if unknown:
        raise ValueError(f"categories: unknown {unknown}; known: {', '.join(sorted(by_category))}")
    able = [n for n, g in by_category.items() if len(g) >= needed and n not in NO_CATEGORY]
    short = sorted(set(wanted) - set(able))
    if short:
        raise ValueError(f"categories: {short} have fewer than {needed} groups of near twins")
    if len(wanted or able) < count:
        raise ValueError(
            f"way: {count} categories asked for, but {len(wanted or able)} have the {needed} groups "
            "of near twins that the largest shot and the queries need; ask for fewer"
        )
    size = {n: sum(len(g) for g in by_category[n].values()) for n in able}
    return sorted(wanted or sorted(able, key=lambda n: (size[n], n))[:count])


def _objects_cc0(source: str):
    """((uid, category) of every object, groups) of the collection."""
    import os

    from gsjax.data import objects_cc0

    folder = source or os.path.join(os.environ.get("GSJAX_DATA", ""), "objects_cc0")
    entries = objects_cc0.Collection(folder).entries
    split = resources.files("gsjax.data") / "splits" / "objects_cc0_v2.json"
    groups = json.loads(split.read_text())["groups"]
    return [(entry["id"], entry["category"].replace("_", " ")) for entry in entries], groups


def _prepared(folder: str):
    """((uid, category) of every object, no groups) of a prepared set."""
    from gsjax.data import store

    names = store.category_names(folder)
    objects = []
    for split in store.split_sizes(folder):
        records = store.open_split(folder, split, fields=("uid", "category"))
        objects += [(records[i]["uid"], names[records[i]["category"]]) for i in range(len(records))]
    return objects, []


def main(argv: Sequence[str] | None = None) -> None:
    """Command line; see the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--name", default="objects_cc0", help="objects_cc0, or a name of your own")
    parser.add_argument("--source", default="", help="raw data; default: below GSJAX_DATA")
    parser.add_argument("--dataset_dir", default="", help="a prepared set, for any other name")
    parser.add_argument("--way", type=int, nargs="+", default=[5, 10])
    parser.add_argument("--shot", type=int, nargs="+", default=[1, 5, 10])
    parser.add_argument("--trials", type=int, default=10)
    parser.add_argument("--queries", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--categories", nargs="*", default=[], help="default: chosen by size")
    parser.add_argument("--output", default="", help="default: the package's splits folder")
    o = parser.parse_args(argv)
    if not o.dataset_dir and o.name != "objects_cc0":
        parser.error(f"--name={o.name} needs --dataset_dir, the folder of a prepared set")
    if o.dataset_dir and o.name == "objects_cc0" and not o.output:
        parser.error("--dataset_dir needs a --name of its own, or --output")
    objects, groups = _prepared(o.dataset_dir) if o.dataset_dir else _objects_cc0(o.source)
    made = make(
        objects,
        groups,
        name=o.name,
        way=o.way,
        shot=o.shot,
        trials=o.trials,
        queries=o.queries,
        seed=o.seed,
        categories=o.categories,
    )
    folder = pathlib.Path(__file__).parents[1] / "data" / "splits"
    output = pathlib.Path(o.output) if o.output else folder / f"few_shot_{o.name}.json"
    output.write_text(_compact(made))
    sizes = {name: len(uids) for name, uids in made["categories"].items()}
    print(f"{output}: {o.trials} trials over {sizes}")


def _compact(made: dict) -> str:
    """JSON with one line a uid and one line a trial's category."""
    trials = [
        json.dumps(t).replace('"support"', '\n "support"').replace('"query"', '\n "query"')
        for t in made["trials"]
    ]
    head = json.dumps({k: v for k, v in made.items() if k != "trials"}, indent=0)
    return head.removesuffix("\n}") + ',\n"trials": [\n' + ",\n".join(trials) + "\n]\n}\n"


if __name__ == "__main__":
    main()
