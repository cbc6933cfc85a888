"""``gsjax reconstruct``: a few photographs with known cameras to a splat file, in one pass of a trained network.

Views, their size and the depths to look between are chosen from the cameras unless they are given
(``data.view_choice``). The file has the world of the cameras, as every viewer expects it: OpenCV's world
axes of COLMAP or nerfstudio's of transforms.json, quaternions (w, x, y, z), logarithms of scales, logits of
opacities, colours as spherical harmonics in world axes.
"""

import argparse
from pathlib import Path

HELP = "a few photographs with known cameras to a splat file, by a trained network, without fitting"
EXAMPLES = """
gsjax reconstruct photographs/ --weights runs/pm_loss --out scene.ply
gsjax reconstruct a.png b.png --cameras transforms.json --weights mvsplat.npz --out scene.ply
gsjax reconstruct photographs/ --weights mvsplat.npz --out scene.ply --check lines.png
"""
_SHOWN = 768  # pixels along a side of photographs in the picture of epipolar lines
COLMAP = (
    "poses of these pictures are not known. Estimate them with COLMAP, which also takes the lens out:\n"
    "  colmap automatic_reconstructor --image_path {images} --workspace_path WORK --dense 0\n"
    "  colmap image_undistorter --image_path {images} --input_path WORK/sparse/0 --output_path WORK/undistorted\n"
    "  gsjax reconstruct WORK/undistorted --weights ... --out ...\n"
    "or name the cameras with --cameras: a COLMAP model or a transforms.json"
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "images",
        nargs="+",
        help="folder of photographs (views are chosen), or the photographs to take",
    )
    parser.add_argument(
        "--cameras",
        default="",
        help="COLMAP model or transforms.json; default: what the folder of the photographs holds",
    )
    parser.add_argument(
        "--weights",
        required=True,
        help="run folder of configs/pm_loss.py, its export, or .npz of gsjax convert",
    )
    parser.add_argument("--out", required=True, help="splat file to write, .ply")
    parser.add_argument("--views", type=int, default=0, help="to choose; default: the network's")
    parser.add_argument("--near", type=float, default=None, help="least depth, units of the poses")
    parser.add_argument("--far", type=float, default=None, help="greatest depth")
    parser.add_argument(
        "--size", type=int, nargs=2, metavar=("HEIGHT", "WIDTH"), help="default: the network's"
    )
    parser.add_argument("--axes", choices=("opengl", "opencv"), default=None, help="of JSON files")
    parser.add_argument(
        "--trim", type=int, default=0, help="pixels along borders whose Gaussians are left out"
    )
    parser.add_argument(
        "--min_opacity", "--min-opacity", type=float, default=0.0, help="fainter ones are left out"
    )
    parser.add_argument("--check", default="", help="PNG of epipolar lines: do the cameras fit?")
    parser.add_argument("--preview", default="", help="PNG; default: beside --out; 'none' for none")


def run(args: argparse.Namespace) -> int:
    check_arguments(args)
    from gsjax.cli import reconstruct_models

    posed, named = load_cameras(args.images, args.cameras, args.axes)
    return write(args, posed, named, reconstruct_models.load(args.weights))


def check_arguments(args: argparse.Namespace) -> None:
    """Raises ValueError for options that cannot be meant, before anything is read."""
    if not args.out.lower().endswith(".ply"):
        raise ValueError(f"--out: found {args.out!r}, expected a name that ends in .ply")
    for name in ("check", "preview"):
        value = getattr(args, name)
        if value and not value.lower().endswith(".png") and (name, value) != ("preview", "none"):
            raise ValueError(f"--{name}: found {value!r}, expected a name that ends in .png")
    if args.views and args.views < 2:
        raise ValueError(f"--views: found {args.views}; matching needs at least 2 posed views")
    if args.trim < 0:
        raise ValueError(f"--trim: found {args.trim}, expected 0 or more pixels")
    if not 0 <= args.min_opacity < 1:
        raise ValueError(f"--min_opacity: found {args.min_opacity:g}, expected from 0 to below 1")
    for name in ("near", "far"):
        value = getattr(args, name)
        if value is not None and not value > 0:
            raise ValueError(f"--{name}: found {value:g}, expected above 0, in units of the poses")
    if args.near is not None and args.far is not None and args.near >= args.far:
        raise ValueError(f"--near, --far: expected near < far, found {args.near:g}, {args.far:g}")


def load_cameras(images, cameras: str, axes: str | None):
    """Photographs with cameras, and which of them are named.

    Args:
        images: a folder, or photographs.
        cameras: COLMAP model, JSON file, folder with either, or '' for the folder of the photographs.
        axes: of JSON files.

    Returns:
        (``posed.PosedImages``, indices in the order named, or None where a folder was given).

    Raises:
        ValueError: no cameras (the message says how to get them), or what the readers find wrong.
    """
    from gsjax.data import view_choice
    from gsjax.io import colmap, posed, posed_pixels

    absent = [name for name in images if not Path(name).exists()]
    if absent:
        raise ValueError(f"photographs: there is no {absent[0]}")
    folder = Path(images[0]) if Path(images[0]).is_dir() else Path(images[0]).parent
    whole = Path(images[0]).is_dir()
    if whole and len(images) > 1:
        raise ValueError("photographs: name one folder, or photographs")
    # Both COLMAP and nerfstudio keep photographs in a folder 'images' beside or below the cameras.
    places = [Path(cameras)] if cameras else [folder, folder.parent]
    found = next((place for place in places if _has_cameras(place)), None)
    if found is None:
        if cameras:
            raise ValueError(
                f"--cameras: {cameras} is neither a COLMAP model nor a transforms.json, nor a folder with one"
            )
        raise ValueError(COLMAP.format(images=folder))
    model = colmap.find_model(found)
    if model is not None and cameras:
        loaded = colmap.read(model, images=folder)
        posed.check_points_in_front(loaded, source=str(found))
        loaded = posed_pixels.fit_to_files(loaded)
    else:
        loaded = posed.load_posed(found, axes=axes)
    return loaded, None if whole else view_choice.indices_of(loaded, images)


