"""The embedded data set: parametric objects of 26 categories with captions and part labels.

Nothing is downloaded. Object i of a split is a function of (seed, split, i) alone: its category
goes round the list, its shape, paint and captions come from its own generator. Objects fit into
the unit cube around the origin and stand with +y up. Imports no JAX; ``build`` renders the views.
"""

import dataclasses

import numpy as np

from gsjax.data import discs, features, grammar
from gsjax.data.shapes import csg, furniture, household, outdoor
from gsjax.data.shapes.draft import Draft

VERSION = 1  # raise it when the objects change: prepared sets are then made anew
RECIPES = dict(sorted({**furniture.RECIPES, **household.RECIPES, **outdoor.RECIPES}.items()))
CATEGORIES = tuple(RECIPES)
NUM_CAPTIONS = 4
# Label 0 is "no label"; the others name the parts that recipes make.
PARTS = (
    "",
    *"arms back bar base body books cabin canopy cap chimney content crown cushions door dots "
    "fins flame flange frame handle hat head hub joint label legs mattress nose pole rails "
    "ring roof rungs scarf seat shade shaft shelves spokes stem teeth top trunk tube tyre walls "
    "weights wheels wick windows".split(),
)
_PART_LABEL = {name: label for label, name in enumerate(PARTS)}


@dataclasses.dataclass(frozen=True)
class ProceduralObject:
    """One object: ``uid``, ``name``, ``category`` (label), ``captions``, ``gaussians`` (raw arrays
    in farthest-point order, see ``discs.from_surface``), and its ``pieces`` scaled by ``scale``
    after moving by ``-centre``: with them its signed function is ``value``."""

    uid: str
    name: str
    category: int
    captions: tuple[str, ...]
    gaussians: dict[str, np.ndarray]
    pieces: tuple[csg.Piece, ...]
    centre: np.ndarray
    scale: float

    def value(self, points: np.ndarray) -> np.ndarray:
        """Signed function [P] of the object at ``points`` [P, 3]: negative inside."""
        return csg.value(self.pieces, points / self.scale + self.centre) * self.scale


def generate(
    index: int,
    *,
    seed: int,
    split: str = "train",
    num_gaussians: int = 2048,
    num_captions: int = NUM_CAPTIONS,
    fps_length: int | None = None,
) -> ProceduralObject:
    """Object ``index`` of a split.

    Args:
        index: from 0; every run of ``len(CATEGORIES)`` objects has each category once.
        seed: of the whole set.
        split: any name; splits of different names share no object.
        num_gaussians: M.
        num_captions: K.
        fps_length: see ``discs.farthest_point_order``.

    Raises:
        ValueError: negative index or fewer than 1 Gaussian.
    """
    if index < 0 or num_gaussians < 1:
        raise ValueError(
            f"generate: expected index >= 0 and num_gaussians >= 1; found {index=}, {num_gaussians=}"
        )
    rng = np.random.default_rng(features.stable_seed("procedural", seed, split, index))
    category = index % len(CATEGORIES)
    draft = Draft(rng, csg.Assembly(), CATEGORIES[category])
    RECIPES[CATEGORIES[category]](draft)
    pieces = tuple(draft.assembly.pieces)
    surface = csg.sample_surface(pieces, num_gaussians, rng)
    low, high = surface.points.min(0), surface.points.max(0)
    centre, scale = (low + high) / 2, 1.0 / float(np.max(high - low))
    gaussians = discs.from_surface(
        (surface.points - centre) * scale,
        surface.normals,
        surface.rgb,
        area=surface.area * scale**2,
        alpha=surface.alpha,
        parts=np.array([_PART_LABEL[part] for part in surface.parts], np.uint8),
        fps_length=fps_length,
    )
    return ProceduralObject(
        uid=f"procedural-{seed}/{split}/{index:06d}",
        name=f"{draft.paint.name} {draft.noun}",
        category=category,
        captions=tuple(grammar.captions(draft, num_captions, rng)),
        gaussians=gaussians,
        pieces=pieces,
        centre=centre,
        scale=scale,
    )
