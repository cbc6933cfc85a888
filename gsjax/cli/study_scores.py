"""What a study keeps of a trained model: the scores of its config's evaluators, and their details."""


def scores(config, system, variables) -> tuple[dict[str, float], dict]:
    """(metrics, {evaluator: its outcomes for each object}) of ``config.eval.evaluators``."""
    from gsjax.train import loop, sharding

    details = {}
    mesh = sharding.make_mesh(config.mesh.data, config.mesh.fsdp)
    return loop.evaluate(config, system, variables, mesh, details=details), details
