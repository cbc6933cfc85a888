"""GPUs that need not exist: what XLA's compiler must know of them, and meshes of them.

Needs the wheels jax-cuda12-plugin and jax-cuda12-pjrt (``pip install --no-deps``), neither a driver nor the CUDA
toolkit. The compiler ends the process where it cannot go on: use a process of its own.
"""

import importlib.util

import jax
from jax.experimental import topologies
from jax.sharding import AxisType

TARGETS = {"h100": (9, 0, "H100 80GB HBM3"), "b200": (10, 0, "B200")}
GPUS_A_HOST = 8  # DGX and HGX boards

# By default XLA tries kernels on a device and takes the fastest; there is none. Without those trials its Triton
# products have no tile sizes, and cuBLAS serves.
FLAGS = ("--xla_gpu_autotune_level=0", "--xla_gpu_enable_triton_gemm=false")

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


def can_compile() -> bool:
    """Whether a CUDA plug-in is installed; it brings the compiler."""
    try:
        return any(importlib.util.find_spec(f"jax_plugins.xla_cuda{n}") for n in (12, 13))
    except ModuleNotFoundError:
        return False


def mesh_of(
    target: str, shape: tuple[int, ...], axis_names: tuple[str, ...], hosts: int = 0
) -> jax.sharding.Mesh:
    """A mesh of GPUs that need not exist.

    Args:
        target: key of ``TARGETS``.
        shape: devices along each axis.
        axis_names: of the axes.
        hosts: 0 = as few as hold the devices, eight each.

    Raises:
        ValueError: an unknown target, or devices that do not fill the hosts.
    """
    if target not in TARGETS:
        raise ValueError(f"target: unknown {target!r}; known: {', '.join(TARGETS)}")
    count = 1
    for size in shape:
        count *= size
    if count % hosts if hosts else count > GPUS_A_HOST and count % GPUS_A_HOST:
        raise ValueError(
            f"devices: {count} do not fill hosts evenly; choose up to {GPUS_A_HOST}, or a multiple of "
            f"{GPUS_A_HOST}"
        )
    hosts = hosts or -(-count // GPUS_A_HOST)
    major, minor, name = TARGETS[target]
    described = topologies.get_topology_desc(
        target,
        platform="cuda",
        target_config=_CONFIG.format(major=major, minor=minor, name=name),
        topology=f"{hosts}x{count // hosts}x1",
    )
    devices = topologies.make_mesh(described, shape, axis_names).devices
    return jax.sharding.Mesh(devices, axis_names, axis_types=(AxisType.Auto,) * len(axis_names))
