"""Pinhole cameras in OpenCV axes (x right, y down, z forward): poses, paths, intrinsics.

A camera is a pair (viewmat, K): ``viewmat`` [4, 4] maps world to camera, ``K`` [3, 3] is in pixels
with pixel centres at (column + 0.5, row + 0.5). Files with other conventions are converted where
they are read (see ``opengl_to_opencv``).
"""

import jax
import jax.numpy as jnp

from gsjax.core import rotations


def _vector(x, name: str) -> jax.Array:
    x = jnp.asarray(x)
    x = x.astype(jnp.result_type(x.dtype, jnp.result_type(float)))
    if x.ndim == 0 or x.shape[-1] != 3:
        raise ValueError(f"{name}: expected shape [..., 3], found {list(x.shape)}")
    return x


def _perpendicular(unit: jax.Array) -> jax.Array:
    """The coordinate axis least aligned with each unit vector [..., 3]."""
    axis = jnp.argmin(jnp.abs(unit), axis=-1)
    return jax.nn.one_hot(axis, 3, dtype=unit.dtype)


def _compose(rotmats: jax.Array, translations: jax.Array) -> jax.Array:
    """[..., 3, 3] and [..., 3] -> [..., 4, 4]."""
    top = jnp.concatenate((rotmats, translations[..., None]), axis=-1)
    bottom = jnp.broadcast_to(jnp.asarray((0, 0, 0, 1), top.dtype), (*top.shape[:-2], 1, 4))
    return jnp.concatenate((top, bottom), axis=-2)


def look_at(eye: jax.Array, target: jax.Array, up: jax.Array) -> jax.Array:
    """World-to-camera matrices of cameras at ``eye`` that look at ``target``.

    Gradients are finite everywhere. Where the viewing direction is parallel to ``up`` another axis
    takes its place; where eye equals target the camera looks along +z; a zero ``up`` counts as +y.

    Args:
      eye: [..., 3].
      target: [..., 3].
      up: [..., 3], the world direction that should point up in the image. Leading axes broadcast.

    Returns:
      viewmats [..., 4, 4].
    """
    eye, target, up = _vector(eye, "eye"), _vector(target, "target"), _vector(up, "up")
    eye, target, up = jnp.broadcast_arrays(eye, target, up)
    forward = rotations.safe_normalize(target - eye, (0.0, 0.0, 1.0))
    side = jnp.cross(forward, rotations.safe_normalize(up, (0.0, 1.0, 0.0)))
    # sin(angle) under 1e-6 is within float32 rounding of parallel.
    parallel = jnp.sum(side * side, axis=-1, keepdims=True) < 1e-12
    side = jnp.where(parallel, jnp.cross(forward, _perpendicular(forward)), side)
    right = rotations.safe_normalize(side, (1.0, 0.0, 0.0))
    down = jnp.cross(forward, right)
    rotmats = jnp.stack((right, down, forward), axis=-2)
    return _compose(rotmats, -jnp.sum(rotmats * eye[..., None, :], axis=-1))


def invert_rigid(matrices: jax.Array) -> jax.Array:
    """Inverse of rigid motions [..., 4, 4]: viewmat to camera-to-world, or back."""
    inverse = jnp.swapaxes(matrices[..., :3, :3], -1, -2)
    return _compose(inverse, -jnp.sum(matrices[..., :3, :3] * matrices[..., :3, 3:], axis=-2))


def camera_centers(viewmats: jax.Array) -> jax.Array:
    """World positions of cameras: the points that their matrices map to the origin.

    The 3x3 part A is inverted, not transposed: a view matrix may carry a scale (of a normalised
    scene, say). By the adjugate, whose columns are cross products of the rows of A.

    Args:
      viewmats: [..., 4, 4] world to camera.

    Returns:
      [..., 3] world units, -A^-1 t. Of a matrix that has no inverse: finite, without meaning.
    """
    a, b, c = (viewmats[..., i, :3] for i in range(3))
    columns = jnp.cross(b, c), jnp.cross(c, a), jnp.cross(a, b)
    det = jnp.sum(a * columns[0], axis=-1, keepdims=True)
    turned = sum(viewmats[..., i, 3:] * column for i, column in enumerate(columns))
    return -turned / jnp.where(det == 0, 1, det)


def opengl_to_opencv(c2w: jax.Array) -> jax.Array:
    """Camera-to-world matrices [..., 4, 4] in OpenGL axes (y up, z backward) -> OpenCV axes."""
    return c2w * jnp.asarray((1, -1, -1, 1), jnp.asarray(c2w).dtype)


