"""Does a system learn one batch by heart? Trains on it alone and scores what it renders of it.

    python -m gsjax.train.memorise configs/unipre3d_object.py:backbone=pointnet2 --steps=400

The first test of a new backbone, and of any change to rendering, head or losses: one JSON line with the
scores of the supervised views (reference views are not scored), those of a blank picture and of the true
silhouette filled with the mean colour, and the margins. Exit status 1 where a margin is missed.

Pictures are composed over white. Over black a third of the opacity with three times the colour is the same
picture, and silhouettes are learned last: networks that had reached 30 dB had an IoU of 0.66 to 0.81.
"""

import argparse
import dataclasses
import json
import sys
import time

import jax
import numpy as np

from gsjax import runtime
from gsjax.train import config_files

OVER_BLANK, OVER_SILHOUETTE, IOU = 8.0, 2.0, 0.8  # dB, dB, intersection over union


def run(config, steps: int, batch_size: int) -> dict[str, float]:
    """Trains on the first ``batch_size`` training objects for ``steps`` steps.

    Args:
        config: of a system with the predict functions ``render`` and ``targets``; its schedule is
            stretched over ``steps``.
        steps: updates.
        batch_size: examples; multiple of the devices.

    Returns:
        Scores and margins.
    """
    from gsjax.data import examples
    from gsjax.evals import novel_view
    from gsjax.systems import base
    from gsjax.train import single

    config.optim.ema = 0.0
    system = base.build(config)
    source = system.train_data()
    batch = [source[i] for i in range(min(batch_size, len(source)))]
    stacked = {name: np.stack([example[name] for example in batch]) for name in system.batch_spec}
    state, compiled, mesh = single.start(system, config, steps)
    with jax.set_mesh(mesh):
        key = jax.random.key(config.seed + 1)
        state, metrics = compiled(state, stacked, key)
        jax.block_until_ready(metrics)
        began = time.perf_counter()
        for _ in range(steps - 1):
            state, metrics = compiled(state, stacked, key)
        jax.block_until_ready(metrics)
        seconds = time.perf_counter() - began
        fixed = dataclasses.replace(system, eval_data=lambda split: examples.in_memory(batch))
        scores = novel_view.Evaluator(fixed, dict(batch_size=len(batch))).run(
            state.variables(), lambda b: b
        )
    return _margins(scores) | dict(
        steps=steps, seconds=round(seconds, 1), skipped=int(metrics["bad_total"])
    )


def _margins(scores: dict[str, float]) -> dict[str, float]:
    mine = scores["novel/psnr_fg"]
    return dict(
        psnr_fg=mine,
        psnr=scores["novel/psnr"],
        iou=scores["novel/iou"],
        over_blank=mine - scores["blank/psnr_fg"],
        over_silhouette=mine - scores["silhouette/psnr_fg"],
    )


def learned(found: dict[str, float]) -> bool:
    """Whether all margins are reached."""
    return (
        found["over_blank"] >= OVER_BLANK
        and found["over_silhouette"] >= OVER_SILHOUETTE
        and found["iou"] >= IOU
    )


def main(argv=None) -> int:
    """Command line."""
    runtime.configure_environment()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("config", help="FILE.py:ARG or NAME:ARG")
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--batch_size", type=int, default=8)
    parser.add_argument("--lr", type=float, default=0.0, help="0 = the config's")
    parser.add_argument("--out", default="", help="also append the line to this file")
    args = parser.parse_args(argv)
    config = config_files.load(args.config)
    config.optim.lr = args.lr or config.optim.lr
    config.optim.warmup = 0.05
    config.data.augment = False  # one fixed batch
    config.loss.background = 1.0
    found = run(config, args.steps, args.batch_size)
    row = dict(config=args.config, learned=learned(found), **found)
    line = json.dumps({k: round(v, 3) if isinstance(v, float) else v for k, v in row.items()})
    print(line)
    if args.out:
        with open(args.out, "a") as file:
            file.write(line + "\n")
    return 0 if row["learned"] else 1


if __name__ == "__main__":
    sys.exit(main())
