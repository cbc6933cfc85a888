"""``gsjax fit-objects``: a collection of meshes to a folder of fitted Gaussians, by shards."""

import argparse
import dataclasses
import json
import os
import signal
import sys
import time

HELP = "fit Gaussians to many meshes at once, resumable, by shards"
EXAMPLES = """
gsjax fit-objects meshes/ --out runs/objects
gsjax fit-objects meshes/ --out runs/objects --shard 3 --num_shards 16     # one of sixteen machines
gsjax fit-objects objects_cc0 --out runs/try --limit 4 --num_steps 200
"""
EXIT_CODE = 42  # stopped in time, start me again
RECIPES = ("fast", "paper", "modelnet10", "modelnet10_parity")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", help="'objects_cc0', its folder, or a folder of mesh files")
    parser.add_argument("--out", required=True, help="folder of waves; the same for all shards")
    parser.add_argument("--recipe", choices=RECIPES, default="fast")
    parser.add_argument("--num_steps", type=int, default=0, help="instead of the recipe's")
    parser.add_argument("--num_gaussians", type=int, default=0, help="0 = the recipe's")
    parser.add_argument(
        "--views", type=int, default=0, help="0 = 24 on three rings; ModelNet10: 64"
    )
    parser.add_argument("--held_out", type=int, default=6, help="views between them, for scores")
    parser.add_argument("--size", type=int, default=0, help="pixels; 0 = 128; ModelNet10: 800")
    parser.add_argument("--batch", type=int, default=0, help="objects a wave; 0 finds a good one")
    parser.add_argument("--devices", type=int, default=0, help="CPU cores as devices; 0 = all")
    parser.add_argument("--numbers", default="", help="only these: 3,17,200 or a JSON file of them")
    parser.add_argument("--sample", type=int, default=0, help="so many, of all categories in turn")
    parser.add_argument("--limit", type=int, default=0, help="at most so many objects; 0 = all")
    parser.add_argument("--shard", type=int, default=_from_engine("index", 0))
    parser.add_argument("--num_shards", type=int, default=_from_engine("count", 1))
    parser.add_argument("--time_limit", type=float, default=0, help="seconds; then exit code 42")


# Variables by which engines number the tasks of an array.
_ENGINES = {
    "index": ("SLURM_ARRAY_TASK_ID", "JOB_COMPLETION_INDEX", "SKYPILOT_JOB_RANK"),
    "count": ("SLURM_ARRAY_TASK_COUNT", "JOB_COMPLETIONS", "SKYPILOT_NUM_JOBS"),
}


def _from_engine(what: str, default: int) -> int:
    named = [os.environ[name] for name in _ENGINES[what] if os.environ.get(name)]
    return int(named[0]) if named else default


def _check(args: argparse.Namespace) -> None:
    """Raises ValueError for a number that cannot be meant."""
    least = {"num_shards": 1, "held_out": 1} | dict.fromkeys(
        ("num_gaussians", "size", "num_steps", "batch", "devices", "sample", "limit", "time_limit"),
        0,
    )
    for name, bound in least.items():
        found = getattr(args, name)
        if found < bound:
            raise ValueError(f"--{name}: found {found:g}, expected at least {bound}")
    rings = not args.recipe.startswith("modelnet10")
    views = args.views or (24 if rings else 64)
    if views < 6 or (rings and views % 3):
        raise ValueError(f"--views: found {args.views}, expected a multiple of three, at least 6")
    if args.held_out >= views:
        raise ValueError(
            f"--held_out: found {args.held_out}, expected less than the {views} --views that they lie "
            "between"
        )


def run(args: argparse.Namespace) -> int:
    _check(args)
    from gsjax import runtime

    runtime.keep_freed_memory()
    import jax

    if jax.config.jax_platforms in (None, "", "cpu"):
        jax.config.update("jax_num_cpu_devices", args.devices or os.cpu_count() or 1)
    from absl import logging

    from gsjax.data import fitted, mesh_collections
    from gsjax.systems.scene_fit import batch_size, factory

    logging.set_verbosity(logging.INFO)
    plan = _plan(args)
    items, collection = mesh_collections.load(args.source)
    items = _chosen(items, args)
    shard = factory.shard_of(items, args.shard, args.num_shards)
    fitted.check_identity(args.out, plan.identity(collection))
    if not plan.batch:
        plan = dataclasses.replace(plan, batch=batch_size.choose(plan, args.out))
    result = factory.run(shard, args.out, plan, stop=_stopper(args.time_limit))
    result = {k: round(v, 3) if v == v else None for k, v in result.items()}
    if result["fitted"] or result["failed"]:
        fitted.add_run(args.out, result | {"shard": args.shard, "num_shards": args.num_shards})
    print(json.dumps(result))
    return EXIT_CODE if result["left"] else 0


def _chosen(items, args):
    if args.numbers:
        numbers = _numbers(args.numbers)
        wrong = [n for n in numbers if not 0 <= n < len(items)]
        if wrong:
            raise ValueError(f"--numbers: {wrong[:3]} are not among the {len(items)} objects")
        items = [items[n] for n in numbers]
    if args.sample:
        items = _sampled(items, args.sample)
    return items[: args.limit] if args.limit else items


def _numbers(text):
    """Of '3,17,200', or of a JSON file that holds a list."""
    try:
        if os.path.exists(text):
            with open(text) as file:
                return [int(number) for number in json.load(file)]
        return [int(part) for part in text.split(",")]
    except (ValueError, TypeError) as error:
        raise ValueError(
            f"--numbers: found {text!r}, expected whole numbers such as 3,17,200, or the name of a "
            "JSON file that lists them"
        ) from error


def _sampled(items, count):
    """One object of every category after the other, shuffled by a fixed seed, in their own order."""
    import numpy as np

    rng, groups = np.random.default_rng(0), {}
    for place in rng.permutation(len(items)):
        groups.setdefault(items[place].about["category"], []).append(items[place])
    turns = ((turn, name) for turn in range(len(items)) for name in sorted(groups))
    chosen = [groups[name][turn] for turn, name in turns if turn < len(groups[name])][:count]
    return sorted(chosen, key=lambda item: item.number)


def _plan(args):
    from gsjax.data import mesh_views
    from gsjax.systems.scene_fit import factory, modelnet

    recipe = factory.RECIPES[args.recipe]
    changes = {"num_gaussians": args.num_gaussians or recipe.num_gaussians}
    if args.num_steps:
        share = args.num_steps / recipe.num_steps
        changes |= {
            "num_steps": args.num_steps, "refine_start": int(recipe.refine_start * share),
            "refine_stop": int(recipe.refine_stop * share),
            "sh_every": max(1, round(recipe.sh_every * share)),
            "reset_every": max(1, round(recipe.reset_every * share)),
        }  # fmt: skip
    recipe = dataclasses.replace(recipe, **changes)
    if args.recipe in modelnet.RECIPES:
        views = mesh_views.modelnet10(args.views, args.size)
    else:
        views = factory.view_recipe(args.views or 24, args.size or 128)
    return factory.Plan(recipe, views, num_held_out=args.held_out, batch=args.batch)


def _stopper(limit: float):
    """A question whether to stop: the time is up, or SIGTERM arrived."""
    begin, told = time.monotonic(), []
    signal.signal(signal.SIGTERM, lambda *unused: told.append(True))

    def stop() -> bool:
        if told:
            print("SIGTERM: stopping after this wave", file=sys.stderr)
        return bool(told) or bool(limit and time.monotonic() - begin > limit)

    return stop
