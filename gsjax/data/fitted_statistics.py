"""How well the objects of a folder are fitted: held-out figures and the worst of them.

    python -m gsjax.data.fitted_statistics FOLDER

Reads what ``gsjax fit-objects`` wrote; the scores are those of held-out views at the time of the fit.
"""

import argparse
import collections
import json

import numpy as np

from gsjax.data import fitted

_QUANTILES = (0, 5, 50, 95, 100)


def statistics(folder) -> dict:
    """Counts and held-out figures of all objects of a folder, as plain JSON values.

    Returns:
        objects, failed, categories, train, test, gaussians (mean), psnr, psnr_inside and ssim
        (mean and quantiles 0, 5, 50, 95, 100), worst (names of the lowest PSNR), seconds and
        objects_per_minute (of the runs that ended), bytes (of the files an object).
    """
    items = list(fitted.read(folder))
    sides = collections.Counter(item.about["split"] for item in items)
    result = {
        "objects": len(items),
        "failed": len(fitted.failed(folder)),
        "categories": len({item.about["category"] for item in items}),
        "train": sides["train"],
        "test": sides["test"],
        "gaussians": round(float(np.mean([item.scores["gaussians"] for item in items])), 1),
    }
    for name in ("psnr", "psnr_inside", "ssim"):
        values = np.array([item.scores[name] for item in items if name in item.scores])
        if len(values):
            result[name] = round(float(values.mean()), 4)
            quantiles = np.percentile(values, _QUANTILES)
            result[f"{name}_quantiles"] = [round(float(v), 4) for v in quantiles]
    worst = sorted(items, key=lambda item: item.scores["psnr"])[:5]
    result["worst"] = {item.about["uid"]: round(item.scores["psnr"], 2) for item in worst}
    if seconds := fitted.run_seconds(folder):
        result["seconds"] = round(seconds, 1)
        result["objects_per_minute"] = round(60 * len(items) / seconds, 2)
    result["bytes"] = fitted.size_bytes(folder) // len(items)
    return result


def main() -> None:
    """Prints the statistics as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder")
    print(json.dumps(statistics(parser.parse_args().folder), indent=1))


if __name__ == "__main__":
    main()
