"""Real spherical harmonics of degree 0 to 4: evaluation and rotation of view-dependent colour.

Basis functions, their order (index l*l + l + m) and signs are those of 3D Gaussian splatting
(Kerbl et al. 2023) and of gsplat: the Condon-Shortley phase is kept. The constant 0.5 that a
renderer adds to the sum is not added here.
"""

import functools
import operator

import jax
import jax.numpy as jnp
import numpy as np

from gsjax.core import rotations

SH_C0 = 0.28209479177387814
MAX_DEGREE = 4


def num_coeffs(degree: int) -> int:
    """Number of coefficients K = (degree + 1)^2 of one channel.

    Raises:
      ValueError: degree is not 0, 1, 2, 3 or 4, or no integer (1.0 is none).
    """
    try:
        degree = operator.index(degree)
    except TypeError:
        raise ValueError(
            f"degree: expected an integer, 0 to {MAX_DEGREE}, found {degree!r}"
        ) from None
    if degree not in range(MAX_DEGREE + 1):
        raise ValueError(f"degree: expected 0 to {MAX_DEGREE}, found {degree!r}")
    return (degree + 1) ** 2


def degree_of(count: int) -> int:
    """The degree that has ``count`` coefficients a channel.

    Raises:
      ValueError: count is not 1, 4, 9, 16 or 25.
    """
    for degree in range(MAX_DEGREE + 1):
        if num_coeffs(degree) == count:
            return degree
    raise ValueError(f"count: expected 1, 4, 9, 16 or 25 SH coefficients, found {count}")


def _basis_0(x, y, z) -> list:
    return [SH_C0 + 0 * x]


def _basis_1(x, y, z) -> list:
    c = 0.4886025119029199
    return [-c * y, c * z, -c * x]


def _basis_2(x, y, z) -> list:
    c = 1.0925484305920792
    return [
        c * x * y,
        -c * y * z,
        0.31539156525252005 * (2 * z * z - x * x - y * y),
        -c * x * z,
        0.5462742152960396 * (x * x - y * y),
    ]


def _basis_3(x, y, z) -> list:
    xx, yy, zz = x * x, y * y, z * z
    return [
        -0.5900435899266435 * y * (3 * xx - yy),
        2.890611442640554 * x * y * z,
        -0.4570457994644658 * y * (4 * zz - xx - yy),
        0.3731763325901154 * z * (2 * zz - 3 * xx - 3 * yy),
        -0.4570457994644658 * x * (4 * zz - xx - yy),
        1.445305721320277 * z * (xx - yy),
        -0.5900435899266435 * x * (xx - 3 * yy),
    ]


def _basis_4(x, y, z) -> list:
    zz = z * z
    # cos(m phi) and sin(m phi) times sin(theta)^m, by the angle-addition recurrence.
    c2, s2 = x * x - y * y, 2 * x * y
    c3, s3 = x * c2 - y * s2, x * s2 + y * c2
    c4, s4 = x * c3 - y * s3, x * s3 + y * c3
    m1 = z * (-4.683325804901025 * zz + 2.007139630671868)
    m2 = 3.31161143515146 * zz - 0.47308734787878
    m0 = 1.984313483298443 * zz * (1.865881662950577 * zz - 1.119528997770346)
    m0 = m0 - 1.006230589874905 * (0.9461746957575601 * zz - 0.3153915652525201)
    return [
        0.6258357354491763 * s4,
        -1.770130769779931 * z * s3,
        m2 * s2,
        m1 * y,
        m0,
        m1 * x,
        m2 * c2,
        -1.770130769779931 * z * c3,
        0.6258357354491763 * c4,
    ]


_BASES = (_basis_0, _basis_1, _basis_2, _basis_3, _basis_4)


def basis(degree: int, dirs: jax.Array) -> jax.Array:
    """Values of the basis functions.

    Args:
      degree: 0 to 4.
      dirs: [..., 3], normalised inside. A zero vector is evaluated as the +z direction, with zero
        gradient.

    Returns:
      [..., (degree + 1)^2].
    """
    num_coeffs(degree)
    dirs = rotations.safe_normalize(dirs, (0.0, 0.0, 1.0))
    if dirs.shape[-1] != 3:
        raise ValueError(f"dirs: expected shape [..., 3], found {list(dirs.shape)}")
    xyz = jnp.moveaxis(dirs, -1, 0)
    return jnp.stack([v for f in _BASES[: degree + 1] for v in f(*xyz)], axis=-1)


