"""Benchmark of PointNet++'s grouping: python -m gsjax.models.bench_grouping [options].

The ``samples`` lowest-index points within a radius of each centre, by the two exact forms of static shapes:
``top_k`` (``core.points.ball_query``) ranks indices of the points inside; ``scatter`` counts them along the
cloud and writes each index into the slot of its count. Both give the same groups, which is checked first.
Milliseconds are medians of alternated calls, beside the ratio to top_k. Clouds fill a ball of radius 1, as
normalised objects do. With --json, the row, device and versions are written to a file as JSON.
"""

import argparse
import json
import pathlib

import numpy as np

from gsjax import runtime
from gsjax.models import bench_sparse_conv


def parse(argv=None) -> argparse.Namespace:
    """Command line options; the defaults are the first stage of PointNet++ MSG."""
    parser = argparse.ArgumentParser("gsjax.models.bench_grouping", description=__doc__)
    parser.add_argument("--batch", type=int, default=8, help="clouds (8)")
    parser.add_argument("--points", type=int, default=2048, help="of a cloud (2048)")
    parser.add_argument("--centres", type=int, default=512, help="of a cloud (512)")
    parser.add_argument("--samples", type=int, default=128, help="points of a group (128)")
    parser.add_argument("--radius", type=float, default=0.4, help="of a group (0.4)")
    parser.add_argument("--repeats", type=int, default=5, help="rounds (5)")
    parser.add_argument("--json", type=pathlib.Path, help="write the row, device and versions here")
    args = parser.parse_args(argv)
    if min(args.batch, args.points, args.centres, args.samples, args.repeats) < 1:
        parser.error("--batch, --points, --centres, --samples and --repeats: expected at least 1")
    return args


def scatter(queries, points, radius: float, k: int):
    """The same groups as ``points.ball_query`` without masks, by counting: idx and valid [B, Q, k]."""
    import jax.numpy as jnp

    num = points.shape[1]
    gaps = queries[:, :, None] - points[:, None]
    squared = gaps[..., 0] ** 2 + gaps[..., 1] ** 2 + gaps[..., 2] ** 2
    inside = squared < jnp.asarray(radius, queries.dtype) ** 2
    slot = jnp.cumsum(inside, -1) - 1
    slot = jnp.where(inside & (slot < k), slot, k)  # k: dropped
    b, q = (jnp.arange(n) for n in queries.shape[:2])
    found = jnp.full((*queries.shape[:2], k), num, jnp.int32)
    index = jnp.broadcast_to(jnp.arange(num, dtype=jnp.int32), slot.shape)
    found = found.at[b[:, None, None], q[:, None], slot].min(index, mode="drop")
    valid = found < num
    first = jnp.where(valid[..., :1], found[..., :1], 0)
    return jnp.where(valid, found, first), valid


def run(args) -> dict:
    """Checks, measures and prints the row; returns it."""
    import jax
    import jax.numpy as jnp

    from gsjax.core import points as points_lib

    rng = np.random.default_rng(0)
    cloud = rng.normal(size=(args.batch, args.points, 3))
    cloud /= np.linalg.norm(cloud, axis=-1, keepdims=True)
    cloud *= rng.random((args.batch, args.points, 1)) ** (1 / 3)
    cloud = jnp.asarray(cloud, jnp.float32)
    centres = cloud[:, : args.centres]

    def top_k(queries, points, radius, k):
        return points_lib.ball_query(queries, points, radius, k)

    functions = {
        name: (
            jax.jit(lambda q, p, form=form: form(q, p, args.radius, args.samples)),
            (centres, cloud),
        )
        for name, form in dict(top_k=top_k, scatter=scatter).items()
    }
    results = [function(*arguments) for function, arguments in functions.values()]
    for found in results[1:]:
        for a, b in zip(results[0], found, strict=True):
            np.testing.assert_array_equal(a, b)
    times = bench_sparse_conv.alternate(functions, args.repeats)
    row = dict(
        sizes={name: getattr(args, name) for name in ("batch", "points", "centres", "samples")},
        full=float(results[0][1].mean()),  # slots that hold a point of their own
        milliseconds=times,
        to_top_k={name: value / times["top_k"] for name, value in times.items()},
        environment=bench_sparse_conv.describe(),
    )
    print(json.dumps(row))
    return row


def main(argv=None) -> None:
    """Entry point."""
    args = parse(argv)
    runtime.configure_environment()
    row = run(args)
    if args.json:
        args.json.write_text(json.dumps(row, indent=1))


if __name__ == "__main__":
    main()
