"""Benchmark of the blending backends: python -m gsjax.raster.bench [options].

Rows are the scenes of `arg_specs`, real ones where GSJAX_DATA names the data folder, else synthetic
ones of the same sizes. All backends blend the same projected Gaussians, so the columns are

  bin        depth order and tile lists (a part of the next two),
  forward    binning and blending,
  fwd+bwd    the same with the gradients by means2d, conics, opacities and features,
  memory     buffers of the fwd+bwd program, its arguments and results included,
  compile    of the fwd+bwd program, seconds.

Times are medians of alternated calls: every contestant runs once a round, so that a busy machine
slows all of them. Freed memory stays with the process (`gsjax.runtime.keep_freed_memory`), for all.
For figures of one core: ``taskset -c 0 python -m gsjax.raster.bench``.

--peer PATH adds another implementation to the same rounds, a file with the interface of the study
prototype `tiles_v2.py` (``prepare``, ``emit``, ``blend``, ``untile``); default: the variable
GSJAX_PEER, else proto/tiles_v2.py beside the data folder. The ratio is that of fwd+bwd, ours to
the peer's. --lanes L measures rendering, projection included, on one core and in lanes on L cores, in a
process of its own.
"""

import argparse
import functools
import importlib
import json
import math
import os
import pathlib
import platform
import statistics
import subprocess
import sys
import tempfile
import time

import numpy as np

from gsjax import runtime, version

_PEER_PAIRS = 2**20
_PEER_TILE = 8
_CLOCK_HELP = "cpu: time of this process on all its cores, for machines that others use as well"


