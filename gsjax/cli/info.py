"""``gsjax info``: versions, devices, rasterizer backends, and what a splat file holds."""

import argparse
import platform
from importlib import metadata

from gsjax.cli import render

HELP = "show versions, devices and rasterizer backends; with files, what they hold"
EXAMPLES = """
gsjax info
gsjax info scene.ply scene.spz
"""

_PACKAGES = (
    "gsjax jax jaxlib flax optax orbax-checkpoint grain tensorflow-datasets chex numpy".split()
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "files",
        nargs="*",
        help="splat files to describe: .ply, .compressed.ply, .splat, .spz, .npy tables or .pkl "
        "records of UniGS",
    )
    render.add_bad_rows_argument(parser)


def run(args: argparse.Namespace) -> int:
    if args.files:
        for path in args.files:
            print(describe_file(path, render.on_bad_rows(args)))
        return 0
    print(f"python {platform.python_version()} on {platform.platform()}")
    for name in _PACKAGES:
        print(f"{name} {_version(name)}")
    _print_devices()
    return 0


def describe_file(path: str, on_bad_rows: str = "error") -> str:
    """One paragraph about a splat file: count, SH degree, box, opacity and scale quantiles.

    ``on_bad_rows`` as ``io.formats.load_gaussians`` takes it.
    """
    import numpy as np

    from gsjax.io import formats

    g = formats.load_gaussians(path, on_bad_rows=on_bad_rows)
    means, scales = g["means"], np.exp(g["log_scales"])
    alpha = 1.0 / (1.0 + np.exp(-g["logit_opacities"]))
    degree = int(np.sqrt(g["sh"].shape[1])) - 1
    low, mid, high = np.quantile(scales, [0.01, 0.5, 0.99])
    return (
        f"{path}: {len(means)} Gaussians, SH degree {degree}\n"
        f"  box {np.round(means.min(0), 4)} .. {np.round(means.max(0), 4)}\n"
        f"  scale 1 % / median / 99 %: {low:.3g} / {mid:.3g} / {high:.3g}\n"
        f"  opacity median {np.median(alpha):.3f}, {np.mean(alpha < 1 / 255):.1%} below 1/255"
    )


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "not installed"


def _print_devices() -> None:
    import jax

    from gsjax import runtime
    from gsjax.raster.blend import backends

    kinds = sorted({d.device_kind for d in jax.devices()})
    print(f"devices: {jax.device_count()} x {', '.join(kinds)} ({jax.default_backend()})")
    chosen = backends.choose()[0]
    for name in backends.BACKENDS:
        reason = "the choice for this device" if name == chosen else backends.why_not(name)
        print(f"rasterizer {name}: {reason or 'can serve'}")
    if runtime.needs_loop_flag() and not runtime.loop_flag_is_set():
        print("XLA_FLAGS lacks the native-loop option: CPU blending will be about 3x slower")
