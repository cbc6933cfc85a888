"""What ``gsjax doctor`` says of Python and packages: installed versions against the bounds of setup.cfg.

Bounds are read from the installed package's metadata, or from setup.cfg of a checkout that is not
installed. Imports nothing but the standard library.
"""

import configparser
import pathlib
import platform
import re
from importlib import metadata
from typing import NamedTuple

import gsjax

OK, NOTE, WARNING, BROKEN = "ok", "note", "warning", "broken"

# What each optional extra is for; the extras of developers are left out.
EXTRAS = {
    "cuda12": "NVIDIA GPUs, CUDA 12",
    "cuda13": "NVIDIA GPUs, CUDA 13",
    "tpu": "TPUs",
    "beam": "packing data sets with Beam",
    "clip": "captions of CLIP towers, safetensors",
    "colmap": "COLMAP models",
    "eval": "linear probes by SVM, t-SNE",
    "gcs": "run folders and data at gs://",
    "h5": "HDF5 data sets",
    "io": ".spz version 4",
    "mesh": "mesh files",
    "plots": "figures of studies and t-SNE",
    "s3": "run folders and data at s3://",
    "semantic": "the image/text pair of real objects",
    "video": ".mp4 turntables",
    "viewer": "gsjax view",
    "wandb": "runs logged to Weights & Biases",
}
DEVELOPERS = ("test", "parity", "docs")
# Distributions that an extra of a package installs which is itself always there.
_PLUGINS = {
    "jax[cuda12]": "jax-cuda12-plugin",
    "jax[cuda13]": "jax-cuda13-plugin",
    "jax[tpu]": "libtpu",
    "etils[epath-gcs]": "gcsfs",
    "etils[epath-s3]": "s3fs",
    "imageio[ffmpeg]": "imageio-ffmpeg",
}
_SHOWN = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy")


class Finding(NamedTuple):
    """One line of the report."""

    state: str  # OK | NOTE | WARNING | BROKEN
    text: str
    remedy: str = ""


class Requirement(NamedTuple):
    """A package that gsjax, or one of its extras, asks for."""

    name: str  # with its own extras: 'jax[tpu]'
    bounds: tuple[tuple[str, str], ...]  # (operator, version)
    extra: str  # '' = always

    @property
    def distribution(self) -> str:
        """Whose presence tells that it is installed."""
        return _PLUGINS.get(self.name, self.name.partition("[")[0])


def parse(text: str) -> Requirement:
    """A requirement as metadata has it: 'orbax-checkpoint<1,>=0.12; extra == "x"'.

    Raises:
        ValueError: not of that form.
    """
    spec, _, marker = text.partition(";")
    extra = re.search(r"extra\s*==\s*['\"]([\w-]+)['\"]", marker)
    match = re.fullmatch(r"\s*([\w.-]+(?:\[[\w,.-]+\])?)\s*\(?([^)]*)\)?\s*", spec)
    if match is None or not re.fullmatch(r"([<>=!~]+\s*[\w.*+!-]+\s*,?\s*)*", match[2]):
        raise ValueError(f"requirement: cannot read {text!r}; expected NAME>=VERSION")
    bounds = re.findall(r"(>=|<=|==|!=|~=|<|>)\s*([^\s,]+)", match[2])
    return Requirement(match[1], tuple(bounds), extra[1] if extra else "")


def version_tuple(text: str) -> tuple[int, ...]:
    """Leading integers: (0, 10, 2) of '0.10.2', '0.10.2rc1' and '0.10.2.dev3'."""
    numbers = re.match(r"\d+(\.\d+)*", text)
    return tuple(int(part) for part in numbers[0].split(".")) if numbers else ()


def meets(version: str, bounds) -> bool:
    """Whether a version is within bounds (of '~=' and '!=' nothing is asked)."""
    found = version_tuple(version)
    for operator, text in bounds:
        bound = version_tuple(text)
        size = max(len(found), len(bound))
        a, b = (x + (0,) * (size - len(x)) for x in (found, bound))
        fits = {">=": a >= b, "<=": a <= b, "==": a == b, "<": a < b, ">": a > b}
        if not fits.get(operator, True):
            return False
    return True


def declared() -> tuple[list[Requirement], str]:
    """(requirements of gsjax and of its extras, bounds on Python).

    Raises:
        ValueError: neither installed nor in a checkout.
    """
    try:
        about = metadata.distribution("gsjax")
        return [parse(text) for text in about.requires or ()], about.metadata["Requires-Python"]
    except metadata.PackageNotFoundError:
        pass
    path = pathlib.Path(gsjax.__file__).parents[1] / "setup.cfg"
    if not path.is_file():
        raise ValueError(f"gsjax: not installed, and {path} does not exist; pip install gsjax")
    return from_setup_cfg(path)


def from_setup_cfg(path) -> tuple[list[Requirement], str]:
    """As :func:`declared`, of a setup.cfg."""
    config = configparser.ConfigParser()
    config.read(path)
    listed = {"": config["options"]["install_requires"], **config["options.extras_require"]}
    found = []
    for extra, text in listed.items():
        lines = (line.partition(" #")[0].strip() for line in text.splitlines())
        found += [parse(line)._replace(extra=extra) for line in lines if line]
    return found, config["options"]["python_requires"]


def installed(distribution: str) -> str | None:
    """Version of an installed distribution, or None."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def check_required() -> list[Finding]:
    """Python and the packages that gsjax cannot do without."""
    requirements, python = declared()
    bounds = parse(f"python{python}").bounds
    version = platform.python_version()
    findings = [Finding(OK, f"Python {version} on {platform.platform()}")]
    if not meets(version, bounds):
        findings = [Finding(WARNING, f"Python {version}, asked for {python}", "use a newer Python")]
    versions = [f"{name} {installed(name) or 'absent'}" for name in ("gsjax", *_SHOWN)]
    findings.append(Finding(OK, ", ".join(versions)))
    for item in requirements:
        if not item.extra:
            findings += _check(item)
    return findings


def _check(item: Requirement) -> list[Finding]:
    version = installed(item.distribution) and installed(item.name.partition("[")[0])
    wanted = item.name + ",".join(f"{operator}{bound}" for operator, bound in item.bounds)
    if version is None:
        return [Finding(BROKEN, f"{item.name} is not installed", f"pip install '{wanted}'")]
    if not meets(version, item.bounds):
        text = f"{item.name} {version} is outside what gsjax was tested with ({wanted})"
        return [Finding(WARNING, text, f"pip install '{wanted}'")]
    return []


def check_extras() -> list[Finding]:
    """Optional extras: there, or what adds them."""
    requirements, _ = declared()
    findings = []
    for extra in sorted({r.extra for r in requirements if r.extra not in ("", *DEVELOPERS)}):
        wanted = [r for r in requirements if r.extra == extra]
        absent = [r.distribution for r in wanted if installed(r.distribution) is None]
        purpose = EXTRAS.get(extra, "")
        if absent:
            text = f"{extra}: absent ({purpose})"
            findings.append(Finding(NOTE, text, f"pip install 'gsjax[{extra}]'"))
            continue
        findings.append(Finding(OK, f"{extra}: present ({purpose})"))
        for item in wanted:
            findings += _check(item)
    return findings
