"""Which photographs of a scene a feed-forward model should get, and the depths it should look between.

Both are read off the cameras, and off a structure-from-motion's sparse points where there are any: what two
photographs have in common is the share of those points that both see (whatever stands between), without
points the share of probes that stand in for the scene. Imports no JAX.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from gsjax.io import posed_checks
from gsjax.io.posed import PosedImages

# Shares of what one photograph sees that the other must see, too: to be chosen, and at all.
GOOD_SHARE, LEAST_SHARE = 0.6, 0.2
# Viewing directions further apart count as seeing nothing in common: matching does not reach so far.
MOST_DEGREES = 45.0
# Distance of two cameras over the scene's depth, below which there is no parallax: at most a third of a
# pixel in 256.
LEAST_PARALLAX = 1e-3
# Photographs that are compared with one another; of more, these many evenly spread ones.
MOST_VIEWS = 256
_MOST_POINTS = 2000
_PROBES = 8  # along a side of a photograph
_LEAST_POINTS = 16  # sparse points seen, for depths to be read off them
# The nearest depth moves by this share of the picture between neighbours; the farthest is so many times it.
_NEAREST_SHIFT, _FAR_OVER_NEAR = 0.5, 100.0


class Bounds(NamedTuple):
    """Attributes:
    near, far: depths, world units.
    how: a text that says where they come from.
    """

    near: float
    far: float
    how: str


class Common(NamedTuple):
    """What photographs have in common.

    Attributes:
        shares: [V, V] in [0, 1], of points of either that the other sees, the smaller of both.
        distances: [V, V] of cameras.
        depths: [V] medians of what each sees; NaN where it sees nothing.
    """

    shares: np.ndarray
    distances: np.ndarray
    depths: np.ndarray


def choose(
    images: PosedImages, count: int, *, near: float | None = None, far: float | None = None
) -> list[int]:
    """Photographs that lie apart but see the same: ascending indices.

    The first two are, of all pairs that have ``GOOD_SHARE`` in common, those farthest apart (without such a
    pair, those with most in common). Each further one is the farthest from all chosen ones that has as much
    in common with one of them.

    Args:
        images: all photographs.
        count: V >= 2.
        near, far: bounds of depths, where they are known; probes stand between them.

    Raises:
        ValueError: fewer than two photographs or than ``count``, no two of which see the same, or all from one
            place.
    """
    if count < 2:
        raise ValueError(f"count: matching needs 2 views or more, found {count}")
    if len(images) < count:
        raise ValueError(
            f"photographs: {count} views are wanted, found {len(images)} with a pose"
            + ("; matching needs at least two" if count == 2 else "; ask for fewer")
        )
    spread = np.unique(np.linspace(0, len(images) - 1, min(len(images), MOST_VIEWS)).astype(int))
    some = images.subset(spread)
    common = in_common(some, probe_depth(images, near, far))
    parallax = common.distances / np.fmax(common.depths[:, None], common.depths)
    fit = (common.shares >= LEAST_SHARE) & (parallax >= LEAST_PARALLAX)
    if not fit.any():
        raise ValueError(_why_none(some, common))
    good = fit & (common.shares >= GOOD_SHARE)
    score = np.where(good, common.distances, -1.0) if good.any() else common.shares * fit
    chosen = list(np.unravel_index(np.argmax(score), score.shape))
    while len(chosen) < count:
        linked = (good if good[chosen].any() else fit)[chosen].any(0)
        linked[chosen] = False
        linked &= parallax[chosen].min(0) >= LEAST_PARALLAX
        if not linked.any():
            raise ValueError(
                f"photographs: only {len(chosen)} of {len(images)} see the same things from different places, "
                f"{count} are wanted; ask for fewer views, or name them"
            )
        chosen.append(int(np.argmax(np.where(linked, common.distances[chosen].min(0), -1.0))))
    return sorted(int(spread[i]) for i in chosen)


def check(images: PosedImages, *, near: float | None = None, far: float | None = None) -> None:
    """Refuses views that cannot be matched.

    Args:
        images: the chosen photographs.
        near, far: see :func:`choose`.

    Raises:
        ValueError: fewer than two, one that shares nothing with any other, or two in one place.
    """
    if len(images) < 2:
        raise ValueError(
            f"photographs: matching needs at least 2 posed views, found {len(images)}; a single picture has no "
            "parallax"
        )
    depth = probe_depth(images, near, far)
    common = in_common(images, depth)
    np.fill_diagonal(common.shares, 0.0)
    np.fill_diagonal(common.distances, np.inf)
    i, j = np.unravel_index(np.argmin(common.distances), common.distances.shape)
    if common.distances[i, j] <= 1e-2 * LEAST_PARALLAX * depth:
        raise ValueError(
            f"photographs: {images.names[i]!r} and {images.names[j]!r} were taken from one place (distance "
            f"{common.distances[i, j]:.3g}): zero baseline, there is no depth in them; choose others"
        )
    lonely = np.flatnonzero(common.shares.max(1) < LEAST_SHARE / 4)
    if len(lonely):
        raise ValueError(
            f"photographs: {posed_checks.first_few([images.names[i] for i in lonely])} see nothing that another "
            "chosen one sees: no overlap; choose views that look at the same things"
        )


def _why_none(images: PosedImages, common: Common) -> str:
    off = ~np.eye(len(images), dtype=bool)
    if not (common.distances[off] > 0).any() or (
        common.distances[off].max() < LEAST_PARALLAX * np.nanmin(np.append(common.depths, np.inf))
    ):
        return (
            f"photographs: all {len(images)} were taken from one place (zero baseline): there is no depth in them; "
            "move the camera between pictures, a turn alone does not help"
        )
    i, j = np.unravel_index(np.argmax(np.where(off, common.shares, -1)), off.shape)
    return (
        f"photographs: no two of {len(images)} see enough of the same from different places; most has "
        f"{images.names[i]!r} with {images.names[j]!r}, {common.shares[i, j]:.0%} (at least {LEAST_SHARE:.0%} are "
        "needed): no overlap. Are the poses those of these photographs? Otherwise give --near and --far, or name "
        "the photographs"
    )


def probe_depth(images: PosedImages, near: float | None = None, far: float | None = None) -> float:
    """A depth that stands for the scene where there are no points.

    The one in the middle of the inverse depths of ``near`` and ``far``; else the median distance to the point
    in which the lines of view meet, if they do; else ten times the median distance of a camera from the next.
    """
    if near and far:
        return 2 / (1 / near + 1 / far)
    centers, meeting = images.centers, _meeting(images)
    if meeting is not None:
        return meeting
    apart = np.linalg.norm(centers[:, None] - centers, axis=-1)
    np.fill_diagonal(apart, np.inf)
    return max(10 * float(np.median(apart.min(1))), 1e-12) if len(centers) > 1 else 1.0


def _meeting(images: PosedImages) -> float | None:
    """Median distance of the cameras from where their lines of view meet; None where they do not."""
    point, off = posed_checks.meeting_point(images.centers, images.viewmats[:, 2, :3])
    depths = images.viewmats[:, 2, :3] @ point + images.viewmats[:, 2, 3]
    reach = float(np.median(depths))
    return reach if off < posed_checks.MEETING_SHARE * reach else None


def in_common(images: PosedImages, depth: float) -> Common:
    """What every two photographs have in common.

    Args:
        images: V photographs; their sparse points are used where they see any.
        depth: of probes, which stand in for points otherwise.
    """
    views = len(images)
    points = np.zeros((0, 3)) if images.points is None else images.points
    points = points[:: max(1, len(points) // _MOST_POINTS)]
    inside, depths = seen(images, points)
    if (inside.sum(1) >= _LEAST_POINTS).all():
        both = inside.astype(float) @ inside.T.astype(float)
        counts = np.diag(both)
        shares = both / np.maximum(np.maximum(counts[:, None], counts), 1)
    else:  # the share of each one's own probes that another sees
        inside, depths = seen(images, _probe_points(images, depth))
        shares = inside.reshape(views, views, -1).mean(-1)
        shares = np.minimum(shares, shares.T)
    forward = images.viewmats[:, 2, :3]
    shares = np.where(forward @ forward.T < np.cos(np.deg2rad(MOST_DEGREES)), 0.0, shares)
    centers = images.centers
    distances = np.linalg.norm(centers[:, None] - centers, axis=-1)
    medians = [np.median(d[i]) if i.any() else np.nan for d, i in zip(depths, inside)]
    return Common(shares, distances, np.asarray(medians))


def seen(images: PosedImages, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(whether a point [M, 3] falls into each photograph, bool [V, M], and its depth there [V, M])."""
    local = np.einsum("vij,mj->vmi", images.viewmats[:, :3, :3], points)
    local += images.viewmats[:, None, :3, 3]
    depths = local[..., 2]
    ahead = depths > 0
    pixels = np.einsum("vij,vmj->vmi", images.Ks, local / np.where(ahead, depths, 1)[..., None])
    size = np.stack((images.width, images.height), -1)[:, None]
    return ahead & ((pixels[..., :2] >= 0) & (pixels[..., :2] <= size)).all(-1), depths