def parse(argv=None) -> argparse.Namespace:
    """Command line options."""
    parser = argparse.ArgumentParser("gsjax.raster.bench", description=__doc__.split("\n")[0])
    parser.add_argument("--backends", help="comma separated; default: the platform's")
    parser.add_argument("--rows", default="", help="only rows whose name contains this")
    parser.add_argument("--hard", action="store_true", help="also low opacity, channels, 1M")
    parser.add_argument("--repeats", type=int, default=9, help="rounds (default 9)")
    parser.add_argument("--peer", help="path of a file like tiles_v2.py; 'none' for none")
    parser.add_argument("--lanes", type=int, default=0, help="also render on this many cores")
    parser.add_argument("--synthetic", action="store_true", help="leave real files aside")
    parser.add_argument("--json", type=pathlib.Path, help="write rows, device and versions here")
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall", help=_CLOCK_HELP)
    parser.add_argument("--only-lanes", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.repeats < 1:
        parser.error(f"--repeats is {args.repeats}, expected at least 1")
    return args


def data_root() -> pathlib.Path | None:
    """Folder of real data, or None."""
    root = os.environ.get("GSJAX_DATA", "")
    return pathlib.Path(root) if root and pathlib.Path(root).is_dir() else None


def peer_path(option: str | None) -> pathlib.Path | None:
    """File of the peer: the option, else GSJAX_PEER, else beside the data; None if there is none."""
    if option == "none":
        return None
    named = option or os.environ.get("GSJAX_PEER")
    if named:
        if not pathlib.Path(named).is_file():
            raise ValueError(f"peer: {named!r} is not a file; give the path of tiles_v2.py")
        return pathlib.Path(named)
    root = data_root()
    beside = root.resolve().parent / "proto" / "tiles_v2.py" if root else None
    return beside if beside and beside.is_file() else None


def scenes(synthetic: bool, wanted: str, hard: bool = False):
    """Yields (row name, arguments of rasterize, image size); random clouds where files are absent."""
    from gsjax.raster import arg_specs

    root = None if synthetic else data_root()
    for spec in arg_specs.ARG_SPECS + arg_specs.HARD_SPECS * hard:
        if wanted in spec.name:
            real = not spec.file or (root is not None and (root / spec.file).is_file())
            name = spec.name if real else spec.name.replace(spec.name.split(" ")[0], "random")
            yield name, arg_specs.load(spec, root), spec.size


def project(scene, size):
    """Splats and colours of one scene as device arrays."""
    import jax
    import jax.numpy as jnp

    from gsjax.raster import project as projection

    names = ("means", "quats", "scales", "opacities")
    arrays = [jnp.asarray(scene[k]) for k in names]
    camera = [jnp.asarray(scene[k][0]) for k in ("viewmats", "Ks")]
    splats = jax.jit(lambda a, c: projection.project(*a, *c, size, size))(arrays, camera)
    return jax.block_until_ready((splats, jnp.asarray(scene["colors"])))


# --- contestants: name -> {"bin": f(splats), "forward": f(splats, colors)} ----------------------


def backend_stages(name: str, size: int) -> dict:
    """Stages of one of this package's backends."""
    import jax

    from gsjax.raster.blend import backends, tiles, xla_loop

    def forward(splats, colors):
        one = jax.tree.map(lambda x: x[None], splats)
        blend = backends.load(name).blend
        color, transmittance, _ = blend(
            one, colors[None], width=size, height=size, max_alpha=0.99,
        )  # fmt: skip
        return color[0], transmittance[0]

    binning = {
        "xla_loop": lambda splats: xla_loop.tile_lists(splats, width=size, height=size),
        "xla_group": lambda splats: tiles.depth_sorted_boxes(splats, tiles.Grid(size, size, 16)),
    }
    stages = {"forward": forward}
    return stages | ({"bin": binning[name]} if name in binning else {})


def peer_stages(path: pathlib.Path, size: int) -> dict:
    """Stages of the prototype, with the pair buffer it names a safe default."""
    import jax
    import jax.numpy as jnp

    peer = _load_peer(path)

    def prepare(splats):
        fixed = jax.lax.stop_gradient(tuple(splats))
        means2d, conics, opacities, depths, radii = fixed
        return peer.prepare(means2d, conics, opacities, depths, radii, size, size, _PEER_TILE)

    def binning(splats):
        across = -(-size // _PEER_TILE)
        closed = jnp.zeros(across * across, jnp.int32)
        begin = jnp.int32(0), jnp.int32(-1)
        prepared = prepare(splats)
        return prepared, peer.emit(
            prepared, begin, closed, size, _PEER_TILE, _PEER_PAIRS, jnp.int32(0), 1
        )

    def forward(splats, colors):
        log_opacity = jnp.log(jnp.maximum(splats.opacities, 1e-12))[:, None]
        params = jnp.concatenate([splats.means2d, splats.conics, log_opacity, colors], -1)
        color, transmittance, _ = peer.blend(
            params, prepare(splats), jnp.int32(0), (size, size, _PEER_TILE), (_PEER_PAIRS, 4, 1)
        )
        color = peer.untile(color, size, size, _PEER_TILE)
        return color, peer.untile(transmittance[:, None], size, size, _PEER_TILE)[..., 0]

    return {"bin": binning, "forward": forward}


@functools.cache
def _load_peer(path):
    sys.path.insert(0, str(path.parent))
    try:
        return importlib.import_module(path.stem)
    finally:
        sys.path.remove(str(path.parent))


def programs(stages: dict, splats, colors) -> tuple[dict, float, float]:
    """Compiled (function, arguments) by column, compile seconds and bytes of fwd+bwd."""
    import jax
    import jax.numpy as jnp

    shapes = jax.eval_shape(stages["forward"], splats, colors)
    rng = np.random.default_rng(0)
    weights = [jnp.asarray(rng.normal(size=s.shape), s.dtype) for s in shapes]

    def both(splats, colors, weights):
        def loss(smooth):
            out = stages["forward"](splats._replace(**smooth[0]), smooth[1])
            return sum(jnp.sum(x * w) for x, w in zip(out, weights, strict=True))

        smooth = {k: getattr(splats, k) for k in ("means2d", "conics", "opacities")}
        return jax.value_and_grad(loss)((smooth, colors))

    arguments = {"bin": (splats,), "forward": (splats, colors), "both": (splats, colors, weights)}
    out, seconds, bytes_ = {}, 0.0, 0
    for column, function in (stages | {"both": both}).items():
        begin = time.perf_counter()
        compiled = jax.jit(function).lower(*arguments[column]).compile()
        if column == "both":
            seconds, bytes_ = time.perf_counter() - begin, _memory(compiled)
        out[column] = compiled, arguments[column]
    return out, seconds, bytes_


def _memory(compiled):
    stats = compiled.memory_analysis()
    if stats is None:
        return math.nan
    return sum(getattr(stats, f"{k}_size_in_bytes") for k in ("temp", "output", "argument"))


def alternate(functions: dict, repeats: int, clock: str = "wall", cores: dict | None = None):
    """Median milliseconds of each (function, arguments), one call of each a round.

    cores: how many cores each may use; it is then called twice a round and the second call counts,
    since threads that may move to another core do so after a while.
    """
    import jax

    now = time.perf_counter if clock == "wall" else time.process_time
    times = {key: [] for key in functions}
    for round_ in range(repeats + 1):  # the first one warms up
        for key, (function, arguments) in functions.items():
            if cores:
                _pin(cores[key])
                jax.block_until_ready(function(*arguments))
            begin = now()
            jax.block_until_ready(function(*arguments))
            if round_:
                times[key].append(1e3 * (now() - begin))
    return {key: statistics.median(values) for key, values in times.items()}


def measure(scene, size: int, contestants: dict, repeats: int, clock: str = "wall") -> dict:
    """Figures of all contestants (name -> stages) on one scene."""
    splats, colors = project(scene, size)
    compiled = {n: programs(stages, splats, colors) for n, stages in contestants.items()}
    figures = {n: dict(compile_s=c[1], memory_mb=c[2] / 2**20) for n, c in compiled.items()}
    for column in ("bin", "forward", "both"):
        functions = {n: c[0][column] for n, c in compiled.items() if column in c[0]}
        for name, value in alternate(functions, repeats, clock).items():
            figures[name][f"{column}_ms"] = value
    return figures


# --- lanes --------------------------------------------------------------------------------------


def measure_lanes(args) -> list[dict]:
    """Rendering with projection and gradients on one core and on args.lanes; JAX must not run yet."""
    import jax

    jax.config.update("jax_num_cpu_devices", args.lanes)
    auto = (jax.sharding.AxisType.Auto,)
    mesh, peer = jax.make_mesh((args.lanes,), ("tiles",), axis_types=auto), peer_path(args.peer)
    rows = []
    for name, scene, size in scenes(args.synthetic, args.rows):
        scene = _multiple(scene, args.lanes)
        contestants = lane_contestants(scene, size, mesh)
        if peer:
            contestants |= peer_lane_contestants(peer, scene, size, mesh)
        rng, functions = np.random.default_rng(0), {}
        for key, (render, inputs, _) in contestants.items():
            weights = rng.normal(size=jax.eval_shape(render, *inputs).shape).astype(np.float32)
            loss = lambda a, w, render=render: (render(*a) * w).sum()  # noqa: E731
            step = jax.jit(jax.value_and_grad(loss)).lower(inputs, weights).compile()
            functions[key] = step, (inputs, weights)
        cores = {key: contestant[2] for key, contestant in contestants.items()}
        times = alternate(functions, args.repeats, cores=cores)
        rows.append(dict(name=name, lanes=args.lanes) | {f"{k}_ms": v for k, v in times.items()})
        print(_lane_line(rows[-1]), flush=True)
    return rows


def _multiple(scene, lanes):
    """The scene without its last Gaussians where lanes do not divide their number."""
    num = len(scene["means"]) // lanes * lanes
    cameras = ("viewmats", "Ks")
    return {k: v if k in cameras or v is None else v[:num] for k, v in scene.items()}


def lane_contestants(scene, size, mesh) -> dict:
    """Name -> (image of inputs, inputs, number of cores): this package on one core and on all."""
    import jax.numpy as jnp

    from gsjax.raster import api, sharded

    names = ("means", "quats", "scales", "opacities", "colors", "viewmats", "Ks")
    inputs = [jnp.asarray(scene[k]) for k in names]
    options = dict(width=size, height=size, backend="xla_loop")

    def one(*inputs):
        return api.rasterize(*inputs, **options)[0]

    def lanes(*inputs):
        return sharded.rasterize_sharded(*inputs, **options, mesh=mesh, tiles="tiles")[0]

    return {
        "one": (one, inputs, 1),
        "lanes": (lanes, _over(mesh, inputs), mesh.size),
    }


def peer_lane_contestants(path: pathlib.Path, scene, size: int, mesh) -> dict:
    """The same of the prototype (``render``, ``render_lanes``)."""
    import jax.numpy as jnp

    peer = _load_peer(path)
    arrays = [scene[k] for k in ("means", "quats", "scales", "opacities", "colors")]
    inputs = [jnp.asarray(x) for x in (*arrays, scene["viewmats"][0], scene["Ks"][0])]

    def one(*inputs):
        return peer.render(*inputs, size, size, _PEER_PAIRS)[0]

    def lanes(*inputs):
        return peer.render_lanes(mesh, *inputs, size, size, _PEER_PAIRS)[0]

    return {"peer_one": (one, inputs, 1), "peer_lanes": (lanes, _over(mesh, inputs), mesh.size)}


def _over(mesh, inputs):
    """Gaussians split over the mesh, as parameters that are trained there; cameras everywhere."""
    import jax

    specs = [jax.sharding.PartitionSpec("tiles")] * 5 + [jax.sharding.PartitionSpec()] * 2
    return [
        jax.device_put(x, jax.sharding.NamedSharding(mesh, spec))
        for x, spec in zip(inputs, specs, strict=True)
    ]


def _pin(count):
    """All threads of this process on the first `count` cores, as far as the system allows."""
    if hasattr(os, "sched_setaffinity"):
        for task in os.listdir("/proc/self/task"):
            os.sched_setaffinity(int(task), range(min(count, os.cpu_count() or 1)))


def _lane_line(row):
    one, lanes = row["one_ms"], row["lanes_ms"]
    line = f"{row['name']:24s} render fwd+bwd: one core {one:7.1f} ms, "
    line += f"{row['lanes']} lanes {lanes:7.1f} ms, x{one / lanes:.2f}"
    if "peer_lanes_ms" in row:
        one, peer = row["peer_one_ms"], row["peer_lanes_ms"]
        line += f"; peer {one:7.1f}, {peer:7.1f} ms, x{one / peer:.2f}; ratio of lanes {lanes / peer:.2f}"
    return line


def lanes_in_own_process(args) -> list[dict]:
    """Runs `measure_lanes` with its own device count and free to use as many cores as lanes."""
    with tempfile.TemporaryDirectory() as folder:
        out = pathlib.Path(folder) / "lanes.json"
        command = [sys.executable, "-m", "gsjax.raster.bench", "--only-lanes"]
        command += [f"--lanes={args.lanes}", f"--repeats={args.repeats}", f"--rows={args.rows}"]
        command += [f"--json={out}"] + ["--synthetic"] * args.synthetic
        command += [f"--peer={args.peer}"] * (args.peer is not None)
        subprocess.run(command, check=True)
        return json.loads(out.read_text())


# --- report -------------------------------------------------------------------------------------


def describe() -> dict:
    """Device and versions."""
    import jax
    import jaxlib
    import numpy as np

    device = jax.devices()[0]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return dict(
        device=device.device_kind, platform=device.platform, processor=_processor(), cores=cores,
        xla_flags=os.environ.get("XLA_FLAGS", ""), python=platform.python_version(),
        jax=jax.__version__, jaxlib=jaxlib.__version__, numpy=np.__version__,
        gsjax=version.__version__,
    )  # fmt: skip


def _processor():
    path = pathlib.Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.is_file() else []
    models = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor()


def row_lines(name: str, figures: dict) -> list[str]:
    """One line a contestant."""
    lines = []
    for who, f in figures.items():
        ratio = f"  x{f['ratio']:.2f} of peer" if "ratio" in f else ""
        lines.append(
            f"{name:24s} {who:10s} {f.get('bin_ms', math.nan):8.1f} {f['forward_ms']:8.1f} "
            f"{f['both_ms']:8.1f} {f['memory_mb']:8.1f} {f['compile_s']:8.1f}{ratio}"
        )
        name = ""
    return lines


def geometric_mean(values) -> float:
    """exp of the mean logarithm."""
    return math.exp(statistics.fmean(math.log(v) for v in values))


def run(args) -> dict:
    """Measures and prints all rows; returns what --json writes."""
    from gsjax.raster.blend import backends

    names = args.backends.split(",") if args.backends else [backends.choose()[0]]
    peer = peer_path(args.peer)
    head = ("bin ms", "forward", "fwd+bwd", "MB", "compile")
    print(f"{'scene':24s} {'':10s} " + " ".join(f"{h:>8s}" for h in head))
    rows = []
    for name, scene, size in scenes(args.synthetic, args.rows, args.hard):
        contestants = {n: backend_stages(n, size) for n in names}
        if peer:
            contestants["peer"] = peer_stages(peer, size)
        figures = measure(scene, size, contestants, args.repeats, args.clock)
        if peer:
            for n in names:
                figures[n]["ratio"] = figures[n]["both_ms"] / figures["peer"]["both_ms"]
        print("\n".join(row_lines(name, figures)), flush=True)
        rows.append(dict(name=name, figures=figures))
    result = dict(environment=describe(), repeats=args.repeats, clock=args.clock, rows=rows)
    if peer and rows:
        result["ratios"] = {n: [r["figures"][n]["ratio"] for r in rows] for n in names}
        result["geometric_mean"] = {n: geometric_mean(v) for n, v in result["ratios"].items()}
        for n, ratios in result["ratios"].items():
            mean = result["geometric_mean"][n]
            print(f"{n}: geometric mean x{mean:.2f} of peer, worst row x{max(ratios):.2f}")
    return result


def main(argv=None) -> None:
    """Entry point."""
    args = parse(argv)
    if args.only_lanes:  # JAX makes as many threads as it has cores at the start
        _pin(args.lanes)
    runtime.configure_environment()
    runtime.keep_freed_memory()
    if args.only_lanes:
        result = measure_lanes(args)
    else:
        result = run(args)
        if args.lanes > 1:
            result["lanes"] = lanes_in_own_process(args)
    if args.json:
        args.json.write_text(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
