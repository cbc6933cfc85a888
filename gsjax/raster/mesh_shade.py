"""Colours of the samples that ``mesh.py`` found visible, and pixels from samples. Plain XLA.

Deferred: a sample knows its face and depth, all else follows from one row of numbers per face. Works
through the picture in bands of rows, so that what belongs to a band stays in cache; bands that nothing
hits are skipped.
"""

import jax
import jax.numpy as jnp
from jax import lax

BAND = 16  # rows of pixels that are shaded together


def apply(matrix: jax.Array, vectors: jax.Array) -> jax.Array:
    """matrix [D, 3] times vectors [..., 3], written out: a call to matmul costs ten times as much."""
    return sum(vectors[..., k : k + 1] * matrix[:, k] for k in range(3))


def shade(inverse_depth, ids, K, table, width, rows, supersample):
    """Colours and depths of pixels, a band of rows at a time.

    Args:
      inverse_depth: [rows s, W s], of samples.
      ids: int32 [rows s, W s] face of each sample, -1 for none.
      K: [3, 3].
      table: ``face_rows`` [F, 29], texture of faces int32 [F] (-1: none), packed texels, their layout
        [T, 3] (offset, height, width), ambient and diffuse light, direction to the light in camera
        axes (zeros: head light).
      width: pixels.
      rows: pixels, a multiple of BAND.
      supersample: s.

    Returns:
      rgba [rows, W, 4] with straight alpha, depth [rows, W].
    """
    bands, band = rows // BAND, BAND * supersample
    columns = (jnp.arange(width * supersample) + 0.5) / supersample
    centres = jnp.arange(width) + 0.5
    unproject = jnp.linalg.inv(K)

    def shade(args):
        first, inverse, ids = args
        y = (first * band + jnp.arange(band) + 0.5) / supersample
        pixels = jnp.stack(
            jnp.broadcast_arrays(columns[None], y[:, None], jnp.ones((1, 1), y.dtype)), -1
        )
        hit = ids >= 0
        depth = jnp.where(hit, 1 / jnp.where(hit, inverse, 1.0), 0.0)
        points = apply(unproject, pixels) * depth[..., None]
        rgb = _colours(points, jnp.maximum(ids, 0), table)
        rgba, nearest, face = _resolve(jnp.where(hit[..., None], rgb, 0.0), depth, ids, supersample)
        y = first * BAND + jnp.arange(BAND) + 0.5
        pixels = jnp.stack(jnp.broadcast_arrays(centres[None], y[:, None], jnp.ones((1, 1))), -1)
        depth = _center_depth(apply(unproject, pixels), nearest, table[0][jnp.maximum(face, 0)])
        return rgba, jnp.where(face >= 0, depth, 0.0)

    def maybe(args):
        empty = jnp.zeros((BAND, width, 4), inverse_depth.dtype)
        return lax.cond(jnp.any(args[2] >= 0), shade, lambda _: (empty, empty[..., 0]), args)

    split = [x.reshape(bands, band, -1) for x in (inverse_depth, ids)]
    rgba, depth = lax.map(maybe, (jnp.arange(bands), *split))
    return rgba.reshape(rows, width, 4), depth.reshape(rows, width)


def face_rows(corners, colours, uvs) -> jax.Array:
    """What shading needs of a face, [F, 29], in one row: memory is visited once for each sample."""
    a, b, c = corners[:, 0], corners[:, 1], corners[:, 2]
    normal = jnp.cross(b - a, c - a)
    square = jnp.maximum(jnp.sum(normal * normal, -1, keepdims=True), 1e-30)
    # Weights of the second and third corner at a point p: dot products of these with p - a.
    second, third = jnp.cross(c - a, normal) / square, jnp.cross(normal, b - a) / square
    whole = (a, second, third, normal / jnp.sqrt(square), *(colours[:, k] for k in range(3)))
    z = corners[..., 2]
    ends = jnp.stack((z.min(-1), z.max(-1)), -1)
    return jnp.concatenate((*whole, *(uvs[:, k] for k in range(3)), ends), -1)


