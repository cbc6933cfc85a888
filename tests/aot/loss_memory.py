"""What the CLIP-GS loss takes of each device, as the GPU compiler says, without any GPU.

Compiles value and gradient of ``total_loss`` for a mesh of H100s and prints the compiler's memory
figures beside the sizes that the formulas predict. Needs JAX 0.12 and the wheels jax-cuda12-plugin
and jax-cuda12-pjrt; run as a program, in a process of its own.

  python -m tests.aot.loss_memory --batch 32768 --topology 32x8x1 --kinds softmax sigmoid
"""

import argparse
import itertools
import json
import math
import types

from tests.aot import compile_cuda  # sets the platform before JAX starts

import jax  # isort: skip
import jax.numpy as jnp
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from gsjax.systems.clip_gs import losses

OPTIONS = dict(
    score_mode="cosine", score_temp=0.07, mask_duplicate_text=False,
    legacy_detached_gather=False, negatives="per_slot", view_reduce="mean", text_weight=1.0,
    image_weight=1.0,
)  # fmt: skip


def compiled(mesh, batch: int, views: int, dim: int, kind: str, sharding: str):
    """The compiled value-and-gradient of the loss by the encoder's output, temperature and bias."""
    options = types.SimpleNamespace(**OPTIONS, kind=kind, sharding=sharding)
    rows = NamedSharding(mesh, P("data"))
    whole = NamedSharding(mesh, P())

    def of(gaussian, logit_scale, logit_bias, text, image, valid, caption_hash):
        loss, _ = losses.total_loss(
            gaussian, text, image, valid, caption_hash, logit_scale, logit_bias, options
        )
        return loss

    def array(*shape, dtype=jnp.float32):
        return jax.ShapeDtypeStruct((batch, *shape), dtype, sharding=rows)

    scalar = jax.ShapeDtypeStruct((), jnp.float32, sharding=whole)
    arguments = (
        array(dim), scalar, scalar,
        array(dim, dtype=jnp.float16), array(views, dim, dtype=jnp.float16),
        array(dtype=jnp.bool_), array(dtype=jnp.uint32),
    )  # fmt: skip
    with jax.set_mesh(mesh):
        return jax.jit(jax.value_and_grad(of, (0, 1, 2))).lower(*arguments).compile()


def predicted(
    devices: int, batch: int, views: int, dim: int, kind: str, sharding: str
) -> dict[str, int]:
    """Bytes a device of the largest tensors.

    logits: one block; other_side: what was fetched of one slot; inputs: its own rows. The softmax
    fetches Gaussians and counterparts and sends the Gaussians' gradient back. The sigmoid loss
    fetches counterparts, which have no gradient: the towers behind them are frozen.
    """
    own = batch // devices
    columns = {"gather": batch, "ring": own}[sharding]
    return {
        "logits": 4 * own * columns,
        "other_side": {"softmax": 3, "sigmoid": 1}[kind] * 4 * columns * dim,
        "inputs": own * dim * (4 + 2 + 2 * views),
    }


def main() -> None:
    """Prints one line of JSON a kind and form of the loss."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=32768)
    parser.add_argument("--views", type=int, default=5)
    parser.add_argument("--dim", type=int, default=1024)
    parser.add_argument("--topology", default="32x8x1")
    parser.add_argument("--kinds", nargs="+", choices=losses.KINDS, default=["softmax"])
    parser.add_argument("--forms", nargs="+", default=["gather", "ring"])
    args = parser.parse_args()
    mesh = compile_cuda.mesh_of("h100", args.topology, "data")
    devices = math.prod(mesh.devices.shape)
    for kind, form in itertools.product(args.kinds, args.forms):
        stats = compiled(mesh, args.batch, args.views, args.dim, kind, form).memory_analysis()
        row = {
            "kind": kind, "form": form, "devices": devices, "batch": args.batch,
            "argument": stats.argument_size_in_bytes, "output": stats.output_size_in_bytes,
            "temp": stats.temp_size_in_bytes,
            "peak": getattr(stats, "peak_memory_in_bytes", 0),
            "predicted": predicted(devices, args.batch, args.views, args.dim, kind, form),
        }  # fmt: skip
        print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
