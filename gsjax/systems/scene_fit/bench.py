"""Benchmark of fitting many objects: python -m gsjax.systems.scene_fit.bench [options].

Every row is a wave of B objects that are fitted as one program (`many.advance`), laid out one after the
other (``map``) or side by side (``vmap``), over one device or several. Its yardstick is a loop of single
fits in the same run: `steps.advance` of one object after the other, on one device, as many steps. One
chunk of each contestant of B runs a round, in turn, so that a busy machine slows all of them; times are
medians over the rounds, after one that compiles. Columns:

  ms/step         of one object, wall clock: time of a chunk / (B x steps of the chunk),
  object-steps/s  its inverse,
  objects/min     at --num_steps, extrapolated from the chunk; rendering the views and scoring, which
                  the factory does besides, are left out, and so is compiling,
  ratio           to the loop's object-steps/s (above 1: faster than the loop),
  MB/object       what one more object adds to a device, by the compiler: bytes at B less bytes at the
                  smallest B of that layout, over the difference in objects a device.

Below the table stands what an object should take by its sizes (`estimate_bytes`). The objects are
turned shapes made up from their number, or with --source those of a collection; a few different ones
go round in a wave. On CPU --devices are cores that act as devices of their own.
"""

import argparse
import dataclasses
import json
import pathlib
import time
from collections.abc import Callable

import numpy as np

from gsjax import runtime

_QUICK = dict(size=24, num_gaussians=64, views=6, chunk=2, repeats=1, objects=2)
_USUAL = dict(batches="1,4,16,64", modes="map,vmap", devices="1,2")
# Tiles of 16 x 16 that a Gaussian touches, a mean over fits of objects.
_TILES_PER_GAUSSIAN = 6
_MB = 1e6


def parse(argv=None) -> argparse.Namespace:
    """Command line options."""
    parser = argparse.ArgumentParser(
        "gsjax.systems.scene_fit.bench", description=__doc__.split("\n")[0]
    )
    parser.add_argument("--batches", help=f"objects of a wave (default {_USUAL['batches']})")
    parser.add_argument("--modes", help=f"of many.MODES (default {_USUAL['modes']})")
    parser.add_argument("--devices", help=f"that share a wave (default {_USUAL['devices']})")
    parser.add_argument("--source", help="mesh file, folder of meshes or 'objects_cc0'")
    parser.add_argument("--objects", type=int, default=8, help="different ones in a wave")
    parser.add_argument("--size", type=int, default=128, help="pixels a side")
    parser.add_argument("--num_gaussians", type=int, default=4096)
    parser.add_argument("--views", type=int, default=24, help="on three rings")
    parser.add_argument("--num_steps", type=int, default=500, help="of a whole fit")
    parser.add_argument("--chunk", type=int, default=20, help="steps that are timed")
    parser.add_argument("--repeats", type=int, default=3, help="rounds (default 3)")
    parser.add_argument("--json", type=pathlib.Path, help="write rows, device and versions here")
    parser.add_argument("--quick", action="store_true", help="tiny sizes: does it run?")
    args = parser.parse_args(argv)
    lists = dict(batches="2,4", modes="map", devices="1") if args.quick else _USUAL
    vars(args).update({k: v for k, v in lists.items() if getattr(args, k) is None})
    if args.quick:
        vars(args).update(_QUICK)
    for name in ("batches", "devices"):
        text = getattr(args, name)
        if not all(part.isdigit() and int(part) for part in text.split(",")):
            parser.error(f"--{name} is {text!r}, expected numbers from 1 on, such as 1,4,16")
        setattr(args, name, sorted({int(part) for part in text.split(",")}))
    args.modes = args.modes.split(",")
    unknown = sorted(set(args.modes) - {"map", "vmap"})
    if unknown:
        parser.error(f"--modes has {unknown[0]!r}, expected 'map' or 'vmap'")
    for name in ("objects", "chunk", "repeats", "num_steps"):
        if getattr(args, name) < 1:
            parser.error(f"--{name} is {getattr(args, name)}, expected at least 1")
    if args.views % 3 or args.views < 6:
        parser.error(f"--views is {args.views}, expected a multiple of three, at least 6")
    return args


# --- objects ------------------------------------------------------------------------------------


