"""Object level: image features mixed into those of the points (UniPre3D, arXiv 2506.09952).

Centres are projected into the reference views; those that are seen take the image's feature there, the
others zeros; ``relu(Linear(point feature ++ image feature))`` follows. Which ones are seen is decided by
a coarse z-buffer of the whole cloud: the released code compares points that fall into one pixel, which
hardly ever happens, and paints the far side with the colours of the near one.
"""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from gsjax.models import linear
from gsjax.models.backbones import base


class Views(NamedTuple):
    """Reference views and their features.

    Attributes:
        features: [B, R, h, w, C] of the image encoder; h x w may be coarser than the picture.
        viewmats: f32 [B, R, 4, 4].
        Ks: f32 [B, R, 3, 3], in pixels of the picture.
        size: (width, height) of the picture.
        depths: f32 [B, R, H, W] along the optical axis, 0 = unknown; scene level alone.
        pixel_mask: bool [B, R, H, W], pixels that may be back-projected; likewise.
    """

    features: jax.Array
    viewmats: jax.Array
    Ks: jax.Array
    size: tuple[int, int]
    depths: jax.Array | None = None
    pixel_mask: jax.Array | None = None


def project(xyz: jax.Array, viewmat: jax.Array, K: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Pixels and depths of points; pixel (column i, row j) has its centre at (i + 0.5, j + 0.5).

    Args:
        xyz: [..., M, 3].
        viewmat: [..., 4, 4] world to camera.
        K: [..., 3, 3].

    Returns:
        [..., M, 2] column and row, finite also for points behind the camera; z [..., M].
    """
    camera = jnp.einsum("...ij,...mj->...mi", viewmat[..., :3, :3], xyz, precision="highest")
    camera = camera + viewmat[..., None, :3, 3]
    z = camera[..., 2]
    ahead = jnp.where(z > 1e-6, z, 1.0)
    normalised = jnp.concatenate(
        [camera[..., :2] / ahead[..., None], jnp.ones_like(z)[..., None]], -1
    )
    pixels = jnp.einsum("...ij,...mj->...mi", K[..., :2, :], normalised, precision="highest")
    return pixels, z


def inside(pixels: jax.Array, z: jax.Array, size: tuple[int, int]) -> jax.Array:
    """bool [..., M]: in front of the camera and within the picture of ``size`` (width, height)."""
    bounds = jnp.asarray(size, pixels.dtype)
    return (z > 1e-6) & jnp.all((pixels >= 0) & (pixels < bounds), -1)


def z_buffer(
    pixels: jax.Array, z: jax.Array, mask: jax.Array, size: tuple[int, int], grid: int
) -> jax.Array:
    """Depth of the nearest point in each cell of a coarse grid over one picture.

    Args:
        pixels, z: of :func:`project`, [N, 2] and [N].
        mask: bool [N].
        size: (width, height).
        grid: cells along the longer side.

    Returns:
        f32 [cells + 1], infinite where there is no point; the last entry collects what is outside.
    """
    cells, count = _cells(pixels, z, mask, size, grid)
    return jax.ops.segment_min(z, cells, count + 1)


def _cells(pixels, z, mask, size, grid):
    """Cell numbers [N] (``count`` = outside), and their count."""
    side = max(size) / grid
    columns, rows = (-(-length // side) for length in size)
    place = jnp.floor(jnp.where(jnp.isfinite(pixels), pixels, 0.0) / side).astype(jnp.int32)
    count = int(columns) * int(rows)
    number = place[..., 1] * int(columns) + place[..., 0]
    return jnp.where(mask & inside(pixels, z, size), number, count), count


def visible(
    centres: jax.Array,
    centre_mask: jax.Array,
    points: jax.Array,
    mask: jax.Array,
    viewmat: jax.Array,
    K: jax.Array,
    *,
    size: tuple[int, int],
    grid: int,
    tolerance: float,
) -> tuple[jax.Array, jax.Array]:
    """Which places one camera sees, by the z-buffer of the whole cloud.

    Args:
        centres: [M, 3], centre_mask: bool [M].
        points: [N, 3], mask: bool [N]: what occludes.
        viewmat: [4, 4].
        K: [3, 3].
        size: (width, height).
        grid: cells along the longer side; each should hold several points.
        tolerance: depth behind the nearest point of its cell up to which a place counts as seen.

    Returns:
        bool [M], and the places' pixels [M, 2].
    """
    pixels, z = project(points, viewmat, K)
    nearest = z_buffer(pixels, z, mask, size, grid)
    pixels, z = project(centres, viewmat, K)
    cells, count = _cells(pixels, z, centre_mask, size, grid)
    return (cells < count) & (z <= nearest[cells] + tolerance), pixels


def sample(features: jax.Array, pixels: jax.Array, size: tuple[int, int]) -> jax.Array:
    """Features at pixels, bilinear between cell centres, the border's beyond them.

    Args:
        features: [h, w, C] over a picture of ``size``.
        pixels: [M, 2] column and row in the picture.
        size: (width, height) of the picture.

    Returns:
        [M, C].
    """
    height, width = features.shape[:2]
    scale = jnp.asarray([width / size[0], height / size[1]], pixels.dtype)
    place = pixels * scale - 0.5
    place = jnp.clip(place, 0.0, jnp.asarray([width - 1, height - 1], place.dtype))
    low = jnp.floor(place).astype(jnp.int32)
    u, v = (place - low)[:, 0, None], (place - low)[:, 1, None]
    column, row = low[:, 0], low[:, 1]
    right, below = jnp.minimum(column + 1, width - 1), jnp.minimum(row + 1, height - 1)
    above = features[row, column] * (1 - u) + features[row, right] * u
    under = features[below, column] * (1 - u) + features[below, right] * u
    return above * (1 - v) + under * v


def gather(
    views: Views,
    centres: jax.Array,
    centre_mask: jax.Array,
    points: jax.Array,
    mask: jax.Array,
    *,
    grid: int,
    tolerance: float,
) -> tuple[jax.Array, jax.Array]:
    """Image features of each place: the mean over the reference views that see it, zeros if none does.

    Args:
        views: R reference views of each of B clouds.
        centres: [B, M, 3], centre_mask: bool [B, M].
        points: [B, N, 3], mask: bool [B, N].
        grid, tolerance: of :func:`visible`.

    Returns:
        [B, M, C], and bool [B, M]: seen by any view.
    """

    def one(features, viewmat, K, centres, centre_mask, points, mask):
        seen, pixels = visible(
            centres, centre_mask, points, mask, viewmat, K,
            size=views.size, grid=grid, tolerance=tolerance,
        )  # fmt: skip
        found = sample(features, jnp.where(seen[:, None], pixels, 0.0), views.size)
        return jnp.where(seen[:, None], found, 0.0), seen

    over_views = jax.vmap(one, (0, 0, 0, *[None] * 4))
    found, seen = jax.vmap(over_views)(
        views.features, views.viewmats, views.Ks, centres, centre_mask, points, mask
    )
    times = jnp.sum(seen, 1)
    return jnp.sum(found, 1) / jnp.maximum(times, 1)[..., None], times > 0


class FeatureFusion(nn.Module):
    """``relu(Linear(point ++ image))``, the image's features adapted to the points' width first.

    Attributes:
        grid, tolerance: of :func:`visible`.
    """

    grid: int = 16
    tolerance: float = 0.05

    @nn.compact
    def __call__(
        self, sites: base.Sites, points: jax.Array, mask: jax.Array, views: Views | None
    ) -> tuple[base.Sites, jax.Array]:
        """Fused sites, and the share [] of valid places that got an image feature.

        ``views`` None: no place gets one (the adapter's parameters must be there already).
        """
        width = sites.feat.shape[-1]
        found, seen = jnp.zeros_like(sites.feat), jnp.zeros_like(sites.mask)
        if views is not None:
            views = views._replace(features=Adapter(width, name="adapter")(views.features))
            found, seen = gather(
                views, sites.xyz, sites.mask, points, mask, grid=self.grid, tolerance=self.tolerance
            )
        joined = jnp.concatenate([sites.feat, found.astype(sites.feat.dtype)], -1)
        fused = nn.relu(linear.Dense(width, name="join")(joined))
        share = jnp.sum(seen & sites.mask) / jnp.maximum(jnp.sum(sites.mask), 1)
        return sites._replace(feat=jnp.where(sites.mask[..., None], fused, 0.0)), share


class Adapter(nn.Module):
    """GroupNorm (32 groups where they divide the channels), then a 1 x 1 convolution."""

    width: int

    @nn.compact
    def __call__(self, features: jax.Array) -> jax.Array:
        """features: [B, R, h, w, C] -> [B, R, h, w, width]."""
        batch, views = features.shape[:2]
        x = features.reshape(-1, *features.shape[2:])
        channels = x.shape[-1]
        groups = next(g for g in range(min(32, channels), 0, -1) if channels % g == 0)
        x = nn.GroupNorm(groups, epsilon=1e-6, name="norm")(x)
        x = linear.Dense(self.width, name="proj")(x)
        return x.reshape(batch, views, *x.shape[1:])
