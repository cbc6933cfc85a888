"""``gsjax doctor``: is this installation whole, what runs where, and does it draw what it should."""

import argparse
import glob
import os
import pathlib
import shutil
from collections.abc import Callable

from gsjax.cli import doctor_packages, doctor_render
from gsjax.cli.doctor_packages import BROKEN, NOTE, OK, WARNING, Finding

HELP = "check versions, devices, backends, folders and extras, and render a test scene"
ABOUT = """Checks what a run depends on, and draws a made-up scene forward and backward with the rasterizer of this
device and with the reference. Every finding that asks for something has a line that says what to do.
Exit status: 0 if all is well (warnings and absent extras included), 1 if something is broken."""
EXAMPLES = """
gsjax doctor
JAX_PLATFORMS=cpu gsjax doctor        # what would run without the accelerator
"""
_MARKS = {OK: "  ok   ", NOTE: "  -    ", WARNING: "  warn ", BROKEN: "  FAIL "}
_LEAST_FREE = 5e9  # bytes; a small data set with its pictures and a few checkpoints


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--no-render", action="store_true", help="leave out the test scene")


def run(args: argparse.Namespace) -> int:
    sections = SECTIONS if not args.no_render else SECTIONS[:-1]
    broken = warned = 0
    for title, check, remedy in sections:
        print(f"{title}:")
        for found in findings(check, remedy):
            broken += found.state == BROKEN
            warned += found.state == WARNING
            print(f"{_MARKS[found.state]}{found.text}", flush=True)
            if found.remedy:
                print(f"{'':9s}-> {found.remedy}")
    if broken:
        print(f"{broken} broken, {warned} warnings: do what the arrows say, then ask again")
    else:
        print("all is well" + (f", with {warned} warnings" if warned else ""))
    return 1 if broken else 0


def findings(check: Callable[[], list[Finding]], remedy: str) -> list[Finding]:
    """What a check finds; one that raises is a finding, too: the doctor ends with a report."""
    try:
        return check()
    except Exception as error:  # whatever a broken installation raises
        text = " ".join(str(error).split())[:300]
        return [Finding(BROKEN, f"{type(error).__name__}: {text}", remedy)]


def check_devices() -> list[Finding]:
    """JAX's devices and their memory, and whether an accelerator lies idle."""
    import jax

    platform, devices = jax.default_backend(), jax.devices()
    kinds = sorted({device.device_kind for device in devices})
    found = [Finding(OK, f"{len(devices)} x {', '.join(kinds)} ({platform})")]
    stats = devices[0].memory_stats() or {}
    if "bytes_limit" in stats:
        free = stats["bytes_limit"] - stats.get("bytes_in_use", 0)
        found.append(Finding(OK, f"{_gb(free)} of {_gb(stats['bytes_limit'])} free on the first"))
    memory = main_memory()
    if memory:
        found.append(
            Finding(
                OK, f"{_gb(memory[0])} of {_gb(memory[1])} main memory free, {os.cpu_count()} cores"
            )
        )
    if platform == "cpu" and glob.glob("/dev/nvidia[0-9]*"):
        chosen = os.environ.get("JAX_PLATFORMS")
        remedy = (
            f"unset JAX_PLATFORMS (it is {chosen!r})" if chosen else "pip install 'gsjax[cuda13]'"
        )
        found.append(Finding(WARNING, "there is an NVIDIA GPU, and JAX does not use it", remedy))
    return found


def main_memory() -> tuple[int, int] | None:
    """(available, total) bytes of main memory, where Linux tells."""
    path = pathlib.Path("/proc/meminfo")
    if not path.exists():
        return None
    lines = (line.split() for line in path.read_text().splitlines())
    kib = {line[0].rstrip(":"): int(line[1]) for line in lines}
    return kib["MemAvailable"] * 1024, kib["MemTotal"] * 1024


