"""``gsjax fit-objects``: a collection of meshes to a folder of fitted Gaussians, by shards."""

import argparse
import dataclasses
import json
import os
import signal
import sys
import time

HELP = "fit Gaussians to many meshes at once, resumable, by shards"
EXIT_CODE = 42  # stopped in time, start me again


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", help="'objects_cc0', its folder, or a folder of mesh files")
    parser.add_argument("--out", required=True, help="folder of waves; the same for all shards")
    parser.add_argument("--recipe", choices=("fast", "paper"), default="fast")
    parser.add_argument("--num_steps", type=int, default=0, help="instead of the recipe's")
    parser.add_argument("--num_gaussians", type=int, default=4096)
    parser.add_argument("--views", type=int, default=24, help="on three rings")
    parser.add_argument("--held_out", type=int, default=6, help="views between them, for scores")
    parser.add_argument("--size", type=int, default=128, help="pixels a side")
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


def run(args: argparse.Namespace) -> int:
    from gsjax import runtime

    runtime.keep_freed_memory()
    import jax

    if jax.config.jax_platforms in (None, "", "cpu"):
        jax.config.update("jax_num_cpu_devices", args.devices or os.cpu_count() or 1)
    from absl import logging

    from gsjax.data import fitted
    from gsjax.systems.scene_fit import batch_size, collections, factory

    logging.set_verbosity(logging.INFO)
    items, collection = collections.load(args.source)
    items = _chosen(items, args)
    plan = _plan(args)
    fitted.check_identity(args.out, plan.identity(collection))
    shard = factory.shard_of(items, args.shard, args.num_shards)
    if not plan.batch:
        plan = dataclasses.replace(plan, batch=batch_size.choose(plan, args.out))
    result = factory.run(shard, args.out, plan, stop=_stopper(args.time_limit))
    print(json.dumps({k: round(v, 3) if v == v else None for k, v in result.items()}))
    return EXIT_CODE if result["left"] else 0


def _chosen(items, args):
    if args.numbers:
        text = args.numbers
        if os.path.exists(text):
            with open(text) as file:
                numbers = json.load(file)
        else:
            numbers = [int(part) for part in text.split(",")]
        wrong = [n for n in numbers if not 0 <= n < len(items)]
        if wrong:
            raise ValueError(f"--numbers: {wrong[:3]} are not among the {len(items)} objects")
        items = [items[n] for n in numbers]
    if args.sample:
        items = _sampled(items, args.sample)
    return items[: args.limit] if args.limit else items


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
    from gsjax.systems.scene_fit import factory

    if args.views % 3 or args.views < 6:
        raise ValueError(f"--views: found {args.views}, expected a multiple of three, at least 6")
    recipe = factory.RECIPES[args.recipe]
    changes = {"num_gaussians": args.num_gaussians}
    if args.num_steps:
        share = args.num_steps / recipe.num_steps
        changes |= {
            "num_steps": args.num_steps, "refine_start": int(recipe.refine_start * share),
            "refine_stop": int(recipe.refine_stop * share),
        }  # fmt: skip
    recipe = dataclasses.replace(recipe, **changes)
    views = factory.view_recipe(args.views, args.size)
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
