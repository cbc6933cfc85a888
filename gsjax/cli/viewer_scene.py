"""What a viewer shows, as pure functions: cameras of browser clients, frames, splats for the browser.

No server and no threads; those are in viewer.py. Cameras are OpenCV's (x right, y down, z forward),
which is also the frame in which viser gives a client's camera.
"""

import dataclasses
import pathlib

import numpy as np

LAYERS = ("colour", "depth", "alpha")
# Frames are rounded to multiples of this many pixels, so that resizing a browser window does not
# compile a renderer for every width.
_MULTIPLE = 32


@dataclasses.dataclass(frozen=True)
class FrameOptions:
    """How a frame is drawn.

    Attributes:
      size: pixels along the longer side.
      sh_degree: highest degree of view-dependent colour; capped at what the scene has.
      layer: 'colour', 'depth' (inverse, near = bright) or 'alpha'.
      background: red, green, blue in [0, 1].
      antialiased: with Mip-Splatting's 2D filter, for scenes trained with it.
    """

    size: int = 1024
    sh_degree: int = 4
    layer: str = "colour"
    background: tuple[float, float, float] = (1.0, 1.0, 1.0)
    antialiased: bool = False


def find_scene(path: str) -> pathlib.Path:
    """The splat file that a path names: itself, or ``scene.ply`` inside a run's folder.

    Raises:
      FileNotFoundError: no such file, or a folder without scene.ply.
    """
    path = pathlib.Path(path)
    if path.is_dir():
        if not (path / "scene.ply").is_file():
            raise FileNotFoundError(f"{path}: a folder without scene.ply; name a splat file")
        return path / "scene.ply"
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    return path


def rotmats_of(quats: np.ndarray) -> np.ndarray:
    """Rotation matrices [..., 3, 3] of quaternions [..., 4] wxyz of any length but zero."""
    quats = np.asarray(quats, np.float64)
    w, x, y, z = np.moveaxis(quats / np.linalg.norm(quats, axis=-1, keepdims=True), -1, 0)
    rows = (
        (1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)),
        (2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)),
        (2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)),
    )
    return np.stack([np.stack(row, axis=-1) for row in rows], axis=-2)


def client_camera(
    wxyz, position, fov: float, aspect: float, width: int, height: int
) -> tuple[np.ndarray, np.ndarray]:
    """Matrices of a browser's camera, for a frame that is stretched over its whole canvas.

    Args:
      wxyz: [4] rotation from camera to world.
      position: [3] of the camera in the world.
      fov: vertical angle of view in radians.
      aspect: width over height of the canvas; where that of the frame differs, so do the two focal
        lengths, and the picture is right again once stretched.
      width, height: of the frame, in pixels.

    Returns:
      viewmat [4, 4] (world to camera) and K [3, 3], float32.
    """
    rotation = rotmats_of(wxyz).T
    viewmat = np.eye(4)
    viewmat[:3, :3] = rotation
    viewmat[:3, 3] = -rotation @ np.asarray(position, np.float64)
    tangent = np.tan(fov / 2)
    K = np.array(
        [
            [0.5 * width / (tangent * aspect), 0, 0.5 * width],
            [0, 0.5 * height / tangent, 0.5 * height],
            [0, 0, 1],
        ]
    )
    return viewmat.astype(np.float32), K.astype(np.float32)


def frame_size(aspect: float, longest: int) -> tuple[int, int]:
    """Width and height of a frame: near ``aspect``, in multiples of 32, the longer side ``longest``."""
    width, height = (longest, longest / aspect) if aspect >= 1 else (longest * aspect, longest)
    whole = lambda pixels: max(round(pixels / _MULTIPLE), 1) * _MULTIPLE  # noqa: E731
    return whole(width), whole(height)


def start_camera(means: np.ndarray, up: str) -> tuple[np.ndarray, np.ndarray, float]:
    """Position [3], target [3] and the radius of the scene, for a first look at it.

    The camera is where ``gsjax render`` puts its first one by default.
    """
    from gsjax.cli import render
    from gsjax.core import cameras

    center, radius = render.orbit_bounds(means)
    viewmats = cameras.orbit_path(
        1,
        2.6 * radius,
        elevation_degrees=15.0,
        start_degrees=30.0,
        target=center,
        up=render.up_vector(up),
    )
    return np.asarray(cameras.camera_centers(viewmats))[0], center, radius


def browser_splats(g) -> dict[str, np.ndarray]:
    """What viser's ``add_gaussian_splats`` takes, of activated Gaussians: no view-dependent colour.

    Returns:
      {centers [N, 3], covariances [N, 3, 3], rgbs [N, 3] in [0, 1], opacities [N, 1]}, float32.
    """
    from gsjax.io import records

    quats = records.unit_quats(np.asarray(g.quats))
    axes = rotmats_of(quats) * np.asarray(g.scales, np.float64)[:, None, :]
    rgbs = np.asarray(g.sh)[:, 0] * records.SH_C0 + 0.5
    return {
        "centers": np.asarray(g.means, np.float32),
        "covariances": (axes @ np.swapaxes(axes, 1, 2)).astype(np.float32),
        "rgbs": np.clip(rgbs, 0, 1).astype(np.float32),
        "opacities": np.asarray(g.opacities, np.float32)[:, None],
    }


def render_frame(g, viewmat, K, width: int, height: int, options: FrameOptions) -> np.ndarray:
    """One frame of activated Gaussians, uint8 [height, width, 3].

    Args:
      g: ``Gaussians`` of one scene.
      viewmat: [4, 4] world to camera.
      K: [3, 3] in pixels.
      width, height: pixels.
      options: size does not count here.

    Raises:
      ValueError: unknown layer.
    """
    import jax.numpy as jnp

    import gsjax

    if options.layer not in LAYERS:
        raise ValueError(f"layer: found {options.layer!r}, expected one of {LAYERS}")
    depth = options.layer == "depth"
    image, alpha, _ = gsjax.rasterize(
        g.means,
        g.quats,
        g.scales,
        g.opacities,
        g.sh,
        jnp.asarray(viewmat, jnp.float32)[None],
        jnp.asarray(K, jnp.float32)[None],
        width,
        height,
        sh_degree=min(options.sh_degree, g.sh_degree),
        render_mode="ED" if depth else "RGB",
        rasterize_mode="antialiased" if options.antialiased else "classic",
        backgrounds=None if depth else jnp.asarray(options.background, jnp.float32)[None],
    )
    image, alpha = np.asarray(image[0]), np.asarray(alpha[0])
    if depth:
        inverse = np.where(alpha > 0.5, 1 / np.maximum(image, 1e-6), 0.0)
        image = inverse / max(inverse.max(), 1e-12)
    elif options.layer == "alpha":
        image = alpha
    image = np.broadcast_to(image, (height, width, 3))
    return (np.clip(image, 0, 1) * 255 + 0.5).astype(np.uint8)
