"""Checks a run folder from outside: falling loss, a checkpoint, a saved picture.

python tests/smoke/check_run.py [--no-picture] RUN_FOLDER
"""

import argparse
import json
import pathlib
import sys


def quarters(losses: list[float]) -> tuple[float, float]:
    """Mean loss of the first and of the last quarter of a run."""
    size = max(1, len(losses) // 4)
    return sum(losses[:size]) / size, sum(losses[-size:]) / size


def check(folder: pathlib.Path, picture: bool = True) -> str:
    """One line of findings.

    Raises:
        AssertionError: something that a finished run must have is missing.
    """
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    losses = [row["loss"] for row in rows if "loss" in row]
    first, last = quarters(losses)
    assert last < first, f"{folder}: loss did not fall: {first:.4f} -> {last:.4f}"
    steps = [p for p in (folder / "checkpoints").iterdir() if p.name.isdigit()]
    steps.sort(key=lambda p: int(p.name))
    assert steps, f"{folder}: no checkpoint"
    for name in ("config.json", "versions.json"):
        json.loads((folder / name).read_text())
    pictures = sorted(p for p in folder.rglob("*.png") if p.stat().st_size > 1000)
    assert pictures or not picture, f"{folder}: no picture"
    shown = ", ".join(str(p.relative_to(folder)) for p in pictures) or "none"
    return (
        f"{folder}: loss {first:.4f} -> {last:.4f}, checkpoint {steps[-1].name}, pictures {shown}"
    )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--no-picture", action="store_true")
    args = parser.parse_args()
    print(check(args.folder, picture=not args.no_picture))


if __name__ == "__main__":
    sys.exit(main())
