"""Joining the processes of a run: what is asked of JAX, and which GPUs a SLURM task takes."""

import jax
import pytest

from gsjax.train import distributed

SLURM = {"SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": "2", "SLURM_LOCALID": "0"}


@pytest.fixture
def joined(monkeypatch, settings):
    """Arguments of jax.distributed.initialize, which is stood in for; no cluster in sight."""
    for name in (*SLURM, "SLURM_NODEID", "SLURM_STEP_TASKS_PER_NODE", "SLURM_GPUS_ON_NODE",
                 "CUDA_VISIBLE_DEVICES", "TPU_WORKER_HOSTNAMES", "MEGASCALE_NUM_SLICES"):  # fmt: skip
        monkeypatch.delenv(name, raising=False)
    calls = []

    def initialize(*arguments, **settings):
        calls.append(arguments)
        jax.config.update("jax_cuda_visible_devices", "1")  # as JAX does in SLURM

    monkeypatch.setattr(jax.distributed, "initialize", initialize)
    return calls


@pytest.fixture
def settings(monkeypatch):
    """What is set in JAX's configuration; nothing really is."""
    changed = {}
    monkeypatch.setattr(jax.config, "update", changed.__setitem__)
    return changed


def _set(monkeypatch, **variables):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)


def test_a_process_alone_joins_nobody(joined, monkeypatch):
    _set(monkeypatch, SLURM_STEP_ID="0", SLURM_STEP_NUM_TASKS="1", TPU_WORKER_HOSTNAMES="localhost")
    distributed.initialize()
    assert joined == []


@pytest.mark.parametrize(
    "variables",
    [SLURM, {"TPU_WORKER_HOSTNAMES": "a,b"}, {"MEGASCALE_NUM_SLICES": "2"}],
    ids=["slurm", "tpu hosts", "tpu slices"],
)
def test_clusters_are_found_by_their_environment(joined, monkeypatch, variables):
    _set(monkeypatch, **variables)
    distributed.initialize()
    assert joined == [()]


def test_auto_asks_jax_and_takes_nothing_beside_it(joined):
    distributed.initialize("auto")
    assert joined == [()]
    with pytest.raises(ValueError, match="leave them out"):
        distributed.initialize("auto", 2, 0)


def test_auto_without_a_cluster_says_what_to_give(joined, monkeypatch):
    def initialize():
        raise ValueError("coordinator_address should be defined.")

    monkeypatch.setattr(jax.distributed, "initialize", initialize)
    with pytest.raises(ValueError, match="give host:port"):
        distributed.initialize("auto")


@pytest.mark.parametrize(
    "variables, found",
    [
        # One task a node drives all GPUs of the node.
        ({"SLURM_STEP_TASKS_PER_NODE": "1(x2)", "CUDA_VISIBLE_DEVICES": "0,1,2,3"}, "all"),
        # A task a GPU, all GPUs seen by all tasks: the one of its number.
        ({"SLURM_STEP_TASKS_PER_NODE": "4(x2)", "CUDA_VISIBLE_DEVICES": "0,1,2,3"}, "1"),
        # Bound by SLURM to its own: those that it sees.
        ({"SLURM_STEP_TASKS_PER_NODE": "4(x2)", "CUDA_VISIBLE_DEVICES": "0"}, "all"),
        (
            {"SLURM_STEP_TASKS_PER_NODE": "2", "CUDA_VISIBLE_DEVICES": "0,1,2,3",
             "SLURM_GPUS_ON_NODE": "8"}, "all",
        ),
        # Nodes of different numbers of tasks: this one is the last, alone on its node.
        (
            {"SLURM_STEP_TASKS_PER_NODE": "2(x2),1", "SLURM_NODEID": "2",
             "CUDA_VISIBLE_DEVICES": "0,1"}, "all",
        ),
    ],
)  # fmt: skip
def test_which_gpus_a_slurm_task_takes(joined, settings, monkeypatch, variables, found):
    _set(monkeypatch, **SLURM, **variables)
    distributed.initialize()
    assert settings["jax_cuda_visible_devices"] == found
    settings.clear()
    distributed.initialize("host:1", 2, 0)
    assert settings["jax_cuda_visible_devices"] == found
