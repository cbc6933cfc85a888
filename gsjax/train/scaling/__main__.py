"""What a system's training step costs on many GPUs or TPUs, without any: a table of memory, traffic and time.

    python -m gsjax.train.scaling --config=configs/clip_gs.py:quick --config.data.name=shapes \\
        --config.model.embed_dim=128 --devices=1,8,64,256
    python -m gsjax.train.scaling --table          # what the results file holds, as Markdown

Each number of devices is compiled ahead of time in a process of its own, under a limit; what was compiled before
is found by the hash of the lowered program. The batch grows with the devices: the config's ``train.batch_size`` is
taken for one host of eight unless ``--per_device`` says otherwise. ``data.name=shapes`` needs no data set; needs
the wheels jax-cuda12-plugin and jax-cuda12-pjrt, or for TPUs libtpu (docs/step_cost.md).
"""

import json
import os
import pathlib
import subprocess
import sys

from absl import app, flags
from ml_collections import config_flags

_CONFIG = config_flags.DEFINE_config_file("config", None, "Config file[:argument].")
_DEVICES = flags.DEFINE_list(
    "devices", ["1", "8", "64", "256"], "How many devices, each a compilation."
)
_FSDP = flags.DEFINE_integer("fsdp", 1, "Devices that share each large parameter.")
_PER_DEVICE = flags.DEFINE_integer(
    "per_device", 0, "Examples a device; 0 = an eighth of the config's batch."
)
_TARGET = flags.DEFINE_enum("target", "h100", ["h100", "v5e"], "Kind of GPU or TPU.")
_RESULTS = flags.DEFINE_string("results", "results/scaling.jsonl", "File of rows.")
_LIMIT = flags.DEFINE_integer("limit", 1200, "Seconds a compilation may take, with tracing.")
_TABLE = flags.DEFINE_bool("table", False, "Only print what the results file holds.")
_SHARE = flags.DEFINE_float("share", 0.4, "Assumed share of the arithmetic peak.")
_MEMORY_SHARE = flags.DEFINE_float("memory_share", 0.8, "Assumed share of the memory's bandwidth.")
_LINK_SHARE = flags.DEFINE_float("link_share", 0.8, "Assumed share of the links' bandwidth.")
_HERE = flags.DEFINE_bool("here", False, "Compile in this process and print the row as JSON.")

_FOUND = "scaling: "  # before a line of JSON that a child prints


def main(argv) -> int:
    """Compiles what is missing and prints the table."""
    if len(argv) > 1:
        raise app.UsageError(f"unknown arguments {argv[1:]}; settings look like --config.x=y")
    if _HERE.value:
        return _compile_here()
    if not _TABLE.value:
        _compile_all()
    from gsjax.train.scaling import estimate, rows

    shares = estimate.Shares(_SHARE.value, _MEMORY_SHARE.value, _LINK_SHARE.value)
    found = [row for row in rows.read(_results()) if row["target"] == _TARGET.value]
    print(estimate.table(found, estimate.CHIPS[_TARGET.value], shares))
    return 0


def _results() -> pathlib.Path:
    return pathlib.Path(_RESULTS.value)


# The parent ---------------------------------------------------------------------------------------


def _compile_all() -> None:
    from gsjax.train.scaling import rows, targets

    if _CONFIG.value is None:
        raise app.UsageError("--config is needed (or --table)")
    if remedy := targets.missing(_TARGET.value):
        raise app.UsageError(f"no compiler for {_TARGET.value} here; {remedy}")
    # Every row has them, too: they deviate from what a run has.
    deviating = targets.flags(_TARGET.value)
    print("XLA flags:", *(deviating or ["as in a run"]), flush=True)
    environment = os.environ | dict(
        JAX_PLATFORMS="cpu",
        TPU_SKIP_MDS_QUERY="1",  # libtpu would ask Google's cloud where it runs,
        ALLOW_MULTIPLE_LIBTPU_LOAD="1",  # and bear no other process that compiles
        XLA_FLAGS=" ".join([os.environ.get("XLA_FLAGS", ""), *deviating]).strip(),
    )
    for devices in map(int, _DEVICES.value):
        row = _child(devices, environment)
        if not row.pop("cached", False):
            rows.append(_results(), row)
        print(json.dumps({k: row[k] for k in ("config", "devices", "fsdp", "status")}), flush=True)


def _child(devices: int, environment: dict) -> dict:
    """The row of one compilation, in a process that may hang or abort."""
    command = [sys.executable, "-m", "gsjax.train.scaling", *sys.argv[1:]]
    command += ["--here", f"--devices={devices}"]
    try:
        done = subprocess.run(
            command, env=environment, stdout=subprocess.PIPE, text=True, timeout=_LIMIT.value
        )
        text, why = done.stdout, f"failed with code {done.returncode}"
    except subprocess.TimeoutExpired as stopped:
        raw = stopped.stdout or b""
        text = raw.decode() if isinstance(raw, bytes) else raw
        why = f"not done in {_LIMIT.value} s"
    row = {}
    for line in text.splitlines():
        if line.startswith(_FOUND):
            row |= json.loads(line.removeprefix(_FOUND))
    if not row:
        raise RuntimeError(
            f"{' '.join(command)}: {why} before tracing began; see the messages above"
        )
    return {"status": why, **row}


# The child ----------------------------------------------------------------------------------------


def _compile_here() -> int:
    import jax

    from gsjax.train.scaling import rows, steps

    (devices,) = map(int, _DEVICES.value)
    config = _CONFIG.value
    per_device = _PER_DEVICE.value or max(config.train.batch_size // 8, 1)
    with config.unlocked():
        config.train.batch_size = per_device * devices
    # Where the examples would come from changes nothing; all else is part of the row's name.
    changed = [item for item in _overrides() if not item.startswith("data.name=")]
    text = " ".join([config_flags.get_config_filename(flags.FLAGS["config"]), *changed])
    given = dict(target=_TARGET.value, devices=devices, fsdp=_FSDP.value)
    xla_flags = tuple(sorted(os.environ.get("XLA_FLAGS", "").split()))
    about = rows.identity(config, text, per_device=per_device, **given)
    _tell(about | dict(jax=jax.__version__, flags=xla_flags, overrides=_overrides()))
    step = steps.step_for(config, steps.mesh_for(devices, _FSDP.value, _TARGET.value))
    found = rows.hash_of(step.lowered, _TARGET.value, xla_flags)
    if earlier := rows.known(rows.read(_results()), found):
        _tell(earlier | dict(cached=True))
        return 0
    _tell(dict(hlo_hash=found) | rows.counted(step))
    _tell(rows.compiled(step, devices, _TARGET.value))
    return 0


def _overrides() -> list[str]:
    """Settings that the command line changes in the config."""
    start = "--config."
    return [arg.removeprefix(start) for arg in sys.argv[1:] if arg.startswith(start)]


def _tell(part: dict) -> None:
    print(_FOUND + json.dumps(part), flush=True)


if __name__ == "__main__":
    app.run(main)
