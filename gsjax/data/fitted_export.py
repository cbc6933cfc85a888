"""Fitted objects as splat files, one each.

    python -m gsjax.data.fitted_export FOLDER --out DIR [--split test] [--ending .ply]

Files lie in DIR/<category>/<uid>, slashes of a uid as dashes. What they can be read with is any viewer.
"""

import argparse
import pathlib

from gsjax.data import fitted
from gsjax.io import formats


def export(folder, out, *, split: str = "", ending: str = ".ply") -> list[pathlib.Path]:
    """Writes the objects of a folder of waves.

    Args:
        folder: what ``gsjax fit-objects`` wrote.
        out: folder of the files.
        split: 'train' or 'test'; '' = both.
        ending: of ``io.formats``.

    Returns:
        The files.

    Raises:
        ValueError: no objects, or an unknown ending.
    """
    paths = []
    for item in fitted.read(folder):
        if split and item.about["split"] != split:
            continue
        name = item.about["uid"].replace("/", "-") + ending
        path = pathlib.Path(out) / item.about["category"] / name
        path.parent.mkdir(parents=True, exist_ok=True)
        formats.save_gaussians(path, item.gaussians)
        paths.append(path)
    if not paths:
        raise ValueError(f"--split: {folder} holds no object of the side {split!r}")
    return paths


def main() -> None:
    """Command line; see the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder")
    parser.add_argument("--out", required=True)
    parser.add_argument("--split", choices=("", "train", "test"), default="")
    parser.add_argument("--ending", choices=tuple(formats.FORMATS), default=".ply")
    args = parser.parse_args()
    found = export(args.folder, args.out, split=args.split, ending=args.ending)
    print(f"{args.out}: {len(found)} files")


if __name__ == "__main__":
    main()
