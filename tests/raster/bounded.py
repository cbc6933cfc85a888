"""A scene far larger than its buffer: python -m tests.raster.bounded (needs GSJAX_DATA).

Repeats the garden's points on a grid until there are --gaussians of them, renders them at 1920 x
1080 with tile lists of --capacity entries and again with lists that hold everything, each in a
process of its own, and compares image and gradient of the loss by opacities. Prints passes, pairs,
peak resident memory and the compiler's figure.
"""

import argparse
import json
import os
import pathlib
import resource
import subprocess
import sys
import tempfile
import time

import numpy as np

WIDTH, HEIGHT = 1920, 1080
UNBOUNDED = 2**26


def render(args) -> None:
    """One process: renders with args.capacity and writes image, gradient and figures."""
    import jax
    import jax.numpy as jnp

    from gsjax.raster import api, garden

    scene = garden.load(pathlib.Path(os.environ["GSJAX_DATA"]), args.gaussians, WIDTH, HEIGHT)

    def loss(opacities, rest):
        image, _, meta = api.rasterize(
            opacities=opacities, **rest, width=WIDTH, height=HEIGHT, capacity=args.capacity,
            backend="xla_loop",
        )  # fmt: skip
        kept = {k: meta[k][0] for k in ("num_pairs", "num_passes", "overflow")}
        return jnp.mean(image**2), (image, kept)

    opacities = scene.pop("opacities")
    step = jax.jit(jax.grad(loss, has_aux=True)).lower(opacities, scene).compile()
    begin = time.perf_counter()
    gradient, (image, meta) = jax.tree.map(np.asarray, step(opacities, scene))
    stats = step.memory_analysis()
    figures = {k: int(v) for k, v in meta.items()} | dict(
        seconds=round(time.perf_counter() - begin, 1),
        resident_mb=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        compiler_mb=int(stats.temp_size_in_bytes + stats.argument_size_in_bytes) >> 20,
    )
    np.savez(args.out, image=image, gradient=gradient)
    pathlib.Path(args.out).with_suffix(".json").write_text(json.dumps(figures))


def compare(args) -> dict:
    """Both runs; raises AssertionError where they differ."""
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, capacity in (("bounded", args.capacity), ("unbounded", UNBOUNDED)):
            out = pathlib.Path(folder) / f"{name}.npz"
            command = [
                sys.executable,
                "-m",
                "tests.raster.bounded",
                f"--gaussians={args.gaussians}",
            ]
            subprocess.run([*command, f"--capacity={capacity}", f"--out={out}"], check=True)
            figures = json.loads(out.with_suffix(".json").read_text())
            print(f"{name}: capacity {capacity}, {figures}", flush=True)
            with np.load(out) as file:
                found[name] = figures, file["image"], file["gradient"]
    (first, image, gradient), (second, expected, expected_gradient) = found.values()
    assert first["overflow"] == second["overflow"] == 0
    assert first["num_passes"] > 1 == second["num_passes"]
    np.testing.assert_array_equal(image, expected)
    error = np.linalg.norm(gradient - expected_gradient) / np.linalg.norm(expected_gradient)
    print(f"images equal bit for bit, gradients to {error:.1e}; brightest {image.max():.2f}")
    assert error < 1e-5
    return first


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--gaussians", type=int, default=5_000_000)
    parser.add_argument("--capacity", type=int, default=2_000_000)
    parser.add_argument("--out", help="render once with --capacity and write the result here")
    args = parser.parse_args()
    if args.out:
        from gsjax import runtime

        runtime.configure_environment()
        render(args)
    else:
        compare(args)


if __name__ == "__main__":
    main()
