"""What the package's source may not do: run what a file or a text holds, unpack archives by their own names.

Checked with ast over everything that is installed or launched. Exceptions stand in ``ALLOWED``, each with
its reason. What readers make of hostile files is tested in tests/fuzz.
"""

import ast
import pathlib

import pytest

import gsjax

ROOT = pathlib.Path(gsjax.__file__).parents[1]
SOURCES = ("gsjax", "launch", "configs", "main.py", "colabs", "docs")
# Calls, by the last parts of their dotted name, and why not.
FORBIDDEN = {
    "eval": "runs text", "exec": "runs text", "compile": "runs text", "__import__": "runs text",
    "os.system": "runs a shell", "os.popen": "runs a shell", "subprocess.getoutput": "runs a shell",
    "subprocess.getstatusoutput": "runs a shell",
    "pickle.load": "runs what a file holds", "pickle.loads": "runs what a file holds",
    "pickle.Unpickler": "runs what a file holds", "marshal.loads": "runs what a file holds",
    "marshal.load": "runs what a file holds", "shelve.open": "runs what a file holds",
    "torch.load": "runs what a file holds", "joblib.load": "runs what a file holds",
    "yaml.load": "runs what a file holds", "yaml.full_load": "runs what a file holds",
    "yaml.unsafe_load": "runs what a file holds", "np.load": "takes memory by a header: io/npz",
    "numpy.load": "takes memory by a header: io/npz", "np.fromfile": "reads past what is checked",
    "extractall": "writes where an archive says", "extract": "writes where an archive says",
    "unpack_archive": "writes where an archive says", "tarfile.open": "no tar archives are read",
    "tempfile.mktemp": "a name that another process may take",
    "spec_from_file_location": "runs a file", "run_path": "runs a file",
    "urlopen": "fetches", "urlretrieve": "fetches", "Image.open": "starts any decoder: io/picture_file",
}  # fmt: skip
KEYWORDS = {
    "shell": "runs a shell",
    "allow_pickle": "unpickles",
    "trust_remote_code": "runs a file",
}
# (file, what) -> reason.
ALLOWED = {
    ("gsjax/io/picture_file.py", "Image.open"): "with a list of formats, for everyone",
    ("gsjax/io/npz.py", "np.load"): "memory map of a local file, never a pickle",
    (
        "gsjax/models/towers.py",
        "np.load",
    ): "models do not import io; never a pickle, all errors caught",
    ("gsjax/raster/garden.py", "np.load"): "the benchmark's own scene; raster does not import io",
    ("gsjax/cli/study.py", "spec_from_file_location"): "configs are Python, named by who runs them",
    ("gsjax/train/config_files.py", "spec_from_file_location"): "likewise",
    ("gsjax/raster/blend/gpu/ptx.py", "extract"): "an operation of the compiler, no archive",
    ("gsjax/raster/blend/gpu/mlir.py", "extract"): "an operation of the compiler, no archive",
}


def _dotted(node: ast.expr) -> str:
    if isinstance(node, ast.Attribute):
        return f"{_dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def _is_text(node: ast.expr) -> bool:
    """Whether an expression is a command line in one piece: a text, put together or not."""
    if isinstance(node, ast.BinOp):
        return _is_text(node.left) or _is_text(node.right)
    made = isinstance(node, ast.Call) and _dotted(node.func).endswith((".join", ".format"))
    plain = isinstance(node, ast.Constant) and isinstance(node.value, str)
    return plain or made or isinstance(node, ast.JoinedStr)


def offences(source: str) -> list[str]:
    """Forbidden calls of a Python source, by name; imports under other names are seen through."""
    tree = ast.parse(source)
    aliases = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            aliases |= {a.asname or a.name: f"{node.module}.{a.name}" for a in node.names}
        elif isinstance(node, ast.Import):
            aliases |= {a.asname: a.name for a in node.names if a.asname not in (None, "np")}
    found = []
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        first, _, rest = _dotted(node.func).partition(".")
        name = ".".join(filter(None, (aliases.get(first, first), rest)))
        for bad in FORBIDDEN:
            built_in = bad in ("eval", "exec", "compile", "__import__")
            called = isinstance(node.func, ast.Name) and name == bad
            if called if built_in else f".{name}".endswith(f".{bad}"):
                found.append(bad)
        found += [
            k.arg for k in node.keywords
            if k.arg in KEYWORDS and not (isinstance(k.value, ast.Constant) and k.value.value is False)
        ]  # fmt: skip
        if name.startswith("subprocess.") and node.args and _is_text(node.args[0]):
            found.append("a command as text")
    return found


def _files() -> list[pathlib.Path]:
    places = [ROOT / name for name in SOURCES]
    return sorted(p for q in places for p in ([q] if q.is_file() else q.rglob("*.py")))


def test_no_source_runs_what_it_reads():
    found = {
        (path.relative_to(ROOT).as_posix(), what)
        for path in _files()
        for what in offences(path.read_text())
    }
    assert len(_files()) > 200
    assert found == set(ALLOWED), "not allowed, or allowed for nothing"


@pytest.mark.parametrize(
    "source, what",
    [
        ("import os\nos.system('ls')", "os.system"),
        ("from os import system as s\ns('ls')", "os.system"),
        ("import subprocess\nsubprocess.run('ls', shell=True)", "shell"),
        ("import subprocess\nsubprocess.run(f'ls {x}')", "a command as text"),
        ("from subprocess import run\nrun(' '.join(x))", "a command as text"),
        ("import subprocess\nsubprocess.run(['ls'], shell=flag)", "shell"),
        ("import pickle as p\np.loads(x)", "pickle.loads"),
        ("from pickle import load\nload(x)", "pickle.load"),
        ("import numpy as np\nnp.load(x, allow_pickle=True)", "allow_pickle"),
        ("import numpy as np\nnp.load(x)", "np.load"),
        ("import yaml\nyaml.load(x)", "yaml.load"),
        ("import zipfile\nzipfile.ZipFile(x).extractall(y)", "extractall"),
        ("eval(x)", "eval"),
        ("from PIL import Image\nImage.open(x)", "Image.open"),
        ("import torch\ntorch.load(x)", "torch.load"),
    ],
)
def test_the_check_sees(source, what):
    assert what in offences(source)


@pytest.mark.parametrize(
    "source",
    [
        "import re\nre.compile('a')", "import jax\njax.jit(f).lower().compile()", "model.eval()",
        "import yaml\nyaml.safe_load(x)", "import subprocess\nsubprocess.run(['ls', x], check=True)",
    ],
)  # fmt: skip
def test_the_check_lets_pass(source):
    assert offences(source) == []
