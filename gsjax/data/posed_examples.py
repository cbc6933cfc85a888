"""Examples for feed-forward splatting: context pictures with cameras, pictures to predict, a teacher's map.

A scene is anything with ``name``, ``num_frames``, ``viewmats``, ``view`` and ``neighbours`` (``scenes.Scene``
without its points). In training an example is a function of its place in the endless sequence alone: the step
is place // global batch, which sets the gap between views and, in buckets, their number V (one V a global
batch, so that one program serves it). Imports no JAX.
"""

import dataclasses
import sys
from collections.abc import Mapping, Sequence

import grain
import numpy as np

from gsjax.data import features, view_draws, view_fit, view_index, view_samplers
from gsjax.data.view_draws import Draw
from gsjax.data.view_samplers import Sample


@dataclasses.dataclass(frozen=True)
class PosedSpec:
    """What an example holds.

    Attributes:
        height, width: of the pictures, pixels.
        near, far: depths of the model's candidates, in units of the scenes (SfM units have no meaning of
            their own: choose them for a data set).
        fit: how pictures get their size, see ``view_fit.fit``.
        flip: whether training examples are mirrored, each with probability 1/2.
        depths: whether examples carry depth, 0 where unknown.
        relative: whether the first context camera is the world; else the scene's world is kept.
    """

    height: int
    width: int
    near: float
    far: float
    fit: str = "cover"
    flip: bool = False
    depths: bool = False
    relative: bool = False

    def __post_init__(self):
        if self.height < 1 or self.width < 1:
            raise ValueError(
                f"PosedSpec: expected a size of 1 or more, found {self.height} x {self.width}"
            )
        if not 0 < self.near < self.far:
            raise ValueError(
                f"PosedSpec: expected 0 < near < far, found near {self.near}, far {self.far}"
            )
        if self.fit not in view_fit.FITS:
            raise ValueError(
                f"PosedSpec.fit: unknown {self.fit!r}; known: {', '.join(view_fit.FITS)}"
            )


def batch_spec(
    spec: PosedSpec, num_context: int, num_targets: int, *, teacher: bool = False
) -> dict[str, tuple[tuple[int, ...], type]]:
    """Fields of an example: name -> (shape, type). V = ``num_context``, T = ``num_targets``.

    ``index`` int32 [] (place of the scene; in evaluation, of the example), ``valid`` bool [] (True),
    ``near`` and ``far`` f32 [], ``flipped`` bool []; for X = ``context`` with V and ``target`` with T views
    ``X_images`` uint8 [V, H, W, 3], ``X_viewmats`` f32 [V, 4, 4] (world to camera, OpenCV axes),
    ``X_c2ws`` f32 [V, 4, 4] (their inverses), ``X_Ks`` f32 [V, 3, 3] (**normalised**: row 0 in widths,
    row 1 in heights), ``X_frames`` int32 [V]; with ``spec.depths`` ``X_depths`` f32 [V, H, W] (0
    unknown); with a teacher ``pointmaps`` f32 [V, H, W, 3] (in a frame of its own, 0 where unknown) and
    ``pointmap_conf`` f32 [V, H, W] (0 unknown).
    """
    size = (spec.height, spec.width)
    fields = dict(
        index=((), np.int32), valid=((), np.bool_), near=((), np.float32), far=((), np.float32),
        flipped=((), np.bool_),
    )  # fmt: skip
    for side, count in (("context", num_context), ("target", num_targets)):
        fields |= {
            f"{side}_images": ((count, *size, 3), np.uint8),
            f"{side}_viewmats": ((count, 4, 4), np.float32),
            f"{side}_c2ws": ((count, 4, 4), np.float32),
            f"{side}_Ks": ((count, 3, 3), np.float32),
            f"{side}_frames": ((count,), np.int32),
        }
        if spec.depths:
            fields[f"{side}_depths"] = ((count, *size), np.float32)
    if teacher:
        fields["pointmaps"] = ((num_context, *size, 3), np.float32)
        fields["pointmap_conf"] = ((num_context, *size), np.float32)
    return fields


