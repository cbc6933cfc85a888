"""``gsjax render``: a splat file to pictures from an orbit around it."""

import argparse
import pathlib

HELP = "render a .ply or .splat file to PNG from an orbit around it"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", help=".ply or .splat file")
    parser.add_argument("--out", default="render.png", help="PNG to write; the views side by side")
    parser.add_argument("--views", type=int, default=1, help="cameras on the orbit")
    parser.add_argument("--size", type=int, default=512, help="width and height in pixels")
    parser.add_argument("--fov", type=float, default=45.0, help="field of view in degrees")
    parser.add_argument("--azimuth", type=float, default=30.0, help="first azimuth in degrees")
    parser.add_argument("--elevation", type=float, default=15.0, help="elevation in degrees")
    parser.add_argument("--distance", type=float, default=2.6, help="distance in object radii")
    parser.add_argument("--up", choices=("y", "-y", "z", "-z"), default="y", help="the file's up")
    parser.add_argument("--background", type=float, nargs=3, default=(1.0, 1.0, 1.0))
    parser.add_argument("--depth", action="store_true", help="render expected depth, not colour")


def run(args: argparse.Namespace) -> int:
    _check(args)
    import numpy as np
    from PIL import Image

    from gsjax.core import gaussians
    from gsjax.io import formats

    raw = gaussians.RawGaussians(**formats.load_gaussians(args.file))
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
    )
    strip = np.concatenate(list(pictures), axis=1)
    pathlib.Path(args.out).parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(strip).save(args.out)
    print(f"{args.out}: {args.views} view(s) of {raw.num} Gaussians")
    return 0


def render_orbit(g, *, views, size, fov, azimuth, elevation, distance, up, background, depth):
    """Renders activated Gaussians from an orbit fitted to their box (1 %..99 % quantiles).

    Returns:
        uint8 [views, size, size, 3]; depth is shown as inverse depth, near = bright.
    """
    import jax.numpy as jnp
    import numpy as np

    import gsjax
    from gsjax.core import cameras

    low, high = np.quantile(np.asarray(g.means), [0.01, 0.99], axis=0)
    center, radius = (low + high) / 2, max(float(np.linalg.norm(high - low)) / 2, 1e-6)
    axis = "xyz".index(up[-1])
    up_vector = np.zeros(3)
    up_vector[axis] = -1.0 if up.startswith("-") else 1.0
    viewmats = cameras.orbit_path(
        views,
        radius * distance,
        elevation_degrees=elevation,
        start_degrees=azimuth,
        target=center,
        up=up_vector,
    )
    K = cameras.intrinsics_from_fov(fov, size, size)
    image, alpha, _ = gsjax.rasterize(
        g.means,
        g.quats,
        g.scales,
        g.opacities,
        g.sh,
        viewmats.astype(jnp.float32),
        jnp.broadcast_to(K, (views, 3, 3)).astype(jnp.float32),
        size,
        size,
        sh_degree=g.sh_degree,
        render_mode="ED" if depth else "RGB",
        backgrounds=None
        if depth
        else jnp.broadcast_to(jnp.asarray(background, jnp.float32), (views, 3)),
    )
    image = np.asarray(image)
    if depth:
        inverse = np.where(np.asarray(alpha) > 0.5, 1.0 / np.maximum(image, 1e-6), 0.0)
        image = np.repeat(inverse / max(inverse.max(), 1e-12), 3, axis=-1)
    return (np.clip(image, 0, 1) * 255 + 0.5).astype(np.uint8)


def _check(args) -> None:
    for name in ("views", "size"):
        if getattr(args, name) < 1:
            raise ValueError(f"--{name}: found {getattr(args, name)}, expected at least 1")
    if not 0 < args.fov < 180:
        raise ValueError(f"--fov: found {args.fov}, expected degrees between 0 and 180")
    if not args.out.lower().endswith(".png"):
        raise ValueError(f"--out: found {args.out!r}, expected a name that ends in .png")
