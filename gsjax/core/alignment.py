"""The similarity that takes one point set onto another, point by point, in closed form.

Umeyama, "Least-squares estimation of transformation parameters between two point patterns" (PAMI 1991), with
weights. Letters as there: x source, y target, M their covariance, U S V^T its singular values, (s, R, t) scale,
rotation, translation. No outlier search: at most a share of the worst points is left out and the fit repeated.
Gradients never pass through the derivative of a singular value decomposition, which is NaN wherever two values
coincide (isotropic and symmetric planar sets): the rotation has its own rule, finite everywhere.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

_einsum = functools.partial(jnp.einsum, precision="highest")


class Similarity(NamedTuple):
    """y = scale * rotation @ x + translation.

    Attributes:
        scale: [...].
        rotation: [..., 3, 3], determinant 1.
        translation: [..., 3].
        valid: bool [...]; where False the fit was impossible and the transform is the identity, without gradient.
    """

    scale: jax.Array
    rotation: jax.Array
    translation: jax.Array
    valid: jax.Array


def apply(similarity: Similarity, points: jax.Array) -> jax.Array:
    """Points moved by similarities with the same leading axes.

    Args:
        similarity: of leading axes [...].
        points: [..., N, 3].

    Returns:
        [..., N, 3].
    """
    turned = _einsum("...ij,...nj->...ni", similarity.rotation, points)
    return similarity.scale[..., None, None] * turned + similarity.translation[..., None, :]


def umeyama(
    source: jax.Array,
    target: jax.Array,
    weights: jax.Array | None = None,
    *,
    min_points: int = 3,
    trim: float = 0.0,
    rounds: int = 1,
) -> Similarity:
    """The similarity that minimises sum_i w_i |y_i - (s R x_i + t)|^2 (Umeyama 1991, Eqs. 39 to 43).

    Differentiable in the points and weights. Planar sets determine R (the sign is that of the determinants);
    collinear ones leave it free about the line, where it is some rotation and has no gradient. A constant target
    gives scale 0. Noise in the source shrinks the scale (errors in variables): give bad points less weight.

    Args:
        source: [..., N, 3] points x, to be moved.
        target: [..., N, 3] points y, which stay; leading axes broadcast.
        weights: [..., N]; None is 1 for all. Points that are not finite in x, y or w, or have w <= 0, do not count.
        min_points: with fewer points that count the result is not valid.
        trim: share of these points, those of the largest residuals, that a second fit leaves out; which ones they
            are carries no gradient.
        rounds: how often that is repeated, each time choosing among all points.

    Returns:
        Similarity of the leading axes. Not valid where no weight or fewer than min_points points are left, or
        where these have (to rounding) one place: their variance is below eps times their mean squared distance
        from the origin. That bound follows the units of the source; an absolute one would refuse a small cloud.

    Raises:
        ValueError: shapes do not fit, min_points < 1, trim not in [0, 1), or rounds < 0.
    """
    source, target = jnp.asarray(source), jnp.asarray(target)
    _check(source, target, weights, min_points, trim, rounds)
    dtype = jnp.result_type(source, target)
    weights = jnp.ones(source.shape[-2], dtype) if weights is None else weights.astype(dtype)
    shape = jnp.broadcast_shapes(source.shape[:-1], target.shape[:-1], weights.shape)
    usable = jnp.all(jnp.isfinite(source), -1) & jnp.all(jnp.isfinite(target), -1)
    usable = jnp.broadcast_to(usable & jnp.isfinite(weights) & (weights > 0), shape)
    # Zeroed with their weights before any sum: NaN times 0 is NaN, in gradients as well.
    source, target = (jnp.where(usable[..., None], x, 0.0) for x in (source, target))
    weights = jnp.where(usable, weights, 0.0)
    found = _fit(source, target, weights, usable, min_points)
    for _ in range(rounds if trim else 0):
        residuals = jnp.sum(jnp.square(target - apply(found, source)), -1)
        kept = keep_smallest(jax.lax.stop_gradient(residuals), usable, 1 - trim)
        found = _fit(source, target, jnp.where(kept, weights, 0.0), kept, min_points)
    return found


def keep_smallest(values: jax.Array, usable: jax.Array, share: float) -> jax.Array:
    """Which of the usable entries are among the given share of smallest values.

    Args:
        values: [..., N], no NaN among the usable ones.
        usable: bool [..., N].
        share: of the usable entries, in (0, 1]; their number is rounded up, and values equal to the last one stay.

    Returns:
        bool [..., N].
    """
    ordered = jnp.sort(jnp.where(usable, values, jnp.inf), -1)
    count = jnp.sum(usable, -1, keepdims=True)
    # The small subtraction: 0.9 * 10 in float32 is above 9.
    last = jnp.ceil(count * share - 1e-6 * count).astype(jnp.int32) - 1
    bound = jnp.take_along_axis(ordered, jnp.clip(last, 0, values.shape[-1] - 1), -1)
    return usable & (values <= bound)


def _check(source, target, weights, min_points, trim, rounds):
    for name, x in dict(source=source, target=target).items():
        if x.ndim < 2 or x.shape[-1] != 3:
            raise ValueError(f"{name}: expected shape [..., N, 3], found {list(x.shape)}")
    if source.shape[-2] != target.shape[-2]:
        raise ValueError(
            f"target: expected as many points as source, {source.shape[-2]}, found {target.shape[-2]}; "
            "the fit is from point i to point i"
        )
    if weights is not None and weights.shape[-1:] != source.shape[-2:-1]:
        raise ValueError(
            f"weights: expected shape [..., {source.shape[-2]}], found {list(weights.shape)}"
        )
    if min_points < 1:
        raise ValueError(f"min_points: expected at least 1, found {min_points}")
    if not 0 <= trim < 1:
        raise ValueError(f"trim: expected a share in [0, 1), found {trim}")
    if rounds < 0:
        raise ValueError(f"rounds: expected at least 0, found {rounds}")


def _fit(source, target, weights, usable, min_points) -> Similarity:
    total = jnp.sum(weights, -1, keepdims=True)
    enough = (jnp.sum(usable, -1) >= min_points) & (total[..., 0] > 0)
    weights = weights / jnp.where(enough[..., None], total, 1.0)
    (source, mean_x), (target, mean_y) = _centre(source, weights), _centre(target, weights)
    variance = jnp.sum(weights * jnp.sum(jnp.square(source), -1), -1)
    size = variance + jnp.sum(jnp.square(mean_x), -1)
    valid = enough & (variance > jnp.finfo(variance.dtype).eps * size)
    moment = _einsum("...ni,...nj->...ij", weights[..., None] * target, source)
    moment = jnp.where(valid[..., None, None], moment, jnp.eye(3, dtype=moment.dtype))
    rotation = nearest_rotation(moment)
    # trace(R^T M) is trace(S D). Its derivative through R vanishes, as R maximises it.
    scale = _einsum("...ij,...ij->...", rotation, moment) / jnp.where(valid, variance, 1.0)
    scale = jnp.where(valid, scale, 1.0)
    moved = scale[..., None] * _einsum("...ij,...j->...i", rotation, mean_x)
    return Similarity(scale, rotation, jnp.where(valid[..., None], mean_y - moved, 0.0), valid)


def _centre(points, weights):
    """points - mean, and the mean: twice, so that the rounding of a sum far from the origin goes."""
    mean = jnp.zeros_like(points[..., 0, :])
    for _ in range(2):
        shift = _einsum("...n,...ni->...i", weights, points)
        points, mean = points - shift[..., None, :], mean + shift
    return points, mean


@jax.custom_vjp
def nearest_rotation(matrix: jax.Array) -> jax.Array:
    """The rotation R that maximises trace(R^T M), for M = U S V^T that is R = U diag(1, 1, d) V^T.

    d is the sign of det(U) det(V), so a reflection is never returned. Where R is not unique (the two smallest
    singular values vanish, or are equal and d = -1) it is one of the best; its gradient is 0 along the free
    direction and finite in all others. M = 0 gives some rotation without gradient.

    With R = U diag(1, 1, d) V^T, dR = R hat(w) and A = R^T dM: K w = vee(A - A^T), where
    K = tr(P) I - P and P = R^T M has eigenvectors V and eigenvalues S1 >= S2 >= d S3. The eigenvalues of K,
    S2 + d S3, S1 + d S3 and S1 + S2, are never negative; the smallest alone can vanish.

    Args:
        matrix: [..., 3, 3], finite.

    Returns:
        [..., 3, 3].
    """
    return _rotation_forward(matrix)[0]


def _rotation_forward(matrix):
    # R does not depend on the size of M; of one near 1, no product over- or underflows.
    largest = jnp.max(jnp.abs(matrix), axis=(-2, -1), keepdims=True)
    empty = largest < jnp.finfo(matrix.dtype).tiny
    largest = jnp.where(empty, 1.0, largest)
    u, values, vt = jnp.linalg.svd(matrix / largest, full_matrices=False)
    # A determinant is 1 or -1 but for rounding; were it 0, sign() would take a rank from R.
    flip = jnp.where(jnp.linalg.det(u) * jnp.linalg.det(vt) < 0, -1.0, 1.0).astype(u.dtype)
    signs = jnp.stack([jnp.ones_like(flip), jnp.ones_like(flip), flip], -1)
    rotation = _einsum("...ij,...j,...jk->...ik", u, signs, vt)
    first, second, third = jnp.moveaxis(values * signs, -1, 0)
    stiffness = jnp.stack([second + third, first + third, first + second], -1)
    # Along a free direction the inverse is 0: 1 / k elsewhere, to eps^2. Differences of singular values are known
    # to a few eps of the largest.
    damping = 8 * jnp.finfo(matrix.dtype).eps * jnp.sum(stiffness, -1, keepdims=True) / 2
    inverse = stiffness / jnp.where(empty[..., 0], 1.0, jnp.square(stiffness) + jnp.square(damping))
    inverse = jnp.where(empty[..., 0], 0.0, inverse / largest[..., 0])
    return rotation, (rotation, vt, inverse)


def _rotation_backward(residuals, gradient):
    rotation, vt, inverse = residuals
    b = _einsum("...ji,...jk->...ik", rotation, gradient)
    skew = _vee(b - jnp.swapaxes(b, -1, -2))
    along = inverse * _einsum("...ij,...j->...i", vt, skew)
    return (_einsum("...ij,...jk->...ik", rotation, _hat(_einsum("...ji,...j->...i", vt, along))),)


nearest_rotation.defvjp(_rotation_forward, _rotation_backward)


def _vee(a: jax.Array) -> jax.Array:
    """[..., 3, 3] -> [..., 3]: v with hat(v) = a, for a skew matrix a."""
    return jnp.stack([a[..., 2, 1], a[..., 0, 2], a[..., 1, 0]], -1)


def _hat(v: jax.Array) -> jax.Array:
    """[..., 3] -> [..., 3, 3]: hat(v) x = v cross x."""
    x, y, z = jnp.moveaxis(v, -1, 0)
    zero = jnp.zeros_like(x)
    rows = (zero, -z, y), (z, zero, -x), (-y, x, zero)
    return jnp.stack([jnp.stack(row, -1) for row in rows], -2)
