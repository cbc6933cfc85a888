"""``gsjax render``: a splat file to pictures, or a turntable video, from an orbit around it."""

import argparse
import math
import pathlib

HELP = "render a splat file to PNG, or to a GIF or MP4 turntable, from an orbit around it"
EXAMPLES = """
gsjax render scene.ply --out views.png --views 4
gsjax render scene.ply --out turn.gif --views 32 --fps 12
gsjax render scene.splat --out depth.png --depth --size 800 --up=-y
"""

# Kind of output by the ending of --out.
_STILL, _VIDEOS = ".png", (".gif", ".mp4")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", help=".ply, .compressed.ply, .splat or .spz file")
    parser.add_argument(
        "--out",
        default="render.png",
        help="file to write: .png has the views side by side, .gif and .mp4 one a frame",
    )
    parser.add_argument("--views", type=int, default=1, help="cameras on the orbit, or frames")
    parser.add_argument("--fps", type=float, default=25.0, help="frames a second of a video")
    parser.add_argument("--size", type=int, default=512, help="width and height in pixels")
    parser.add_argument("--fov", type=float, default=45.0, help="field of view in degrees")
    parser.add_argument("--azimuth", type=float, default=30.0, help="first azimuth in degrees")
    parser.add_argument("--elevation", type=float, default=15.0, help="elevation in degrees")
    parser.add_argument("--distance", type=float, default=2.6, help="distance in object radii")
    parser.add_argument(
        "--up",
        choices=("y", "-y", "z", "-z"),
        default="y",
        help="the file's up; write --up=-y for a minus",
    )
    parser.add_argument("--background", type=float, nargs=3, default=(1.0, 1.0, 1.0))
    parser.add_argument("--depth", action="store_true", help="render expected depth, not colour")
    add_file_arguments(parser)