def _colours(points, ids, table):
    """Shaded sRGB [..., 3] of points [..., 3] (camera space) on faces ids [...]."""
    rows, texture, texels, layout, light, toward = table
    row = rows[ids]
    r = points - row[..., :3]
    v = jnp.sum(r * row[..., 3:6], -1, keepdims=True)
    w = jnp.sum(r * row[..., 6:9], -1, keepdims=True)
    weights = jnp.clip(jnp.concatenate((1 - v - w, v, w), -1), 0, 1)
    weights = weights / jnp.sum(weights, -1, keepdims=True)
    weights = [weights[..., k : k + 1] for k in range(3)]
    plain = sum(weights[k] * row[..., 12 + 3 * k : 15 + 3 * k] for k in range(3))
    coordinates = sum(weights[k] * row[..., 21 + 2 * k : 23 + 2 * k] for k in range(3))
    number = texture[ids]
    painted = _bilinear(coordinates, layout[jnp.maximum(number, 0)], texels)
    albedo = jnp.where((number >= 0)[..., None], painted, plain)
    away = jnp.where(jnp.any(toward != 0), -toward, points)
    length = jnp.sqrt(jnp.maximum(jnp.sum(away * away, -1, keepdims=True), 1e-30))
    cosine = jnp.sum(row[..., 9:12] * away, -1, keepdims=True) / length
    return jnp.clip(albedo * (light[0] + light[1] * jnp.abs(cosine)), 0, 1)


def _bilinear(uv, layout, texels):
    """sRGB [..., 3] in [0, 1] at uv [..., 2] (origin bottom-left, repeating) of textures layout."""
    offset, height, width = (layout[..., k] for k in range(3))
    uv = uv - jnp.floor(uv)
    x = uv[..., 0] * width - 0.5
    y = (1 - uv[..., 1]) * height - 0.5
    column, row = jnp.floor(x), jnp.floor(y)
    tx, ty = (x - column)[..., None], (y - row)[..., None]

    def texel(down, right):
        i = (row.astype(jnp.int32) + down + height) % height
        j = (column.astype(jnp.int32) + right + width) % width
        packed = texels[offset + i * width + j]
        shifts = jnp.asarray((0, 8, 16), jnp.uint32)
        return ((packed[..., None] >> shifts) & 255).astype(uv.dtype) / 255

    upper = (1 - tx) * texel(0, 0) + tx * texel(0, 1)
    lower = (1 - tx) * texel(1, 0) + tx * texel(1, 1)
    return (1 - ty) * upper + ty * lower


def _center_depth(rays, nearest, rows):
    """Depth [h, w] where rays [h, w, 3] (z = 1) meet the planes of faces, within the faces' depths.

    A plane that its ray misses leaves the depth ``nearest`` [h, w] of the sample.
    """
    slope = jnp.sum(rays * rows[..., 9:12], -1)
    offset = jnp.sum(rows[..., :3] * rows[..., 9:12], -1)
    meets = slope * offset > 0
    depth = jnp.where(meets, offset / jnp.where(meets, slope, 1.0), nearest)
    # The nearer end may lie behind the camera; the sample never does.
    return jnp.clip(depth, jnp.maximum(rows[..., 27], nearest / 2), rows[..., 28])


def _resolve(rgb, depth, ids, supersample):
    """Samples [h s, w s] -> straight rgba [h, w, 4]; depth and face (-1: none) of the nearest."""
    s = supersample

    def gather(x):
        h, w = x.shape[0] // s, x.shape[1] // s
        x = x.reshape(h, s, w, s, *x.shape[2:])
        return jnp.moveaxis(x, 2, 1).reshape(h, w, s * s, *x.shape[4:])

    rgb, depth, ids = gather(rgb), gather(depth), gather(ids)
    hit = ids >= 0
    count = jnp.sum(hit, -1)
    first = jnp.argmin(jnp.where(hit, depth, jnp.inf), -1)[..., None]
    nearest, face = (jnp.take_along_axis(x, first, -1)[..., 0] for x in (depth, ids))
    colour = jnp.sum(rgb, -2) / jnp.maximum(count, 1)[..., None]
    alpha = (count / (s * s)).astype(rgb.dtype)
    return jnp.concatenate((colour, alpha[..., None]), -1), nearest, face