def posed_example(
    scene, sample: Sample, spec: PosedSpec, *, index: int, flipped: bool = False, teacher=None
) -> dict:
    """One example; fields as of :func:`batch_spec`.

    Args:
        scene: what frames are read from.
        sample: which frames.
        spec: what the example holds.
        index: its number.
        flipped: mirror all views, cameras, depths and maps.
        teacher: called as ``pointmaps.DepthTeacher``; None = no maps.

    Raises:
        ValueError: a frame that is not there, context cameras that coincide, or depth that is NaN,
            infinite or negative.
    """
    frames = np.concatenate([sample.context, sample.target])
    if frames.min() < 0 or frames.max() >= scene.num_frames:
        raise ValueError(
            f"{scene.name}: frames {frames.tolist()} asked for, there are {scene.num_frames}"
        )
    view_samplers.check_baseline(scene.viewmats, sample.context, scene.name)
    read = {int(frame): _read(scene, int(frame), spec) for frame in set(frames.tolist())}
    origin = read[int(sample.context[0])].viewmat
    if spec.relative:
        read = {frame: view_fit.relative_to(view, origin) for frame, view in read.items()}
    result = dict(
        index=np.int32(index), valid=np.bool_(True), near=np.float32(spec.near),
        far=np.float32(spec.far), flipped=np.bool_(flipped),
    )  # fmt: skip
    for side, chosen in (("context", sample.context), ("target", sample.target)):
        views = [read[int(frame)] for frame in chosen]
        views = [view_fit.mirrored(view) for view in views] if flipped else views
        result |= {f"{side}_{name}": value for name, value in _stacked(views, spec).items()}
        result[f"{side}_frames"] = chosen.astype(np.int32)
    if teacher is not None:
        context = [read[int(frame)] for frame in sample.context]
        points, conf = teacher(scene.name, sample.context, context, flipped)
        result["pointmaps"] = np.ascontiguousarray(points, np.float32)
        result["pointmap_conf"] = np.ascontiguousarray(conf, np.float32)
    return result


def _read(scene, frame: int, spec: PosedSpec):
    view = scene.view(frame)
    view_fit.check_depth(view, f"{scene.name}: frame {frame}")
    return view_fit.fit(view, spec.height, spec.width, spec.fit)


def _stacked(views, spec: PosedSpec) -> dict[str, np.ndarray]:
    viewmats = np.stack([view.viewmat for view in views])
    c2ws = np.tile(np.eye(4), (len(views), 1, 1))
    c2ws[:, :3, :3] = np.swapaxes(viewmats[:, :3, :3], 1, 2)
    c2ws[:, :3, 3] = view_samplers.camera_centres(viewmats)
    Ks = view_fit.normalised(np.stack([view.K for view in views]), spec.height, spec.width)
    found = dict(
        images=np.stack([view.image for view in views]),
        viewmats=viewmats.astype(np.float32), c2ws=c2ws.astype(np.float32),
        Ks=Ks.astype(np.float32),
    )  # fmt: skip
    if spec.depths:
        found["depths"] = np.stack([view.depth for view in views]).astype(np.float32)
    return found


# Data sets -----------------------------------------------------------------------------------------


class TrainExamples:
    """Examples for training, which depend on the step: ``loader.train_iterator`` asks for ``endless``.

    Every epoch has each scene once, in an order of its own. Item i is the example that place i of the
    sequence would have at step 0.

    Args:
        scenes: random access to scenes.
        spec: what an example holds.
        draw: frames of an example, see ``view_draws``.
        seed: of frames and mirroring; not of the order, which is the iterator's.
        teacher: see :func:`posed_example`.
        least_frames: shorter scenes are left out (``Gaps.frames``).

    Raises:
        ValueError: no scene is long enough.
    """

    def __init__(
        self,
        scenes: Sequence,
        spec: PosedSpec,
        draw: Draw,
        *,
        seed: int,
        teacher=None,
        least_frames=2,
    ):
        self._scenes, self._spec, self._draw = scenes, spec, draw
        self._seed, self._teacher = seed, teacher
        self._rows = long_enough(scenes, least_frames)

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, place: int) -> dict:
        return self.example(place, place % len(self), 0)

    def example(self, place: int, row: int, step: int) -> dict:
        """The example of a place in the sequence.

        Args:
            place: decides the draws.
            row: of the scenes that are long enough.
            step: of training.
        """
        index = self._rows[row]
        scene = self._scenes[index]
        rng = np.random.default_rng(features.stable_seed("posed", self._seed, place))
        flipped = bool(rng.random() < 0.5) and self._spec.flip
        sample = view_draws.apart(scene, self._draw, step, rng)
        return posed_example(
            scene, sample, self._spec, index=index, flipped=flipped, teacher=self._teacher
        )

    def endless(self, seed: int, global_batch: int) -> grain.MapDataset:
        """The sequence of examples; place p belongs to step p // ``global_batch``."""
        return grain.MapDataset.source(_Endless(self, seed, global_batch))


