"""Starting runs of the tiny system as processes of their own."""

import json
import os
import pathlib
import socket
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
SCRIPT = ["-m", "tests.train.run_tiny"]


def environment() -> dict[str, str]:
    """One CPU device, nothing of the test session's own settings."""
    kept = {k: v for k, v in os.environ.items() if not k.lower().endswith("_proxy")}
    kept.pop("XLA_FLAGS", None)
    kept["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"  # the run folder's cache is in play
    return {**kept, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}


def start(workdir, *options, command=None, log=None, **variables) -> subprocess.Popen:
    """Starts a run; what it says goes to ``log`` (a path) or is dropped."""
    command = command or [sys.executable, *SCRIPT, str(workdir)]
    with open(log or os.devnull, "ab") as out:
        return subprocess.Popen(
            [*command, *options], cwd=ROOT, env=environment() | variables, stdout=out, stderr=out
        )


def free_address() -> str:
    """host:port that nothing listens on, for process 0."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"


def start_pair(workdir, *options, log) -> list[subprocess.Popen]:
    """Starts two processes of one run."""
    address = f"address={free_address()}"
    return [
        start(workdir, address, "processes=2", f"id={i}", *options, log=f"{log}.{i}")
        for i in range(2)
    ]


def losses(workdir) -> dict[int, float]:
    """{step: loss}; fails on a step that is there twice."""
    lines = [json.loads(x) for x in (pathlib.Path(workdir) / "metrics.jsonl").open()]
    found = {line["step"]: line["loss"] for line in lines}
    assert len(found) == len(lines), "a step is logged twice"
    return found


def digests(workdir, step) -> dict[str, str]:
    """Checksums of every array of a checkpoint."""
    from gsjax.train import checkpoint

    return checkpoint.read_meta(pathlib.Path(workdir) / "checkpoints" / str(step))["digests"]
