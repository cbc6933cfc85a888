"""Seconds of a step on a cluster, between no overlap and full overlap of computing and talking.

A roofline: each kind of arithmetic at its published rate, memory and links at theirs, all times an assumed share of
peak. What it leaves out: latency of kernels and collectives, congestion, stragglers, input. An estimate says
what cannot be beaten and what limits, no more.
"""

import dataclasses
import math
from collections.abc import Iterable, Mapping


@dataclasses.dataclass(frozen=True)
class Chip:
    """Published rates of a device.

    Attributes:
        name: of the product.
        flops: {kind of ``flops.KINDS``: operations a second}.
        memory: bytes a second of its memory.
        link: bytes a second that it sends to devices of its host, of a TPU to those of its slice.
        network: bytes a second that it sends to others.
        capacity: bytes of memory.
    """

    name: str
    flops: Mapping[str, float]
    memory: float
    link: float
    network: float
    capacity: float


# NVIDIA, "H100 Tensor Core GPU" data sheet, SXM5, dense (the sheet's figures with sparsity, halved): bfloat16 989,
# TF32 495, float32 67, float64 with tensor cores 67 TFLOP/s, int8 1,979 TOP/s; HBM3 3.35 TB/s, 80 GB; NVLink 900 GB/s
# in both directions together. NVIDIA, "DGX H100" data sheet: eight ConnectX-7 ports of 400 Gb/s (NDR) a host of eight.
H100 = Chip(
    name="H100 SXM",
    flops=dict(bf16=989e12, tf32=495e12, fp32=67e12, fp64=67e12, int=1979e12, other=67e12),
    memory=3.35e12,
    link=450e9,
    network=50e9,
    capacity=80e9,
)
# Google Cloud, "TPU v5e": bfloat16 197 TFLOP/s, int8 393 TOP/s; HBM 819 GB/s, 16 GB; links 1,600 Gb/s a chip, all four
# together. A float32 product takes one pass of bfloat16 by default and six at the highest precision (XLA). Other
# arithmetic: 8 x 128 lanes of 4 units (Austin et al., "How to Scale Your Model", 2025) at the clock that 197 TFLOP/s
# of four 128 x 128 arrays imply. A slice has up to 256 chips; what joins slices is not rated here.
V5E = Chip(
    name="TPU v5e",
    flops=dict(bf16=197e12, tf32=197e12, fp32=197e12 / 6, int=393e12, other=6.2e12),
    memory=819e9,
    link=200e9,
    network=math.nan,
    capacity=16e9,
)
CHIPS = {"h100": H100, "v5e": V5E}


@dataclasses.dataclass(frozen=True)
class Shares:
    """Assumed shares of the published rates; not measured.

    Attributes:
        flops: of arithmetic. 0.4: Llama 3 405B on H100s reports 0.38 to 0.43 (arXiv 2407.21783, Table 4). Small
            networks reach less: a choice, to be varied.
        memory: of memory bandwidth. links: of NVLink and network. Choices, too.
    """

    flops: float = 0.4
    memory: float = 0.8
    links: float = 0.8

    def __post_init__(self):
        for name, value in dataclasses.asdict(self).items():
            if not 0 < value <= 1:
                raise ValueError(f"shares.{name}: expected a number in (0, 1], found {value}")


@dataclasses.dataclass(frozen=True)
class Times:
    """Seconds of a step.

    Attributes:
        arithmetic, memory: of one device's share of the work; the longer one counts.
        communication: of the collectives.
    """

    arithmetic: float
    memory: float
    communication: float

    @property
    def device(self) -> float:
        """Without any other device."""
        return max(self.arithmetic, self.memory)

    @property
    def apart(self) -> float:
        """Nothing overlaps: computing, then talking."""
        return self.device + self.communication

    @property
    def overlapped(self) -> float:
        """All that can be hidden is."""
        return max(self.device, self.communication)


