"""How good a fit is: held-out views against its renders, in numbers and pictures."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from PIL import Image

from gsjax.core import image as images
from gsjax.io import weights
from gsjax.metrics.lpips import Lpips
from gsjax.systems.scene_fit import model
from gsjax.systems.scene_fit.recipe import Recipe
from gsjax.systems.scene_fit.state import FitState, Views

_GAP = 4  # pixels between pictures of a grid


def background(recipe: Recipe) -> float:
    """Grey level behind held-out views: white where the training background is random."""
    return 0.0 if recipe.background == "black" else 1.0


@functools.partial(jax.jit, static_argnums=(0, 3, 4))
def render_view(recipe: Recipe, state: FitState, camera, width: int, height: int) -> jax.Array:
    """[H, W, 3] in [0, 1], one view (viewmat [4, 4], K [3, 3]) of the scene as it is."""
    scene = model.activated(
        state.params, state.alive, filter3d=state.filter3d if recipe.antialiased else None
    )
    behind = jnp.full((1, 3), background(recipe))
    image, _, _ = model.render(
        scene, camera[0][None], camera[1][None], width, height, behind,
        rasterize_mode="antialiased" if recipe.antialiased else "classic",
    )  # fmt: skip
    return jnp.clip(image[0], 0, 1)


def targets(views: Views, grey: float) -> np.ndarray:
    """[V, H, W, 3] in [0, 1] on a grey background."""
    values = np.asarray(views.images, np.float32) / 255
    if values.shape[-1] == 3:
        return values
    return values[..., :3] * values[..., 3:] + grey * (1 - values[..., 3:])


def renders(recipe: Recipe, state: FitState, views: Views) -> np.ndarray:
    """[V, H, W, 3] in [0, 1], every view of the scene as it is."""
    width, height = views.size
    cameras = zip(views.viewmats, views.Ks, strict=True)
    return np.stack(
        [np.asarray(render_view(recipe, state, camera, width, height)) for camera in cameras]
    )


def scores(
    recipe: Recipe, state: FitState, views: Views, lpips: Lpips | None = None
) -> dict[str, float]:
    """PSNR (dB) and SSIM per picture, then their means; PSNR of pixels with alpha, too, if there is one.

    LPIPS where the metric is given.

    PSNR over a mask counts these pixels alone; masks of the views are heeded, in SSIM as black.
    """
    drawn, wanted = renders(recipe, state, views), targets(views, background(recipe))
    if views.masks is not None:
        kept = np.asarray(views.masks)[..., None]
        drawn, wanted = drawn * kept, wanted * kept
    weight = None if views.masks is None else np.asarray(views.masks)
    result = {
        "psnr": float(np.mean(psnr(drawn, wanted, weight))),
        "ssim": float(np.mean([images.ssim(a, b) for a, b in zip(drawn, wanted, strict=True)])),
    }
    if views.images.shape[-1] == 4:
        inside = np.asarray(views.images)[..., 3] > 0
        result["psnr_inside"] = float(np.mean(psnr(drawn, wanted, inside)))
    if lpips is not None:
        pairs = zip(drawn, wanted, strict=True)
        result["lpips"] = float(np.mean([lpips(a[None], b[None])[0] for a, b in pairs]))
    return result


def load_lpips(backbone: str, heads: str) -> Lpips | None:
    """The metric from the user's weight files (see `metrics.lpips`); None where both names are empty.

    Raises:
      ValueError: only one name, or files that do not fit.
    """
    if not backbone and not heads:
        return None
    if not backbone or not heads:
        raise ValueError(
            "eval: LPIPS needs both lpips_backbone (torchvision's network) and lpips_heads (weights/v0.1)"
        )
    return Lpips.of(weights.read_state_dict(backbone), weights.read_state_dict(heads))


def psnr(a: np.ndarray, b: np.ndarray, mask: np.ndarray | None = None) -> np.ndarray:
    """[V] dB of pictures [V, H, W, 3], over the pixels of a mask [V, H, W]; at most 100."""
    error = np.mean((a - b) ** 2, -1)
    weight = np.ones_like(error) if mask is None else mask.astype(error.dtype)
    mse = np.sum(error * weight, (1, 2)) / np.maximum(np.sum(weight, (1, 2)), 1)
    return -10 * np.log10(np.maximum(mse, 1e-10))


def baselines(train: Views, test: Views, grey: float) -> dict[str, float]:
    """PSNR of two pictures that know nothing of the scene: the mean photograph, the nearest one.

    Masks are heeded: PSNR is that of the pixels that count, the mean is over the views where they do.
    One photograph at a time is converted to float, whatever their number.
    """
    total, count = 0.0, 0.0
    for number in range(len(train.images)):
        view = _only(train, number)
        kept = 1.0 if view.masks is None else np.asarray(view.masks)[..., None].astype(np.float32)
        total, count = total + targets(view, grey) * kept, count + kept
    mean = total / np.maximum(count, 1)
    centers = [-np.einsum("vji,vj->vi", v[:, :3, :3], v[:, :3, 3]) for v in
               (np.asarray(train.viewmats), np.asarray(test.viewmats))]  # fmt: skip
    nearest = np.linalg.norm(centers[1][:, None] - centers[0], axis=-1).argmin(1)
    found = {"psnr_mean_image": [], "psnr_nearest_image": []}
    for number, neighbour in enumerate(nearest):
        view = _only(test, number)
        wanted = targets(view, grey)
        guesses = (mean, targets(_only(train, neighbour), grey))
        for values, guess in zip(found.values(), guesses, strict=True):
            values.append(psnr(guess, wanted, view.masks)[0])
    return {name: float(np.mean(values)) for name, values in found.items()}


def _only(views: Views, number: int) -> Views:
    """One of the views, as [1, ...]."""
    return jax.tree.map(lambda x: np.asarray(x[number : number + 1]), views)


def write_grid(path, recipe: Recipe, state: FitState, views: Views, most: int = 6) -> None:
    """A PNG of held-out views: photographs above, renders below, differences (times 4) at the bottom."""
    chosen = np.linspace(0, len(views.images) - 1, min(most, len(views.images))).astype(int)
    part = jax.tree.map(lambda x: np.asarray(x)[chosen], views)
    wanted, drawn = targets(part, background(recipe)), renders(recipe, state, part)
    rows = (wanted, drawn, np.clip(4 * np.abs(drawn - wanted), 0, 1))
    _, height, width, _ = wanted.shape
    sheet = np.ones(
        (3 * (height + _GAP) - _GAP, len(chosen) * (width + _GAP) - _GAP, 3), np.float32
    )
    for r, row in enumerate(rows):
        for c, picture in enumerate(row):
            top, left = r * (height + _GAP), c * (width + _GAP)
            sheet[top : top + height, left : left + width] = picture
    with epath.Path(path).open("wb") as file:
        Image.fromarray((sheet * 255 + 0.5).astype(np.uint8)).save(file, "PNG")
