"""Rotations as unit quaternions (w, x, y, z) and as 3x3 matrices; not a general Lie-group library.

Every function works over free leading axes, keeps the dtype of its input and has finite gradients
everywhere, including at the zero quaternion and at the zero rotation vector (double-``where``
guards: the value that the untaken branch would differentiate is replaced before it is used).
"""

import jax
import jax.numpy as jnp


def _smallest(dtype) -> float:
    """Length under which a vector counts as zero: its inverse still fits the dtype with room."""
    return float(jnp.finfo(dtype).tiny) ** 0.5


def safe_normalize(x: jax.Array, fallback: jax.Array | tuple[float, ...]) -> jax.Array:
    """Unit vectors along the last axis; vectors of (almost) no length become ``fallback``.

    The division by the largest component first keeps the squared length from overflowing or
    underflowing. That factor is a constant for the gradient: x -> x/|x| does not depend on it.

    Args:
      x: [..., D].
      fallback: D numbers, returned (with zero gradient) where |x| is below sqrt(smallest normal).

    Returns:
      [..., D] of unit length, NaN where x is not finite.
    """
    x = _floating(x)
    largest = jax.lax.stop_gradient(jnp.max(jnp.abs(x), axis=-1, keepdims=True))
    is_zero = largest < _smallest(x.dtype)
    fallback = jnp.broadcast_to(jnp.asarray(fallback, x.dtype), x.shape)
    x = jnp.where(is_zero, fallback, x / jnp.where(is_zero, 1.0, largest))
    return x / jnp.linalg.norm(x, axis=-1, keepdims=True)


def _floating(x) -> jax.Array:
    x = jnp.asarray(x)
    return x if jnp.issubdtype(x.dtype, jnp.floating) else x.astype(jnp.result_type(float))


def _check_last(x: jax.Array, size: tuple[int, ...], name: str):
    if x.shape[-len(size) :] != size:
        expected = ", ".join(map(str, size))
        raise ValueError(f"{name}: expected shape [..., {expected}], found {list(x.shape)}")


def quat_normalize(quats: jax.Array) -> jax.Array:
    """Unit quaternions; the zero quaternion becomes the identity with zero gradient.

    Args:
      quats: [..., 4] wxyz, any length.

    Returns:
      [..., 4] of unit length.
    """
    quats = _floating(quats)
    _check_last(quats, (4,), "quats")
    return safe_normalize(quats, (1.0, 0.0, 0.0, 0.0))


def quat_to_rotmat(quats: jax.Array) -> jax.Array:
    """Rotation matrices of quaternions, which are normalised first.

    Args:
      quats: [..., 4] wxyz, any length; zero means identity.

    Returns:
      [..., 3, 3]; column j is the image of axis j.
    """
    w, x, y, z = jnp.moveaxis(quat_normalize(quats), -1, 0)
    rows = (
        (1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)),
        (2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)),
        (2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)),
    )
    return jnp.stack([jnp.stack(row, axis=-1) for row in rows], axis=-2)


def rotmat_to_quat(rotmats: jax.Array) -> jax.Array:
    """Unit quaternions (w >= 0) of rotation matrices, stable at every angle.

    The symmetric 4x4 matrix 4 q q^T is linear in R. Its row with the largest diagonal entry
    (never below 1 for a rotation) is a multiple of q, so no square root meets zero (Shepperd 1978).

    Args:
      rotmats: [..., 3, 3], orthonormal with determinant 1.

    Returns:
      [..., 4] wxyz.
    """
    m = _floating(rotmats)
    _check_last(m, (3, 3), "rotmats")
    xx, yy, zz = m[..., 0, 0], m[..., 1, 1], m[..., 2, 2]
    wx, wy, wz = (
        m[..., 2, 1] - m[..., 1, 2],
        m[..., 0, 2] - m[..., 2, 0],
        m[..., 1, 0] - m[..., 0, 1],
    )
    xy, xz, yz = (
        m[..., 0, 1] + m[..., 1, 0],
        m[..., 0, 2] + m[..., 2, 0],
        m[..., 1, 2] + m[..., 2, 1],
    )
    rows = (
        (1 + xx + yy + zz, wx, wy, wz),
        (wx, 1 + xx - yy - zz, xy, xz),
        (wy, xy, 1 - xx + yy - zz, yz),
        (wz, xz, yz, 1 - xx - yy + zz),
    )
    outer = jnp.stack([jnp.stack(row, axis=-1) for row in rows], axis=-2)
    best = jnp.argmax(jnp.diagonal(outer, axis1=-2, axis2=-1), axis=-1)
    quats = jnp.take_along_axis(outer, best[..., None, None], axis=-2)[..., 0, :]
    quats = jnp.where(quats[..., :1] < 0, -quats, quats)
    return quat_normalize(quats)


