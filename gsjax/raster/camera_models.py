"""Camera models: where a point of the camera frame falls on the image, and the derivative there.

With (x, y, z) in the camera frame, r^2 = x^2 + y^2 and intrinsics f, c (names and formulas of
gsplat; v as u, with y):

  pinhole   u = f_x x / z + c_x
  ortho     u = f_x x + c_x
  fisheye   u = f_x theta x / r + c_x, theta = atan2(r, z)  (equidistant)

Distortion is OpenCV's (calib3d: pinhole with coefficients k1..k6, p1, p2; fisheye with k1..k4). On
a = x / z, b = y / z, with t = a^2 + b^2, and on theta:

  pinhole   a' = a (1 + k1 t + k2 t^2 + k3 t^3) / (1 + k4 t + k5 t^2 + k6 t^3)
                 + 2 p1 a b + p2 (t + 2 a^2),  b' likewise with p1 (t + 2 b^2) + 2 p2 a b
  fisheye   theta' = theta (1 + k1 theta^2 + k2 theta^4 + k3 theta^6 + k4 theta^8)

Such a polynomial describes a lens near the axis only: further out it turns back, and points that the
lens never saw would land inside the image. Points at or beyond the first radius where it stops
growing are not valid (gsplat's unscented path cuts at a fixed ratio a' / a instead).

Derivatives are exact; those of distorted and fisheye cameras come from ``jax.jvp`` of the maps above.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

MODELS = ("pinhole", "ortho", "fisheye")

MAX_RADIAL = {"pinhole": 6, "fisheye": 4}
"""How many radial coefficients a model takes; the ones left out are 0. Ortho takes none."""

# Half angles beyond this tangent (89.4 degrees) are outside of any distorted pinhole's validity.
_MAX_TANGENT = 100.0
_FOLD_SAMPLES = 512
_BISECTIONS = 40
_NEWTON_STEPS = 20


class Lens(NamedTuple):
    """Distortion of one camera: radial [R] and tangential [2] coefficients, or None."""

    radial: jax.Array | None = None
    tangential: jax.Array | None = None

    @property
    def is_ideal(self) -> bool:
        return self.radial is None and self.tangential is None


class View(NamedTuple):
    """A camera at N points.

    Attributes:
      image: (u, v), [N] pixels each.
      push: maps tangents (dx, dy, dz), [N] each, to (du, dv): the Jacobian's product.
      valid: [N] bool, or None where every point in front of the camera is.
    """

    image: tuple[jax.Array, jax.Array]
    push: Callable
    valid: jax.Array | None


def linearize(
    model: str,
    point: tuple[jax.Array, jax.Array, jax.Array],
    K: jax.Array,
    lens: Lens,
    width: int,
    height: int,
) -> View:
    """The camera's map and its derivative at points in front of it.

    A pinhole's derivative is taken at the point clamped to the image widened by 15 % on each side
    (asymmetric, as the principal point may be off the middle): far outside of it the linearisation
    would blow a Gaussian up over the whole image.

    Args:
      model: one of MODELS.
      point: x, y, z in the camera frame, [N] each, z > 0.
      K: [3, 3] intrinsics in pixels.
      lens: distortion.
      width, height: image size in pixels.

    Raises:
      ValueError: unknown model, or coefficients that it does not take.
    """
    check(model, lens)
    if model == "ortho":
        return _ortho(point, K)
    if model == "fisheye":
        return _fisheye(point, K, lens)
    if lens.is_ideal:
        return _pinhole(point, K, width, height)
    return _distorted_pinhole(point, K, lens, width, height)


def check(model: str, lens: Lens):
    """Raises ValueError for an unknown model or coefficients that it does not take."""
    if model not in MODELS:
        raise ValueError(f"camera_model: found {model!r}, expected one of {MODELS}")
    most = MAX_RADIAL.get(model, 0)
    count = lens.radial.shape[-1] if lens.radial is not None and lens.radial.ndim else 0
    if lens.radial is not None and not 1 <= count <= most:
        expected = f"1 to {most} (k1, k2, ...)" if most else "None"
        raise ValueError(
            f"radial_coeffs: found {count} for camera_model {model!r}, expected "
            f"{expected}; a pinhole takes up to 6, a fisheye up to 4"
        )
    if lens.tangential is not None and model != "pinhole":
        raise ValueError(
            f"tangential_coeffs: found an array for camera_model {model!r}, expected None; only "
            "the pinhole has tangential distortion"
        )


def _pinhole(point, K, width, height):
    x, y, z = point
    fx, fy, cx, cy = K[0, 0], K[1, 1], K[0, 2], K[1, 2]
    margin_x, margin_y = 0.15 * width / fx, 0.15 * height / fy
    tx = jnp.clip(x / z, -(cx / fx + margin_x), (width - cx) / fx + margin_x)
    ty = jnp.clip(y / z, -(cy / fy + margin_y), (height - cy) / fy + margin_y)
    gx, gy = fx / z, fy / z

    def push(tangent):
        dx, dy, dz = tangent
        return gx * (dx - tx * dz), gy * (dy - ty * dz)

    return View((fx * x / z + cx, fy * y / z + cy), push, None)


def _ortho(point, K):
    x, y, _ = point
    image = K[0, 0] * x + K[0, 2], K[1, 1] * y + K[1, 2]
    return View(image, lambda tangent: (K[0, 0] * tangent[0], K[1, 1] * tangent[1]), None)


# Pinhole behind a lens.


def _distorted_pinhole(point, K, lens, width, height):
    x, y, z = point
    a, b = x / z, y / z
    limit = _first_fold(lambda r: _radial_slope(r, lens), _tangents(z.dtype))
    valid = jax.lax.stop_gradient(a * a + b * b) < limit * limit
    a, b = jnp.where(valid, a, 0.0), jnp.where(valid, b, 0.0)
    # Tangential terms can fold as well, by a little and off the axis.
    valid &= jax.lax.stop_gradient(_determinant(_distortion_jacobian(a, b, lens))) > 0

    def image(a, b):
        a, b = distort(a, b, lens)
        return K[0, 0] * a + K[0, 2], K[1, 1] * b + K[1, 2]

    low, high = _view_box(K, lens, width, height, limit)
    ta, tb = jnp.clip(a, low[0], high[0]), jnp.clip(b, low[1], high[1])

    def push(tangent):
        dx, dy, dz = tangent
        return jax.jvp(image, (ta, tb), ((dx - ta * dz) / z, (dy - tb * dz) / z))[1]

    return View(image(a, b), push, valid)


def distort(a: jax.Array, b: jax.Array, lens: Lens) -> tuple[jax.Array, jax.Array]:
    """Distorted from ideal coordinates of a pinhole at unit distance, any shape."""
    t = a * a + b * b
    ratio = _radial_ratio(t, lens)
    if lens.tangential is None:
        return a * ratio, b * ratio
    p1, p2 = lens.tangential[0], lens.tangential[1]
    da = 2 * p1 * a * b + p2 * (t + 2 * a * a)
    db = p1 * (t + 2 * b * b) + 2 * p2 * a * b
    return a * ratio + da, b * ratio + db


def undistort(
    a: jax.Array, b: jax.Array, lens: Lens, limit: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Inverse of `distort` inside the radius ``limit``, by Newton's method.

    From the distorted point itself, Newton's method closes in on the root from one side for barrel
    and for pincushion distortion. Derivatives are those of the implicit function.

    Returns:
      ideal a, b, and where they were found (bool); elsewhere no ideal point is imaged there.
    """
    target_a, target_b, fixed, limit = jax.lax.stop_gradient((a, b, lens, limit))

    def residual(a, b, lens, target):
        found = distort(a, b, lens)
        return found[0] - target[0], found[1] - target[1]

    def newton(point, lens, target, jacobian):
        (aa, ab), (ba, bb) = jacobian
        det = aa * bb - ab * ba
        det = jnp.where(jnp.abs(det) < 1e-6, 1e-6, det)
        ra, rb = residual(*point, lens, target)
        return point[0] - (bb * ra - ab * rb) / det, point[1] - (aa * rb - ba * ra) / det

    def step(_, point):
        point = newton(point, fixed, (target_a, target_b), _distortion_jacobian(*point, fixed))
        radius = jnp.sqrt(point[0] ** 2 + point[1] ** 2)
        shrink = jnp.minimum(1.0, limit / jnp.maximum(radius, 1e-12))
        return point[0] * shrink, point[1] * shrink

    point = jax.lax.fori_loop(0, _NEWTON_STEPS, step, step(0, (target_a, target_b)))
    ra, rb = residual(*point, fixed, (target_a, target_b))
    tolerance = 1e3 * jnp.finfo(target_a.dtype).eps * (1 + jnp.abs(target_a) + jnp.abs(target_b))
    found = (jnp.abs(ra) + jnp.abs(rb)) < tolerance
    # One more step with a constant Jacobian carries the derivative of the implicit function.
    point = newton(point, lens, (a, b), _distortion_jacobian(*point, fixed))
    return *point, found


