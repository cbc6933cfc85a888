"""The five tables of the cross-modal thesis, laid out as there, with rows of a study.

Source: "Self-Supervised Cross-modality Feature Learning using 3D Gaussian Splatting" (A. Simionescu, TU
Delft). An arm is ``<backbone>/<features>/<sampling>``, or with ``/coloured`` behind it for objects in their
own colours; others are ``random weights/<backbone>`` and ``Chamfer 1-NN``, ``supervised/<network>[@<share of
the labels>]``. Means over seeds stand with half of their 95 % interval. A cell that was not run says so.
Beside runs on ModelNet10 stand the published figures.
"""

import numpy as np

from gsjax.metrics import bootstrap, trials

FEATURES = dict(positions="positions", scale_rotation="+ scale & rotation", sh="+ SH")
COLOURED = "positions, coloured"
BACKBONES = dict(pointnet="PointNet", pointnet2="PointNet++")
SAMPLINGS = dict(fps="FPS", uniform="Unif")
NOT_RUN = "not run"
_WIDTH = 25

# Published cells, in the order of the columns here; table 2 as the logs give both backbones.
TARGETS = {
    "1": dict(
        positions=(0.941, 0.924, 0.952, 0.931),
        scale_rotation=(0.938, 0.942, 0.938, 0.906),
        sh=(0.943, 0.943, 0.939, 0.918),
    ),
    "2": dict(
        positions=("5.17 / 13.38", "4.95 / 11.66", "5.34 / 13.58", "4.97 / 11.56"),
        scale_rotation=("4.91 / 12.05", "5.05 / 12.61", "4.94 / 12.07", "4.73 / 10.40"),
        sh=("5.13 / 12.91", "5.10 / 12.79", "4.94 / 11.92", "4.70 / 10.72"),
    ),
    "4": dict(positions=(89.0, 90.0), scale_rotation=(87.0, 88.0), sh=(88.0, 87.0)),
}


def tables(rows: list[dict], against: str = "") -> str:
    """All five, one after the other.

    Args:
        rows: of one study; seeds of an arm are averaged, and more than one is said.
        against: not used.
    """
    del against
    if not rows:
        return "no finished runs"
    book = _Book(rows)
    parts = (_table1, _table2, _table3, _table4, _table5, _references)
    return "\n\n".join(part(book) for part in parts)


class _Book:
    def __init__(self, rows):
        self.rows = rows
        self.modelnet = any(row["metrics"].get("modelnet10") for row in rows)

    def arm(self, *names: str) -> list[dict]:
        return [row for row in self.rows if row["arm"] == "/".join(names)]

    def number(self, key: str, *names: str, digits: int = 1) -> str:
        """A metric, its mean over several seeds (95 % by Student's t), or 'not run'."""
        found = [row["metrics"][key] for row in self.arm(*names) if key in row["metrics"]]
        if not found:
            return NOT_RUN
        state = trials.Trials.of(found).compute()
        text = f"{state['mean']:.{digits}f}"
        if len(found) == 1:
            return text
        return f"{text} ± {state['mean'] - state['low']:.{digits}f} ({len(found)} seeds)"

    def features(self) -> list[tuple[str, tuple[str, ...]]]:
        """Rows of the tables: (title, (features, what follows the sampling))."""
        coloured = any(row["arm"].endswith("/coloured") for row in self.rows)
        found = [(label, (name,)) for name, label in FEATURES.items()]
        return found + ([(COLOURED, ("positions", "coloured"))] if coloured else [])

    def cell(self, key, backbone, row: tuple[str, ...], sampling="fps", digits: int = 1) -> str:
        """:meth:`number` of a trained network; ``row`` of :meth:`features`."""
        return self.number(key, backbone, row[0], sampling, *row[1:], digits=digits)


def _lines(title: str, head: list[str], body: list[tuple[str, list[str]]]) -> str:
    lines = [title, _line("", head)]
    return "\n".join(lines + [_line(name, cells) for name, cells in body])


def _line(name: str, cells: list[str]) -> str:
    return f"{name:<33}" + "".join(f"{cell:>{_WIDTH}}" for cell in cells)


def _columns() -> list[tuple[str, str, str]]:
    return [
        (f"{label} {how}", backbone, sampling)
        for backbone, label in BACKBONES.items()
        for sampling, how in SAMPLINGS.items()
    ]


def _with_targets(book, table: str, body):
    if not book.modelnet or table not in TARGETS:
        return body
    more = [
        (f"  published, {FEATURES[name]}", [str(x) for x in cells])
        for name, cells in TARGETS[table].items()
    ]
    return body + more


def _by_backbone(book, key: str, suffix: str = "", digits: int = 3):
    return [
        (label + suffix, [book.cell(key, b, row, s, digits=digits) for _, b, s in _columns()])
        for label, row in book.features()
    ]


def _table1(book) -> str:
    body = _by_backbone(book, "cross_modal/accuracy")
    body += _by_backbone(book, "cross_modal/balanced", ", balanced")
    body.append(("always yes", ["0.667"] * 4))
    title = "Table 1: cross-modality accuracy, five passes over held-out objects"
    return _lines(title, [c[0] for c in _columns()], _with_targets(book, "1", body))


