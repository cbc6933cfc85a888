"""Tables of studies, as plain text: figures, arms with 95 % intervals and differences, few-shot trials."""

import numpy as np

from gsjax.cli import study_cross_modal, study_posed, study_transfer
from gsjax.metrics import bootstrap, trials

# Title -> (field of the outcomes, k, mean over classes?).
COLUMNS = {
    "text->3D R@1": ("text_rank", 1, False),
    "text->3D R@5": ("text_rank", 5, False),
    "text->3D R@1, macro": ("text_rank", 1, True),
    "class top-1": ("class_rank", 1, False),
    "class top-1, macro": ("class_rank", 1, True),
}


def arms(rows: list[dict], against: str) -> str:
    """A block of values, then a block of paired differences ``against`` minus arm.

    Seeds of an arm are averaged per object before objects are resampled. The rows ``chance`` and
    ``majority`` follow from the labels alone.
    """
    if not rows:
        return "no finished runs"
    labels = np.asarray(rows[0]["outcomes"]["category"])
    groups: dict[str, list[dict]] = {}
    for row in rows:
        if row["outcomes"]["index"] != rows[0]["outcomes"]["index"]:
            raise ValueError(f"arm {row['arm']!r}: its rows are about other objects")
        groups.setdefault(row["arm"], []).append(row)
    head = f"{len(labels)} held-out objects, {len(np.unique(labels))} categories; per cent"
    lines = [head, _line("arm", list(COLUMNS))]
    hits = {arm: _hits(found) for arm, found in groups.items()}
    for arm, values in hits.items():
        cells = [_interval(values.get(title), labels, title) for title in COLUMNS]
        lines.append(_line(f"{arm} ({len(groups[arm])} seeds)", cells))
    lines.append(_line("majority class", ["", "", "", *_majority(labels)]))
    lines.append(_line("chance", _chance(rows, labels)))
    if against in hits:
        lines += ["", _line(f"{against} minus", list(COLUMNS))]
        for arm in hits:
            if arm != against:
                cells = [_difference(hits[against], hits[arm], labels, t) for t in COLUMNS]
                lines.append(_line(arm, cells))
        lines.append(_line("majority class", _beyond_majority(hits[against], labels)))
    return "\n".join(lines)


def few_shot(rows: list[dict], against: str) -> str:
    """Accuracy in per cent over the trials: mean +- deviation, then paired differences to one arm.

    A line is an arm and a head, a column a setting. Differences are taken trial by trial, ``against``
    minus arm at the same head (an arm with a head of its own: against ``linear``), with a 95 % interval
    of their mean by Student's t. Trials share objects: intervals cover the draw of the episodes.
    """
    lines: dict[tuple[str, str], dict[str, np.ndarray]] = {}
    for row in rows:
        for name, found in row["outcomes"]["few_shot"].items():
            head, _, setting = name.partition("/")
            lines.setdefault((row["arm"], head), {})[setting] = np.asarray(found)
    if not lines:
        return "no finished runs"
    settings = sorted(next(iter(lines.values())), key=_way_and_shot)
    text = [_line("arm, head", settings)]
    for (arm, head), found in lines.items():
        states = [trials.Trials.of(found[s]).compute() for s in settings]
        cells = [f"{state['mean']:.1f} +- {state['std']:.1f}" for state in states]
        text.append(_line(f"{arm}, {head}", cells))
    text.append(_line("chance", [f"{100 / int(s.partition('w')[0]):.1f}" for s in settings]))
    text += ["", _line(f"{against} minus", settings)]
    for (arm, head), found in lines.items():
        base = lines.get((against, head)) or lines.get((against, "linear"))
        if arm != against and base:
            states = [trials.Trials.of(base[s] - found[s]).compute() for s in settings]
            cells = ["{mean:.1f} [{low:.1f}, {high:.1f}]".format(**state) for state in states]
            text.append(_line(f"{arm}, {head}", cells))
    return "\n".join(text)


def _way_and_shot(setting: str) -> list[int]:
    """'5w10s' -> [5, 10]."""
    return [int(number) for number in setting.removesuffix("s").split("w")]


def figures(rows: list[dict], against: str = "") -> str:
    """A line a run with its seconds and every plain number among its metrics."""
    del against
    lines = []
    for row in rows:
        plain = {k: v for k, v in row["metrics"].items() if isinstance(v, (int, float))}
        cells = ", ".join(f"{name} {value:.5g}" for name, value in plain.items())
        lines.append(f"{row['arm']} (seed {row['seed']}, {row['seconds']:.0f} s): {cells}")
    return "\n".join(lines) or "no finished runs"


def _hits(rows):
    """{title: [seeds, objects] of 0 or 100}."""
    found = {}
    for title, (field, k, _) in COLUMNS.items():
        if field in rows[0]["outcomes"]:
            found[title] = 100.0 * (np.array([r["outcomes"][field] for r in rows]) <= k)
    return found


def _groups(labels, title):
    return np.unique(labels, return_inverse=True)[1] if COLUMNS[title][2] else None


def _interval(values, labels, title):
    return "" if values is None else str(bootstrap.mean_interval(values, _groups(labels, title)))


def _difference(first, second, labels, title):
    if title not in first or title not in second:
        return ""
    groups = _groups(labels, title)
    return str(bootstrap.paired_difference(first[title], second[title], groups))


def _majority(labels):
    share = np.bincount(labels).max() / len(labels)
    return [f"{100 * share:.1f}", f"{100 / len(np.unique(labels)):.1f}"]


def _beyond_majority(values, labels):
    """Paired with the hits of always answering the most frequent class."""
    hit = 100.0 * (labels == np.bincount(labels).argmax())
    titles = ("class top-1", "class top-1, macro")
    cells = [str(bootstrap.paired_difference(values[t], hit, _groups(labels, t))) for t in titles]
    return ["", "", "", *cells]


def _chance(rows, labels):
    """Guessing among all objects, or all names offered (some may have no held-out object)."""
    offered = [row["metrics"].get("zero_shot/chance") for row in rows]
    name = next(filter(None, offered), 100 / len(np.unique(labels)))
    object_ = 100 / len(labels)
    return [f"{object_:.1f}", f"{5 * object_:.1f}", f"{object_:.1f}", *[f"{name:.1f}"] * 2]


def _line(name, cells):
    return f"{name:30s}" + "".join(f"{cell:>22s}" for cell in cells)


TABLES = dict(
    figures=figures,
    arms=arms,
    few_shot=few_shot,
    cross_modal=study_cross_modal.tables,
    posed=study_posed.tables,
    **study_transfer.TABLES,
)
