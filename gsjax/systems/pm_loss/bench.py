"""Benchmark of PM-Loss's nearest neighbours: python -m gsjax.systems.pm_loss.bench [options].

Clouds are two views of made-up rooms with depths from 1 to 100, as pixel grids unprojected: dense near the camera,
thin far away; queries lie off them by 1 per cent of the depth. Each method of ``core.nearest`` is compared with
scipy's KD-tree (built and asked in float64 by one thread): points found that are farther than the tree's by more
than 1e-6 of the distance ("wrong"), seconds (best of the repeats, alternated, compiling not counted) and their
ratio to the tree's, building included, and the peak of the process's memory over what it held before the method
was first called, with its program compiled in that call. With --json, the row, device and versions are written to
a file as JSON.
"""

import argparse
import json
import pathlib
import time

import numpy as np

from gsjax import runtime
from gsjax.models import bench_sparse_conv


def parse(argv=None) -> argparse.Namespace:
    """Command line options."""
    parser = argparse.ArgumentParser("gsjax.systems.pm_loss.bench", description=__doc__)
    parser.add_argument("--points", type=int, default=200_000, help="of each of both sets (200000)")
    parser.add_argument(
        "--methods", default="boxes,blocked", help="of core.nearest (boxes,blocked)"
    )
    parser.add_argument("--repeats", type=int, default=3, help="rounds (3)")
    parser.add_argument("--json", type=pathlib.Path, help="write the row, device and versions here")
    args = parser.parse_args(argv)
    if args.points < 2 or args.repeats < 1:
        parser.error("--points and --repeats: expected at least 2 and 1")
    return args


def cloud(num: int, seed: int, noise: float) -> np.ndarray:
    """float32 [num, 3]: two views of blocks at depths of 1 to 100, jittered by ``noise`` of the depth."""
    rng = np.random.default_rng(seed)
    depths = np.exp(np.random.default_rng(7).random((6, 6)) * np.log(100.0))
    side = int(np.ceil((num / 2) ** 0.5))
    views = []
    for shift in (0.0, 0.1):
        u, v = np.meshgrid(*[(np.arange(side) + 0.5) / side - 0.5] * 2)
        depth = depths[((v + 0.5) * 6).astype(int), ((u + 0.5) * 6).astype(int)]
        depth = depth * (1 + 0.1 * np.sin(9 * u + 4 * v))
        depth = depth * (1 + noise * rng.normal(size=depth.shape))
        views.append(np.stack([u * depth + shift, v * depth, depth], -1).reshape(-1, 3))
    return np.concatenate(views)[:num].astype(np.float32)


class Peak:
    """Largest resident memory since it was made, in MB over that at the time; None where Linux does not tell."""

    _STATUS = pathlib.Path("/proc/self/status")

    def __init__(self):
        try:
            pathlib.Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew from here
            self._start = self._read("VmRSS")
        except OSError:
            self._start = None

    def _read(self, name: str) -> int:
        lines = self._STATUS.read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith(name + ":"))

    def megabytes(self) -> float | None:
        """So far."""
        return None if self._start is None else (self._read("VmHWM") - self._start) / 1024


def run(args) -> dict:
    """Checks, measures and prints the row; returns it."""
    import jax
    from scipy.spatial import cKDTree

    from gsjax.core import nearest

    refs, asked = cloud(args.points, 0, 0.0), cloud(args.points, 1, 0.01)
    arguments = jax.block_until_ready((jax.device_put(asked), jax.device_put(refs)))
    exact = asked.astype(np.float64), refs.astype(np.float64)
    distances, _ = cKDTree(exact[1]).query(exact[0])
    functions, rows = {}, {}
    for method in args.methods.split(","):
        function = jax.jit(lambda q, p, method=method: nearest.nearest(q, p, method=method))
        peak = Peak()
        found = np.asarray(function(*arguments))
        rows[method] = dict(peak_mb=peak.megabytes())
        own = np.linalg.norm(exact[0] - exact[1][found], axis=-1)
        rows[method]["wrong"] = int(np.sum(own > distances * (1 + 1e-6)))
        functions[method] = lambda function=function: jax.block_until_ready(function(*arguments))
    functions["tree"] = lambda: cKDTree(exact[1]).query(exact[0])
    times = {name: [] for name in functions}
    for _ in range(args.repeats):
        for name, function in functions.items():
            begin = time.perf_counter()
            function()
            times[name].append(time.perf_counter() - begin)
    best = {name: min(values) for name, values in times.items()}
    for method, row in rows.items():
        row |= dict(seconds=best[method], to_tree=best[method] / best["tree"])
    row = dict(
        points=args.points,
        tree_seconds=best["tree"],
        methods=rows,
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
