"""``gsjax view``: a splat file in the browser."""

import argparse
import time

from gsjax.cli import render

HELP = "show a splat file, or the scene.ply of a run's folder, in the browser"
EXAMPLES = """
gsjax view scene.ply
gsjax view runs/scene --port 9000                        # the scene.ply of a run
gsjax view scene.ply --mode client --host 0.0.0.0
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("scene", help=".ply, .compressed.ply, .splat or .spz file, or a folder")
    parser.add_argument(
        "--mode",
        choices=("both", "server", "client"),
        default="both",
        help="who draws: our rasterizer (server), the browser (client), or a choice in the page",
    )
    parser.add_argument("--host", default="127.0.0.1", help="0.0.0.0 lets other machines in")
    parser.add_argument("--port", type=int, default=8080, help="first port to try")
    parser.add_argument(
        "--up",
        choices=("y", "-y", "z", "-z"),
        default="y",
        help="the file's up; write --up=-y for a minus",
    )
    parser.add_argument("--size", type=int, default=1024, help="pixels of the longer side")
    parser.add_argument("--background", type=float, nargs=3, default=(1.0, 1.0, 1.0))
    render.add_file_arguments(parser)


def run(args: argparse.Namespace) -> int:
    server = start(args)
    try:
        while True:
            time.sleep(3600)
    except KeyboardInterrupt:
        print("stopped")
    finally:
        server.stop()
    return 0


def start(args: argparse.Namespace):
    """The running server of parsed arguments; says on standard output where it is."""
    if args.size < 32:
        raise ValueError(f"--size: found {args.size}, expected at least 32")
    if not 0 < args.port < 65536:
        raise ValueError(f"--port: found {args.port}, expected 1 to 65535")
    render.check_background(args.background)
    from gsjax.cli import viewer, viewer_scene
    from gsjax.core import gaussians
    from gsjax.io import formats

    path = viewer_scene.find_scene(args.scene)
    arrays = formats.load_gaussians(path, on_bad_rows=render.on_bad_rows(args))
    raw = gaussians.RawGaussians(**arrays)
    said = args.antialiased
    server = viewer.serve(
        raw,
        mode=args.mode,
        host=args.host,
        port=args.port,
        up=args.up,
        size=args.size,
        background=tuple(args.background),
        label=path.name,
        antialiased=render.trained_antialiased(path) if said is None else said,
    )
    shown = "localhost" if args.host in ("127.0.0.1", "0.0.0.0") else args.host
    print(
        f"{path}: {raw.num} Gaussians at http://{shown}:{server.get_port()} (Ctrl-C stops)",
        flush=True,
    )
    return server
