"""Benchmark of the selective scan: python -m gsjax.models.bench_selective_scan [options].

Three ways through the same tokens, forward and with all gradients:

  chunked      chunks of tokens, each by parallel prefix, recomputed in the backward pass,
  full         one parallel prefix over all tokens,
  sequential   token by token, in the same chunks.

Prints medians of alternated calls (every way once a round, so that a busy machine slows all), ratios
to the first way, bytes of the compiled gradient program beside its arguments, and the JSON row.
"""

import argparse
import functools
import json
import pathlib
import statistics
import time

from gsjax import runtime, version

WAYS = ("chunked", "full", "sequential")


def parse(argv=None) -> argparse.Namespace:
    """Command line options."""
    parser = argparse.ArgumentParser(
        "gsjax.models.bench_selective_scan", description=__doc__.split("\n")[0]
    )
    parser.add_argument("--batch", type=int, default=2, help="sequences (default 2)")
    parser.add_argument("--tokens", type=int, default=129, help="L (default 129, Mamba3D's)")
    parser.add_argument("--channels", type=int, default=768, help="E (default 768, of width 384)")
    parser.add_argument("--state", type=int, default=16, help="N (default 16)")
    parser.add_argument("--chunk", type=int, default=64, help="tokens of a chunk (default 64)")
    parser.add_argument("--repeats", type=int, default=7, help="rounds (default 7)")
    parser.add_argument(
        "--clock", choices=("wall", "cpu"), default="wall", help="cpu: process time"
    )
    parser.add_argument("--json", type=pathlib.Path, help="also write the row here")
    args = parser.parse_args(argv)
    for name in ("batch", "tokens", "channels", "state", "chunk", "repeats"):
        if getattr(args, name) < 1:
            parser.error(f"--{name} is {getattr(args, name)}, expected at least 1")
    return args


def inputs(batch: int, tokens: int, channels: int, state: int):
    """u, dt, a, b, c, d as a new mixer has them."""
    import jax
    import jax.numpy as jnp

    keys = jax.random.split(jax.random.key(0), 4)
    u = jax.random.normal(keys[0], (batch, tokens, channels))
    dt = jnp.exp(jax.random.uniform(keys[1], u.shape, minval=-6.9, maxval=-2.3))
    a = -jnp.broadcast_to(jnp.arange(1.0, state + 1), (channels, state))
    b, c = (jax.random.normal(key, (batch, tokens, state)) for key in keys[2:])
    return u, dt, a, b, c, jnp.ones(channels)


def programs(way: str, chunk: int, arrays) -> dict:
    """Compiled 'forward' and 'fwd+bwd' of one way."""
    import jax
    import jax.numpy as jnp

    from gsjax.core import selective_scan

    options = {
        "chunked": dict(method="associative", chunk=chunk),
        "full": dict(method="associative", chunk=None),
        "sequential": dict(method="sequential", chunk=chunk),
    }[way]
    run = functools.partial(selective_scan.selective_scan, **options)
    with_gradients = jax.value_and_grad(lambda *x: jnp.sum(jnp.square(run(*x))), tuple(range(6)))
    stages = {"forward": run, "fwd+bwd": with_gradients}
    return {name: jax.jit(stage).lower(*arrays).compile() for name, stage in stages.items()}


def measure(args: argparse.Namespace) -> dict:
    """Times in seconds, ratios and bytes, with device and versions."""
    import jax
    import jaxlib

    arrays = inputs(args.batch, args.tokens, args.channels, args.state)
    compiled = {way: programs(way, args.chunk, arrays) for way in WAYS}
    clock = time.process_time if args.clock == "cpu" else time.perf_counter
    seconds = {way: {stage: [] for stage in compiled[way]} for way in WAYS}
    for _ in range(args.repeats + 1):
        for way in WAYS:
            for stage, program in compiled[way].items():
                start = clock()
                jax.block_until_ready(program(*arrays))
                seconds[way][stage].append(clock() - start)
    times = {  # the first round warms up
        way: {stage: statistics.median(found[1:]) for stage, found in stages.items()}
        for way, stages in seconds.items()
    }
    first = times[WAYS[0]]
    return {
        "sizes": {k: getattr(args, k) for k in ("batch", "tokens", "channels", "state", "chunk")},
        "seconds": times,
        "ratio to chunked": {
            way: {stage: t / first[stage] for stage, t in stages.items()}
            for way, stages in times.items()
        },
        "gradient program bytes": {
            way: compiled[way]["fwd+bwd"].memory_analysis().temp_size_in_bytes for way in WAYS
        },
        "clock": args.clock,
        "device": jax.devices()[0].device_kind,
        "platform": jax.default_backend(),
        "jax": jax.__version__,
        "jaxlib": jaxlib.__version__,
        "gsjax": version.__version__,
    }


def main(argv=None) -> dict:
    """Prints the table and the row; returns the row."""
    args = parse(argv)
    runtime.configure_environment()
    row = measure(args)
    print(f"{'':12}" + "".join(f"{name:>22}" for name in ("forward", "fwd+bwd", "memory")))
    for way in WAYS:
        cells = [
            f"{row['seconds'][way][stage] * 1e3:.1f} ms x{row['ratio to chunked'][way][stage]:.2f}"
            for stage in ("forward", "fwd+bwd")
        ]
        cells.append(f"{row['gradient program bytes'][way] / 2**20:.1f} MiB")
        print(f"{way:12}" + "".join(f"{cell:>22}" for cell in cells))
    text = json.dumps(row)
    print(text)
    if args.json:
        args.json.write_text(text + "\n")
    return row


if __name__ == "__main__":
    main()