def _has_cameras(place: Path) -> bool:
    from gsjax.io import colmap

    if place.is_file():
        return place.suffix == ".json"
    names = ("transforms.json", "transforms_train.json", "cameras.json")
    return colmap.find_model(place) is not None or any((place / n).is_file() for n in names)


def load_view(posed, index: int, height: int, width: int, fit: str):
    """One photograph at the network's size, before black where it is transparent.

    Raises:
        ValueError: naming the photograph, see ``view_fit.fit``.
    """
    import numpy as np

    from gsjax.data import scenes, view_fit
    from gsjax.io import posed_pixels

    one = posed.subset([index])
    image = posed_pixels.load_images(one, background=(0.0, 0.0, 0.0))[0]
    empty = np.zeros(image.shape[:2], np.float32)
    view = scenes.View(image, empty, None, one.viewmats[0], one.Ks[0])
    try:
        return view_fit.fit(view, height, width, fit)
    except ValueError as error:
        raise ValueError(f"{one.names[0]}: {error}") from error


def write(args: argparse.Namespace, posed, named, model) -> int:
    """Everything behind the reading of cameras and weights; see ``add_arguments``.

    Args:
        args: of the command.
        posed: photographs with cameras.
        named: indices of those to take, or None.
        model: ``reconstruct_models.Model``.
    """
    from PIL import Image

    from gsjax.cli import reconstruct_scene
    from gsjax.data import epipolar, view_choice
    from gsjax.io import ply

    depths = dict(near=args.near, far=args.far)
    _check_focal_lengths(posed, range(len(posed)) if named is None else named)
    if named is None:
        named = view_choice.choose(posed, args.views or model.views, **depths)
    chosen = posed.subset(named)
    view_choice.check(chosen, **depths)
    estimate = None if args.near and args.far else view_choice.bounds(chosen)
    bounds = view_choice.given(estimate, args.near, args.far)
    height, width = args.size or (model.height, model.width)
    if model.stride and (height % model.stride or width % model.stride):
        raise ValueError(
            f"--size: {height} x {width} must be multiples of {model.stride} for {model.name}"
        )
    views = [load_view(posed, i, height, width, model.fit) for i in named]
    print(f"{model.name}: {len(views)} views of {height} x {width}")
    print("  " + ", ".join(posed.names[i] for i in named))
    print(f"  depths {bounds.near:.4g} to {bounds.far:.4g}, {bounds.how}")
    if args.check:  # first: where the cameras are at fault, the rest is of no use
        Path(args.check).parent.mkdir(parents=True, exist_ok=True)
        pair = [load_view(posed, i, *_shown_size(posed, i), "cover") for i in named[:2]]
        Image.fromarray(epipolar.draw(*pair)).save(args.check)
        print(f"  {args.check}: dots of the first picture should lie on their lines in the second")
    g = reconstruct_scene.reconstruct(
        views, model.predict, bounds.near, bounds.far, unit=model.near
    )
    g = reconstruct_scene.kept(
        g, (len(views), height, width), trim=args.trim, min_opacity=args.min_opacity
    )
    Path(args.out).parent.mkdir(parents=True, exist_ok=True)
    ply.write(args.out, g.deactivate())
    if args.preview != "none":
        shown = args.preview or str(Path(args.out).with_suffix(".png"))
        Path(shown).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(reconstruct_scene.preview(views, g, bounds.near)).save(shown)
        print(f"  {shown}: pictures, and below them the Gaussians, last from in between")
    print(f"{args.out}: {g.num} Gaussians")
    return 0


def _shown_size(posed, index: int) -> tuple[int, int]:
    """(height, width) of a photograph, at most ``_SHOWN`` pixels along a side."""
    height, width = int(posed.height[index]), int(posed.width[index])
    ratio = min(1.0, _SHOWN / max(height, width))
    return max(round(ratio * height), 1), max(round(ratio * width), 1)


def _check_focal_lengths(posed, indices) -> None:
    """Refuses focal lengths that are most likely those of another picture size.

    Raises:
        ValueError: naming the photograph.
    """
    for i in indices:
        K, size = posed.Ks[i], (posed.width[i], posed.height[i])
        shares = [K[axis, axis] / size[axis] for axis in range(2)]
        if not 0.2 < min(shares) <= max(shares) < 3:
            raise ValueError(
                f"camera of {posed.names[i]!r}: its focal lengths are {shares[0]:.3g} widths and {shares[1]:.3g} "
                "heights of the picture, expected 0.2 to 3; the intrinsics are those of another picture size, or "
                "the lens is one that matching was not trained for"
            )
