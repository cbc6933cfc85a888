"""Executes every notebook of a folder from top to bottom; a failing cell fails the command.

python tests/smoke/run_notebooks.py FOLDER
"""

import pathlib
import sys

import nbclient
import nbformat


def run(path: pathlib.Path) -> int:
    """Number of code cells executed."""
    notebook = nbformat.read(path, as_version=4)
    client = nbclient.NotebookClient(notebook, timeout=300, kernel_name="python3")
    client.execute(cwd=str(path.parent))
    return sum(cell.cell_type == "code" for cell in notebook.cells)


if __name__ == "__main__":
    found = sorted(pathlib.Path(sys.argv[1]).glob("*.ipynb"))
    assert found, f"no notebooks in {sys.argv[1]}"
    for path in found:
        print(f"{path}: {run(path)} cells executed")