def eval_sh(degree: int, dirs: jax.Array, sh: jax.Array) -> jax.Array:
    """Sum of SH coefficients times basis functions (without the renderer's + 0.5).

    Args:
      degree: 0 to 4, the degree to evaluate; may be below the one stored.
      dirs: [..., 3] viewing directions, camera to Gaussian, normalised inside.
      sh: [..., K, D], K >= (degree + 1)^2; leading axes broadcast against those of dirs.

    Returns:
      [..., D].

    Raises:
      ValueError: unknown degree, or sh holds too few coefficients.
    """
    count = num_coeffs(degree)
    if sh.ndim < 2 or sh.shape[-2] < count:
        raise ValueError(
            f"sh: degree {degree} needs [..., K >= {count}, D], found {list(sh.shape)}"
        )
    if degree == 0:
        leading = jnp.broadcast_shapes(dirs.shape[:-1], sh.shape[:-2])
        return jnp.broadcast_to(SH_C0 * sh[..., 0, :], (*leading, sh.shape[-1]))
    # A matmul although K <= 25: on CPU 7 to 18 times as fast as a product and a sum (JAX 0.10).
    # At the highest precision accelerators do not round it to TF32 or bfloat16.
    values, precision = basis(degree, dirs), jax.lax.Precision.HIGHEST
    return jnp.einsum("...k,...kd->...d", values, sh[..., :count, :], precision=precision)


def rgb_to_sh0(rgb: jax.Array) -> jax.Array:
    """Degree-0 coefficients that render as ``rgb`` (in [0, 1], same shape)."""
    return (rgb - 0.5) / SH_C0


def sh0_to_rgb(sh0: jax.Array) -> jax.Array:
    """Colour that degree-0 coefficients render as, not clipped (same shape)."""
    return sh0 * SH_C0 + 0.5


@functools.cache
def _sample_solver(level: int) -> tuple[np.ndarray, np.ndarray]:
    """Directions [S, 3] and the pseudo-inverse [2l + 1, S] of the level's basis at them."""
    # A Fibonacci sphere: evenly spread, so the least-squares system is as good as orthogonal.
    count = 8 * (2 * level + 1)
    z = 1 - (2 * np.arange(count) + 1) / count
    phi = np.arange(count) * np.pi * (3 - 5**0.5)
    radius = np.sqrt(1 - z * z)
    dirs = np.stack((radius * np.cos(phi), radius * np.sin(phi), z), axis=-1)
    values = np.stack(_BASES[level](*dirs.T), axis=-1)
    return dirs, np.linalg.pinv(values)


def rotation_matrix(level: int, rotmats: jax.Array) -> jax.Array:
    """How the 2l + 1 coefficients of one level transform under a rotation of the object.

    The rotated function is f'(d) = f(R^T d). Both sides are sampled at fixed directions and the
    coefficients of f' solved for by a constant pseudo-inverse: exact up to rounding, because a
    rotation maps each level to itself, and smooth in R.

    Args:
      level: 0 to 4.
      rotmats: [..., 3, 3].

    Returns:
      [..., 2l + 1, 2l + 1].
    """
    dirs, solver = (jnp.asarray(a, rotmats.dtype) for a in _sample_solver(level))
    turned = jnp.einsum("sj,...ji->...si", dirs, rotmats, precision="highest")  # R^T d
    values = jnp.stack(_BASES[level](*jnp.moveaxis(turned, -1, 0)), axis=-1)
    return jnp.einsum("ms,...sn->...mn", solver, values, precision="highest")


def rotate_sh(sh: jax.Array, rotmats: jax.Array) -> jax.Array:
    """Coefficients of the colour function after the object is rotated.

    ``eval_sh(degree, R @ d, rotate_sh(sh, R)) == eval_sh(degree, d, sh)``.

    Args:
      sh: [..., K, D], K = 1, 4, 9, 16 or 25.
      rotmats: [..., 3, 3]; leading axes broadcast against those of sh.

    Returns:
      [..., K, D].
    """
    degree = degree_of(sh.shape[-2])
    leading = jnp.broadcast_shapes(sh.shape[:-2], rotmats.shape[:-2])
    levels = [jnp.broadcast_to(sh[..., :1, :], (*leading, 1, sh.shape[-1]))]
    for level in range(1, degree + 1):
        matrix = rotation_matrix(level, rotmats.astype(sh.dtype))
        part = sh[..., level * level : (level + 1) ** 2, :]
        levels.append(jnp.einsum("...mn,...nd->...md", matrix, part, precision="highest"))
    return jnp.concatenate(levels, axis=-2)
