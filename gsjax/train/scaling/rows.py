"""Rows of scaling evidence: one JSON line a (config, devices, fsdp), kept by the hash of the lowered program."""

import collections
import hashlib
import json
import pathlib
import time
from collections.abc import Mapping

import jax

from gsjax.train import logging as logs
from gsjax.train.scaling import flops, hlo, steps, targets, traffic

COMPILED = "compiled"


def read(path: pathlib.Path) -> list[dict]:
    """Rows of a file; none if it does not exist."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def append(path: pathlib.Path, row: Mapping) -> None:
    """Adds a row, in the place of an earlier one of the same program or of the same failed try."""
    kept = [r for r in read(path) if not _same(r, row)]
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text("".join(json.dumps(r, sort_keys=True) + "\n" for r in [*kept, row]))
    temporary.replace(path)


def _same(a: Mapping, b: Mapping) -> bool:
    names = ("config", "config_hash", "target", "devices", "fsdp", "batch")
    if any(a[name] != b[name] for name in names):
        return False
    return a.get("hlo_hash") == b.get("hlo_hash") or a["status"] != COMPILED


def known(rows: list[dict], hlo_hash: str) -> dict | None:
    """The row of a program that was compiled before, or None."""
    found = [r for r in rows if r.get("hlo_hash") == hlo_hash and r["status"] == COMPILED]
    return found[-1] if found else None


def identity(config, text: str, *, target: str, devices: int, fsdp: int, per_device: int) -> dict:
    """What a row is about; ``text`` is how the config was named."""
    return dict(
        system=config.system, config=text, config_hash=logs.config_hash(config), target=target,
        devices=devices, fsdp=fsdp, batch=config.train.batch_size, per_device=per_device,
    )  # fmt: skip


def hash_of(lowered: jax.stages.Lowered, target: str, flags: tuple[str, ...]) -> str:
    """Hash of what is compiled, for what, with which compiler and flags."""
    digest = hashlib.sha256(lowered.as_text().encode())
    digest.update(json.dumps([target, list(flags), jax.__version__]).encode())
    return digest.hexdigest()[:16]


def counted(step: steps.Step) -> dict:
    """What the traced program says: operations over all devices."""
    found = flops.count(step.traced.jaxpr)
    return dict(
        parameters=step.parameters,
        flops={kind: value for kind, value in found.by_kind.items() if value},
        unknown_loops=found.unknown_loops,
        opaque=found.opaque,
    )


def compiled(step: steps.Step, devices: int, target: str = "h100") -> dict:
    """What the compiler says, of one device; seconds of compiling."""
    start = time.monotonic()
    done = step.lowered.compile()
    seconds = time.monotonic() - start
    return dict(seconds=dict(lower=round(step.seconds, 1), compile=round(seconds, 1))) | facts(
        done, devices, target
    )


def facts(done: jax.stages.Compiled, devices: int, target: str = "h100") -> dict:
    """Memory, collectives and traffic of a program that was compiled for a target."""
    module = hlo.parse(done.as_text())
    moved = traffic.collectives(module, devices)
    bytes_moved, unknown = traffic.memory_bytes(module, on_chip=target in targets.TPUS)
    return dict(
        collectives=traffic.by_kind(moved, targets.linked(target)),
        memory=memory(done),
        memory_traffic=bytes_moved,
        unknown_loops_compiled=unknown,
        custom_calls=dict(_custom_calls(module)),
        status=COMPILED,
    )


def memory(done: jax.stages.Compiled) -> dict[str, int]:
    """Bytes of a device: arguments, results that take no argument's place, temporaries, and all at once."""
    stats = done.memory_analysis()
    argument, temporary = stats.argument_size_in_bytes, stats.temp_size_in_bytes
    output = stats.output_size_in_bytes - stats.alias_size_in_bytes
    return dict(
        argument=argument, output=output, temp=temporary, peak=argument + output + temporary
    )


def _custom_calls(module: hlo.Module) -> collections.Counter:
    """Library calls of the program by target, as often as they run."""
    found = collections.Counter()
    for run in hlo.runs(module):
        if run.instruction.opcode == "custom-call":
            name = run.instruction.attributes.partition('custom_call_target="')[2].partition('"')[0]
            found[name] += run.times
    return found