def times(row: Mapping, chip: Chip = H100, shares: Shares = Shares()) -> Times:
    """Estimate of a step.

    Args:
        row: see ``rows``: ``devices``, ``flops`` {kind: operations over all devices}, ``memory_traffic`` bytes of one
            device, ``collectives`` of ``traffic.by_kind``.
        chip: rates.
        shares: of them.

    Raises:
        ValueError: arithmetic of a kind that the chip has no rate for.
    """
    if unrated := set(row["flops"]) - set(chip.flops):
        raise ValueError(f"flops: the {chip.name} has no published rate for {sorted(unrated)}")
    arithmetic = sum(n / chip.flops[kind] for kind, n in row["flops"].items()) / row["devices"]
    wire = sum(c["wire"] for c in row["collectives"].values())
    between = sum(c["wire_between_hosts"] for c in row["collectives"].values())
    # A ring over several hosts goes at the pace of its slowest link.
    seconds = (wire - between) / chip.link + (between / chip.network if between else 0.0)
    return Times(
        arithmetic / shares.flops,
        row["memory_traffic"] / chip.memory / shares.memory,
        seconds / shares.links,
    )


def efficiency(row: Mapping, alone: Mapping, chip: Chip = H100, shares: Shares = Shares()):
    """(least, most) share of ``devices`` times the examples a second of one device.

    Args:
        row: as for :func:`times`, with ``batch``.
        alone: that of one device.
        chip, shares: as for :func:`times`.
    """
    rate = alone["batch"] / times(alone, chip, shares).device
    found = times(row, chip, shares)
    ideal = rate * row["devices"]
    return row["batch"] / found.apart / ideal, row["batch"] / found.overlapped / ideal


_COLUMNS = (
    "config", "devices", "fsdp", "batch", "TFLOP a device", "GB a device", "MB on the wire", "between hosts",
    "step, ms", "efficiency", "note",
)  # fmt: skip


def table(rows: Iterable[Mapping], chip: Chip = H100, shares: Shares = Shares()) -> str:
    """Rows as a table in Markdown, those that were not compiled with the reason in place of figures.

    Times and efficiencies are 'all overlaps .. nothing does'; efficiency is against the row of one device with
    the same config (its own batch size aside), where there is one.
    """
    rows = list(rows)
    alone = {
        (r["config"], r["per_device"]): r
        for r in rows
        if r["devices"] == 1 and r["status"] == "compiled"
    }
    lines = [
        f"{chip.name}; assumed shares of peak: arithmetic {shares.flops}, memory {shares.memory}, links "
        f"{shares.links}.",
        "",
        "| " + " | ".join(_COLUMNS) + " |",
        "|" + " --- |" * len(_COLUMNS),
    ]
    for row in rows:
        cells = _cells(row, alone.get((row["config"], row["per_device"])), chip, shares)
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _cells(row, alone, chip, shares) -> list[str]:
    head = [row["config"], *(str(row[name]) for name in ("devices", "fsdp", "batch"))]
    if row["status"] != "compiled":
        return [*head, *["-"] * 6, row["status"]]
    found = times(row, chip, shares)
    wire = sum(c["wire"] for c in row["collectives"].values())
    between = sum(c["wire_between_hosts"] for c in row["collectives"].values())
    ratio = "-"
    if alone is not None:
        ratio = "{:.2f} .. {:.2f}".format(*reversed(efficiency(row, alone, chip, shares)))
    return [
        *head,
        f"{sum(row['flops'].values()) / row['devices'] / 1e12:.3g}",
        f"{row['memory']['peak'] / 1e9:.2f}",
        f"{wire / 1e6:.3g}",
        f"{between / 1e6:.3g}",
        f"{1e3 * found.overlapped:.3g} .. {1e3 * found.apart:.3g}",
        ratio,
        _note(row),
    ]


def _note(row) -> str:
    notes = []
    loops = max(row["unknown_loops"], row["unknown_loops_compiled"])
    if loops:
        notes.append(f"{loops} loops of unknown length counted once: lower bound")
    if row["opaque"]:
        notes.append("kernels not counted: " + ", ".join(sorted(row["opaque"])))
    return "; ".join(notes)