def add_file_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of a splat file that is drawn, of ``gsjax view``, too."""
    parser.add_argument(
        "--antialiased",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="draw with Mip-Splatting's 2D filter; default: as the file says that it was trained",
    )
    add_bad_rows_argument(parser)


def add_bad_rows_argument(parser: argparse.ArgumentParser) -> None:
    """The option that leaves out unusable Gaussians, of ``gsjax info``, too."""
    parser.add_argument(
        "--drop_bad_rows",
        action="store_true",
        help="leave out Gaussians with NaN, infinities or absurd scales",
    )


def on_bad_rows(args: argparse.Namespace) -> str:
    """The policy of ``io.formats.load_gaussians`` that the arguments ask for."""
    return "drop" if args.drop_bad_rows else "error"


def trained_antialiased(path) -> bool:
    """Whether a splat file says so: the flag of an SPZ, the comment that ``gsjax fit`` writes."""
    from gsjax.io import ply, spz

    name = str(path).lower()
    if name.endswith(".spz"):
        return spz.read_header(path).antialiased
    return name.endswith(".ply") and ply.ANTIALIASED in ply.read_comments(path)


def run(args: argparse.Namespace) -> int:
    _check(args)
    import numpy as np
    from PIL import Image

    from gsjax.core import gaussians
    from gsjax.io import formats

    arrays = formats.load_gaussians(args.file, on_bad_rows=on_bad_rows(args))
    raw = gaussians.RawGaussians(**arrays)
    said = args.antialiased
    pictures = render_orbit(
        raw.activate(),
        views=args.views,
        size=args.size,
        fov=args.fov,
        azimuth=args.azimuth,
        elevation=args.elevation,
        distance=args.distance,
        up=args.up,
        background=args.background,
        depth=args.depth,
        antialiased=trained_antialiased(args.file) if said is None else said,
    )
    pathlib.Path(args.out).parent.mkdir(parents=True, exist_ok=True)
    if args.out.lower().endswith(_STILL):
        Image.fromarray(np.concatenate(list(pictures), axis=1)).save(args.out)
    else:
        write_video(args.out, pictures, args.fps)
    print(f"{args.out}: {args.views} view(s) of {raw.num} Gaussians")
    return 0


def orbit_bounds(means):
    """Centre [3] and radius of the box of the 1 %..99 % quantiles of means [N, 3]."""
    import numpy as np

    low, high = np.quantile(np.asarray(means), [0.01, 0.99], axis=0)
    return (low + high) / 2, max(float(np.linalg.norm(high - low)) / 2, 1e-6)


def up_vector(up: str):
    """The unit vector [3] of 'y', '-y', 'z' or '-z'."""
    import numpy as np

    return np.eye(3)["xyz".index(up[-1])] * (-1.0 if up.startswith("-") else 1.0)


def write_video(path: str, pictures, fps: float) -> None:
    """Writes uint8 pictures [V, H, W, 3] as an endlessly repeating .gif, or as an .mp4.

    GIF stores the time of a frame in hundredths of a second, two at least.

    Raises:
      ImportError: an .mp4 and no package imageio[ffmpeg].
    """
    if path.lower().endswith(".gif"):
        from PIL import Image

        # One palette for all frames, without dithering: the background does not flicker and
        # equal pixels compress.
        frames = [Image.fromarray(picture) for picture in pictures]
        sample = Image.fromarray(
            pictures[:: max(len(pictures) // 8, 1)].reshape(-1, *pictures.shape[2:])
        )
        palette = sample.quantize(256)
        frames = [frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames]
        duration = 10 * max(round(100 / fps), 2)
        frames[0].save(path, save_all=True, append_images=frames[1:], duration=duration, loop=0)
        return
    try:
        import imageio.v2 as imageio
        import imageio_ffmpeg  # noqa: F401
    except ImportError as error:
        raise ImportError(
            "writing .mp4 needs imageio with ffmpeg: pip install 'gsjax[video]', or write a .gif"
        ) from error
    # H.264 in the pixel format that every browser plays, which has even sides only.
    with imageio.get_writer(path, fps=fps, codec="libx264", quality=8, macro_block_size=2) as out:
        for picture in pictures:
            out.append_data(picture)


def render_orbit(
    g, *, views, size, fov, azimuth, elevation, distance, up, background, depth, antialiased=False
):
    """Renders activated Gaussians from an orbit fitted to their box (1 %..99 % quantiles).

    ``antialiased`` draws with Mip-Splatting's 2D filter, which scenes must be trained with.

    Returns:
        uint8 [views, size, size, 3]; depth is shown as inverse depth, near = bright.
    """
    import jax.numpy as jnp
    import numpy as np

    import gsjax
    from gsjax.core import cameras

    center, radius = orbit_bounds(g.means)
    viewmats = cameras.orbit_path(
        views,
        radius * distance,
        elevation_degrees=elevation,
        start_degrees=azimuth,
        target=center,
        up=up_vector(up),
    )
    K = cameras.intrinsics_from_fov(fov, size, size)
    image, alpha = [], []
    # One view at a time: a video's memory does not grow with its frames.
    for viewmat in viewmats.astype(jnp.float32):
        picture, opacity, _ = gsjax.rasterize(
            g.means,
            g.quats,
            g.scales,
            g.opacities,
            g.sh,
            viewmat[None],
            K[None].astype(jnp.float32),
            size,
            size,
            sh_degree=g.sh_degree,
            render_mode="ED" if depth else "RGB",
            rasterize_mode="antialiased" if antialiased else "classic",
            backgrounds=None if depth else jnp.asarray(background, jnp.float32)[None],
        )
        image.append(np.asarray(picture[0]))
        alpha.append(np.asarray(opacity[0]))
    image, alpha = np.stack(image), np.stack(alpha)
    if depth:
        inverse = np.where(alpha > 0.5, 1.0 / np.maximum(image, 1e-6), 0.0)
        image = np.repeat(inverse / max(inverse.max(), 1e-12), 3, axis=-1)
    return (np.clip(image, 0, 1) * 255 + 0.5).astype(np.uint8)


def check_background(background) -> None:
    """Raises ValueError unless red, green and blue of --background are within [0, 1]."""
    if not all(0 <= value <= 1 for value in background):
        raise ValueError(
            f"--background: found {' '.join(f'{value:g}' for value in background)}, expected red, "
            "green and blue from 0 to 1; divide those up to 255 by 255"
        )


def _check(args) -> None:
    for name in ("views", "size"):
        if getattr(args, name) < 1:
            raise ValueError(f"--{name}: found {getattr(args, name)}, expected at least 1")
    for name in ("azimuth", "elevation"):
        if not math.isfinite(getattr(args, name)):
            raise ValueError(f"--{name}: found {getattr(args, name)}, expected finite degrees")
    if not (0 < args.distance and math.isfinite(args.distance)):
        raise ValueError(f"--distance: found {args.distance}, expected above 0, in object radii")
    check_background(args.background)
    if not 0 < args.fov < 180:
        raise ValueError(f"--fov: found {args.fov}, expected degrees between 0 and 180")
    if not (args.fps > 0 and math.isfinite(args.fps)):
        raise ValueError(f"--fps: found {args.fps}, expected above 0")
    if not args.out.lower().endswith((_STILL, *_VIDEOS)):
        raise ValueError(
            f"--out: found {args.out!r}, expected a name that ends in {_STILL}, {_VIDEOS[0]} or "
            f"{_VIDEOS[1]}"
        )
    if args.out.lower().endswith(".mp4") and args.size % 2:
        raise ValueError(f"--size: found {args.size}, expected an even number for .mp4")