class _Endless:
    def __init__(self, examples: TrainExamples, seed: int, global_batch: int):
        self._examples, self._seed, self._batch = examples, seed, global_batch
        self._orders: dict[int, np.ndarray] = {}

    def _order(self, epoch: int) -> np.ndarray:
        if epoch not in self._orders:
            seed = features.stable_seed("order of scenes", self._seed, epoch)
            order = np.random.default_rng(seed).permutation(len(self._examples))
            self._orders = {e: o for e, o in self._orders.items() if e >= epoch - 1} | {
                epoch: order
            }
            return order
        return self._orders[epoch]

    def __len__(self) -> int:
        return sys.maxsize

    def __getitem__(self, place: int) -> dict:
        epoch, row = divmod(place, len(self._examples))
        row = int(self._order(epoch)[row])
        return self._examples.example(place, row, place // self._batch)


def eval_examples(
    scenes: Sequence,
    spec: PosedSpec,
    samples: Sequence[tuple[int, Sample]],
    *,
    teacher=None,
) -> grain.MapDataset:
    """Given frames of given scenes, in their order; never mirrored.

    Args:
        scenes: random access to scenes.
        spec: what an example holds.
        samples: (place in ``scenes``, frames); all of the same V and T, see :func:`uniform`.
        teacher: see :func:`posed_example`.

    Raises:
        ValueError: no samples, or samples of different V or T.
    """
    if len(kinds := uniform(samples)) != 1:
        raise ValueError(
            f"samples: expected one number of context and target views, found {sorted(kinds)}; evaluate "
            "each kind by itself (posed_examples.uniform)"
        )

    def make(item):
        number, (place, sample) = item
        return posed_example(scenes[place], sample, spec, index=number, teacher=teacher)

    return grain.MapDataset.source(list(enumerate(samples))).map(make)


def uniform(samples: Sequence[tuple[int, Sample]]) -> dict[tuple[int, int], list]:
    """{(V, T): its samples}."""
    kinds: dict[tuple[int, int], list] = {}
    for place, sample in samples:
        kinds.setdefault((len(sample.context), len(sample.target)), []).append((place, sample))
    return kinds


def fixed_samples(
    scenes: Sequence, draw: Draw, *, seed: int, least_frames: int = 2, draws: int = 1
) -> list[tuple[int, Sample]]:
    """(place, frames) for evaluation: ``draws`` of each scene, from ``seed`` and its name alone.

    The step is beyond every schedule.

    Raises:
        ValueError: no scene is long enough, or one whose cameras coincide.
    """
    found = []
    for place in long_enough(scenes, least_frames):
        scene = scenes[place]
        for number in range(draws):
            key = features.stable_seed("posed evaluation", seed, scene.name, number)
            found.append((place, view_draws.apart(scene, draw, 2**62, np.random.default_rng(key))))
    return found


def indexed_samples(scenes, index: Mapping[str, Sample], *, partial: bool = False) -> list:
    """(place, frames) of an evaluation index (``view_index.read``).

    Args:
        scenes: with ``names``, ``lengths`` and ``place_of``, as ``scene_records.SceneRecords``.
        index: scene -> frames.
        partial: let scenes be absent.

    Raises:
        ValueError: see ``view_index.located``.
    """
    lengths = dict(zip(scenes.names, scenes.lengths, strict=True))
    located = view_index.located(index, lengths, partial=partial)
    return [(scenes.place_of(scene), sample) for _, scene, sample in located]


def long_enough(scenes: Sequence, least_frames: int) -> list[int]:
    """Places of the scenes with at least that many frames.

    Raises:
        ValueError: none has.
    """
    lengths = getattr(scenes, "lengths", None)
    if lengths is None:
        lengths = [scenes[i].num_frames for i in range(len(scenes))]
    rows = [place for place, length in enumerate(lengths) if length >= least_frames]
    if not rows:
        raise ValueError(
            f"scenes: none of {len(lengths)} has {least_frames} frames (the longest has "
            f"{max(lengths, default=0)}); lower the gap between views"
        )
    return rows
