"""Objects as Gaussians and as pictures from all sides: the record that cross-modal training reads.

Source of the figures: "Self-Supervised Cross-modality Feature Learning using 3D Gaussian Splatting"
(A. Simionescu, TU Delft) and its code; what neither tells is marked as chosen here. Gaussians are
filtered by opacity, and farthest-point samples of them are stored, since choosing 2,048 of 100,000 rows
is no work for a training step. ``paired_build`` makes sets, ``paired_examples`` reads them. Imports no
JAX.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import tensorflow_datasets as tfds

from gsjax.data import features

# ModelNet10 in label order (reference code), and the sizes of its official split.
MODELNET10 = (
    "bathtub", "bed", "chair", "desk", "dresser", "monitor", "night_stand", "sofa", "table", "toilet",
)  # fmt: skip
MODELNET10_OBJECTS = {"train": 3_991, "test": 908}

MIN_LOGIT = 0.3  # reference code: of the stored logit, so opacity > 0.574
NUM_POINTS = 2_048  # of every published run
NUM_SETS = 8  # chosen here: the reference samples anew in every epoch

# Field -> (trailing shape, stored type); M rows each.
GAUSSIANS = {
    "xyz": ((3,), np.float32),
    "log_scale": ((3,), np.float16),
    "quat": ((4,), np.float16),
    "opacity_logit": ((), np.float16),
    "sh": ((16, 3), np.float16),
}
_RAW = dict(
    xyz="means", log_scale="log_scales", quat="quats", opacity_logit="logit_opacities", sh="sh"
)
PICTURES = ("views", "memory", "between")
FIELDS = ("index", "uid", "name", "category", *GAUSSIANS, "samples", *PICTURES)


def feature_spec(categories: Sequence[str]) -> tfds.features.FeaturesDict:
    """The fields of a record.

    ``index`` int32 (unique over all splits), ``uid``, ``name``, ``category`` (label of ``categories``),
    the M Gaussians that are opaque enough: ``xyz`` f32 [M, 3], ``log_scale`` f16 [M, 3], ``quat`` f16
    [M, 4] (wxyz, as fitted: not normalised), ``opacity_logit`` f16 [M], ``sh`` f16 [M, 16, 3]
    (coefficients first); ``samples`` int32 [K, P], rows of these; and PNG files on white: ``views``, of the
    object itself, ``memory``, of its Gaussians from the same sides, and ``between``, of its Gaussians from
    sides half-way between these (the last two only where they were asked for).
    """
    f = tfds.features
    gaussians = {
        name: f.Tensor(shape=(None, *trailing), dtype=dtype, encoding="bytes")
        for name, (trailing, dtype) in GAUSSIANS.items()
    }
    pictures = {name: f.Sequence(f.Tensor(shape=(), dtype=np.object_)) for name in PICTURES}
    return f.FeaturesDict(
        {
            "index": f.Scalar(np.int32),
            "uid": f.Text(),
            "name": f.Text(),
            "category": f.ClassLabel(names=list(categories)),
            **gaussians,
            "samples": f.Tensor(shape=(None, None), dtype=np.int32, encoding="bytes"),
            **pictures,
        }
    )


def farthest_points(points: np.ndarray, count: int, start: int = 0) -> np.ndarray:
    """Indices of a farthest-point sample, as the reference's sampler gives them.

    Each next point is the farthest from those chosen, ties go to the lowest index; once every distance
    is 0, as it is with fewer different points than ``count``, index 0 repeats.

    Args:
      points: [M, 3].
      count: k.
      start: first index.

    Returns:
      int32 [k].

    Raises:
      ValueError: no points, or start is none of them.
    """
    points = np.asarray(points)
    if points.ndim != 2 or points.shape[1] != 3 or not len(points):
        raise ValueError(f"points: expected [M, 3] with M >= 1, found shape {list(points.shape)}")
    if not 0 <= start < len(points):
        raise ValueError(f"start: expected an index below {len(points)}, found {start}")
    axes = np.ascontiguousarray(points.T, np.float32)
    nearest = np.full(len(points), np.inf, np.float32)
    chosen = np.empty(count, np.int32)
    for k in range(count):
        chosen[k] = start
        x, y, z = axes - axes[:, start, None]
        np.minimum(nearest, x * x + y * y + z * z, out=nearest)
        start = int(nearest.argmax())
    return chosen


def point_sets(points: np.ndarray, uid: str, count: int, sets: int) -> np.ndarray:
    """int32 [sets, count]: farthest-point samples from different starts.

    Set 0 begins at the point farthest from the mean and is the one to evaluate on; the others, for
    training, begin at random ones, drawn by ``uid``, and different while there are enough.
    """
    points = np.asarray(points, np.float32)
    first = int(np.square(points - points.mean(0)).sum(-1).argmax())
    rng = np.random.default_rng(features.stable_seed("modelnet point sets", uid))
    others = np.delete(np.arange(len(points)), first)
    rest = rng.permutation(others if len(others) else [first])
    starts = [first, *np.resize(rest, sets - 1)]
    return np.stack([farthest_points(points, count, int(start)) for start in starts])


def record(
    about: Mapping,
    gaussians: Mapping[str, np.ndarray],
    *,
    min_logit: float = MIN_LOGIT,
    num_points: int = NUM_POINTS,
    sets: int = NUM_SETS,
    categories: Sequence[str] = MODELNET10,
    samples: np.ndarray | None = None,
) -> dict:
    """A record without ``index`` and pictures.

    Args:
      about: uid, name, category; as in ``fitted.Fitted``.
      gaussians: raw ``means`` [M, 3], ``quats`` [M, 4], ``log_scales`` [M, 3], ``logit_opacities`` [M] and
        ``sh`` [M, 16, 3] of degree 3.
      min_logit: Gaussians at or below are left out; opacity is a filter, never a feature.
      num_points: of a sample; fewer Gaussians repeat, see ``farthest_points``.
      sets: K samples.
      categories: in label order.
      samples: int [K, P], in place of farthest-point samples.

    Raises:
      ValueError: an unknown category, another SH degree, no Gaussian opaque enough, or values that are
        not finite.
    """
    uid, category = about["uid"], about["category"]
    if category not in categories:
        raise ValueError(f"{uid}: unknown category {category!r}; known: {list(categories)}")
    if np.shape(gaussians["sh"])[1:] != (16, 3):
        raise ValueError(
            f"{uid}: sh: expected [M, 16, 3] (degree 3), found {list(np.shape(gaussians['sh']))}; fit "
            "with --recipe=modelnet10"
        )
    kept = np.asarray(gaussians["logit_opacities"]) > min_logit
    if not kept.any():
        raise ValueError(
            f"{uid}: none of {len(kept)} Gaussians has a logit opacity above {min_logit}; the fit failed, "
            "leave the object out"
        )
    rows = {}
    for name, (_, dtype) in GAUSSIANS.items():
        rows[name] = np.ascontiguousarray(np.asarray(gaussians[_RAW[name]])[kept], dtype)
        if not np.isfinite(rows[name]).all():
            raise ValueError(
                f"{uid}: {_RAW[name]}: values that are not finite; fit the object again"
            )
    if samples is None:
        samples = point_sets(rows["xyz"], uid, num_points, sets)
    label = list(categories).index(category)
    return dict(uid=uid, name=about["name"], category=label, **rows, samples=samples)


# What networks read of a Gaussian -----------------------------------------------------------------

FEATURE_SETS = ("positions", "scale_rotation", "sh")
SH_COLUMNS = {"rest44": 44, "rest45": 45, "dc_rest48": 48}


def num_channels(feature_set: str, sh_columns: str) -> int:
    """Columns beside the position.

    Raises:
        ValueError: an unknown name.
    """
    for what, value, known in (
        ("features", feature_set, FEATURE_SETS), ("sh_columns", sh_columns, tuple(SH_COLUMNS)),
    ):  # fmt: skip
        if value not in known:
            raise ValueError(f"{what}: unknown {value!r}; known: {', '.join(known)}")
    more = {"positions": 0, "scale_rotation": 7, "sh": 7 + SH_COLUMNS[sh_columns]}
    return more[feature_set]


def columns(
    record: Mapping,
    rows: np.ndarray,
    *,
    feature_set: str = "positions",
    sh_columns: str = "rest45",
    activate: bool = True,
) -> np.ndarray:
    """Rows of a record as networks read them: f32 [P, 3 + C].

    Positions first, less the mean of the P points and divided by the largest distance from it; then, of
    the set 'sh', coefficients, all of red, then of green, then of blue as files store them; then of both
    larger sets, three scales and four numbers of the rotation.

    Args:
        record: see :func:`feature_spec`.
        rows: int [P].
        feature_set: of ``FEATURE_SETS``, each with all that the one before has.
        sh_columns: 'rest45' are the coefficients that depend on the direction, 'dc_rest48' has the three
            others before them; 'rest44' leaves the last blue one out, as the reference does.
        activate: scales in units of the normalised points and unit quaternions with w >= 0; False: the
            stored logarithms and numbers, as the reference.
    """
    num_channels(feature_set, sh_columns)
    xyz = np.asarray(record["xyz"], np.float64)[rows]
    xyz = xyz - xyz.mean(0)
    size = max(float(np.linalg.norm(xyz, axis=-1).max()), 1e-9)
    parts = [xyz / size]
    if feature_set == "sh":
        sh = np.asarray(record["sh"], np.float32)[rows]
        rest = sh[:, 1:].transpose(0, 2, 1).reshape(len(rows), 45)
        parts += {"rest44": [rest[:, :44]], "rest45": [rest], "dc_rest48": [sh[:, 0], rest]}[
            sh_columns
        ]
    if feature_set != "positions":
        scale = np.asarray(record["log_scale"], np.float64)[rows]
        quat = np.asarray(record["quat"], np.float64)[rows]
        if activate:
            scale = np.exp(scale) / size
            quat = quat / np.maximum(np.linalg.norm(quat, axis=-1, keepdims=True), 1e-12)
            quat = np.where(quat[:, :1] < 0, -quat, quat)
        parts += [scale, quat]
    return np.concatenate(parts, -1).astype(np.float32)
