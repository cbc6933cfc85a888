"""Which frames of a posed video are given (context) and which are to be predicted (targets).

Pure functions of (cameras, step, generator): the step comes from the place of the example in the sequence
(``posed_examples``), never from memory shared with the trainer. The schemes are those of pixelSplat (arXiv
2312.12337; ``bounded``) and DepthSplat (arXiv 2410.13862; ``bounded_many``, 'boundedv2' in its code), and the
extrapolation protocol of PM-Loss (arXiv 2506.05327). Imports no JAX.
"""

import dataclasses

import numpy as np

from gsjax.data import features


@dataclasses.dataclass(frozen=True, eq=False)
class Sample:
    """Frames of one example.

    Attributes:
        context: int64 [V]; the first one's camera is the frame of pointmaps.
        target: int64 [T].
    """

    context: np.ndarray
    target: np.ndarray


@dataclasses.dataclass(frozen=True)
class Gaps:
    """Frames between the outermost context views, as training goes on.

    Attributes:
        initial: (least, most) at step 0.
        final: (least, most) from step ``steps`` on; may be the smaller one.
        steps: of the linear change; 0 = final from the start.
    """

    initial: tuple[int, int]
    final: tuple[int, int]
    steps: int = 0

    def __post_init__(self):
        for name in ("initial", "final"):
            found = getattr(self, name)
            if len(found) != 2 or not 1 <= found[0] <= found[1]:
                raise ValueError(f"Gaps.{name}: expected 1 <= least <= most frames, found {found}")
        if self.steps < 0:
            raise ValueError(f"Gaps.steps: expected 0 or more, found {self.steps}")

    def at(self, step: int) -> tuple[int, int]:
        """(least, most) at a step; the way to ``final`` is rounded towards ``initial``."""
        share = min(max(step, 0) / self.steps, 1.0) if self.steps else 1.0
        return tuple(a + int((b - a) * share) for a, b in zip(self.initial, self.final))

    @property
    def frames(self) -> int:
        """Frames that a video needs to serve at every step."""
        return max(self.initial[0], self.final[0]) + 1


# Published settings: pixelSplat, MVSplat and DepthSplat on RealEstate10K, DepthSplat on DL3DV.
PIXELSPLAT = Gaps((25, 25), (45, 45), 150_000)
MVSPLAT = Gaps((25, 45), (45, 192), 150_000)
DEPTHSPLAT = Gaps((25, 45), (45, 135), 30_000)
DEPTHSPLAT_DL3DV = Gaps((15, 30), (20, 50), 10_000)


def bounded(
    viewmats: np.ndarray,
    step: int,
    rng: np.random.Generator,
    *,
    gaps: Gaps,
    num_targets: int,
    margin: int = 0,
) -> Sample:
    """Two context views a bounded number of frames apart, targets between them, with replacement.

    Args:
        viewmats: [F, 4, 4] of the video; only their number counts.
        step: of training.
        rng: of the draws.
        gaps: frames between the two; bounds above F - 1 are cut to it.
        num_targets: T.
        margin: frames that targets keep from the context views.

    Raises:
        ValueError: fewer frames than the least gap needs, or T below 1.
    """
    _check_targets(num_targets)
    low, high = gaps.at(step)
    left, gap = _interval(len(viewmats), max(low, 2 * margin), high, rng)
    first, last = left + margin, left + gap - margin
    return Sample(np.array([left, left + gap]), rng.integers(first, last + 1, size=num_targets))