def _probe_points(images: PosedImages, depth: float) -> np.ndarray:
    """Points [V P, 3] that a grid over each photograph shows at one depth."""
    u, v = np.meshgrid(*[(np.arange(_PROBES) + 0.5) / _PROBES] * 2)
    parts = []
    for i, c2w in enumerate(posed_checks.invert_rigid(images.viewmats)):
        pixels = np.stack(
            (u.ravel() * images.width[i], v.ravel() * images.height[i], np.ones(u.size))
        )
        rays = np.linalg.solve(images.Ks[i], pixels)
        parts.append((c2w[:3, :3] @ rays * depth + c2w[:3, 3:]).T)
    return np.concatenate(parts)


def bounds(images: PosedImages) -> Bounds:
    """The depths between which a model should look for surfaces, from the chosen photographs.

    With sparse points: 0.8 times the 1 % quantile of their depths and 1.25 times the 99 % one, of all points
    that fall into at least two of the photographs. Without (or with fewer than 16): near is where a point moves
    by half a picture between two neighbouring cameras, f b / 0.5 with the focal length f in pictures and the
    distance b of neighbours, the shortest; far is 100 times that, the ratio of published models. Where the
    lines of view meet, a third and three times that distance lie within.

    Args:
        images: V >= 2 photographs.

    Raises:
        ValueError: cameras in one place.
    """
    if images.points is not None and len(images.points):
        inside, depths = seen(images, images.points)
        inside &= inside.sum(0) >= 2
        found = depths[inside]
        if len(found) >= _LEAST_POINTS:
            low, high = np.quantile(found, (0.01, 0.99))
            how = f"from {int(inside.any(0).sum())} sparse points"
            return Bounds(0.8 * float(low), 1.25 * float(high), how)
    centers = images.centers
    apart = np.linalg.norm(centers[:, None] - centers, axis=-1)
    np.fill_diagonal(apart, np.inf)
    shortest = float(apart.min())
    if not 0 < shortest < np.inf:
        raise ValueError(
            "photographs: two were taken from one place (zero baseline): near and far cannot be estimated; choose "
            "others, or give --near and --far"
        )
    focal = np.maximum(images.Ks[:, 0, 0] / images.width, images.Ks[:, 1, 1] / images.height)
    near = float(np.median(focal)) * shortest / _NEAREST_SHIFT
    far, how = _FAR_OVER_NEAR * near, f"from the cameras' distance, {shortest:.3g}"
    meeting = _meeting(images)
    if meeting is not None:
        near, far = min(near, meeting / 3), max(far, 3 * meeting)
        how += f", and where their views meet, {meeting:.3g} away"
    return Bounds(near, far, how)


