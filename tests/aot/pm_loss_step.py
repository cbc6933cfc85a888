"""A whole training step of full-size DepthSplat with PM-Loss, compiled for one H100 that is not here.

256 x 448 pixels, V context views, T = 8 rendered ones, batch 1, bfloat16 networks: the recipe of
`configs/pm_loss.py:paper` on the named preset. Prints one line of JSON: seconds, what the compiler says of
memory, parameters by module, and the estimate of the largest parts. Needs the wheels jax-cuda12-plugin and
jax-cuda12-pjrt; run as a program, in a process of its own.

  python -m tests.aot.pm_loss_step --views 2 --remat
"""

import os

os.environ["JAX_PLATFORMS"] = "cpu"
# What the compiler does by default needs a device to try kernels on: no trials, no Triton products.
os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "")
    + " --xla_gpu_autotune_level=0 --xla_gpu_enable_triton_gemm=false"  # targets.flags("h100")
)

import argparse
import json
import time

import jax
import numpy as np

from configs import pm_loss
from gsjax.models.feedforward import depthsplat
from gsjax.systems import base
from gsjax.train import state as state_lib
from gsjax.train.scaling import steps, targets


def configured(views: int, target_views: int, remat: bool, size: str):
    """The recipe of the paper for one device."""
    config = pm_loss.get_config(f"paper,data=records,size={size}")
    config.data.context_views = (views, views)
    config.data.target_views = target_views
    config.data.teacher.kind = "depth"  # the step is that of a cache, which would have to exist
    config.data.depths = True
    config.model.remat = remat
    config.train.batch_size = 1
    return config


def modules(params) -> dict[str, int]:
    """Parameters of each part of the network."""
    found: dict[str, int] = {}
    for path, x in state_lib.flat(params).items():
        part = path.split("/")[0]
        found[part] = found.get(part, 0) + int(np.prod(x.shape))
    return found


def compiled(config, target: str):
    """(compiled step, seconds of tracing and lowering, of compiling, shapes of the parameters)."""
    system = base.build(config)
    shapes = jax.eval_shape(system.init, jax.random.key(0))
    step = steps.step_for(config, steps.mesh_for(1, target=target), system)
    start = time.monotonic()
    done = step.lowered.compile()
    return done, step.seconds, time.monotonic() - start, shapes["params"]


def estimate(config, size: str) -> dict[str, float]:
    """GB in float32 of single arrays that grow with the pictures, to set beside the compiler's figures."""
    d, width = config.data, depthsplat.PRESETS[size].feature_head.features
    views, pixels = d.context_views[0], d.height * d.width
    numbers = 3 + 4 + 3 + 1 + 3 * (config.model.sh_degree + 1) ** 2  # of a Gaussian
    return dict(
        gaussians=views * pixels * numbers * 4 / 1e9,
        one_map_of_the_feature_head=views * pixels * width * 4 / 1e9,
        pointmaps=views * pixels * 4 * 4 / 1e9,
    )  # fmt: skip


def main(argv=None) -> None:
    """Compiles one step and prints its line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--target", choices=tuple(targets.GPUS), default="h100")
    parser.add_argument("--size", default="base_448")
    parser.add_argument("--views", type=int, default=2)
    parser.add_argument("--targets", type=int, default=8)
    parser.add_argument("--remat", action="store_true")
    args = parser.parse_args(argv)
    config = configured(args.views, args.targets, args.remat, args.size)
    done, lowering, compiling, params = compiled(config, args.target)
    memory = done.memory_analysis()
    parts = modules(params)
    line = vars(args) | dict(
        jax=jax.__version__,
        flags=os.environ["XLA_FLAGS"].split(),
        lowering_seconds=round(lowering),
        compiling_seconds=round(compiling),
        arguments_gb=memory.argument_size_in_bytes / 1e9,
        temporary_gb=memory.temp_size_in_bytes / 1e9,
        output_gb=memory.output_size_in_bytes / 1e9,
        parameters=sum(parts.values()),
        modules=parts,
        estimate_gb=estimate(config, args.size),
    )
    print("compiled " + json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