def _radial_ratio(t, lens):
    """(1 + k1 t + k2 t^2 + k3 t^3) / (1 + k4 t + k5 t^2 + k6 t^3)."""
    if lens.radial is None:
        return jnp.ones_like(t)
    top, bottom = lens.radial[:3], lens.radial[3:]
    ratio = _polynomial(t, top)
    return ratio / _polynomial(t, bottom) if bottom.shape[0] else ratio


def _polynomial(t, coefficients):
    """1 + c1 t + c2 t^2 + ..."""
    value = jnp.zeros_like(t)
    for i in reversed(range(coefficients.shape[0])):
        value = t * (coefficients[i] + value)
    return 1 + value


def _distortion_jacobian(a, b, lens):
    """Rows of d(a', b') / d(a, b)."""
    one, zero = jnp.ones_like(a), jnp.zeros_like(a)
    columns = [
        jax.jvp(lambda a, b: distort(a, b, lens), (a, b), t)[1] for t in ((one, zero), (zero, one))
    ]
    return tuple(zip(*columns, strict=True))


def _determinant(rows):
    (aa, ab), (ba, bb) = rows
    return aa * bb - ab * ba


def _view_box(K, lens, width, height, limit):
    """Bounds [2], [2] of the ideal coordinates of an image widened by 15 % on each side.

    From the corners and the middles of its sides. Sides that no ideal point reaches do not bound.
    """
    x = np.array([-0.15, 0.5, 1.15, -0.15, 1.15, -0.15, 0.5, 1.15]) * width
    y = np.array([-0.15, -0.15, -0.15, 0.5, 0.5, 1.15, 1.15, 1.15]) * height
    a = (jnp.asarray(x, K.dtype) - K[0, 2]) / K[0, 0]
    b = (jnp.asarray(y, K.dtype) - K[1, 2]) / K[1, 1]
    ideal_a, ideal_b, found = undistort(a, b, lens, limit)
    ideal_a = jnp.where(found, ideal_a, jnp.sign(a) * limit)
    ideal_b = jnp.where(found, ideal_b, jnp.sign(b) * limit)
    ideal = jnp.stack([ideal_a, ideal_b])
    return jnp.min(ideal, 1), jnp.max(ideal, 1)


