"""The import rules of the package, read from its source with ast.

core -> raster -> {models, losses, metrics, io} -> data -> systems -> evals -> train -> cli: lower
never sees higher, layers of equal rank do not see one another, systems do not either.
"""

import ast
import pathlib

import pytest

import gsjax

PACKAGE = pathlib.Path(gsjax.__file__).parent
RANK = {
    "runtime": 0,
    "version": 0,
    "core": 1,
    "raster": 2,
    "models": 3,
    "losses": 3,
    "metrics": 3,
    "io": 3,
    "assets": 3,
    "data": 4,
    "systems": 5,
    "evals": 6,
    "train": 7,
    "cli": 8,
}
# Third-party package -> folders that may import it.
ONLY_IN = {
    "flax.linen": {"models", "systems"},
    "grain": {"data"},
    "tensorflow_datasets": {"data"},
    "orbax": {"train"},
    "jax.experimental.pallas": {"raster"},
}
NO_JAX = ("io", "data")
# Modules of data/ that compute with JAX: they build sets (render, embed) and never run in the
# input pipeline's worker processes.
BUILDERS = {
    "render.py", "build.py", "embed.py", "mesh_views.py", "procedural_build.py", "twins.py",
    "mesh_collections.py", "paired_build.py", "paired_surface.py",
}  # fmt: skip
FORBIDDEN_NAMES = {"utils.py", "helpers.py", "misc.py"}


def _sources():
    return sorted(PACKAGE.rglob("*.py"))


def _imports(path: pathlib.Path) -> set[str]:
    """Dotted names that a file imports, anywhere in it."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def _layer(path: pathlib.Path) -> str:
    relative = path.relative_to(PACKAGE)
    return relative.parts[0] if len(relative.parts) > 1 else relative.stem


def test_every_folder_has_a_rank():
    folders = {p.name for p in PACKAGE.iterdir() if p.is_dir() and p.name != "__pycache__"}
    assert folders <= set(RANK)


@pytest.mark.parametrize("path", _sources(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_go_down(path):
    layer = _layer(path)
    if layer == "__init__":
        return
    for name in _imports(path):
        parts = name.split(".")
        if parts[0] == "gsjax" and len(parts) > 1 and parts[1] in RANK:
            target = parts[1]
            assert target == layer or RANK[target] < RANK[layer], f"{layer} imports {name}"
            if layer == target == "systems" and len(parts) > 2:
                own = path.relative_to(PACKAGE).parts[1]
                assert parts[2] in (own, "base"), f"system {own} imports {name}"
            if layer in ("evals", "train") and target == "systems":
                assert parts[2] == "base", f"{layer} imports {name}, not only systems.base"
        for package, folders in ONLY_IN.items():
            if name == package or name.startswith(package + "."):
                assert layer in folders, f"{layer} imports {name}; only {sorted(folders)} may"


def test_input_pipeline_imports_no_jax():
    for path in _sources():
        if _layer(path) in NO_JAX and path.name not in BUILDERS:
            jax_names = {n for n in _imports(path) if n.split(".")[0] in ("jax", "jaxlib", "flax")}
            assert not jax_names, f"{path}: {jax_names}"


def test_no_catch_all_modules_and_no_long_files():
    for path in _sources():
        assert path.name not in FORBIDDEN_NAMES
        assert len(path.read_text().splitlines()) <= 500, path