def given(bounds_: Bounds | None, near: float | None, far: float | None) -> Bounds:
    """Estimated bounds with what the user says instead.

    Args:
        bounds_: an estimate; None only if both are given.
        near, far: the user's, or None.

    Raises:
        ValueError: near is not above 0 or not below far.
    """
    how = "given" if near and far else bounds_.how + (", one given" if near or far else "")
    low = bounds_.near if near is None else near
    high = bounds_.far if far is None else far
    if not (np.isfinite(low) and np.isfinite(high) and 0 < low < high):
        raise ValueError(
            f"near, far: expected 0 < near < far in the units of the poses, found {low:g} and {high:g}"
            + ("" if near and far else f" (the other {bounds_.how}); give both --near and --far")
        )
    return Bounds(float(low), float(high), how)


def indices_of(images: PosedImages, wanted: Sequence[str]) -> list[int]:
    """Photographs by path, name or end of a name, in the order asked for.

    Raises:
        ValueError: a name that fits none or several, or one photograph twice.
    """
    found = []
    for name in wanted:
        path = Path(name).resolve() if Path(name).exists() else Path(name)
        parts = path.parts
        fits = [
            i
            for i, place in enumerate(images.image_paths)
            if place.resolve().parts[-len(parts) :] == parts
        ]
        if len(fits) != 1:
            raise ValueError(
                f"photographs: {name!r} names {len(fits)} of the {len(images)} with a pose, expected one; they are "
                f"{posed_checks.first_few(images.names)}"
            )
        found += fits
    if len(set(found)) < len(found):
        raise ValueError(f"photographs: one is named twice in {list(map(str, wanted))}")
    return found