# Where a lens folds over.


def _tangents(dtype):
    """Radii to look at: evenly spaced half angles."""
    angles = np.linspace(0, np.arctan(_MAX_TANGENT), _FOLD_SAMPLES + 1)[1:]
    return jnp.asarray(np.tan(angles), dtype)


def _radial_slope(r, lens):
    """Positive where the distorted radius grows with r and has not passed a pole."""
    ratio, slope = jax.jvp(lambda r: _radial_ratio(r * r, lens), (r,), (jnp.ones_like(r),))
    return jnp.where(ratio > 0, ratio + r * slope, -1.0)


def _first_fold(slope, radii):
    """The first radius where slope(radius) is not positive, or the last of the radii."""

    def growing(r):
        return jax.lax.stop_gradient(slope(r)) > 0

    folded = ~growing(radii)
    first = jnp.argmax(folded)
    low, high = jnp.where(first > 0, radii[first - 1], 0.0), radii[first]

    def halve(_, bounds):
        middle = 0.5 * (bounds[0] + bounds[1])
        grows = growing(middle)
        return jnp.where(grows, middle, bounds[0]), jnp.where(grows, bounds[1], middle)

    low, _ = jax.lax.fori_loop(0, _BISECTIONS, halve, (low, high))
    return jnp.where(jnp.any(folded), low, radii[-1])


# Fisheye.


def _fisheye(point, K, lens):
    x, y, z = point
    valid = None
    if lens.radial is not None:
        angles = jnp.asarray(np.linspace(0, np.pi / 2, _FOLD_SAMPLES + 1)[1:], z.dtype)
        odd = 2.0 * jnp.arange(1, lens.radial.shape[0] + 1, dtype=z.dtype) + 1
        limit = _first_fold(lambda a: _polynomial(a * a, odd * lens.radial), angles)
        angle = jnp.arctan2(jnp.sqrt(jax.lax.stop_gradient(x * x + y * y)), z)
        valid = jax.lax.stop_gradient(angle) < limit
        x, y = jnp.where(valid, x, 0.0), jnp.where(valid, y, 0.0)

    def image(x, y, z):
        squared = x * x + y * y
        scale = _angle_over_radius(squared, z)
        if lens.radial is not None:
            scale = scale * _polynomial(squared * scale * scale, lens.radial)
        return K[0, 0] * x * scale + K[0, 2], K[1, 1] * y * scale + K[1, 2]

    def push(tangent):
        return jax.jvp(image, (x, y, z), tangent)[1]

    return View(image(x, y, z), push, valid)


def _angle_over_radius(squared, z):
    """atan2(r, z) / r for r^2 = squared >= 0 and z > 0, smooth at r = 0.

    Near the axis a series in q = (r / z)^2: the quotient's derivatives would lose their digits.
    """
    near = squared < (1e-3 if z.dtype == jnp.float64 else 1e-2) * z * z
    radius = jnp.sqrt(jnp.where(near, 1.0, squared))
    # Divided where it is used only, and twice: close to the camera plane (r / z)^2 overflows off the
    # axis, and 1 / z^6, of the second derivatives of a division by z^2, even on it.
    depth = jnp.where(near, z, 1.0)
    inner = jnp.where(near, squared, 0.0) / depth / depth
    series = jnp.zeros_like(inner)
    for n in reversed(range(7)):
        series = (-1.0) ** n / (2 * n + 1) + inner * series
    return jnp.where(near, series / depth, jnp.arctan2(radius, z) / radius)
