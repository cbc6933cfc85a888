"""GPUs and TPUs that need not exist: what XLA's compiler must know of them, and meshes of them.

GPUs need the wheels jax-cuda12-plugin and jax-cuda12-pjrt (``pip install --no-deps``), neither a driver nor the CUDA
toolkit; TPUs the wheel libtpu. The compilers end the process where they cannot go on: use a process of its own.
"""

import importlib.util
import math

import jax
from jax.experimental import topologies
from jax.sharding import AxisType

GPUS = {"h100": (9, 0, "H100 80GB HBM3"), "b200": (10, 0, "B200")}
GPUS_A_HOST = 8  # DGX and HGX boards

# Slices that are rented, {chips: (rows, columns)} (Google Cloud, "TPU v5e"). All chips of one are linked directly.
TPUS = {
    "v5e": {
        1: (1, 1), 4: (2, 2), 8: (2, 4), 16: (4, 4), 32: (4, 8), 64: (8, 8), 128: (8, 16), 256: (16, 16),
    },
}  # fmt: skip
TARGETS = (*GPUS, *TPUS)

# By default XLA tries kernels on a device and takes the fastest; there is none. Without those trials its Triton
# products have no tile sizes, and cuBLAS serves.
_GPU_FLAGS = ("--xla_gpu_autotune_level=0", "--xla_gpu_enable_triton_gemm=false")

_CONFIG = """
gpu_device_info {{
  threads_per_block_limit: 1024
  threads_per_warp: 32
  shared_memory_per_block: 49152
  shared_memory_per_core: 233472
  threads_per_core_limit: 2048
  core_count: 132
  fpus_per_core: 128
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
  memory_bandwidth: 3352320000000
  l2_cache_size: 52428800
  clock_rate_ghz: 1.98
  device_memory_size: 84978434048
  shared_memory_per_block_optin: 232448
  cuda_compute_capability {{ major: {major} minor: {minor} }}
  registers_per_core_limit: 65536
  registers_per_block_limit: 65536
}}
platform_name: "CUDA"
dnn_version_info {{ major: 9 minor: 10 }}
runtime_version {{ major: 12 minor: 9 }}
device_description_str: "NVIDIA {name}"
"""


def flags(target: str) -> tuple[str, ...]:
    """XLA's flags that deviate from those of a run."""
    return _GPU_FLAGS if target in GPUS else ()


def linked(target: str) -> int:
    """How many devices, ids counting from a multiple of it, talk over more than the hosts' network."""
    return GPUS_A_HOST if target in GPUS else max(TPUS[target])


def missing(target: str) -> str | None:
    """What to install before one can compile for a target; None if nothing."""
    if target in TPUS:
        return (
            None
            if importlib.util.find_spec("libtpu")
            else "pip install 'jax[tpu]' of JAX's version"
        )
    try:
        found = any(importlib.util.find_spec(f"jax_plugins.xla_cuda{n}") for n in (12, 13))
    except ModuleNotFoundError:
        found = False
    wheels = "pip install --no-deps jax-cuda12-plugin jax-cuda12-pjrt of JAX's version"
    return None if found else wheels


def mesh_of(
    target: str, shape: tuple[int, ...], axis_names: tuple[str, ...], hosts: int = 0
) -> jax.sharding.Mesh:
    """A mesh of devices that need not exist.

    Args:
        target: one of ``TARGETS``.
        shape: devices along each axis.
        axis_names: of the axes.
        hosts: of GPUs; 0 = as few as hold the devices, eight each.

    Raises:
        ValueError: an unknown target, GPUs that do not fill the hosts, or TPUs that are no slice.
    """
    if target not in TARGETS:
        raise ValueError(f"target: unknown {target!r}; known: {', '.join(TARGETS)}")
    count = math.prod(shape)
    described = _tpus(target, count) if target in TPUS else _gpus(target, count, hosts)
    devices = topologies.make_mesh(described, shape, axis_names).devices
    return jax.sharding.Mesh(devices, axis_names, axis_types=(AxisType.Auto,) * len(axis_names))


def _tpus(target: str, count: int):
    if count not in TPUS[target]:
        raise ValueError(
            f"devices: {count} chips are no slice of {target}; choose one of "
            f"{', '.join(map(str, TPUS[target]))}"
        )
    rows, columns = TPUS[target][count]
    alone = dict(chips_per_host_bounds=[1, 1, 1]) if count == 1 else {}
    return topologies.get_topology_desc(f"{target}:{rows}x{columns}", platform="tpu", **alone)


def _gpus(target: str, count: int, hosts: int):
    if count % hosts if hosts else count > GPUS_A_HOST and count % GPUS_A_HOST:
        raise ValueError(
            f"devices: {count} do not fill hosts evenly; choose up to {GPUS_A_HOST}, or a multiple of "
            f"{GPUS_A_HOST}"
        )
    hosts = hosts or -(-count // GPUS_A_HOST)
    major, minor, name = GPUS[target]
    return topologies.get_topology_desc(
        target,
        platform="cuda",
        target_config=_CONFIG.format(major=major, minor=minor, name=name),
        topology=f"{hosts}x{count // hosts}x1",
    )
