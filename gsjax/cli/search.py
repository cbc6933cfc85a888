"""``gsjax search``: ranks splat files by a sentence or a picture.

Given a folder it embeds what is new in it first, and keeps the vectors in a hidden file there.
"""

import argparse
import pathlib
import sys

HELP = "rank a folder of splat files by a sentence or a picture; list, HTML page, PNG sheet"
EXAMPLES = """
gsjax search splats/ --text "a wooden chair"
gsjax search splats/ --text "a tree" --top 20 --html page.html --png page.png
gsjax search splats.npz --image chair.png
"""
KEPT = ".gsjax_search.npz"  # in the folder


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", help="folder of splat files, or .npz of `gsjax embed`")
    query = parser.add_mutually_exclusive_group(required=True)
    query.add_argument("--text", default="", help="a sentence")
    query.add_argument("--image", default="", help="a picture file")
    parser.add_argument("--top", type=int, default=12, help="files to list")
    parser.add_argument("--html", default="", help="also write a page that needs no other file")
    parser.add_argument("--png", default="", help="also write the page's grid as one picture")
    parser.add_argument("--size", type=int, default=192, help="thumbnails' width and height")
    parser.add_argument("--folder", default="", help="where the splat files are now, if moved")
    parser.add_argument("--towers", default="", help="the run's towers, if they have moved")
    own = parser.add_argument_group("for a folder")
    own.add_argument(
        "--run",
        dest="trained",  # 'run' is the subcommand's function
        default="",
        help="run folder or exported .npz that embeds; default: the one that ships",
    )
    own.add_argument(
        "--up", choices=("y", "-y", "z", "-z"), default="y", help="up axis of the files"
    )
    own.add_argument("--index", default="", help=f".npz that keeps the vectors; default: {KEPT}")


def run(args: argparse.Namespace) -> int:
    from gsjax.cli import embed
    from gsjax.data import splats
    from gsjax.metrics import search
    from gsjax.systems.clip_gs import embedder

    for name, value in (("top", args.top), ("size", args.size)):
        if value < 1:
            raise ValueError(f"--{name}: found {value}, expected at least 1")
    picture = read_picture(args.image) if args.image else None
    if picture is None:
        check_sentence(args.text)  # before the folder is embedded, which may take long
    if pathlib.Path(args.file).is_dir():
        index = args.index or pathlib.Path(args.file) / KEPT
        options = dict(run=args.trained, up=args.up, towers=args.towers)
        gallery, towers = embed.up_to_date(args.file, index, **options)
    elif args.trained or args.index:
        raise ValueError(f"--run, --index: they go with a folder; {args.file} is none")
    else:
        gallery = splats.read_gallery(args.file)
        towers = embedder.find_towers(
            gallery.meta["data"],
            gallery.meta["towers"],
            dim=gallery.embeds.shape[1],
            towers=args.towers,
        )
    query = embed_query(towers, args.text, picture)
    places, scores = search.top_k(query[None], gallery.embeds, args.top)
    found = [(gallery.names[i], float(s)) for i, s in zip(places[0], scores[0], strict=True)]
    width = max(len(name) for name, _ in found)
    for rank, (name, score) in enumerate(found, 1):
        print(f"{rank:4d}  {name:{width}s}  {score:+.3f}")
    if args.html or args.png:
        _write(args, gallery, found, picture)
    return 0


def read_picture(path: str):
    """A picture file as uint8 [H, W, 3 or 4], turned upright as its EXIF says.

    Raises:
        ValueError: no such file, or no picture.
    """
    import numpy as np
    from PIL import ImageOps

    from gsjax.io import picture_file

    if not pathlib.Path(path).is_file():
        raise ValueError(f"--image: there is no file {path}")
    try:
        with picture_file.opened(path, path) as image:
            picture_file.load(image, path)
            image = ImageOps.exif_transpose(image)
            alpha = "A" in image.getbands() or "transparency" in image.info
            return np.asarray(image.convert("RGBA" if alpha else "RGB"))
    except (OSError, ValueError) as error:
        raise ValueError(f"--image: {path} is no picture that can be read ({error})") from None


def check_sentence(text: str) -> None:
    """Raises ValueError unless a sentence has more than blanks."""
    if not text.strip():
        raise ValueError("--text: expected a sentence, found nothing")


def embed_query(towers, text: str, picture):
    """The unit vector f32 [D] of a sentence, or of a picture where one is given.

    Raises:
        ValueError: an empty sentence.
    """
    import numpy as np

    if picture is not None:
        found = towers.encode_images(np.asarray(towers.prepare_image(picture))[None])
    else:
        check_sentence(text)
        found = towers.encode_texts(np.asarray(towers.tokenize([text])))
    found = np.asarray(found, np.float32)[0]
    return found / np.linalg.norm(found)


def _write(args, gallery, found, picture) -> None:
    from gsjax.cli import search_page

    root = pathlib.Path(args.folder or gallery.meta["folder"])
    results = []
    for rank, (name, score) in enumerate(found, 1):
        try:
            image = search_page.thumbnail(root / name, size=args.size, up=gallery.meta["up"])
        except (ValueError, ImportError, OSError) as error:
            print(f"gsjax search: no picture of {name}: {error}", file=sys.stderr)
            image = None
        results.append(search_page.Result(rank, name, score, image))
    page = search_page.Page(
        args.text or pathlib.Path(args.image).name, picture, results, len(gallery.names)
    )
    for path, write in ((args.html, search_page.write_html), (args.png, search_page.write_png)):
        if path:
            pathlib.Path(path).parent.mkdir(parents=True, exist_ok=True)
            write(page, path, args.size)
            print(path)
