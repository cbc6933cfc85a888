"""Code of the pages: python that is a whole program runs, all other is marked; shell commands parse.

A python block runs unless a line before it says why not (``<!-- not run: REASON -->``) or which file it
is (``<!-- file: NAME -->``: compiled here, and used by a test of its own). Blocks of one page run in order
in one namespace, in a folder that holds a ``scene.ply``. Commands of gsjax are held against its parser.
"""

import ast
import re
import shlex
import subprocess

import numpy as np
import pytest

from gsjax.cli import main
from gsjax.io import formats
from gsjax.train import config_files
from tests.docs import pages

BLOCKS = [(path, block) for path in pages.PAGES for block in pages.blocks(path)]


def _name(value):
    return str(value.relative_to(pages.ROOT)) if hasattr(value, "relative_to") else None


def _programs():
    found = {}
    for path, block in BLOCKS:
        if block.language == "python" and not (block.reason or block.file):
            found.setdefault(path, []).append(block)
    return sorted(found.items())


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A working directory with a small splat file."""
    rng = np.random.default_rng(0)
    shape = (50, 3)
    scene = dict(
        means=rng.normal(size=shape),
        quats=rng.normal(size=(50, 4)),
        log_scales=np.full(shape, -2.0),
        logit_opacities=np.ones(50),
        sh=rng.normal(size=(50, 1, 3)),
    )
    formats.save_gaussians(
        tmp_path / "scene.ply", {k: v.astype(np.float32) for k, v in scene.items()}
    )
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("path, blocks", _programs(), ids=_name)
def test_python_of_a_page_runs(path, blocks, folder):
    space = {"__name__": "__page__"}
    for block in blocks:
        code = "\n" * block.line + block.text  # tracebacks show the page's line
        exec(compile(code, str(path), "exec"), space)
    written = re.findall(r'\.save\("(.+?)"\)', "".join(block.text for block in blocks))
    assert all((folder / name).stat().st_size > 100 for name in written)


def test_some_pages_are_programs():
    names = {path.name for path, _ in _programs()}
    assert {"README.md", "getting_started.md", "choosing.md"} <= names


def test_python_that_does_not_run_says_why_and_is_python_all_the_same():
    for path, block in BLOCKS:
        if block.language == "python":
            ast.parse(block.text, filename=f"{path}:{block.line}")
            assert not (block.reason and block.file)
            assert not block.reason or len(block.reason) > 10, f"{path}:{block.line}"


def test_shell_blocks_parse():
    shell = [(path, block) for path, block in BLOCKS if block.language in ("bash", "sh")]
    assert len(shell) > 5
    for path, block in shell:
        done = subprocess.run(["bash", "-n"], input=block.text, text=True, capture_output=True)
        assert done.returncode == 0, f"{path}:{block.line}: {done.stderr}"


def commands(text: str) -> list[list[str]]:
    """Words of the gsjax commands of a text, lines that go on joined, comments left out."""
    joined = re.sub(r"\\\n\s*", " ", text)
    found = re.findall(r"^ *(?:\S*/bin/|\$ )?gsjax (.*)$", joined, re.M)
    return [shlex.split(line, comments=True) for line in found]


def _check(words: list[str], where: str) -> None:
    try:
        args = main.parse(words)
    except SystemExit as stop:
        if stop.code:  # --help ends with 0
            raise AssertionError(f"{where}: gsjax does not take {words}") from None
        return
    if getattr(args, "config", "") and config_files.pathlib.Path(args.config).parent.name == "":
        config_files.load(args.config)  # the name and what follows the colon


def test_commands_of_pages_are_understood():
    checked = 0
    for path in pages.PAGES:
        texts = [block.text for block in pages.blocks(path) if block.language in ("bash", "sh")]
        texts += re.findall(r"^(?: {4}.+\n)+", path.read_text(), re.M)  # indented code
        for text in texts:
            for words in commands(text):
                _check(words, str(path))
                checked += 1
    assert checked > 10


@pytest.mark.parametrize("name", main.COMMANDS)
def test_examples_of_the_help_are_understood(name):
    module = main._module(name)
    plain = re.sub(r"^\w+=\S+ ", "", module.EXAMPLES, flags=re.M)  # variables before a command
    examples = commands(plain)
    assert any(words[0] == name for words in examples)
    for words in examples:
        _check(words, name)
