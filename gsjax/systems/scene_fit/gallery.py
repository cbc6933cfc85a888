"""A picture of fitted objects beside their meshes, from a held-out camera.

    python -m gsjax.systems.scene_fit.gallery MESHES FITTED --out worst.png --worst 8

MESHES is what ``gsjax fit-objects`` was given, FITTED the folder that it wrote. A column an object:
mesh, Gaussians, difference times four; below it the name and the held-out PSNR of the fit.
"""

import argparse

import numpy as np
from PIL import Image, ImageDraw

from gsjax import runtime
from gsjax.core import gaussians
from gsjax.data import fitted, mesh_collections, mesh_views
from gsjax.systems.scene_fit import factory, model

_GAP, _LABEL = 4, 26


def column(
    item: mesh_collections.Item, found: fitted.Fitted, recipe: mesh_views.ViewRecipe
) -> np.ndarray:
    """[3 S, S, 3] in [0, 1]: mesh, Gaussians, difference times four, of the first held-out camera."""
    viewmats, Ks = mesh_views.held_out_cameras(recipe, 1)
    views = mesh_views.render_views(item.mesh(), recipe, viewmats=viewmats, Ks=Ks)
    wanted = mesh_views.composite(views["images"])[0].astype(np.float32)
    wanted = wanted / 255 if wanted.max() > 1 else wanted
    scene = gaussians.RawGaussians(**found.gaussians).activate()
    white = np.ones((1, 3), np.float32)
    drawn, _, _ = model.render(scene, viewmats, Ks, recipe.width, recipe.height, white)
    drawn = np.clip(np.asarray(drawn[0]), 0, 1)
    return np.concatenate([wanted, drawn, np.clip(4 * np.abs(drawn - wanted), 0, 1)])


def sheet(source: str, folder: str, numbers: list[int], size: int) -> Image.Image:
    """Columns of the objects with these numbers.

    Raises:
      ValueError: an object that the folder does not hold.
    """
    items, _ = mesh_collections.load(source)
    found = {item.number: item for item in fitted.read(folder)}
    if missing := [number for number in numbers if number not in found]:
        raise ValueError(f"--numbers: {folder} holds no objects {missing}; it has {len(found)}")
    recipe = factory.view_recipe(24, size)
    step = size + _GAP
    result = Image.new("RGB", (step * len(numbers) - _GAP, 3 * size + _LABEL), "white")
    draw = ImageDraw.Draw(result)
    for place, number in enumerate(numbers):
        picture = (column(items[number], found[number], recipe) * 255 + 0.5).astype(np.uint8)
        result.paste(Image.fromarray(picture), (place * step, 0))
        name, scores = items[number].about["name"], found[number].scores
        draw.text((place * step, 3 * size), f"{name}\n{scores['psnr']:.1f} dB", fill="black")
    return result


def main() -> None:
    """Writes the picture."""
    runtime.configure_environment()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source")
    parser.add_argument("folder")
    parser.add_argument("--out", required=True)
    parser.add_argument("--numbers", default="", help="3,17,200; otherwise the worst ones")
    parser.add_argument("--worst", type=int, default=6)
    parser.add_argument("--size", type=int, default=192, help="pixels a side")
    args = parser.parse_args()
    if args.numbers:
        numbers = [int(part) for part in args.numbers.split(",")]
    else:
        ranked = sorted(fitted.read(args.folder), key=lambda item: item.scores["psnr"])
        numbers = [item.number for item in ranked[: args.worst]]
    sheet(args.source, args.folder, numbers, args.size).save(args.out)


if __name__ == "__main__":
    main()
