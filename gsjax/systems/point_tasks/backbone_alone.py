"""The backbone without the task's head: what probes read, and how its norms are measured."""

from gsjax.models.backbones import base as backbones


def embed(module, points_of, variables, batch):
    """Pooled features of the backbone [B, D].

    Args:
        module: with ``backbone``.
        points_of: batch -> ``PointBatch``, nothing drawn at random.
        variables, batch: of the system.
    """
    found = backbones.apply_alone(module.backbone, variables, points_of(batch))
    return dict(
        gaussian=found.pooled,
        category=batch["category"],
        index=batch["index"],
        valid=batch["valid"],
    )


def norm_pass(module, points_of, variables, batch):
    """Running statistics that the backbone's norms keep of a batch; see ``base.System``."""
    return backbones.statistics_alone(module.backbone, variables, points_of(batch))
