"""Scenes with different numbers of Gaussians as one batch of static shape."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from gsjax.core import sh
from gsjax.core.gaussians import Gaussians


def stack_scenes(
    scenes: Sequence[Gaussians], num: int | None = None, *, multiple: int = 1
) -> tuple[Gaussians, jax.Array]:
    """One batch of scenes, the short ones filled up with Gaussians that nobody sees.

    Fillers have opacity 0, at which the renderer culls them: they cost a projection, change no pixel
    and get no gradient. A scene of lower SH degree than another gets zeros for the coefficients that
    it lacks.

    Args:
      scenes: S >= 1 scenes without leading axes, of N_s Gaussians each.
      num: N of the batch; None is the largest N_s, rounded up to `multiple`.
      multiple: round sizes to this, so that fewer of them are compiled.

    Returns:
      Gaussians with leading axes [S, N], and bool [S, N]: which are no fillers.

    Raises:
      ValueError: there are no scenes, one has leading axes or more than `num` Gaussians, or
        multiple is below 1.
    """
    if not scenes:
        raise ValueError("scenes: found none, expected at least one")
    if multiple < 1:
        raise ValueError(f"multiple: found {multiple}, expected at least 1")
    for k, scene in enumerate(scenes):
        scene.check()
        if jnp.ndim(scene.means) != 2:
            shape = list(jnp.shape(scene.means))
            raise ValueError(f"scenes[{k}]: means have shape {shape}, expected [N, 3], one scene")
    most = max(scene.num for scene in scenes)
    size = -(-most // multiple) * multiple if num is None else num
    if most > size:
        raise ValueError(f"num: found {size}, a scene has {most} Gaussians; allow for as many")
    coeffs = sh.num_coeffs(max(scene.sh_degree for scene in scenes))
    filled = [_fill(scene, size, coeffs) for scene in scenes]
    batch = jax.tree.map(lambda *x: jnp.stack(x), *filled)
    counts = jnp.array([scene.num for scene in scenes])
    return batch, jnp.arange(size) < counts[:, None]


def _fill(scene, size, coeffs):
    missing = size - scene.num

    def rows(x, value):
        x = jnp.asarray(x)
        return jnp.concatenate([x, jnp.full((missing, *x.shape[1:]), value, x.dtype)])

    colors = rows(scene.sh, 0.0)
    colors = jnp.pad(colors, ((0, 0), (0, coeffs - colors.shape[1]), (0, 0)))
    return Gaussians(
        rows(scene.means, 0.0), rows(scene.quats, 1.0), rows(scene.scales, 1.0),
        rows(scene.opacities, 0.0), colors,
    )  # fmt: skip