def quat_multiply(a: jax.Array, b: jax.Array) -> jax.Array:
    """Hamilton product: the rotation b followed by the rotation a.

    Args:
      a: [..., 4] wxyz.
      b: [..., 4] wxyz, leading axes broadcast against those of a.

    Returns:
      [..., 4]; its length is the product of the lengths.
    """
    a, b = _floating(a), _floating(b)
    _check_last(a, (4,), "a")
    _check_last(b, (4,), "b")
    aw, ax, ay, az = jnp.moveaxis(a, -1, 0)
    bw, bx, by, bz = jnp.moveaxis(b, -1, 0)
    return jnp.stack(
        (
            aw * bw - ax * bx - ay * by - az * bz,
            aw * bx + ax * bw + ay * bz - az * by,
            aw * by - ax * bz + ay * bw + az * bx,
            aw * bz + ax * by - ay * bx + az * bw,
        ),
        axis=-1,
    )


def quat_conjugate(quats: jax.Array) -> jax.Array:
    """The inverse rotation of unit quaternions [..., 4] wxyz."""
    quats = _floating(quats)
    _check_last(quats, (4,), "quats")
    return quats * jnp.asarray((1, -1, -1, -1), quats.dtype)


def axis_angle_to_quat(axis: jax.Array, angle: jax.Array) -> jax.Array:
    """Quaternions of right-handed turns about axes.

    Args:
      axis: [..., 3], any length; a zero axis gives the identity.
      angle: [...] radians, broadcast against axis.

    Returns:
      [..., 4] wxyz of unit length.
    """
    axis = _floating(axis)
    _check_last(axis, (3,), "axis")
    half = jnp.asarray(angle, axis.dtype)[..., None] / 2
    has_axis = jnp.max(jnp.abs(axis), axis=-1, keepdims=True) >= _smallest(axis.dtype)
    half = jnp.where(has_axis, half, 0.0)
    xyz = safe_normalize(axis, (1.0, 0.0, 0.0)) * jnp.sin(half)
    return jnp.concatenate((jnp.broadcast_to(jnp.cos(half), (*xyz.shape[:-1], 1)), xyz), axis=-1)


def rotvec_to_quat(rotvec: jax.Array) -> jax.Array:
    """Quaternions of rotation vectors: axis times angle in radians.

    Unlike ``axis_angle_to_quat(v, |v|)`` this is smooth at zero, so it serves for pose updates.

    Args:
      rotvec: [..., 3].

    Returns:
      [..., 4] wxyz of unit length.
    """
    rotvec = _floating(rotvec)
    _check_last(rotvec, (3,), "rotvec")
    angle2 = jnp.sum(rotvec * rotvec, axis=-1, keepdims=True)
    # Below this angle the next term of the series is under the rounding of either dtype.
    small = angle2 < (1e-6 if rotvec.dtype == jnp.float64 else 1e-3)
    angle = jnp.sqrt(jnp.where(small, 1.0, angle2))
    # sin(a/2)/a and cos(a/2) as series in a^2.
    ratio = 0.5 - angle2 / 48 + angle2 * angle2 / 3840
    cosine = 1 - angle2 / 8 + angle2 * angle2 / 384
    ratio = jnp.where(small, ratio, jnp.sin(angle / 2) / angle)
    cosine = jnp.where(small, cosine, jnp.cos(angle / 2))
    return jnp.concatenate((cosine, ratio * rotvec), axis=-1)
