"""``gsjax embed``: a folder of splat files to unit vectors of a trained CLIP-GS, for ``gsjax search``."""

import argparse
import pathlib
import sys

HELP = "embed every splat file of a folder with a trained CLIP-GS; or export a run to one file"
EXAMPLES = """
gsjax embed splats/ --out splats.npz
gsjax embed splats/ --out splats.npz --run runs/clip_gs --up z
gsjax embed --export encoder.npz --run runs/clip_gs       # the run as one file
"""
DEFAULT = "clip_gs_objects_cc0.npz"  # in gsjax/assets
SKIPPED = 1  # exit status if some files could not be embedded
BATCH = 16


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
    parser.add_argument("--batch", type=int, default=BATCH, help="objects a call")
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
    from gsjax.data import splats
    from gsjax.systems.clip_gs import embedder
    from gsjax.train import trained

    if bool(args.folder) == bool(args.export):
        raise ValueError("give either a folder of splat files or --export FILE.npz")
    if args.batch < 1:
        raise ValueError(f"--batch: found {args.batch}, expected at least 1")
    if args.folder:
        splats.check_target(args.out)  # before minutes of work
        splats.find(args.folder)
    found, encoder, towers = _open(args.trained, args.batch, args.towers)
    if args.export:
        digest = trained.export(found, args.export, towers=embedder.describe_towers(towers))
        size = pathlib.Path(args.export).stat().st_size / 1e6
        print(f"{args.export}: step {found.step}, {size:.1f} MB, digest {digest[:12]}")
        return 0
    gallery = _embed(
        args.folder, found, encoder, towers, up=args.up, strict=args.strict, moved=args.towers
    )
    gallery.save(args.out)
    skipped = gallery.meta["skipped"]
    left_out = f", {len(skipped)} left out" if skipped else ""
    print(f"{args.out}: {len(gallery.names)} files{left_out}, D = {encoder.dim}")
    return SKIPPED if skipped else 0


def up_to_date(folder, path, *, run: str = "", up: str = "y", towers: str = ""):
    """The gallery of a folder that is kept in a file: made, or brought up to date and written again.

    Files of the same name, size and time of change keep their vectors, if those are of the same run and
    up axis; all others are embedded. Where the file cannot be written, a warning says so.

    Args:
        folder: of splat files.
        path: the ``.npz``; it need not exist.
        run: run folder or exported file; '' = the one that ships.
        up: the files' up axis.
        towers: the run's towers, if they have moved.

    Returns:
        (``data.splats.Gallery``, the run's towers).

    Raises:
        ValueError: as :func:`embed_folder`; ``path`` is a file of another kind.
    """
    from gsjax.data import splats

    splats.check_target(path)
    found, encoder, pair = _open(run, BATCH, towers)
    known = splats.read_gallery(path) if pathlib.Path(path).exists() else None
    gallery = _embed(folder, found, encoder, pair, up=up, moved=towers, known=known)
    if known is None or gallery.meta != known.meta:
        try:
            gallery.save(path)
        except OSError as error:
            print(f"gsjax: {path} cannot be kept for the next time: {error}", file=sys.stderr)
    return gallery, pair


def _open(run: str, batch: int, moved: str):
    """(trained run, encoder, towers) of a run folder or exported file; '' = the one that ships."""
    from gsjax.systems.clip_gs import embedder
    from gsjax.train import trained

    found = trained.load(run or default_run())
    if found.system != "clip_gs":
        raise ValueError(f"--run: a run of {found.system!r}; only 'clip_gs' embeds splats")
    encoder = embedder.Embedder(found.config, found.variables(), batch_size=batch)
    data = found.config.data.to_dict()
    towers = embedder.find_towers(data, found.towers, dim=encoder.dim, towers=moved)
    if found.towers is None:
        print(
            f"gsjax embed: the run does not record its towers; taking {towers.name}, digest "
            f"{towers.digest[:12]}, as its config says",
            file=sys.stderr,
        )
    return found, encoder, towers


def _embed(folder, found, encoder, towers, *, up, strict=False, moved="", known=None):
    """:func:`embed_folder` with the run's description, and without what is ``known`` already."""
    from gsjax.data import splats
    from gsjax.systems.clip_gs import embedder

    data = found.config.data.to_dict()
    about = dict(
        model=dict(system=found.system, digest=found.digest, step=found.step),
        towers=embedder.describe_towers(towers),
        # the towers of the run's data set, found again by `gsjax search`
        data={name: data.get(name, "") for name in ("name", "towers", "source")},
        stamps=splats.stamps(folder),
    )
    if moved:
        about["data"]["towers"] = moved
    kept = {}
    if known is not None and (known.meta["model"], known.meta["up"]) == (about["model"], up):
        old = known.meta.get("stamps", {})
        pairs = zip(known.names, known.embeds, strict=True)
        kept = {n: x for n, x in pairs if old.get(n) and old.get(n) == about["stamps"].get(n)}
    return embed_folder(encoder, folder, up=up, strict=strict, about=about, kept=kept)


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


def embed_folder(
    encoder, folder, *, up: str, strict: bool, about: dict, kept=None, chunk: int = 256
):
    """Embeds the files of a folder, ``chunk`` of them in memory at a time.

    Args:
        encoder: ``clip_gs.embedder.Embedder``.
        folder: of the files.
        up: the files' up axis.
        strict: raise at the first bad file instead of leaving it out.
        about: what else goes into the file's description; ``stamps`` are of the files to embed.
        kept: {name: vector} of files that need not be embedded again.

    Returns:
        ``data.splats.Gallery``.

    Raises:
        ValueError: no files, with ``strict`` a bad one, or none that could be read.
    """
    import numpy as np
    import tqdm

    from gsjax.data import splats

    root, kept = pathlib.Path(folder).resolve(), dict(kept or {})
    names, skipped, waiting = list(about["stamps"]), [], {}

    def flush():
        vectors = encoder(list(waiting.values()))
        kept.update(zip(waiting, vectors, strict=True))
        waiting.clear()

    fresh = [name for name in names if name not in kept]
    for name in tqdm.tqdm(fresh, unit="file", disable=not sys.stderr.isatty()):
        try:
            waiting[name] = encoder.example(splats.load(root / name, up=up))
        except (ValueError, ImportError, OSError) as error:
            if strict:
                raise ValueError(f"{name}: {error}") from error
            print(f"gsjax embed: left out {name}: {error}", file=sys.stderr)
            skipped.append(name)
            continue
        if len(waiting) == chunk:
            flush()
    if waiting:
        flush()
    found = tuple(name for name in names if name in kept)
    if not found:
        raise ValueError(f"folder: none of its {len(names)} splat files could be read")
    meta = dict(about, folder=str(root), up=up, skipped=skipped)
    return splats.Gallery(found, np.stack([kept[name] for name in found]), meta)
