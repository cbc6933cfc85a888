"""What storage can do to a checkpoint that lies there: cut a file short, flip a bit, lose a file."""

import json
import pathlib
import random
import shutil

from gsjax.train import checkpoint


def prepare(finished, workdir, newest: int) -> None:
    """Copies a run folder as it was when the checkpoint of step ``newest`` had been written."""
    shutil.copytree(finished, workdir)
    for folder in (workdir / checkpoint.FOLDER).iterdir():
        if int(folder.name) > newest:
            shutil.rmtree(folder)
    path = workdir / "metrics.jsonl"
    rows = [line for line in path.read_text().splitlines() if json.loads(line)["step"] <= newest]
    path.write_text("".join(row + "\n" for row in rows))


def inflict(kind: str, folder: pathlib.Path, draw: random.Random, *, vital: bool) -> dict:
    """Damages one file of a checkpoint.

    Args:
        kind: 'truncated', 'bit_flipped' or 'file_missing'.
        folder: of the checkpoint.
        draw: where.
        vital: the file that holds the arrays; else any.

    Returns:
        What was done: file, and where in it.
    """
    files = sorted(p for p in folder.rglob("*") if p.is_file() and p.stat().st_size)
    path = max(files, key=lambda p: p.stat().st_size) if vital else draw.choice(files)
    content = bytearray(path.read_bytes())
    done = {"file": str(path.relative_to(folder)), "bytes": len(content)}
    if kind == "file_missing":
        path.unlink()
        return done
    place = draw.randrange(len(content))
    if kind == "truncated":
        path.write_bytes(content[:place])
    else:
        content[place] ^= 1 << draw.randrange(8)
        path.write_bytes(content)
    return {**done, "place": place}
