"""``gsjax embed``: a folder of splat files to unit vectors of a trained CLIP-GS, for ``gsjax search``."""

import argparse
import pathlib
import sys

HELP = "embed every splat file of a folder with a trained CLIP-GS; or export a run to one file"
DEFAULT = "clip_gs_objects_cc0.npz"  # in gsjax/assets
SKIPPED = 1  # exit status if some files could not be embedded


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", nargs="?", default="", help="searched for splat files, deeply")
    parser.add_argument(
        "--run",
        dest="trained",  # 'run' is the subcommand's function
        default="",
        help="run folder or exported .npz; default: the one that ships",
    )
    parser.add_argument("--out", default="embeddings.npz", help="file to write")
    parser.add_argument(
        "--up", choices=("y", "-y", "z", "-z"), default="y", help="up axis of the files"
    )
    parser.add_argument("--batch", type=int, default=16, help="objects a call")
    parser.add_argument(
        "--strict",
        action="store_true",
        help="stop at the first bad file; otherwise bad files are reported and left out, and the "
        f"exit status is {SKIPPED}",
    )
    parser.add_argument("--towers", default="", help="the run's towers, if they have moved")
    parser.add_argument(
        "--export", default="", help="write the run to this .npz (float16) and embed nothing"
    )


def run(args: argparse.Namespace) -> int:
    from gsjax.systems.clip_gs import embedder
    from gsjax.train import trained

    if bool(args.folder) == bool(args.export):
        raise ValueError("give either a folder of splat files or --export FILE.npz")
    if args.batch < 1:
        raise ValueError(f"--batch: found {args.batch}, expected at least 1")
    found = trained.load(args.trained or default_run())
    if found.system != "clip_gs":
        raise ValueError(f"--run: a run of {found.system!r}; only 'clip_gs' embeds splats")
    encoder = embedder.Embedder(found.config, found.variables(), batch_size=args.batch)
    data = found.config.data.to_dict()
    towers = embedder.find_towers(data, found.towers, dim=encoder.dim, towers=args.towers)
    if found.towers is None:
        print(
            f"gsjax embed: the run does not record its towers; taking {towers.name}, digest "
            f"{towers.digest[:12]}, as its config says",
            file=sys.stderr,
        )
    described = embedder.describe_towers(towers)
    if args.export:
        digest = trained.export(found, args.export, towers=described)
        size = pathlib.Path(args.export).stat().st_size / 1e6
        print(f"{args.export}: step {found.step}, {size:.1f} MB, digest {digest[:12]}")
        return 0
    about = dict(
        model=dict(system=found.system, digest=found.digest, step=found.step),
        towers=described,
        # the towers of the run's data set, found again by `gsjax search`
        data={name: data.get(name, "") for name in ("name", "towers", "source")},
    )
    if args.towers:
        about["data"]["towers"] = args.towers
    gallery = embed_folder(encoder, args.folder, up=args.up, strict=args.strict, about=about)
    gallery.save(args.out)
    skipped = gallery.meta["skipped"]
    left_out = f", {len(skipped)} left out" if skipped else ""
    print(f"{args.out}: {len(gallery.names)} files{left_out}, D = {encoder.dim}")
    return SKIPPED if skipped else 0


def default_run() -> str:
    """The run that ships with the package.

    Raises:
        ValueError: this copy has none.
    """
    from importlib import resources

    path = resources.files("gsjax.assets") / DEFAULT
    if not path.is_file():
        raise ValueError(
            f"--run: this copy of gsjax ships no {DEFAULT}; train one with `python main.py "
            "--config=configs/clip_gs.py:data=objects_cc0 --workdir=DIR` and pass --run=DIR"
        )
    return str(path)


def embed_folder(encoder, folder, *, up: str, strict: bool, about: dict, chunk: int = 256):
    """Embeds the files of a folder, ``chunk`` of them in memory at a time.

    Args:
        encoder: ``clip_gs.embedder.Embedder``.
        folder: searched by ``data.splats.find``.
        up: the files' up axis.
        strict: raise at the first bad file instead of leaving it out.
        about: what else goes into the file's description.

    Returns:
        ``data.splats.Gallery``.

    Raises:
        ValueError: no files, with ``strict`` a bad one, or none that could be read.
    """
    import numpy as np
    import tqdm

    from gsjax.data import splats

    root = pathlib.Path(folder).resolve()
    kept, skipped, parts, waiting = [], [], [], []
    names = splats.find(folder)
    for name in tqdm.tqdm(names, unit="file", disable=not sys.stderr.isatty()):
        try:
            waiting.append(encoder.example(splats.load(root / name, up=up)))
        except (ValueError, ImportError, OSError) as error:
            if strict:
                raise ValueError(f"{name}: {error}") from error
            print(f"gsjax embed: left out {name}: {error}", file=sys.stderr)
            skipped.append(name)
            continue
        kept.append(name)
        if len(waiting) == chunk:
            parts.append(encoder(waiting))
            waiting = []
    parts.append(encoder(waiting))
    if not kept:
        raise ValueError(f"folder: none of its {len(names)} splat files could be read")
    meta = dict(about, folder=str(root), up=up, skipped=skipped)
    return splats.Gallery(tuple(kept), np.concatenate(parts), meta)
