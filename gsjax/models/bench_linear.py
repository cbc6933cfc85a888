"""Benchmark of dense layers on points: python -m gsjax.models.bench_linear [options].

Two layers with a batch norm and ReLU, as in PointNet, and the gradient of all parameters and inputs: ``arrays`` multiplies
[batch, points, columns] as they are (``flax.linen.Dense``), ``rows`` is ``models.linear``, which on CPUs puts all
points on one axis first. Both give the same gradients, which is checked first. Milliseconds are medians of
alternated calls, beside the ratio to arrays. With --json, the row, device and versions are written to a file as JSON.
"""

import argparse
import json
import pathlib

import numpy as np

from gsjax import runtime
from gsjax.models import bench_sparse_conv, linear


def parse(argv=None) -> argparse.Namespace:
    """Command line options; the defaults are the widest layers of PointNet."""
    parser = argparse.ArgumentParser("gsjax.models.bench_linear", description=__doc__)
    parser.add_argument("--batch", type=int, default=16, help="clouds (16)")
    parser.add_argument("--points", type=int, default=1024, help="of a cloud (1024)")
    parser.add_argument("--widths", default="64,128,1024", help="of inputs and two layers")
    parser.add_argument("--repeats", type=int, default=5, help="rounds (5)")
    parser.add_argument("--json", type=pathlib.Path, help="write the row, device and versions here")
    args = parser.parse_args(argv)
    args.widths = tuple(int(width) for width in args.widths.split(","))
    if len(args.widths) != 3 or min(args.batch, args.points, args.repeats, *args.widths) < 1:
        parser.error(
            "--batch, --points, --repeats and three --widths (64,128,1024): expected at least 1"
        )
    return args


def run(args) -> dict:
    """Checks, measures and prints the row; returns it."""
    import jax
    import jax.numpy as jnp

    rng = np.random.default_rng(0)
    inner, middle, outer = args.widths
    kernels = [
        jnp.asarray(rng.normal(size=size) / size[0] ** 0.5, jnp.float32)
        for size in ((inner, middle), (middle, outer))
    ]
    points = jnp.asarray(rng.normal(size=(args.batch, args.points, inner)), jnp.float32)

    def loss(kernels, points, rows):
        product = linear.product if rows else jnp.matmul
        x = product(jax.nn.relu(product(points, kernels[0])), kernels[1])
        x = jax.nn.relu((x - x.mean((0, 1))) * jax.lax.rsqrt(x.var((0, 1)) + 1e-5))
        return jnp.mean(jnp.square(x.max(1)))

    functions = {
        name: (
            jax.jit(jax.grad(lambda k, p, rows=rows: loss(k, p, rows), argnums=(0, 1))),
            (kernels, points),
        )
        for name, rows in dict(arrays=False, rows=True).items()
    }
    first, second = (jax.tree.leaves(function(*inputs)) for function, inputs in functions.values())
    for a, b in zip(first, second, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4 * float(jnp.max(jnp.abs(a))))
    times = bench_sparse_conv.alternate(functions, args.repeats)
    row = dict(
        sizes=dict(batch=args.batch, points=args.points, widths=list(args.widths)),
        milliseconds=times,
        to_arrays={name: value / times["arrays"] for name, value in times.items()},
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
