"""Correctness and speed on an accelerator, in one command: python -m gsjax.raster.gpu_suite.

First every backend that can serve the device is held against `reference` on that device (image,
alpha, all gradients), then a grid of scenes, sizes and channels is timed against gsplat and splax
where they can be imported: all contestants in one process, one call each a round, medians, ratios.
``--build-peers`` only compiles the peers' kernels, which may take minutes the first time; run it
before. A row that would begin after ``--seconds`` is not run, and said so.

  forward    projection, lists, blending
  fwd+bwd    the same with gradients by means, quats, scales, opacities and colours
  ratio      time of the peer / time of ours: above 1 we are faster
"""

import argparse
import json
import os
import pathlib
import statistics
import sys
import time
from typing import NamedTuple

# Two libraries share the device's memory.
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")

BACKENDS = ("mosaic_gpu", "mosaic_tpu", "xla_group", "xla_loop")
GAUSSIANS = ("means", "quats", "scales", "opacities", "colors")
CAPTURE = "splats/captures/academic_tarot_cards.splat"
IMAGE_ATOL, GRADIENT_RTOL = 1e-5, 1e-4


class Row(NamedTuple):
    """One line of the grid: scene by name, see `scene`."""

    scene: str
    num: int
    width: int
    height: int
    channels: int = 3
    batch: int = 1

    @property
    def name(self) -> str:
        batch = f"{self.batch} x " if self.batch > 1 else ""
        return f"{batch}{self.scene} {self.num} @ {self.width}x{self.height} C={self.channels}"


GRID = (
    Row("garden", 138_766, 648, 420),
    Row("garden", 138_766, 1920, 1080),
    Row("garden", 2_800_000, 1920, 1080),
    Row("capture", 115_000, 256, 256),
    Row("capture", 115_000, 800, 800),
    Row("random", 1_000_000, 1920, 1080),
    Row("random", 10_000, 256, 256, batch=64),
    Row("garden", 138_766, 1920, 1080, channels=32),
    Row("random", 100_000, 800, 800, channels=128),
)
QUICK = (Row("random", 500, 64, 48), Row("random", 200, 32, 32, channels=5, batch=2))


def parse(argv=None) -> argparse.Namespace:
    """Command line options."""
    parser = argparse.ArgumentParser("gsjax.raster.gpu_suite", description=__doc__.split("\n")[0])
    parser.add_argument("--backends", default="", help="comma separated; default: all that can run")
    parser.add_argument("--peers", default="gsplat,splax", help="comma separated; '' for none")
    parser.add_argument("--build-peers", action="store_true", help="compile the peers and stop")
    parser.add_argument("--quick", action="store_true", help="tiny scenes, to try the command out")
    parser.add_argument("--repeats", type=int, default=20, help="rounds a row (default 20)")
    parser.add_argument("--seconds", type=float, default=450, help="no row begins after these")
    parser.add_argument("--skip-checks", action="store_true", help="only the grid")
    parser.add_argument("--json", type=pathlib.Path, help="write everything here as well")
    args = parser.parse_args(argv)
    if args.repeats < 1:
        parser.error(f"--repeats is {args.repeats}, expected at least 1")
    return args


# --- scenes ---------------------------------------------------------------------------------------


def scene(row: Row):
    """Arguments of `rasterize` as float32 arrays; None where real data is needed and absent.

    'garden': see `garden`. 'capture': a trained capture, whole. 'random': a cloud. More channels than
    three are random features.
    """
    import numpy as np

    from gsjax.raster import arg_specs, garden

    root = os.environ.get("GSJAX_DATA", "")
    rng = np.random.default_rng(0)
    if row.scene == "random":
        scale = 0.6 / np.sqrt(row.num)
        parts = [
            arg_specs.random_scene(k, row.num, row.width, row.height, scale=scale)
            for k in range(row.batch)
        ]
        stacked = {k: np.stack([p[k] for p in parts]) for k in parts[0]}
        made = stacked if row.batch > 1 else parts[0]
    elif not root:
        return None
    elif row.scene == "garden":
        made = garden.load(pathlib.Path(root), row.num, row.width, row.height)
    else:
        spec = arg_specs.ArgSpec(row.name, CAPTURE, row.width, 115_000)
        made = arg_specs.load(spec, pathlib.Path(root))
    if row.channels != made["colors"].shape[-1]:
        shape = (*made["means"].shape[:-1], row.channels)
        made["colors"] = rng.uniform(size=shape).astype(np.float32)
    return made