def check_flags() -> list[Finding]:
    """The XLA flag that CPU rendering needs."""
    from gsjax import runtime

    if not runtime.needs_loop_flag():
        return [Finding(OK, "this JAX needs none of ours")]
    if runtime.loop_flag_is_set():
        return [
            Finding(OK, f"gsjax's commands and main.py set {runtime.LOOP_FLAG}"),
            Finding(
                NOTE,
                "a program of your own renders about three times slower on the CPU without it",
                "call gsjax.runtime.configure_environment() before JAX computes anything",
            ),
        ]
    return [
        Finding(
            WARNING,
            "XLA_FLAGS has --xla_backend_extra_options without the native-loop threshold: rendering on "
            "the CPU is about three times slower",
            f"add {runtime.LOOP_FLAG.split('=', 1)[1]} to it, behind a comma",
        )
    ]


def check_backends() -> list[Finding]:
    """The rasterizer's backend for this device, and why the others were passed over."""
    from gsjax.raster.blend import backends

    chosen = backends.choose()[0]
    found = [Finding(OK, f"{chosen}: the choice for this device")]
    for name in backends.BACKENDS:
        if name != chosen:
            found.append(
                Finding(NOTE, f"{name}: {backends.why_not(name) or 'can serve, if named'}")
            )
    return found


def check_folders() -> list[Finding]:
    """The cache of data sets, the data and the config files."""
    from gsjax.data import store
    from gsjax.train import config_files

    cache = pathlib.Path(os.fspath(store.cache_root()))
    there = next(place for place in (cache, *cache.absolute().parents) if place.exists())
    free = shutil.disk_usage(there).free
    if not os.access(there, os.W_OK):
        found = [
            Finding(
                BROKEN, f"cache {cache}: cannot be written", "set GSJAX_CACHE to a folder of yours"
            )
        ]
    elif free < _LEAST_FREE:
        text = f"cache {cache}: {_gb(free)} free"
        found = [
            Finding(WARNING, text, "free some, or set GSJAX_CACHE to a folder on a larger disk")
        ]
    else:
        found = [Finding(OK, f"cache {cache}: {_gb(free)} free")]
    data = os.environ.get("GSJAX_DATA", "")
    if not data:
        found.append(
            Finding(
                NOTE, "GSJAX_DATA is not set: sets that need files ask for --config.data.source"
            )
        )
    elif not pathlib.Path(data).is_dir():
        found.append(
            Finding(WARNING, f"GSJAX_DATA: {data} is no folder", "set it to one, or unset it")
        )
    else:
        found.append(Finding(OK, f"GSJAX_DATA {data}"))
    found.append(Finding(OK, f"configs {config_files.folder()}: {len(config_files.names())} files"))
    return found


def check_render() -> list[Finding]:
    """The made-up scene on the backend of this device, against the definition."""
    from gsjax.raster.blend import backends

    seen = doctor_render.compare(backends.choose()[0])
    text = (
        f"{seen.backend}: forward and backward of {doctor_render.GAUSSIANS} Gaussians in "
        f"{1000 * seen.seconds:.1f} ms (first time {seen.first_seconds:.1f} s); differs from reference by "
        f"{seen.image_error:.1e} (image, largest) and {seen.gradient_error:.1e} (gradients, relative)"
    )
    if seen.well:
        return [Finding(OK, text)]
    return [Finding(BROKEN, text, _NAME_ANOTHER)]


def _gb(count: float) -> str:
    return f"{count / 1e9:.1f} GB"


_NAME_ANOTHER = (
    "pass backend='xla_group' to rasterize, and tell the project: device, driver, versions above"
)
_REINSTALL = "pip install --upgrade --force-reinstall gsjax, in a fresh environment"
SECTIONS = (
    ("packages", doctor_packages.check_required, _REINSTALL),
    ("devices", check_devices, "update the driver, or set JAX_PLATFORMS=cpu"),
    ("XLA flags", check_flags, _REINSTALL),
    ("rasterizer", check_backends, _REINSTALL),
    ("folders", check_folders, _REINSTALL),
    ("optional extras", doctor_packages.check_extras, _REINSTALL),
    ("test scene", check_render, _NAME_ANOTHER),
)
