"""From posed pictures to Gaussians by whatever gives Gaussians of a batch; what is kept of them, and a preview.

No files and no options here: `reconstruct` has those.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from gsjax.core import gaussians, rotations
from gsjax.data import view_fit
from gsjax.data.scenes import View
from gsjax.raster import api

Predict = Callable[[Mapping[str, jax.Array]], Mapping[str, jax.Array]]
# Gaussians nearer than this share of near are not drawn, as in the renderers that models are trained with.
_CULL = 0.2


def batch(views: Sequence[View], near: float, far: float) -> dict[str, jax.Array]:
    """A batch of one example without targets, as systems' data give it.

    Args:
        views: V of one size.
        near, far: depths, world units.
    """
    height, width = views[0].image.shape[:2]
    viewmats = np.stack([view.viewmat for view in views])[None]
    Ks = np.stack([view_fit.normalised(view.K, height, width) for view in views])[None]
    found = dict(
        context_images=np.stack([view.image for view in views])[None],
        context_viewmats=viewmats.astype(np.float32),
        context_c2ws=np.linalg.inv(viewmats).astype(np.float32),
        context_Ks=Ks.astype(np.float32),
        near=np.asarray([near], np.float32),
        far=np.asarray([far], np.float32),
        index=np.zeros(1, np.int32),
        valid=np.ones(1, bool),
    )
    return {name: jnp.asarray(value) for name, value in found.items()}


def reconstruct(
    views: Sequence[View], predict: Predict, near: float, far: float, *, unit: float | None = None
) -> gaussians.Gaussians:
    """Gaussians in the world of the views.

    The model gets the scene moved, so that the cameras' middle is the origin (coordinates of surveyors would not
    fit into float32), and scaled, so that ``near`` is what it was trained with: sizes that a model gives
    in world units would not fit another scale. Both are undone.

    Args:
        views: V >= 2 of one size, which the model takes.
        predict: a batch (see :func:`batch`) to ``means`` [1, N, 3], ``quats``, ``scales``, ``opacities``, ``sh``.
        near, far: depths, world units.
        unit: what near is for the model; None = as it is.

    Returns:
        [N, ...] in world units, positions in float32 (NumPy arrays).

    Raises:
        ValueError: pictures of different sizes.
    """
    sizes = {view.image.shape[:2] for view in views}
    if len(sizes) != 1:
        raise ValueError(f"views: expected one size, found {sorted(sizes)}; fit them first")
    scale = 1.0 if unit is None else unit / near
    middle = np.mean([_center(view.viewmat) for view in views], axis=0)
    found = predict(batch([_moved(v, middle, scale) for v in views], near * scale, far * scale))
    g = {name: np.asarray(found[name], np.float64)[0] for name in _FIELDS}
    g["means"], g["scales"] = g["means"] / scale + middle, g["scales"] / scale
    return gaussians.Gaussians(**{name: np.float32(value) for name, value in g.items()}).check()


_FIELDS = [field.name for field in dataclasses.fields(gaussians.Gaussians)]


def _center(viewmat: np.ndarray) -> np.ndarray:
    return -viewmat[:3, :3].T @ viewmat[:3, 3]


def _moved(view: View, middle: np.ndarray, scale: float) -> View:
    """The view in the world (x - middle) scale."""
    viewmat = np.array(view.viewmat, np.float64)
    viewmat[:3, 3] = scale * (viewmat[:3, 3] + viewmat[:3, :3] @ middle)
    return dataclasses.replace(view, viewmat=viewmat)


def kept(
    g: gaussians.Gaussians, shape: tuple[int, int, int], *, trim: int = 0, min_opacity: float = 0.0
) -> gaussians.Gaussians:
    """Gaussians without those of border pixels, and without those too faint.

    Args:
        g: [V H W, ...], views first, then rows.
        shape: (V, H, W).
        trim: pixels along each border; what they show is seen by one view alone, and is guessed.
        min_opacity: least opacity.

    Raises:
        ValueError: not one Gaussian a pixel, or none is left.
    """
    if g.num != int(np.prod(shape)):
        raise ValueError(f"g: expected one Gaussian a pixel of {shape}, found {g.num}")
    mask = np.zeros(shape, bool)
    mask[:, trim : shape[1] - trim, trim : shape[2] - trim] = True
    mask = mask.reshape(-1) & (np.asarray(g.opacities) >= min_opacity)
    if not mask.any():
        raise ValueError(
            f"trim, min_opacity: {trim} pixels and {min_opacity:g} leave none of {g.num} Gaussians; take "
            "smaller ones"
        )
    return jax.tree.map(lambda x: x[mask], g)


def render(
    g: gaussians.Gaussians, viewmats: np.ndarray, Ks: np.ndarray, size: tuple[int, int], near: float
) -> np.ndarray:
    """Pictures before black: uint8 [C, H, W, 3].

    Args:
        g: [N, ...].
        viewmats: [C, 4, 4].
        Ks: [C, 3, 3] pixels.
        size: (H, W).
        near: least depth of surfaces.
    """
    draw = jax.jit(
        lambda g, viewmat, K: api.rasterize(
            g.means, g.quats, g.scales, g.opacities, g.sh, viewmat[None], K[None], size[1], size[0],
            sh_degree=g.sh_degree, near_plane=_CULL * near,
        )[0][0]
    )  # fmt: skip
    scene, cameras = jax.tree.map(jnp.asarray, g), zip(viewmats, Ks, strict=True)
    pictures = [draw(scene, *(jnp.asarray(x, jnp.float32) for x in camera)) for camera in cameras]
    return np.uint8(np.clip(np.stack(pictures), 0, 1) * 255 + 0.5)


def between(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """The camera halfway between two (viewmats [4, 4]): place and shortest turn."""
    quats = [rotations.rotmat_to_quat(jnp.asarray(m[:3, :3])) for m in (first, second)]
    sign = jnp.where(quats[0] @ quats[1] < 0, -1, 1)  # both are the same turn
    turn = np.asarray(rotations.quat_to_rotmat(quats[0] + sign * quats[1]), np.float64)
    result = np.eye(4)
    result[:3, :3] = turn
    result[:3, 3] = -turn @ (_center(first) + _center(second)) / 2
    return result


def preview(views: Sequence[View], g: gaussians.Gaussians, near: float) -> np.ndarray:
    """Pictures above, renderings below: uint8 [2 H, (V + 1) W, 3].

    The last column has no picture: it is seen from between the first two cameras.
    """
    height, width = views[0].image.shape[:2]
    new = between(views[0].viewmat, views[1].viewmat)
    viewmats = np.stack([view.viewmat for view in views] + [new])
    Ks = np.stack([view.K for view in views] + [views[0].K])
    drawn = render(g, viewmats, Ks, (height, width), near)
    top = [view.image for view in views] + [np.zeros_like(views[0].image)]
    return np.concatenate([np.concatenate(row, 1) for row in (top, drawn)])