def _table2(book) -> str:
    def cell(backbone, row, sampling):
        pos, neg = (
            book.cell(f"cross_modal/{key}", backbone, row, sampling, digits=2).split(" ±")[0]
            for key in ("pos", "neg")
        )
        return pos if pos == NOT_RUN else f"{pos} / {neg}"

    body = [(label, [cell(b, row, s) for _, b, s in _columns()]) for label, row in book.features()]
    body = _with_targets(book, "2", body)
    body += _by_backbone(book, "cross_modal/ratio", ", ratio", digits=2)
    body += _by_backbone(book, "cross_modal/loss", ", L_cm", digits=2)
    title = "Table 2: mean distance of features, views of one object / of two; their ratio; L_cm"
    return _lines(title, [c[0] for c in _columns()], body)


def _views(rows) -> list[str]:
    """Columns of table 3: numbers of views, then Gaussians from the same sides and in between."""
    keys = {key for row in rows for key in row["metrics"]}
    prefix = "shape_recognition/"
    counts = sorted(
        int(key.rsplit("/", 1)[1])
        for key in keys
        if key.startswith(f"{prefix}image/") and key.rsplit("/", 1)[1].isdigit()
    )
    found = [f"image/{count}" for count in counts]
    if counts and f"{prefix}memory/{counts[-1]}" in keys:
        found += [f"memory/{counts[-1]}", f"between/{counts[-1]}"]
    return found


def _title(column: str) -> str:
    kind, count = column.split("/")
    return {"image": count, "memory": f"{count}*", "between": f"{count} novel"}[kind]


def _table3(book) -> str:
    columns, body = _views(book.rows), []
    for label, row in book.features():
        for backbone, net in BACKBONES.items():
            cells = [book.cell(f"shape_recognition/{c}", backbone, row) for c in columns]
            body.append((f"{label}, {net}", cells))
    for backbone, net in BACKBONES.items():
        cells = [book.number(f"shape_recognition/{c}", "random weights", backbone) for c in columns]
        body.append((f"random weights, {net}", cells))
    title = (
        "Table 3: 2D recognition by numbers of views (FPS), per cent; * pictures of the Gaussians from "
        "the same sides, novel: from sides in between"
    )
    return _lines(title, [_title(c) for c in columns], body)


def _table4(book) -> str:
    key = "shape_recognition/points"
    body = [
        (label, [book.cell(key, backbone, row) for backbone in BACKBONES])
        for label, row in book.features()
    ]
    body.append(
        ("random weights", [book.number(key, "random weights", backbone) for backbone in BACKBONES])
    )
    body.append(("Chamfer 1-NN, raw points", [book.number(key, "Chamfer 1-NN")] * 2))
    title = "Table 4: 3D recognition (FPS), per cent"
    return _lines(title, list(BACKBONES.values()), _with_targets(book, "4", body))


def _table5(book) -> str:
    most = [c for c in _views(book.rows) if c.startswith("image/")]
    image = most[-1] if most else "image/64"
    body = []
    for share in (1.0, 0.5, 0.1):
        suffix = "" if share == 1.0 else f"@{share:g}"

        def labelled(net, suffix=suffix):
            return book.number("classification/top1", "supervised", f"{net}{suffix}")

        def frozen(backbone, what, suffix=suffix):
            return book.number(f"shape_recognition/{what}{suffix}", backbone, "positions", "fps")

        cells = [labelled(net) for net in BACKBONES]
        cells += [frozen(backbone, "points") for backbone in BACKBONES]
        cells.append(labelled("mvcnn"))
        cells += [frozen(backbone, image) for backbone in BACKBONES]
        cells.append(book.number(f"shape_recognition/points{suffix}", "Chamfer 1-NN"))
        body.append((f"{100 * share:.0f} %", cells))
    head = [
        "PointNet (pts)",
        "PointNet++ (pts)",
        "F_p",
        "F_p++",
        "MVCNN",
        "F_img",
        "F_img++",
        "1-NN",
    ]
    return _lines("Table 5: shares of the labels, positions and FPS, per cent", head, body)


def _references(book) -> str:
    """Chance, and differences on the same objects: training, and pictures of the Gaussians."""
    lines = [
        f"majority {book.number('shape_recognition/majority', 'Chamfer 1-NN')}, chance "
        f"{book.number('chance', 'Chamfer 1-NN')}",
        _line("trained minus random weights", ["views", "points"]),
    ]
    columns = _views(book.rows)
    most = [c for c in columns if c.startswith("image/")][-1:]
    nets = {net: book.arm(backbone, "positions", "fps") for backbone, net in BACKBONES.items()}
    for backbone, net in BACKBONES.items():
        random = book.arm("random weights", backbone)
        cells = [_difference(nets[net], random, name) for name in [*most, "points"]]
        lines.append(_line(net, cells))
    shown = [c for c in columns if not c.startswith("image/")]
    if shown:
        lines.append(_line(f"minus {_title(most[0])} views", [_title(c) for c in shown]))
        for net, rows in nets.items():
            lines.append(_line(net, [_difference(rows, rows, c, most[0]) for c in shown]))
    return "\n".join(lines)


def _difference(first, second, name: str, other: str = "") -> str:
    """Of ``name`` in the first rows and of ``other`` (the same) in the second, object by object."""
    if not first or not second:
        return NOT_RUN
    sides = []
    for rows, key in ((first, name), (second, other or name)):
        for row in rows:
            if row["outcomes"]["index"] != first[0]["outcomes"]["index"]:
                raise ValueError(f"arm {row['arm']!r}: its rows are about other objects")
        sides.append(100.0 * np.asarray([row["outcomes"][key] for row in rows]))
    return str(bootstrap.paired_difference(*sides, None))
