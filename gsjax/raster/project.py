"""Pinhole EWA projection of 3D Gaussians to image-space ellipses, one scene and one camera.

Plain ``jax.numpy``: automatic differentiation gives the gradients of every input, camera pose and
intrinsics included. Products are written out per component, so no backend lowers them to reduced
matrix precision. Gaussians that cannot be projected (behind the camera, not finite, ...) get safe
values *before* the operation that would fail (double ``where``), hence a zero gradient, never NaN.

Not for blending or for choosing tiles. EWA splatting: Zwicker et al., 2001; 3DGS: arXiv 2308.04079;
antialiasing: Mip-Splatting, arXiv 2311.16493.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from gsjax.raster import constants

MODES = ("classic", "antialiased")

# Beyond these, float32 squares overflow; such Gaussians count as not finite.
_INPUT_MAX = 1e12
_COV_MAX = 1e16  # pixels squared: a standard deviation of 1e8 pixels
_DET_MIN = 1e-12  # pixels^4; only reached with eps2d close to 0
_DEPTH_MIN = 1e-9


class Splats(NamedTuple):
    """Projected Gaussians; leading axes are free.

    Attributes:
      means2d: [..., N, 2] centres in pixels; pixel (column i, row j) has its centre at
        (i + 0.5, j + 0.5).
      conics: [..., N, 3] upper triangle (A, B, C) of the inverse 2D covariance.
      opacities: [..., N]; in antialiased mode already times the compensation factor.
      depths: [..., N] z in the camera frame, in scene units.
      radii: [..., N, 2] int32 half extents in pixels along x and y; 0 = culled.
    """

    means2d: jax.Array
    conics: jax.Array
    opacities: jax.Array
    depths: jax.Array
    radii: jax.Array


def project(
    means: jax.Array,
    quats: jax.Array,
    scales: jax.Array,
    opacities: jax.Array,
    viewmat: jax.Array,
    K: jax.Array,
    width: int,
    height: int,
    *,
    near_plane: float = 0.01,
    far_plane: float = 1e10,
    eps2d: float = 0.3,
    rasterize_mode: str = "classic",
) -> Splats:
    """Projects N Gaussians into one camera.

    Args:
      means: [N, 3] centres in world units.
      quats: [N, 4] rotations (w, x, y, z), of any length; a zero quaternion is the identity.
      scales: [N, 3] standard deviations in world units (not their logarithms).
      opacities: [N] in [0, 1].
      viewmat: [4, 4] world to camera, OpenCV axes (x right, y down, z forward).
      K: [3, 3] intrinsics in pixels.
      width, height: image size in pixels.
      near_plane, far_plane: Gaussians whose centre has z outside of these are culled.
      eps2d: added to the diagonal of the 2D covariance, pixels squared.
      rasterize_mode: 'classic', or 'antialiased' (opacity times sqrt(det before / det after eps2d)).

    Returns:
      Splats without leading axes. Culled Gaussians have radii 0 and finite values.

    Raises:
      ValueError: for an unknown rasterize_mode.
    """
    return project_and_flag(
        means,
        quats,
        scales,
        opacities,
        viewmat,
        K,
        width,
        height,
        near_plane=near_plane,
        far_plane=far_plane,
        eps2d=eps2d,
        rasterize_mode=rasterize_mode,
    )[0]


def project_and_flag(
    means, quats, scales, opacities, viewmat, K, width, height, *, near_plane, far_plane, eps2d,
    rasterize_mode,
) -> tuple[Splats, jax.Array]:  # fmt: skip
    """As `project`; returns also nonfinite: [N] bool, culled because a number was not finite."""
    if rasterize_mode not in MODES:
        raise ValueError(f"rasterize_mode is {rasterize_mode!r}; use one of {MODES}")
    good = finite_rows(means, quats, scales, opacities)
    means, scales, opacities = (_keep(good, x) for x in (means, scales, opacities))
    point = _to_camera(means, viewmat)
    z = point[2]
    in_range = good & (z >= near_plane) & (z <= far_plane) & (z > _DEPTH_MIN)
    x, y, z = (jnp.where(in_range, p, safe) for p, safe in zip(point, (0.0, 0.0, 1.0), strict=True))

    rows = _pixel_rows((x, y, z), _keep(good, quats), scales, viewmat, K, width, height)
    a, d = (jax.lax.stop_gradient(_dot(r, r)) for r in rows)
    fits = (a < _COV_MAX) & (d < _COV_MAX)  # False for NaN as well
    rows = tuple(tuple(jnp.where(fits, c, 0.0) for c in row) for row in rows)

    conics, var, compensation, definite = _conics(rows, eps2d)
    if rasterize_mode == "antialiased":
        opacities = opacities * compensation
    means2d = jnp.stack([K[0, 0] * x / z + K[0, 2], K[1, 1] * y / z + K[1, 2]], -1)
    on_screen = in_range & fits & definite
    radii = _radii(on_screen, means2d, var, opacities, width, height)
    depths = jnp.where(in_range, z, 0.0)
    return Splats(means2d, conics, opacities, depths, radii), ~good | (in_range & ~fits)


def finite_rows(*arrays: jax.Array) -> jax.Array:
    """[N] bool: which rows ([N] or [N, ...]) hold numbers that the projection can square."""
    good = [jnp.abs(jax.lax.stop_gradient(x)) <= _INPUT_MAX for x in arrays]  # NaN gives False
    return jnp.stack([g.all(tuple(range(1, g.ndim))) for g in good]).all(0)


def _keep(good, x):
    """Rows that are not good become 1, a harmless value, and lose their gradient."""
    return jnp.where(good.reshape(good.shape + (1,) * (x.ndim - 1)), x, 1.0)


def _dot(a, b):
    return sum(x * y for x, y in zip(a, b, strict=True))


def _to_camera(means, viewmat):
    axes = (means[:, 0], means[:, 1], means[:, 2])
    return tuple(_dot(axes, viewmat[i, :3]) + viewmat[i, 3] for i in range(3))


def _axes(quats, scales):
    """Columns of R(q) diag(s), so that the covariance is M M^T: M[i][j] is [N]."""
    squared = jnp.sum(quats * quats, -1)
    usable = squared > 1e-30
    norm = jnp.sqrt(jnp.where(usable, squared, 1.0))
    w, x, y, z = (jnp.where(usable, quats[:, i], 1.0 if i == 0 else 0.0) / norm for i in range(4))
    rot = (
        (1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)),
        (2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)),
        (2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)),
    )
    return [[rot[i][j] * scales[:, j] for j in range(3)] for i in range(3)]


def _pixel_rows(point, quats, scales, viewmat, K, width, height):
    """Two rows of J R_cam M, each three [N]: the 2D covariance is their Gram matrix.

    J is the Jacobian of the pinhole at the centre, which is first clamped to 1.3 times the field of
    view (asymmetric, as the principal point may be off the middle): far outside the image the
    linearisation would blow the Gaussian up over the whole of it.
    """
    x, y, z = point
    fx, fy, cx, cy = K[0, 0], K[1, 1], K[0, 2], K[1, 2]
    margin_x, margin_y = 0.15 * width / fx, 0.15 * height / fy
    tx = jnp.clip(x / z, -(cx / fx + margin_x), (width - cx) / fx + margin_x)
    ty = jnp.clip(y / z, -(cy / fy + margin_y), (height - cy) / fy + margin_y)
    m = _axes(quats, scales)
    cam = [[_dot(viewmat[i, :3], (m[0][j], m[1][j], m[2][j])) for j in range(3)] for i in range(3)]
    gx, gy = fx / z, fy / z
    row_x = tuple(gx * (cam[0][j] - tx * cam[2][j]) for j in range(3))
    row_y = tuple(gy * (cam[1][j] - ty * cam[2][j]) for j in range(3))
    return row_x, row_y


def _conics(rows, eps2d):
    """Conics [N, 3], variances (xx, yy), compensation factor, and where the matrix is definite.

    det(J S J^T) is the squared cross product of the two rows (Lagrange's identity): unlike
    a*d - b*b it loses no digits for needles and is never negative.
    """
    rx, ry = rows
    a0, b, d0 = _dot(rx, rx), _dot(rx, ry), _dot(ry, ry)
    cross = [rx[i] * ry[j] - rx[j] * ry[i] for i, j in ((0, 1), (1, 2), (2, 0))]
    det0 = _dot(cross, cross)
    det = det0 + eps2d * (a0 + d0) + eps2d * eps2d
    definite = det > _DET_MIN
    det = jnp.where(definite, det, 1.0)
    a, d = a0 + eps2d, d0 + eps2d
    conics = jnp.stack([d / det, -b / det, a / det], -1)
    ratio = jnp.maximum(det0 / det, constants.COMPENSATION_MIN**2)
    return conics, (a, d), jnp.sqrt(ratio), definite


def _radii(candidates, means2d, var, opacities, width, height):
    """Opacity-aware half extents, 0 where nothing of at least ALPHA_MIN falls on the image."""
    means2d, var, opacities = jax.lax.stop_gradient((means2d, jnp.stack(var, -1), opacities))
    visible = candidates & (opacities >= constants.ALPHA_MIN)
    gain = jnp.maximum(opacities, constants.ALPHA_MIN) / constants.ALPHA_MIN
    sigmas = jnp.minimum(constants.EXTENT, jnp.sqrt(2.0 * jnp.log(gain)))
    radii = jnp.ceil(sigmas[:, None] * jnp.sqrt(jnp.minimum(var, _COV_MAX)))
    size = jnp.array([width, height], means2d.dtype)
    inside = jnp.all((means2d + radii > 0) & (means2d - radii < size), -1)
    return jnp.where((visible & inside)[:, None], radii, 0.0).astype(jnp.int32)
