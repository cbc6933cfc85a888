"""Every file of a checkpoint damaged in every way: the arrays come back right, from it or the one before."""

import random
import shutil

import jax
import numpy as np
import pytest

from tests.train import test_checkpoint as small


def harm(path, kind: str, draw: random.Random) -> None:
    """Damages a file as ``kind`` says."""
    content = bytearray(path.read_bytes())
    if kind == "missing":
        path.unlink()
    elif kind == "flipped" and content:
        content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
        path.write_bytes(content)
    elif kind != "flipped":
        path.write_bytes(content[: len(content) // 2] if kind == "half" else b"")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("kind", ["missing", "empty", "half", "flipped"])
def test_whatever_file_is_damaged_the_numbers_are_right(tmp_path, kind):
    small.write(tmp_path / "whole")
    newest = tmp_path / "whole" / "checkpoints" / "3"
    names = sorted(p.relative_to(newest) for p in newest.rglob("*") if p.is_file())
    assert len(names) > 20
    draw, noticed = random.Random(0), []
    for name in names:
        folder = tmp_path / "damaged"
        shutil.copytree(tmp_path / "whole", folder)
        harm(folder / "checkpoints" / "3" / name, kind, draw)
        found, steps = small.restore(folder)
        assert found.step == steps[-1] and found.step in (2, 3), name
        assert found.data == {"global_next_index": 10 * found.step}, name
        expected = small.tree(float(found.step))
        jax.tree.map(np.testing.assert_array_equal, found.state, expected)
        if found.step == 2:
            noticed.append(str(name))
        small.write(folder, steps=(3, 4))  # the run goes on
        assert small.restore(folder)[0].step == 4, name
        shutil.rmtree(folder)
    arrays = max(names, key=lambda name: (newest / name).stat().st_size)
    assert str(arrays) in noticed and any(name.startswith("meta/") for name in noticed)