def bounded_many(
    viewmats: np.ndarray,
    step: int,
    rng: np.random.Generator,
    *,
    gaps: Gaps,
    num_context: int,
    most_context: int,
    num_targets: int,
    reach: int = 0,
) -> Sample:
    """V context views in a bounded interval of frames, targets from it without replacement.

    Both bounds of the gap are divided by max(most_context // V, 1). Two views are the ends of the
    interval; more are a farthest-point sample of all its cameras (so the ends need not be among them).

    Args:
        viewmats: [F, 4, 4] of the video.
        step, rng, gaps: as of :func:`bounded`.
        num_context: V, at least 2; see :func:`views_at` for a V that changes.
        most_context: the largest V of the training run.
        num_targets: T; an interval with fewer frames gives some of them twice.
        reach: frames by which targets may lie outside the interval.

    Returns:
        Both lists in ascending order.

    Raises:
        ValueError: V below 2 or above ``most_context``, T below 1, or too few frames.
    """
    _check_targets(num_targets)
    if not 2 <= num_context <= most_context:
        raise ValueError(
            f"num_context: expected 2 to {most_context} (most_context) views, found {num_context}"
        )
    divisor = max(most_context // num_context, 1)
    # An interval must hold V different frames, whatever the division left of it.
    low, high = (max(bound // divisor, num_context - 1) for bound in gaps.at(step))
    left, gap = _interval(len(viewmats), low, high, rng)
    context = np.array([left, left + gap])
    if num_context > 2:
        centres = camera_centres(viewmats[left : left + gap + 1])
        context = left + farthest_points(centres, num_context)
    first, last = max(left - reach, 0), min(left + gap + reach, len(viewmats) - 1)
    target = first + distinct_where_possible(last - first + 1, num_targets, rng)
    return Sample(np.sort(context), np.sort(target))


def extrapolation(
    viewmats: np.ndarray,
    rng: np.random.Generator,
    *,
    gap: int,
    reach: int,
    num_targets: int = 0,
    num_context: int = 2,
) -> Sample:
    """Targets **outside** the interval of the context views, on both of its sides (PM-Loss's protocol).

    Its published indices have 2 views 20 frames apart and the 10 frames on either side on DL3DV; 75 and
    targets up to 30 frames away on RealEstate10K.

    Args:
        viewmats: [F, 4, 4] of the video.
        rng: where the interval lies, and which targets.
        gap: frames between the outermost context views.
        reach: most frames between a target and the interval.
        num_targets: T, half on each side; 0 = all 2 x reach.
        num_context: V, evenly over the interval.

    Returns:
        Both lists in ascending order.

    Raises:
        ValueError: fewer than gap + 2 reach + 1 frames, or numbers that do not go together.
    """
    num_targets = num_targets or 2 * reach
    if gap < num_context - 1 or num_context < 2 or reach < 1 or not 2 <= num_targets <= 2 * reach:
        raise ValueError(
            "expected num_context >= 2, gap >= num_context - 1, reach >= 1 and 2 to 2 x reach targets; "
            f"found {num_context=}, {gap=}, {reach=}, {num_targets=}"
        )
    _check_frames(len(viewmats), gap + 2 * reach)
    left = reach + int(rng.integers(len(viewmats) - gap - 2 * reach))
    before = rng.permutation(reach)[: num_targets // 2]
    after = rng.permutation(reach)[: num_targets - num_targets // 2]
    target = np.r_[left - 1 - before, left + gap + 1 + after]
    context = left + np.rint(np.linspace(0, gap, num_context)).astype(np.int64)
    return Sample(context, np.sort(target))


def paired(
    neighbours, num_frames: int, rng: np.random.Generator, *, num_context: int, num_targets: int
) -> Sample:
    """Views of a recording whose neighbours by number need not see the same things.

    A random frame that has enough neighbours, V - 1 of them as context, and targets among the other
    neighbours of the context views, those seen by more of them first.

    Args:
        neighbours: frame -> frames that see much of what it sees (``scenes.Scene.neighbours``).
        num_frames: F.
        rng: of the draws.
        num_context: V, at least 2.
        num_targets: T.

    Raises:
        ValueError: no frame has enough neighbours.
    """
    _check_targets(num_targets)
    if num_context < 2:
        raise ValueError(f"num_context: expected 2 or more, found {num_context}")
    near = [np.asarray(neighbours(frame), np.int64) for frame in range(num_frames)]
    for start in rng.permutation(num_frames):
        if len(near[start]) < num_context - 1:
            continue
        context = np.r_[start, rng.permutation(near[start])[: num_context - 1]]
        seen = rng.permutation(np.concatenate([near[frame] for frame in context]))
        others, times = np.unique(seen[~np.isin(seen, context)], return_counts=True)
        if len(others) >= num_targets:
            order = rng.permutation(len(others))
            order = order[np.argsort(-times[order], kind="stable")]
            return Sample(context, others[order[:num_targets]])
    raise ValueError(
        f"neighbours: no frame of {num_frames} has {num_context - 1} neighbours that leave {num_targets} "
        "others as targets; ask for fewer views"
    )


def targets_between(context: np.ndarray, num_targets: int, rng: np.random.Generator) -> np.ndarray:
    """T ascending frames of the interval that given context views span, different where possible."""
    _check_targets(num_targets)
    first, last = int(np.min(context)), int(np.max(context))
    return np.sort(first + distinct_where_possible(last - first + 1, num_targets, rng))


def views_at(step: int, seed: int, least: int, most: int) -> int:
    """V of all examples of a step, uniform in [least, most]: one program serves a global batch.

    The references draw V for each example; with one shape a batch the draw belongs to the step.
    """
    if not 1 <= least <= most:
        raise ValueError(f"expected 1 <= least <= most views, found {least=}, {most=}")
    rng = np.random.default_rng(features.stable_seed("views of a step", seed, step))
    return int(rng.integers(least, most + 1))


def camera_centres(viewmats: np.ndarray) -> np.ndarray:
    """World positions [F, 3] of cameras [F, 4, 4] (rigid)."""
    return -np.einsum("fji,fj->fi", viewmats[:, :3, :3], viewmats[:, :3, 3])


def farthest_points(points: np.ndarray, count: int) -> np.ndarray:
    """``count`` different rows of ``points`` [P, D], each farthest from those before it.

    The first is the one farthest from the mean; of equals the first row counts. Points that lie on one
    another are taken once all others are (released code may return one of them twice).

    Raises:
        ValueError: ``count`` outside 1 to P.
    """
    if not 1 <= count <= len(points):
        raise ValueError(f"count: expected 1 to {len(points)} of the points, found {count}")
    points = np.asarray(points, np.float64)
    chosen = [int(np.argmax(((points - points.mean(0)) ** 2).sum(-1)))]
    nearest = np.full(len(points), np.inf)
    for _ in range(count - 1):
        nearest = np.minimum(nearest, ((points - points[chosen[-1]]) ** 2).sum(-1))
        nearest[chosen] = -1.0
        chosen.append(int(np.argmax(nearest)))
    return np.array(chosen)


def distinct_where_possible(count: int, wanted: int, rng: np.random.Generator) -> np.ndarray:
    """``wanted`` numbers below ``count``; each occurs once before any occurs twice."""
    rounds = [rng.permutation(count) for _ in range(-(-wanted // count))]
    return np.concatenate(rounds)[:wanted]


def check_baseline(viewmats: np.ndarray, context: np.ndarray, name: str, least: float = 1e-6):
    """Raises where context cameras coincide: nothing can be triangulated from them.

    Args:
        viewmats: [F, 4, 4] of the video.
        context: [V].
        name: of the video, for the message.
        least: distance of the two farthest context cameras, as a share of 1 + the size of coordinates.

    Raises:
        ValueError: the distance is not larger.
    """
    centres = camera_centres(np.asarray(viewmats)[context])
    farthest = np.linalg.norm(centres[:, None] - centres, axis=-1).max()
    if not farthest > least * (1 + np.abs(centres).max()):
        raise ValueError(
            f"{name}: context frames {np.asarray(context).tolist()} have a baseline of {farthest:.3g}: "
            "without parallax depth cannot be found; choose frames that are farther apart, or leave "
            "the video out"
        )


def _interval(num_frames: int, low: int, high: int, rng) -> tuple[int, int]:
    """(first frame, gap) with low <= gap <= high, inside the video."""
    _check_frames(num_frames, low)
    gap = int(rng.integers(low, min(high, num_frames - 1) + 1))
    return int(rng.integers(num_frames - gap)), gap


def _check_frames(num_frames: int, span: int):
    if num_frames < span + 1:
        raise ValueError(
            f"viewmats: {num_frames} frames are too few, {span + 1} are needed; leave the video out, or "
            "lower the gap"
        )


def _check_targets(num_targets: int):
    if num_targets < 1:
        raise ValueError(f"num_targets: expected 1 or more, found {num_targets}")
