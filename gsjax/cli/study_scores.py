"""What a study keeps of a trained model: the scores of its evaluators, their details, and its pace."""

import json


def scores(config, system, variables) -> tuple[dict[str, float], dict]:
    """(metrics, {evaluator: its outcomes for each object}) of ``config.eval.evaluators``."""
    from gsjax.train import loop, sharding

    details = {}
    mesh = sharding.make_mesh(config.mesh.data, config.mesh.fsdp)
    return loop.evaluate(config, system, variables, mesh, details=details), details


def trained(config, folder) -> tuple[dict[str, float], dict]:
    """:func:`scores` of a whole training run, which goes on where an earlier one stopped."""
    from gsjax.systems import base
    from gsjax.train import loop

    system = base.build(config)
    plain = config.copy_and_resolve_references()
    plain.eval.evaluators = {}  # measured once, below, with outcomes an object
    loop.run(plain, folder, system=system)
    return scores(config, system, loop.load_for_inference(plain, folder, system))


def pace(folder, num_steps: int) -> dict[str, float]:
    """Seconds of all steps at the pace of the log's quickest tenth.

    Other work on the machine slows the other parts, and compiling and pauses do not count.
    """
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    paces = [row["step_seconds"] for row in map(json.loads, lines) if "step_seconds" in row]
    seconds = sorted(paces)[len(paces) // 10]
    return dict(step_seconds=seconds, train_seconds=seconds * num_steps)