def turned_shape(number: int):
    """A closed body of revolution, checkered; its profile and two colours come from its number."""
    from gsjax.io import meshes

    rng, around, along = np.random.default_rng(number), 40, 24
    angle, t = np.meshgrid(
        np.linspace(0, 2 * np.pi, around + 1), np.linspace(0, np.pi, along + 1), indexing="ij"
    )
    waves = rng.normal(0, 0.25, 3)[:, None, None] * np.sin(np.arange(2, 5)[:, None, None] * t)
    radius = np.sin(t) * np.exp(waves.sum(0))
    height = rng.uniform(0.7, 1.6) * -np.cos(t)
    points = np.stack([radius * np.cos(angle), height, radius * np.sin(angle)], -1)
    index = np.arange(angle.size).reshape(angle.shape)
    a, b, c, d = index[:-1, :-1], index[1:, :-1], index[1:, 1:], index[:-1, 1:]
    faces = np.stack([np.stack([a, b, c], -1), np.stack([a, c, d], -1)], 2).reshape(-1, 3)
    cell = (np.arange(around)[:, None] // 5 + np.arange(along) // 4) % 2
    colors = rng.integers(30, 230, (2, 3)).astype(np.uint8)
    return meshes.Mesh(points.reshape(-1, 3), faces, face_rgb=colors[np.repeat(cell.ravel(), 2)])


def items(source: str | None, count: int) -> list:
    """The first objects of a collection, one mesh file, or made-up ones: `mesh_collections.Item`s.

    Raises:
      ValueError: the source holds no meshes.
    """
    from gsjax.data import mesh_collections
    from gsjax.io import meshes

    if source and pathlib.Path(source).is_file():
        return [mesh_collections.Item(0, {"uid": source}, lambda: meshes.read(source))]
    if source:
        return mesh_collections.load(source)[0][:count]
    return [
        mesh_collections.Item(
            number, {"uid": f"turned-{number}"}, lambda number=number: turned_shape(number)
        )
        for number in range(count)
    ]


def prepared(args) -> tuple[object, list]:
    """The `factory.Plan` of the options, and objects with their views and first Gaussians.

    Raises:
      ValueError: an object cannot be rendered.
    """
    from gsjax.systems.scene_fit import factory

    recipe = dataclasses.replace(
        factory.FAST, num_steps=args.num_steps, num_gaussians=args.num_gaussians
    )
    plan = factory.Plan(recipe, factory.view_recipe(args.views, args.size), num_held_out=1)
    ready = [factory.prepare(item, plan) for item in items(args.source, args.objects)]
    for one in ready:
        if isinstance(one.views, str):
            raise ValueError(f"--source: object {one.item.about['uid']!r}: {one.views}")
    return plan, ready


# --- contestants --------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Contestant:
    """call() fits all objects of the wave for one more chunk, and returns when that is done."""

    call: Callable[[], None]
    compile_seconds: float
    device_bytes: int


def loop_of_single_fits(plan, wave: list, chunk: int) -> Contestant:
    """One object after the other, each on the first device."""
    import jax

    from gsjax.systems.scene_fit import batch_size, factory, steps

    step, scenes = jax.jit(steps.advance, static_argnums=(0, 3), donate_argnums=2), []
    for ready in wave:
        alone = factory.begin([ready], plan)
        scenes.append(jax.device_put(jax.tree.map(lambda x: x[0], alone), jax.devices()[0]))
    program, seconds = _compiled(step.lower(plan.recipe, *scenes[0], chunk))

    def call():
        for place, (views, state) in enumerate(scenes):
            scenes[place] = views, jax.block_until_ready(program(views, state))[0]

    return Contestant(call, seconds, batch_size.device_bytes(program))


def wave_of_fits(plan, wave: list, chunk: int, mesh, mode: str) -> Contestant:
    """All objects as one program over a mesh."""
    import jax

    from gsjax.systems.scene_fit import batch_size, factory, many

    views, state = (many.place(part, mesh) for part in factory.begin(wave, plan))
    program, seconds = _compiled(many.advance.lower(plan.recipe, views, state, chunk, mesh, mode))
    current = [state]

    def call():
        # Arrays without elements come back on all devices; placed, they go in again.
        current[0] = many.place(jax.block_until_ready(program(views, current[0]))[0], mesh)

    return Contestant(call, seconds, batch_size.device_bytes(program))


def _compiled(lowered):
    begin = time.perf_counter()
    program = lowered.compile()
    return program, time.perf_counter() - begin


# --- figures ------------------------------------------------------------------------------------


def estimate_bytes(
    num_gaussians: int, size: int, views: int, sh_degree: int = 0, channels: int = 4
) -> dict[str, float]:
    """What one object needs on a device by its sizes, bytes by part.

    parameters: float32 of 11 numbers and 3 an SH coefficient, their gradient, two moments of Adam.
    pictures: uint8. workspace: 15 pictures of three float32 channels, for render, alpha, SSIM and
    what their gradients keep. lists: three int32 a pair of Gaussian and tile, twice (sorting).
    """
    parameters = 16 * (11 + 3 * (sh_degree + 1) ** 2) * num_gaussians
    return {
        "parameters": parameters,
        "pictures": channels * views * size**2,
        "workspace": 15 * 12 * size**2,
        "lists": 24 * _TILES_PER_GAUSSIAN * num_gaussians,
    }


def measure(args, plan, ready: list, batch: int) -> list[dict]:
    """Rows of one B: the loop first, then the waves that the devices can share."""
    import jax

    from gsjax.raster import bench
    from gsjax.systems.scene_fit import many

    wave = [ready[place % len(ready)] for place in range(batch)]
    found = {("loop", 1): loop_of_single_fits(plan, wave, args.chunk)}
    for devices in args.devices:
        if devices > len(jax.local_devices()) or batch % devices:
            continue
        mesh = many.make_mesh(jax.local_devices()[:devices])
        for mode in args.modes:
            found[mode, devices] = wave_of_fits(plan, wave, args.chunk, mesh, mode)
    times = bench.alternate({key: (one.call, ()) for key, one in found.items()}, args.repeats)
    rows = []
    for (mode, devices), one in found.items():
        ms = times[mode, devices]
        rate = 1e3 * batch * args.chunk / ms
        rows.append(dict(
            objects=batch, mode=mode, devices=devices, ms_per_step=1e3 / rate,
            object_steps_per_second=rate, objects_per_minute=60 * rate / args.num_steps,
            ratio=times["loop", 1] / ms, compile_seconds=one.compile_seconds,
            device_bytes=one.device_bytes, mb_per_object=None,
        ))  # fmt: skip
    return rows


def with_memory(row: dict, rows: list[dict]) -> dict:
    """The row with its memory per object, by the row of fewest objects of the same layout.

    The loop holds one program for one object: no figure.
    """
    alike = [r for r in rows if (r["mode"], r["devices"]) == (row["mode"], row["devices"])]
    least = min(alike, key=lambda r: r["objects"])
    more = (row["objects"] - least["objects"]) / row["devices"]
    if row["mode"] == "loop" or not more:
        return row
    return row | {"mb_per_object": (row["device_bytes"] - least["device_bytes"]) / more / _MB}


# --- report -------------------------------------------------------------------------------------

_HEAD = ("objects", "mode", "devices", "ms/step", "object-steps/s", "objects/min", "ratio",
         "compile s", "MB/object")  # fmt: skip


def table_line(row: dict) -> str:
    """One line of the markdown table."""
    memory = row["mb_per_object"]
    cells = (
        row["objects"], row["mode"], row["devices"], f"{row['ms_per_step']:.2f}",
        f"{row['object_steps_per_second']:.1f}", f"{row['objects_per_minute']:.2f}",
        f"{row['ratio']:.2f}", f"{row['compile_seconds']:.1f}", "" if memory is None else f"{memory:.2f}",
    )  # fmt: skip
    return f"| {' | '.join(str(cell) for cell in cells)} |"


def estimate_line(title: str, parts: dict[str, float]) -> str:
    """The parts of an estimate and their sum, in MB."""
    listed = ", ".join(f"{name} {value / _MB:.1f}" for name, value in parts.items())
    return f"{title}: {sum(parts.values()) / _MB:.1f} MB an object ({listed})"


def run(args) -> dict:
    """Measures and prints all rows; returns what --json writes."""
    import jax

    from gsjax.raster import bench

    plan, ready = prepared(args)
    print(
        f"{args.num_gaussians} Gaussians, {args.views} views of {args.size} x {args.size}, "
        f"{len(ready)} different objects, {jax.devices()[0].device_kind}\n"
    )
    print(f"| {' | '.join(_HEAD)} |\n|{'---|' * len(_HEAD)}", flush=True)
    rows = []
    for batch in args.batches:
        for found in measure(args, plan, ready, batch):
            rows.append(with_memory(found, [*rows, found]))
            print(table_line(rows[-1]), flush=True)
    estimate = estimate_bytes(args.num_gaussians, args.size, args.views)
    usual = estimate_bytes(16_384, 256, 36, channels=3)
    print()
    print(estimate_line("estimate of these sizes", estimate))
    print(estimate_line("of 16,384 Gaussians and 36 RGB views of 256 x 256", usual))
    settings = {k: v for k, v in vars(args).items() if k != "json"}
    return dict(environment=bench.describe(), settings=settings, rows=rows, estimate_bytes=estimate)


def main(argv=None) -> None:
    """Command line entry."""
    args = parse(argv)
    runtime.configure_environment()
    runtime.keep_freed_memory()
    import jax

    if jax.config.jax_platforms in (None, "", "cpu"):
        jax.config.update("jax_num_cpu_devices", max(args.devices))
    result = run(args)
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
