"""Tables of studies of pre-training: scores of novel views beside baselines, and transfer by arms."""

import numpy as np

from gsjax.metrics import bootstrap, trials

ARMS = {
    "A": "from scratch",
    "A'": "from scratch, for as long as B altogether",
    "B": "pre-trained",
    "C": "pre-trained on points alone",
    "D": "pre-trained on strangers' pictures",
    "E": "random weights, frozen",
}
NEAREST = "Chamfer 1-NN"  # an arm without learning
AGAINST = "B"  # differences are of this arm minus each other one
_BASELINES = ("blank", "mean", "silhouette", "discs")


def views(rows: list[dict], against: str = "") -> str:
    """A line a run: foreground PSNR, silhouette IoU and SSIM of novel views; then the baselines' lines.

    Baselines that know nothing are the same for all runs of equal pictures: a block for each such set.
    """
    del against
    if not rows:
        return "no finished runs"
    lines = [_line("arm (seed)", ["PSNR fg", "IoU", "PSNR", "SSIM", "s/step", "seconds"])]
    baselines: dict[tuple, tuple[list[str], list[str]]] = {}  # their PSNR -> (lines, arms)
    for row in sorted(rows, key=lambda row: (row["arm"], row["seed"])):
        found = {k.removeprefix("novel_view/"): v for k, v in row["metrics"].items()}
        cells = _scores(found, "novel") + [f"{found['step_seconds']:.2f}"]
        lines.append(_line(f"{row['arm']} ({row['seed']})", [*cells, f"{row['seconds']:.0f}"]))
        if "blind/psnr_fg" in found:
            lines.append(_line("  without image features", _scores(found, "blind")))
        there = [name for name in _BASELINES if f"{name}/psnr_fg" in found]
        block = [_line(f"  {name}", _scores(found, name)) for name in there]
        pictures = tuple(round(found[f"{name}/psnr_fg"], 1) for name in there)
        baselines.setdefault(pictures, (block, []))[1].append(row["arm"])
    for block, arms in baselines.values():
        lines += ["baselines of " + ", ".join(dict.fromkeys(arms)), *block]
    return "\n".join(lines)


def _scores(found, name):
    return [
        _with_interval(found, f"{name}/psnr_fg", 1),
        _with_interval(found, f"{name}/iou", 100),
        f"{found[f'{name}/psnr']:.1f}",
        f"{found[f'{name}/ssim']:.3f}",
    ]


def _with_interval(found, key, factor):
    low, high = found.get(f"{key}_low"), found.get(f"{key}_high")
    text = f"{factor * found[key]:.1f}"
    return text if low is None else f"{text} [{factor * low:.1f}, {factor * high:.1f}]"


# Transfer ----------------------------------------------------------------------------------------


def transfer(rows: list[dict], against: str = "") -> str:
    """A block a backbone: arms by settings, then differences, then what needs no learning.

    Rows are named 'BACKBONE/SETTING/ARM', with the settings 'probe', 'classify 10 %', 'parts 100 %' and
    so on. A value is the mean over fine-tuning seeds with a 95 % interval by Student's t; a difference is
    ``against`` (or 'B') minus the arm with the 95 % interval of the paired bootstrap over objects nested in
    seeds. Rows of other forms (the choice of rates, the pre-training) are left out.
    """
    groups = grouped(rows)
    if not groups:
        return "no finished runs"
    against = against or AGAINST
    settings = sorted({s for (_, s, _) in groups}, key=lambda s: (s != "probe", s))
    lines = []
    for backbone in dict.fromkeys(b for (b, _, _) in groups):
        lines.append(_line(backbone, settings))
        for arm in [*ARMS, NEAREST]:
            cells = [_mean(groups.get((backbone, s, arm))) for s in settings]
            if any(cells):
                lines.append(_line(f"{arm} {ARMS.get(arm, '')}"[:46], cells))
        for name in ("majority", "chance"):
            cells = [_fact(groups.get((backbone, s, NEAREST)), name) for s in settings]
            if any(cells):
                lines.append(_line(name, cells))
        lines += ["", _line(f"{against} minus", settings)]
        for arm in [*ARMS, NEAREST]:
            if arm == against:
                continue
            cells = [_difference(groups, backbone, s, against, arm) for s in settings]
            if any(cells):
                lines.append(_line(arm, cells))
        lines.append("")
    return "\n".join(lines)


def grouped(rows: list[dict]) -> dict[tuple[str, str, str], list[dict]]:
    """{(backbone, setting, arm): rows by seed}; rows of other names are left out."""
    found: dict[tuple[str, str, str], list[dict]] = {}
    for row in sorted(rows, key=lambda row: row["seed"]):
        parts = row["arm"].split("/")
        if len(parts) == 3:
            found.setdefault(tuple(parts), []).append(row)
    for backbone in dict.fromkeys(b for (b, _, _) in found):
        for (_, setting, arm), same in list(found.items()):
            if arm == NEAREST:  # it needs no backbone, so it was run once
                found.setdefault((backbone, setting, arm), same)
    return found


def outcomes(rows: list[dict]) -> np.ndarray:
    """[S, n] per cent an object, of 'hit' or 'iou'.

    Raises:
        ValueError: the runs were measured on different objects.
    """
    for row in rows:
        if row["outcomes"]["index"] != rows[0]["outcomes"]["index"]:
            raise ValueError(f"arm {row['arm']!r}: its rows are about other objects")
    values = [row["outcomes"] for row in rows]
    return np.asarray([100.0 * np.asarray(v["hit"]) if "hit" in v else v["iou"] for v in values])


def _mean(rows):
    if not rows:
        return ""
    means = outcomes(rows).mean(1)
    if len(means) == 1:
        return f"{means[0]:.1f}"
    state = trials.Trials.of(means).compute()
    return "{mean:.1f} [{low:.1f}, {high:.1f}]".format(**state)


def _fact(rows, name):
    return f"{rows[0]['metrics'][name]:.1f}" if rows and name in rows[0]["metrics"] else ""


def _difference(groups, backbone, setting, first, second):
    """Of the seeds that both have; an arm of one run stands beside every seed."""
    one, other = (groups.get((backbone, setting, arm)) for arm in (first, second))
    if not one or not other:
        return ""
    if len(other) == 1:
        a, b = outcomes(one), np.broadcast_to(outcomes(other), (len(one), len(outcomes(other)[0])))
    else:
        seeds = {row["seed"] for row in one} & {row["seed"] for row in other}
        a, b = (outcomes([r for r in rows if r["seed"] in seeds]) for rows in (one, other))
    return str(bootstrap.nested_difference(a, b))


def _line(name, cells):
    return f"{name:48s}" + "".join(f"{cell:>22s}" for cell in cells)


TABLES = dict(views=views, transfer=transfer)
