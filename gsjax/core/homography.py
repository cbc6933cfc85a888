"""Pictures of one plane: where a view's pixels lie in another view if all that is seen is that plane.

The map between two views of a plane is a homography (Hartley and Zisserman, Multiple View Geometry, Eq. 13.2).
A plane is a row [4], (normal, -offset): points of it have normal . x = offset. Rows move against points: a
plane of the world is ``plane @ camera_to_world`` in a camera. Many depths at once, of features, are the business
of plane sweeps (``gsjax.models.feedforward``).
"""

import jax
import jax.numpy as jnp

from gsjax.core import cameras, rays


def facing(viewmats: jax.Array, depths: jax.Array) -> jax.Array:
    """Planes of the world at z = depth before cameras, parallel to their pictures.

    Args:
        viewmats: [..., 4, 4] world to camera.
        depths: [...], broadcast against the leading axes.

    Returns:
        [..., 4].
    """
    # (0, 0, 1, -depth) @ viewmat.
    return viewmats[..., 2, :] - jnp.asarray(depths)[..., None] * viewmats[..., 3, :]


def places(
    planes: jax.Array,
    viewmats: jax.Array,
    Ks: jax.Array,
    source_viewmats: jax.Array,
    source_Ks: jax.Array,
    *,
    height: int,
    width: int,
) -> tuple[jax.Array, jax.Array]:
    """Where the pixels of a view lie in a source view, if they show the plane.

    Args:
        planes: [..., 4] in the world, normals of any length; leading axes of all arguments broadcast.
        viewmats: [..., 4, 4] world to camera, rigid.
        Ks: [..., 3, 3] in pixels.
        source_viewmats: [..., 4, 4], rigid.
        source_Ks: [..., 3, 3] in pixels of the source.
        height, width: of the view.

    Returns:
        (x, y) [..., H, W, 2] in pixels of the source, centres at + 0.5; bool [..., H, W]: whether the plane
        is hit before both cameras. Elsewhere places are finite and without meaning.
    """
    c2ws = cameras.invert_rigid(viewmats)
    planes = jnp.einsum("...i,...ij->...j", planes, c2ws, precision="highest")
    moves = jnp.einsum("...ij,...jk->...ik", source_viewmats, c2ws, precision="highest")
    pixels = rays.pixel_indices(height, width, Ks.dtype) + 0.5
    directions = rays.camera_directions(Ks[..., None, None, :, :], pixels)
    normals, offsets = planes[..., None, None, :3], -planes[..., None, None, 3]
    slope = jnp.sum(normals * directions, -1)
    # K' (offset R + t normal^T) ray: the point on the ray, times slope, in the source's picture.
    points = offsets[..., None] * _apply(moves[..., :3, :3], directions)
    points = points + slope[..., None] * moves[..., None, None, :3, 3]
    ahead = (offsets * slope > 0) & (points[..., 2] * slope > 0)
    points = jnp.where(ahead[..., None], points, jnp.ones(3, points.dtype))
    found = _apply(source_Ks, points)
    return found[..., :2] / found[..., 2:], ahead


def sample(images: jax.Array, xy: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Bilinear samples of pictures; beyond the border its pixels are repeated.

    Args:
        images: [..., H, W, C], float.
        xy: [..., h, w, 2] in pixels, centres at + 0.5, finite; the same leading axes.

    Returns:
        [..., h, w, C]; bool [..., h, w]: within the picture, borders included.
    """
    height, width, channels = images.shape[-3:]
    x, y = xy[..., 0], xy[..., 1]
    inside = (x >= 0) & (x <= width) & (y >= 0) & (y <= height)
    x, y = jnp.clip(x - 0.5, 0.0, width - 1.0), jnp.clip(y - 0.5, 0.0, height - 1.0)
    left, top = jnp.floor(x), jnp.floor(y)
    rows = images.reshape(*images.shape[:-3], height * width, channels)
    total = 0.0
    for row, v in ((top, 1 - (y - top)), (top + 1, y - top)):
        for column, u in ((left, 1 - (x - left)), (left + 1, x - left)):
            cell = jnp.minimum(row, height - 1) * width + jnp.minimum(column, width - 1)
            flat = cell.astype(jnp.int32).reshape(*cell.shape[:-2], -1, 1)
            taken = jnp.take_along_axis(rows, flat, axis=-2)
            total += (u * v)[..., None] * taken.reshape(*cell.shape, channels)
    return total, inside


def warp(
    images: jax.Array,
    planes: jax.Array,
    viewmats: jax.Array,
    Ks: jax.Array,
    source_viewmats: jax.Array,
    source_Ks: jax.Array,
    *,
    height: int,
    width: int,
) -> tuple[jax.Array, jax.Array]:
    """What a view would show if the source pictures were painted on a plane.

    Args:
        images: [..., H', W', C] of the source, float.
        planes, viewmats, Ks, source_viewmats, source_Ks, height, width: see :func:`places`; leading axes
            as those of the images.

    Returns:
        [..., H, W, C]: beyond the source's border its pixels are repeated, and where the plane is not before
        both cameras stands the source's mean colour; bool [..., H, W]: neither is the case.
    """
    xy, ahead = places(planes, viewmats, Ks, source_viewmats, source_Ks, height=height, width=width)
    found, inside = sample(images, xy)
    mean = jnp.mean(images, (-3, -2), keepdims=True)
    return jnp.where(ahead[..., None], found, mean), inside & ahead


def _apply(matrices, vectors) -> jax.Array:
    """[..., 3, 3] to [..., H, W, 3]."""
    return jnp.einsum("...ij,...hwj->...hwi", matrices, vectors, precision="highest")
