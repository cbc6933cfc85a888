"""Tables of a study of feed-forward splatting: views, depths and clouds by arms, and what each term changed.

Rows are named 'SET/ARM'; seeds of an arm are averaged scene by scene. Baselines (``BASELINES``) are those of
the first row of a set that has them.
"""

import numpy as np

from gsjax.metrics import bootstrap

# Title -> (score, factor, digits).
COLUMNS = {
    "PSNR": ("render/psnr", 1, 2),
    "SSIM": ("render/ssim", 1, 3),
    "PSNR, jumps": ("render/psnr_band", 1, 2),
    "depth AbsRel %": ("depth/abs_rel", 100, 2),
    "jumps": ("depth/abs_rel_band", 100, 2),
    "accuracy cm": ("cloud/accuracy", 100, 2),
    "complete cm": ("cloud/completeness", 100, 2),
    "F at 10 cm %": ("cloud/f_0.1", 100, 1),
}
BASELINES = {
    "oracle": "the first arm at true depths",
    "nearest": "nearest context picture",
    "plane": "the same on the best plane",
    "blend": "mean of the context pictures",
    "mean": "mean training picture",
}
_MEDIAN = "median depth of the training views"
_NAME, _WIDTH = 40, 24


def tables(rows: list[dict], against: str = "") -> str:
    """A block for every set and evaluator: values, baselines, then differences to an arm.

    Values are means over seeds and scenes, their 95 % intervals the bootstrap over scenes; differences are
    arm minus ``against``, of the seeds that both have (one order of data), the bootstrap nested in seeds.

    Args:
        rows: of one study.
        against: an arm; '' = no differences.

    Raises:
        ValueError: runs of a set were measured on different scenes.
    """
    blocks: dict[tuple[str, str], dict[str, list[dict]]] = {}
    for row in sorted(rows, key=lambda row: row["seed"]):
        where, _, arm = row["arm"].partition("/")
        for evaluator in row["outcomes"]:
            blocks.setdefault((where, evaluator), {}).setdefault(arm, []).append(row)
    text = [_block(where, name, groups, against) for (where, name), groups in blocks.items()]
    return "\n\n".join(text) or "no finished runs"


def _block(where, evaluator, groups, against) -> str:
    scenes = [row["outcomes"][evaluator]["index"] for found in groups.values() for row in found]
    if any(index != scenes[0] for index in scenes):
        raise ValueError(f"{where}: rows of {evaluator} are about different scenes")
    protocol = evaluator.partition("/")[2]
    head = f"{where}{', ' + protocol if protocol else ''}: {len(scenes[0])} scenes"
    lines = [_line(head, list(COLUMNS))]
    for arm, found in groups.items():
        cells = [_value(found, evaluator, title) for title in COLUMNS]
        lines.append(_line(f"{arm} ({_seeds(found)})", cells))
    for found in groups.values():
        if known := _baselines(found[0], evaluator):
            lines += known
            break
    if against in groups and len(groups) > 1:
        lines += ["", _line(f"minus {against}", list(COLUMNS))]
        for arm, found in groups.items():
            cells = [_difference(found, groups[against], evaluator, title) for title in COLUMNS]
            if arm != against and any(cells):
                lines.append(_line(arm, cells))
    return "\n".join(lines)


def _seeds(rows) -> str:
    return f"{len(rows)} seed{'s' if len(rows) > 1 else ''}"


def _scores(rows, evaluator, title) -> np.ndarray | None:
    """[seeds, scenes with a score]; scenes without, such as those without jumps, are without in all arms."""
    score, factor, _ = COLUMNS[title]
    if any(score not in row["outcomes"][evaluator] for row in rows):
        return None
    values = factor * np.asarray([row["outcomes"][evaluator][score] for row in rows], np.float64)
    return values[:, ~np.isnan(values).any(0)]


def _value(rows, evaluator, title) -> str:
    values = _scores(rows, evaluator, title)
    if values is None or not values.size:
        return ""
    return _interval(bootstrap.mean_interval(values), title)


def _difference(rows, others, evaluator, title) -> str:
    seeds = {row["seed"] for row in rows} & {row["seed"] for row in others}
    pair = [[r for r in found if r["seed"] in seeds] for found in (rows, others)]
    if not seeds:
        return ""
    first, second = (_scores(found, evaluator, title) for found in pair)
    if first is None or second is None or first.shape != second.shape or not first.size:
        return ""
    return _interval(bootstrap.nested_difference(first, second), title)


def _baselines(row, evaluator) -> list[str]:
    found, lines = row["metrics"], []
    for name, title in BASELINES.items():
        cells = []
        for score, factor, digits in COLUMNS.values():
            key = f"{evaluator}/{score.replace('render', name, 1)}"
            there = score.startswith("render/") and key in found
            cells.append(f"{factor * found[key]:.{digits}f}" if there else "")
        if any(cells):
            lines.append(_line(f"  {title}", cells))
    if not lines:
        return []
    cells = []
    for score, factor, digits in COLUMNS.values():
        key = f"{evaluator}/{score.replace('depth', 'median', 1)}"
        there = score.startswith("depth/") and key in found
        cells.append(f"{factor * found[key]:.{digits}f}" if there else "")
    return [*lines, _line(f"  {_MEDIAN}", cells)] if any(cells) else lines


def _interval(found: bootstrap.Interval, title: str) -> str:
    digits = COLUMNS[title][2]
    if found.low == found.high:  # one scene
        return f"{found.value:.{digits}f}"
    return f"{found.value:.{digits}f} [{found.low:.{digits}f}, {found.high:.{digits}f}]"


def _line(name: str, cells: list[str]) -> str:
    return f"{name:{_NAME}s}" + "".join(f"{cell:>{_WIDTH}s}" for cell in cells)
