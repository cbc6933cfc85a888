"""EWA projection of 3D Gaussians to image-space ellipses, one scene and one camera.

Plain ``jax.numpy``: automatic differentiation gives the gradients of every input, camera pose,
intrinsics and lens included. The cameras themselves are in `camera_models`. Products are written out
per component, so no backend lowers them to reduced matrix precision. Gaussians that cannot be
projected (behind the camera, not finite, ...) get safe values *before* the operation that would fail
(double ``where``), hence a zero gradient, never NaN.

Not for blending or for choosing tiles. EWA splatting: Zwicker et al., 2001; 3DGS: arXiv 2308.04079;
antialiasing: Mip-Splatting, arXiv 2311.16493.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from gsjax.core import fusion
from gsjax.raster import camera_models, constants

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
    quats: jax.Array | None,
    scales: jax.Array | None,
    opacities: jax.Array,
    viewmat: jax.Array,
    K: jax.Array,
    width: int,
    height: int,
    *,
    covars: jax.Array | None = None,
    near_plane: float = 0.01,
    far_plane: float = 1e10,
    radius_clip: float = 0.0,
    eps2d: float = 0.3,
    rasterize_mode: str = "classic",
    camera_model: str = "pinhole",
    radial_coeffs: jax.Array | None = None,
    tangential_coeffs: jax.Array | None = None,
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
      covars: [N, 3, 3] covariances, used if quats and scales are None; the symmetric part counts.
        Gaussians whose image is not positive definite after eps2d are culled.
      near_plane, far_plane: Gaussians whose centre has z outside of these are culled.
      radius_clip: Gaussians with both half extents at most this many pixels are culled.
      eps2d: added to the diagonal of the 2D covariance, pixels squared.
      rasterize_mode: 'classic', or 'antialiased' (opacity times sqrt(det before / det after eps2d)).
      camera_model: 'pinhole', 'ortho' or 'fisheye'.
      radial_coeffs: [R] OpenCV's k1, k2, ...: up to 6 for a pinhole, up to 4 for a fisheye.
        Gaussians whose centre lies where the distortion folds over are culled.
      tangential_coeffs: [2] OpenCV's p1, p2; pinhole only.

    Returns:
      Splats without leading axes. Culled Gaussians have radii 0 and finite values.

    Raises:
      ValueError: for an unknown rasterize_mode or camera_model, or coefficients it does not take.
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
        covars=covars,
        near_plane=near_plane,
        far_plane=far_plane,
        radius_clip=radius_clip,
        eps2d=eps2d,
        rasterize_mode=rasterize_mode,
        camera_model=camera_model,
        radial_coeffs=radial_coeffs,
        tangential_coeffs=tangential_coeffs,
    )[0]


def project_and_flag(
    means, quats, scales, opacities, viewmat, K, width, height, *, near_plane, far_plane, eps2d,
    rasterize_mode, covars=None, radius_clip=0.0, camera_model="pinhole", radial_coeffs=None,
    tangential_coeffs=None,
) -> tuple[Splats, jax.Array]:  # fmt: skip
    """As `project`; returns also nonfinite: [N] bool, culled because a number was not finite."""
    if rasterize_mode not in MODES:
        raise ValueError(f"rasterize_mode is {rasterize_mode!r}; use one of {MODES}")
    shapes = (quats, scales) if covars is None else (covars,)
    good = finite_rows(means, *shapes, opacities)
    means, opacities, *shapes = (_keep(good, x) for x in (means, opacities, *shapes))
    point = _to_camera(means, viewmat)
    z = point[2]
    in_range = good & (z >= near_plane) & (z <= far_plane) & (z > _DEPTH_MIN)
    x, y, z = (jnp.where(in_range, p, safe) for p, safe in zip(point, (0.0, 0.0, 1.0), strict=True))

    lens = camera_models.Lens(radial_coeffs, tangential_coeffs)
    view = camera_models.linearize(camera_model, (x, y, z), K, lens, width, height)
    if view.valid is not None:
        in_range &= view.valid
    if covars is None:
        rows, gram = _pixel_rows(view.push, _axes(*shapes), viewmat), _gram_of_rows
    else:
        rows, gram = _pixel_rows(view.push, _world_axes(z), viewmat), _gram_through(*shapes)
    rows = fusion.once(rows)
    a, _, d, _ = (jax.lax.stop_gradient(x) for x in gram(*rows))
    fits = (a < _COV_MAX) & (d < _COV_MAX)  # False for NaN as well
    rows = tuple(tuple(jnp.where(fits, c, 0.0) for c in row) for row in rows)

    conics, var, compensation, definite = _conics(*gram(*rows), eps2d)
    if rasterize_mode == "antialiased":
        opacities = opacities * compensation
    means2d = jnp.stack(view.image, -1)
    on_screen = in_range & fits & definite
    radii = _radii(on_screen, means2d, var, opacities, width, height, radius_clip)
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


def _world_axes(like):
    """The identity in the form of `_axes`."""
    return [[jnp.full_like(like, i == j) for j in range(3)] for i in range(3)]


def _pixel_rows(push, axes, viewmat):
    """Two rows of J R_cam M, each three [N]; with M from `_axes` the 2D covariance is their Gram.

    push: product with the Jacobian J of the camera at the centres.
    """
    columns = [
        push(tuple(_dot(viewmat[i, :3], [axes[k][j] for k in range(3)]) for i in range(3)))
        for j in range(3)
    ]
    return tuple(zip(*columns, strict=True))


def _gram_of_rows(rx, ry):
    """Entries xx, xy, yy of the 2D covariance with these rows, and its determinant.

    det(J S J^T) is the squared cross product of the two rows (Lagrange's identity): unlike
    a*d - b*b it loses no digits for needles and is never negative.
    """
    cross = [rx[i] * ry[j] - rx[j] * ry[i] for i, j in ((0, 1), (1, 2), (2, 0))]
    return _dot(rx, rx), _dot(rx, ry), _dot(ry, ry), _dot(cross, cross)


def _gram_through(covars):
    """As `_gram_of_rows`, for rows of J R_cam and covariances S [N, 3, 3] between them.

    The determinant cancels for needles: what rounding may leave below zero counts as zero, what is
    below for another reason (S has a negative eigenvalue) stays, for the test of definiteness.
    """
    s = [[0.5 * (covars[:, i, j] + covars[:, j, i]) for j in range(3)] for i in range(3)]

    def gram(rx, ry):
        sx, sy = ([_dot(s[i], r) for i in range(3)] for r in (rx, ry))
        a, b, d = _dot(rx, sx), _dot(rx, sy), _dot(ry, sy)
        det = a * d - b * b
        return a, b, d, jnp.where((det < 0) & (det > -1e-5 * a * d), 0.0, det)

    return gram


def _conics(a0, b, d0, det0, eps2d):
    """Conics [N, 3], variances (xx, yy), compensation factor, and where the matrix is definite."""
    det = det0 + eps2d * (a0 + d0) + eps2d * eps2d
    a, d = a0 + eps2d, d0 + eps2d
    definite = (det > _DET_MIN) & (a > 0) & (d > 0)
    det = jnp.where(definite, det, 1.0)
    conics = jnp.stack([d / det, -b / det, a / det], -1)
    ratio = jnp.maximum(det0 / det, constants.COMPENSATION_MIN**2)
    return conics, (a, d), jnp.sqrt(ratio), definite


def _radii(candidates, means2d, var, opacities, width, height, radius_clip):
    """Opacity-aware half extents, 0 where nothing of at least ALPHA_MIN falls on the image.

    Extents of at most radius_clip in both directions become 0 too.
    """
    means2d, var, opacities = jax.lax.stop_gradient((means2d, jnp.stack(var, -1), opacities))
    visible = candidates & (opacities >= constants.ALPHA_MIN)
    gain = jnp.maximum(opacities, constants.ALPHA_MIN) / constants.ALPHA_MIN
    sigmas = jnp.minimum(constants.EXTENT, jnp.sqrt(2.0 * jnp.log(gain)))
    radii = jnp.ceil(sigmas[:, None] * jnp.sqrt(jnp.minimum(var, _COV_MAX)))
    size = jnp.array([width, height], means2d.dtype)
    inside = jnp.all((means2d + radii > 0) & (means2d - radii < size), -1)
    if radius_clip > 0:
        inside &= jnp.any(radii > radius_clip, -1)
    return jnp.where((visible & inside)[:, None], radii, 0.0).astype(jnp.int32)
