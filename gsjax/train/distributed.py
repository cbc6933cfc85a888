"""Several processes as one run, the compilation cache, and the profiler's window."""

import contextlib
import hashlib
import os
import platform
import sys

import jax
from absl import logging
from etils import epath


def initialize(address: str = "", num_processes: int = 0, process_id: int = -1) -> None:
    """Joins the other processes of the run; must come before anything touches a device.

    Without arguments, SLURM steps of several tasks and pods of several TPU hosts whose environment
    says so are found by JAX itself; anything else is a run of one process. TPU machines outside
    Kubernetes say it in their metadata only, which is not asked for unbidden: there, as in Open MPI
    and in Kubernetes jobs, ``address='auto'`` lets JAX look for itself.

    Args:
        address: host:port of process 0, or 'auto'.
        num_processes: how many there are.
        process_id: which one this is, 0-based.

    Raises:
        ValueError: only some of the three are given, or they contradict each other; 'auto', and JAX
            finds no cluster that it knows.
    """
    if address == "auto":
        if num_processes > 0 or process_id >= 0:
            raise ValueError(
                "--coordinator_address=auto finds out --num_processes and --process_id itself; "
                f"found {num_processes} and {process_id}: leave them out"
            )
        _join_cluster()
        return
    given = (bool(address), num_processes > 0, process_id >= 0)
    if any(given) and not all(given):
        raise ValueError(
            "--coordinator_address, --num_processes and --process_id go together; found "
            f"{address!r}, {num_processes or None}, {process_id if process_id >= 0 else None}"
        )
    if all(given):
        if process_id >= num_processes:
            raise ValueError(
                f"--process_id: {process_id} is not below --num_processes={num_processes}"
            )
        jax.distributed.initialize(address, num_processes, process_id, initialization_timeout=300)
        _see_own_devices()
    elif _is_cluster():
        _join_cluster()


def _join_cluster() -> None:
    """Joins the processes that JAX finds by itself."""
    try:
        jax.distributed.initialize()
    except ValueError as error:
        raise ValueError(
            "--coordinator_address=auto: JAX finds no cluster that it knows; give host:port, "
            f"--num_processes and --process_id ({error})"
        ) from error
    _see_own_devices()


def _see_own_devices() -> None:
    """Takes back what JAX does in SLURM: to give a task only the GPU that has its number on the node.

    That is right for one task a GPU where every task sees all of them. A task that is alone on its
    node drives all GPUs there; one that SLURM has bound to its own GPUs sees no others anyway.
    """
    if "SLURM_LOCALID" not in os.environ or os.environ.get("JAX_LOCAL_DEVICE_IDS"):
        return
    tasks = _tasks_on_this_node()
    seen = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    bound = seen and len(seen.split(",")) < int(os.environ.get("SLURM_GPUS_ON_NODE") or tasks)
    if tasks == 1 or bound:
        jax.config.update("jax_cuda_visible_devices", "all")
        jax.config.update("jax_rocm_visible_devices", "all")


def _tasks_on_this_node() -> int:
    """Of a SLURM step, from a list such as '2(x3),1': nodes in the order of their numbers."""
    counts = []
    for part in os.environ.get("SLURM_STEP_TASKS_PER_NODE", "1").split(","):
        count, _, times = part.rstrip(")").partition("(x")
        counts += [int(count)] * int(times or 1)
    return counts[min(int(os.environ.get("SLURM_NODEID", 0)), len(counts) - 1)]


def _is_cluster() -> bool:
    """True in a SLURM step of several tasks, or on one of several TPU hosts or slices."""
    slurm = "SLURM_STEP_ID" in os.environ and int(os.environ.get("SLURM_STEP_NUM_TASKS", 1)) > 1
    hosts = os.environ.get("TPU_WORKER_HOSTNAMES", "").split(",")
    return slurm or len(hosts) > 1 or int(os.environ.get("MEGASCALE_NUM_SLICES") or 1) > 1


def is_one_of_several() -> bool:
    """True in a run of more than one process."""
    return jax.distributed.is_initialized() and jax.process_count() > 1


def leave_at_once(code: int) -> None:
    """Ends this process if it is one of several, without the meeting that JAX holds at the end of all.

    The others are waiting for this one's part of a step, so they would not come to the meeting, and this one
    would wait for them: five minutes, unless a launcher kills them. Once it is gone they notice.
    """
    if is_one_of_several():
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError):  # on a disk that is full
                stream.flush()
        os._exit(code)


def use_compilation_cache(setting: str, workdir) -> None:
    """Keeps compiled programs on disk, so a restart does not compile again.

    The folder is split by JAX version and processor: programs compiled for one CPU can crash
    another. An entry cut short by a kill fails to load and is compiled again.

    Args:
        setting: '' = in the run folder if that is local; 'off'; or a folder.
        workdir: run folder.
    """
    if setting == "off" or (not setting and "://" in str(workdir)):
        return
    root = epath.Path(setting or epath.Path(workdir) / "compile_cache")
    folder = root / f"jax{jax.__version__}-{jax.default_backend()}-{_processor()}"
    folder.mkdir(parents=True, exist_ok=True)
    jax.config.update("jax_compilation_cache_dir", str(folder))


def _processor() -> str:
    """Short hash of what the CPU can do."""
    try:
        with open("/proc/cpuinfo") as f:
            lines = {x for x in f if x.startswith(("flags", "Features", "model name"))}
    except OSError:
        lines = {platform.processor()}
    text = platform.machine() + "".join(sorted(lines))
    return hashlib.sha256(text.encode()).hexdigest()[:8]


STEP = "train"  # name of a step in traces


class ProfileWindow:
    """Traces ``num_steps`` steps from ``start_step`` on into ``workdir/profile``.

    Calls of Python functions are left out: there are a hundred thousand a second, which slow the steps
    down and push everything else out of viewers.
    """

    def __init__(self, config, workdir):
        self._first = config.start_step
        self._last = config.start_step + config.num_steps
        self._folder = str(epath.Path(workdir) / "profile")
        self._on = False

    def before(self, step: int):
        """Call before a step; use as a context around it, so that the trace shows its number."""
        if step == self._first and self._last > self._first:
            options = jax.profiler.ProfileOptions()
            options.python_tracer_level = 0
            jax.profiler.start_trace(self._folder, profiler_options=options)
            self._on = True
        return jax.profiler.StepTraceAnnotation(STEP, step_num=step)

    def after(self, step: int, result) -> None:
        """Call with the step's result; ends the trace after the last step of the window."""
        if self._on and step + 1 >= self._last:
            jax.block_until_ready(result)
            self.close()
            logging.info("profile written to %s", self._folder)

    def close(self) -> None:
        """Ends a trace that is still on."""
        if self._on:
            jax.profiler.stop_trace()
            self._on = False