# --- correctness ----------------------------------------------------------------------------------


def check(backend: str) -> list[dict]:
    """Largest errors against `reference` on this device, by scene and channels."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    from gsjax.raster import api, arg_specs

    def run(name, made, width, height):
        rng = np.random.default_rng(1)
        views, channels = len(made["viewmats"]), made["colors"].shape[-1]
        weights = [rng.normal(size=(views, height, width, c)) for c in (channels, 1)]
        weights = [jnp.asarray(w, jnp.float32) for w in weights]

        def loss(made):
            out = api.rasterize(**made, width=width, height=height, backend=name)[:2]
            return sum(jnp.sum(x * w) for x, w in zip(out, weights)), out

        gradients, out = jax.jit(jax.grad(loss, has_aux=True))(made)
        return jax.tree.map(np.asarray, (out, gradients))

    results = []
    for num, width, height, channels in ((400, 96, 64, 3), (150, 50, 37, 1), (300, 64, 64, 40)):
        made = arg_specs.random_scene(num, num, width, height, cameras=2, channels=channels)
        made = {k: jnp.asarray(v) for k, v in made.items()}
        (found, gradients), (expected, wanted) = (
            run(name, made, width, height) for name in (backend, "reference")
        )
        image = max(float(np.abs(a - b).max()) for a, b in zip(found, expected))
        worst = {
            k: float(np.linalg.norm(gradients[k] - wanted[k]) / np.linalg.norm(wanted[k]))
            for k in gradients
        }
        ok = image <= IMAGE_ATOL and max(worst.values()) <= GRADIENT_RTOL
        size = f"{num} Gaussians, {width}x{height}, C={channels}"
        results.append(dict(backend=backend, scene=size, image=image, gradients=worst, ok=ok))
        print(
            f"{'ok  ' if ok else 'FAIL'} {backend:11s} {size:32s} image {image:.1e}, gradients "
            f"{max(worst.values()):.1e}",
            flush=True,
        )
    return results


# --- speed ----------------------------------------------------------------------------------------


def ours(backend: str, made: dict, width: int, height: int) -> tuple[dict, float]:
    """Compiled forward and forward with gradients, as calls without arguments; and peak MB."""
    import jax
    import jax.numpy as jnp

    from gsjax.raster import api

    made = {k: jnp.asarray(v) for k, v in made.items()}
    inputs = {k: made[k] for k in GAUSSIANS}
    fixed = {k: made[k] for k in ("viewmats", "Ks")}

    def render(inputs, fixed):
        out = api.rasterize(**inputs, **fixed, width=width, height=height, backend=backend)
        return out[:2]

    def loss(inputs, fixed):
        return sum(jnp.sum(x) for x in render(inputs, fixed))

    once = jax.jit(render).lower(inputs, fixed).compile()
    step = jax.jit(jax.grad(loss)).lower(inputs, fixed).compile()
    stats = step.memory_analysis()
    peak = (stats.temp_size_in_bytes + stats.argument_size_in_bytes) / 2**20 if stats else 0.0
    calls = {
        "forward": lambda: jax.block_until_ready(once(inputs, fixed)),
        "fwd+bwd": lambda: jax.block_until_ready(step(inputs, fixed)),
    }
    return calls, peak


def measure(row: Row, backends: list[str], peers: dict, repeats: int) -> dict | None:
    """Median milliseconds of all contestants, alternated; None where the data is absent."""
    made = scene(row)
    if made is None:
        return None
    calls, notes = {}, {}
    for name in backends:
        calls[name], notes[name] = ours(name, made, row.width, row.height)
    for name, factory in peers.items():
        try:
            calls[name] = factory(made, row.width, row.height)
        except RuntimeError as error:
            notes[name] = str(error)
    times = {(name, what): [] for name, two in calls.items() for what in two}
    for turn in range(repeats + 3):  # the first three warm up
        for (name, what), found in times.items():
            begin = time.perf_counter()
            calls[name][what]()
            if turn >= 3:
                found.append(1e3 * (time.perf_counter() - begin))
    medians = {}
    for (name, what), found in times.items():
        spread = statistics.quantiles(found, n=10)[::8] if len(found) > 1 else found * 2
        medians.setdefault(name, {})[what] = dict(ms=statistics.median(found), spread=spread)
    return dict(row=row._asdict(), name=row.name, times=medians, notes=notes)


def lines(result: dict, ours_: list[str]) -> list[str]:
    """The printed form of one row."""
    out = [result["name"]]
    for name, times in result["times"].items():
        cells = "  ".join(f"{what} {t['ms']:9.2f} ms" for what, t in times.items())
        ratios = ""
        if name not in ours_:
            base = result["times"][ours_[0]]
            ratios = "  ".join(f"x{t['ms'] / base[w]['ms']:.2f}" for w, t in times.items())
            ratios = f"   ratio to {ours_[0]}: {ratios}"
        note = result["notes"].get(name)
        peak = f"   {note:8.0f} MB" if isinstance(note, float) else ""
        out.append(f"  {name:11s} {cells}{peak}{ratios}")
    return out + [f"  {k}: {v}" for k, v in result["notes"].items() if isinstance(v, str)]


# --- the command ----------------------------------------------------------------------------------


def _peers(names: str) -> dict:
    from gsjax.raster import peers

    found = {}
    for name in filter(None, names.split(",")):
        if reason := peers.why_not(name):
            print(f"without {name}: {reason}", flush=True)
        else:
            found[name] = peers.build(name)
    return found


def run(args) -> dict:
    """Checks, then the grid; returns what --json writes."""
    from gsjax.raster import bench
    from gsjax.raster.blend import backends

    began = time.monotonic()
    result = dict(environment=bench.describe(), checks=[], rows=[], skipped=[])
    print(json.dumps(result["environment"]), flush=True)
    known = args.backends.split(",") if args.backends else BACKENDS
    usable = []
    for name in known:
        reason = _unfit(backends, name, bool(args.backends))
        print(f"without {name}: {reason}" if reason else f"with {name}", flush=True)
        usable += [] if reason else [name]
    for name in usable if not args.skip_checks else ():
        result["checks"] += check(name)
    competitors = _peers(args.peers)
    for row in QUICK if args.quick else GRID:
        if time.monotonic() - began > args.seconds:
            result["skipped"].append(row.name)
            print(f"{row.name}: not run, {args.seconds:.0f} s are over", flush=True)
            continue
        found = measure(row, usable, competitors, args.repeats)
        if found is None:
            result["skipped"].append(row.name)
            print(f"{row.name}: not run, GSJAX_DATA names no data", flush=True)
            continue
        result["rows"].append(found)
        print("\n".join(lines(found, usable)), flush=True)
    return result


def _unfit(backends, name, asked):
    """Why a backend stays out; native CPU loops only where JAX runs on CPU, or when asked for."""
    if name == "xla_loop" and not asked and backends.choose()[0] != "xla_loop":
        return "for CPU"
    return backends.why_not(name)


def main(argv=None) -> int:
    """Entry point; the exit status is 1 where a backend failed a check."""
    args = parse(argv)
    if args.build_peers:
        for name, factory in _peers(args.peers).items():
            made = scene(QUICK[0])
            for call in factory(made, QUICK[0].width, QUICK[0].height).values():
                call()
            print(f"{name} is built", flush=True)
        return 0
    from gsjax import runtime

    runtime.configure_environment()
    result = run(args)
    if args.json:
        args.json.write_text(json.dumps(result, indent=1))
    return int(not all(found["ok"] for found in result["checks"]))


if __name__ == "__main__":
    sys.exit(main())
