"""The matrix of faults as a table: fault x outcome x steps lost x command."""

from collections import Counter

from tests.faults import cases


def line(row: dict) -> str:
    """One fault in one line."""
    facts = [f"{row['kind']}:{row['number']}", f"{row['before']} -> {row['after']}"]
    facts += [row.get("phase", ""), row["outcome"]]
    if "lost" in row:
        facts += [f"at step {row['reached']}, from {row['resumed']}, lost {row['lost']}"]
    facts += [f"{row['seconds']} s, {row['cpu_seconds']} s of CPU", *row["wrong"]]
    return " | ".join(facts)


def table(rows: list[dict]) -> str:
    """Markdown: a line a kind, then those that went wrong."""
    lines = [
        "| fault | injected | in a phase of | recovered | steps lost: median, most | the end | command |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name, kind in cases.KINDS.items():
        if of_kind := [row for row in rows if row["kind"] == name]:
            lines.append(_line_of_kind(name, kind, of_kind))
    lines.append(
        f"\n{len(rows)} faults, {sum(r['outcome'] == 'recovered' for r in rows)} recovered, "
        f"{sum(r.get('phase') == 'save' for r in rows)} of them inside a save; "
        f"{sum(r['seconds'] for r in rows) / 60:.0f} minutes, "
        f"{sum(r['cpu_seconds'] for r in rows) / 60:.0f} of CPU."
    )
    lines += [f"- {line(row)}: `{row['command']}`" for row in rows if row["wrong"]]
    return "\n".join(lines)


def _line_of_kind(name: str, kind: cases.Kind, rows: list[dict]) -> str:
    phases = Counter(row["phase"] for row in rows if "phase" in row)
    lost = sorted(row["lost"] for row in rows if "lost" in row)
    well = sum(row["outcome"] == "recovered" for row in rows)
    return (
        f"| {kind.text} | {len(rows)} | {', '.join(f'{p} {n}' for p, n in phases.most_common())} "
        f"| {well} of {len(rows)} | {lost[len(lost) // 2] if lost else '-'}, "
        f"{lost[-1] if lost else '-'} | {_end(rows)} "
        f"| `python -m tests.faults.run --only {name}` |"
    )


def _end(rows: list[dict]) -> str:
    """Bits or the largest difference; what was noticed of damage."""
    said = []
    if bits := [row["same_bits"] for row in rows if "same_bits" in row]:
        said.append(f"{sum(bits)} of {len(bits)} bit for bit")
    else:
        gaps = [row["difference"] for row in rows if "difference" in row]
        said += [
            f"{what} within {max(g[what] for g in gaps):.0e}"
            for what in ("losses", "params")
            if gaps
        ]
    if noticed := [row["noticed"] for row in rows if "noticed" in row]:
        said.append(f"{sum(noticed)} noticed and passed over, the others without effect")
    return "; ".join(said)