def intrinsics_from_fov(fov_x_degrees: jax.Array, width: int, height: int) -> jax.Array:
    """Intrinsics of a camera with square pixels and a centred principal point.

    Args:
      fov_x_degrees: [...] full horizontal angle of view, between 0 and 180 degrees.
      width: pixels.
      height: pixels.

    Returns:
      Ks [..., 3, 3] in pixels.
    """
    fov = jnp.asarray(fov_x_degrees)
    fov = fov.astype(jnp.result_type(fov.dtype, jnp.result_type(float)))
    focal = 0.5 * width / jnp.tan(jnp.deg2rad(fov) / 2)
    zero, one = jnp.zeros_like(focal), jnp.ones_like(focal)
    rows = (
        (focal, zero, 0.5 * width * one),
        (zero, focal, 0.5 * height * one),
        (zero, zero, one),
    )
    return jnp.stack([jnp.stack(row, axis=-1) for row in rows], axis=-2)


def _on_sphere(azimuth, elevation, radius, target, up) -> jax.Array:
    """Viewmats [V, 4, 4] from angles in radians about ``up``; azimuth 0 is the first side axis."""
    target, up = _vector(target, "target"), _vector(up, "up")
    up = rotations.safe_normalize(up, (0.0, 1.0, 0.0))
    # For up = +y the horizontal axes are +z (azimuth 0, the front of a y-up object) and +x.
    hint = jnp.where(jnp.abs(up[2]) < 0.9, jnp.eye(3)[2], jnp.eye(3)[0])
    front = rotations.safe_normalize(hint - jnp.sum(hint * up) * up, (1.0, 0.0, 0.0))
    side = jnp.cross(up, front)
    azimuth, elevation = azimuth[:, None], elevation[:, None]
    flat = jnp.cos(azimuth) * front + jnp.sin(azimuth) * side
    offset = jnp.cos(elevation) * flat + jnp.sin(elevation) * up
    return look_at(target + jnp.asarray(radius, target.dtype) * offset, target, up)


def _check_views(num_views: int):
    if num_views < 1:
        raise ValueError(f"num_views: expected at least 1, found {num_views}")


def orbit_path(
    num_views: int,
    radius: float,
    *,
    elevation_degrees: float = 20.0,
    start_degrees: float = 0.0,
    target=(0.0, 0.0, 0.0),
    up=(0.0, 1.0, 0.0),
) -> jax.Array:
    """Cameras evenly spaced on a circle around ``target``, looking at it.

    Args:
      num_views: V; the circle is closed, so view V would be view 0 again.
      radius: distance of the cameras from the target, world units.
      elevation_degrees: angle above the plane through the target, perpendicular to ``up``.
      start_degrees: azimuth of view 0; 0 is the +z side (the +x side where up is along z).
        Azimuth grows counter-clockwise seen from above.
      target: [3].
      up: [3].

    Returns:
      viewmats [V, 4, 4].
    """
    _check_views(num_views)
    azimuth = jnp.deg2rad(start_degrees + 360.0 * jnp.arange(num_views) / num_views)
    elevation = jnp.full_like(azimuth, jnp.deg2rad(elevation_degrees))
    return _on_sphere(azimuth, elevation, radius, target, up)


def spiral_path(
    num_views: int,
    radius: float,
    *,
    elevations_degrees: tuple[float, float] = (-30.0, 60.0),
    turns: float = 2.0,
    start_degrees: float = 0.0,
    target=(0.0, 0.0, 0.0),
    up=(0.0, 1.0, 0.0),
) -> jax.Array:
    """Cameras on a spiral over a sphere around ``target``, from one elevation to another.

    Args:
      num_views: V; view 0 is at the first elevation, view V - 1 at the last.
      radius: distance of the cameras from the target, world units.
      elevations_degrees: first and last elevation.
      turns: how many times the path goes round between them.
      start_degrees: azimuth of view 0, as in ``orbit_path``.
      target: [3].
      up: [3].

    Returns:
      viewmats [V, 4, 4].
    """
    _check_views(num_views)
    fraction = jnp.arange(num_views) / max(num_views - 1, 1)
    azimuth = jnp.deg2rad(start_degrees + 360.0 * turns * fraction)
    first, last = elevations_degrees
    elevation = jnp.deg2rad(first + (last - first) * fraction)
    return _on_sphere(azimuth, elevation, radius, target, up)
