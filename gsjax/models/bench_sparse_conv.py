"""Benchmark of sparse convolutions: python -m gsjax.models.bench_sparse_conv [options].

One 3^3 submanifold convolution over the voxels of noisy spheres (surface-like: each voxel has some ten
of 27 neighbours), by look-up tables (``core.sparse_conv``, both forms) and on the dense grid
(``core.dense_conv``). Columns are milliseconds of the forward pass and of the forward pass with the
gradients by features and kernel, medians of alternated calls, and the ratio of each to the dense
grid's. A row ``tables`` gives the time to find neighbours by search and by refining those of the
parents. With --json, rows, device and versions are written to a file as JSON.
"""

import argparse
import json
import os
import pathlib
import platform
import statistics
import time

import numpy as np

from gsjax import runtime, version


def parse(argv=None) -> argparse.Namespace:
    """Command line options."""
    parser = argparse.ArgumentParser("gsjax.models.bench_sparse_conv", description=__doc__)
    parser.add_argument("--sides", default="32,64", help="cells an axis, at most 128 (32,64)")
    parser.add_argument("--channels", default="32,96", help="in and out (32,96)")
    parser.add_argument("--batch", type=int, default=2, help="clouds (2)")
    parser.add_argument("--repeats", type=int, default=5, help="rounds (5)")
    parser.add_argument("--json", type=pathlib.Path, help="write rows, device and versions here")
    args = parser.parse_args(argv)
    if args.repeats < 1 or args.batch < 1:
        parser.error("--repeats and --batch: expected at least 1")
    return args


def surface(side: int, batch: int, seed: int = 0):
    """Keys int32 [B, V] of noisy spheres that fill a grid of ``side`` cells, V a multiple of 8."""
    rng = np.random.default_rng(seed)
    points = rng.normal(size=(batch, 6 * side * side, 3))
    points /= np.linalg.norm(points, axis=-1, keepdims=True)
    points *= 1 - 0.02 * rng.random((*points.shape[:2], 1))
    cells = np.clip(((points + 1) / 2 * side).astype(np.int64), 0, side - 1)
    flat = [np.unique(c @ [side * side, side, 1]) for c in cells]
    num = -(-max(map(len, flat)) // 8) * 8
    return flat, num


def sets(side: int, batch: int):
    """Sorted keys on the device, [B, V]."""
    import jax
    import jax.numpy as jnp

    from gsjax.core import voxels

    flat, num = surface(side, batch)
    cells = np.full((batch, num, 3), -1, np.int32)
    for i, f in enumerate(flat):
        cells[i, : len(f)] = np.stack([f // side**2, f // side % side, f % side], -1)

    def keys(cells):
        found = jnp.where(cells[:, 0] < 0, voxels.SENTINEL, voxels.encode(jnp.maximum(cells, 0)))
        return jnp.sort(found)

    return jax.block_until_ready(jax.jit(jax.vmap(keys))(cells))


def alternate(functions: dict, repeats: int) -> dict:
    """Median milliseconds of each (function, arguments), one call of each a round."""
    import jax

    times = {name: [] for name in functions}
    for round_ in range(repeats + 1):  # the first one warms up
        for name, (function, arguments) in functions.items():
            begin = time.perf_counter()
            jax.block_until_ready(function(*arguments))
            if round_:
                times[name].append(1e3 * (time.perf_counter() - begin))
    return {name: statistics.median(values) for name, values in times.items()}


def measure_tables(keys, repeats: int) -> dict:
    """Milliseconds of 3^3 and 5^3 tables, searched and refined."""
    import jax

    from gsjax.core import voxels

    functions = {}
    for size in (3, 5):
        search = jax.vmap(lambda k, s=size: voxels.neighbours(k, voxels.cube(s)))

        def refine(keys, s=size):
            family = voxels.parents(keys, keys.shape[0] // 2)
            table = voxels.neighbours(family.keys, voxels.cube(3))
            return voxels.refine(keys, table, family, s)

        functions[f"searched_{size}"] = jax.jit(search), (keys,)
        functions[f"refined_{size}"] = jax.jit(jax.vmap(refine)), (keys,)
    return {f"{name}_ms": value for name, value in alternate(functions, repeats).items()}


def measure(keys, side: int, channels: int, repeats: int) -> dict:
    """Milliseconds of each way, forward and with gradients, and ratios to the dense one."""
    import jax
    import jax.numpy as jnp

    from gsjax.core import dense_conv, sparse_conv, voxels

    rng = np.random.default_rng(0)
    feat = jnp.asarray(rng.normal(size=(*keys.shape, channels)), jnp.float32)
    kernel = jnp.asarray(rng.normal(size=(27, channels, channels)) * 0.02, jnp.float32)
    table = jax.jit(jax.vmap(lambda k: voxels.neighbours(k, voxels.cube(3))))(keys)
    convs = {
        "scan": lambda f, k, t, _: sparse_conv.submanifold(f, t, k),
        "gather": lambda f, k, t, _: sparse_conv.submanifold(f, t, k, form="gather"),
        "dense": lambda f, k, _, keys: dense_conv.submanifold(f, keys, k, side),
    }
    arguments = (feat, kernel, table, keys)
    figures = {}
    for column in ("forward", "fwd_bwd"):
        functions = {}
        for name, conv in convs.items():

            def both(*a, conv=conv):
                return jax.value_and_grad(lambda *b: jnp.sum(conv(*b) ** 2), (0, 1))(*a)

            functions[name] = jax.jit(conv if column == "forward" else both), arguments
        times = alternate(functions, repeats)
        for name, value in times.items():
            figures.setdefault(name, {})[f"{column}_ms"] = value
            figures[name][f"{column}_to_dense"] = value / times["dense"]
    return figures


def describe() -> dict:
    """Device and versions."""
    import jax
    import jaxlib

    device = jax.devices()[0]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return dict(
        device=device.device_kind,
        platform=device.platform,
        cores=cores,
        load=os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        python=platform.python_version(),
        jax=jax.__version__,
        jaxlib=jaxlib.__version__,
        numpy=np.__version__,
        gsjax=version.__version__,
    )


def run(args) -> dict:
    """Measures and prints all rows; returns what --json writes."""
    rows = []
    for side in map(int, args.sides.split(",")):
        keys = sets(side, args.batch)
        row = dict(side=side, batch=args.batch, voxels=keys.shape[1])
        rows.append(row | dict(tables=measure_tables(keys, args.repeats)))
        print(json.dumps(rows[-1]), flush=True)
        for channels in map(int, args.channels.split(",")):
            figures = measure(keys, side, channels, args.repeats)
            rows.append(row | dict(channels=channels, figures=figures))
            print(json.dumps(rows[-1]), flush=True)
    return dict(environment=describe(), repeats=args.repeats, rows=rows)


def main(argv=None) -> None:
    """Entry point."""
    args = parse(argv)
    runtime.configure_environment()
    result = run(args)
    print(json.dumps(result["environment"]))
    if args.json:
        args.json.write_text(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
