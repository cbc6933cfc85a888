"""Runs of a study of feed-forward splatting: one network trained, and fine-tunings of it.

Kinds of ``study_kinds``: (config, run folder, needs) -> (metrics, outcomes a scene).
"""

import numpy as np

from gsjax.cli import study_scores, study_weights

ROLE = "base"  # config.study.role of the run that others start from
# Scores that the table pairs scene by scene.
KEPT = (
    "render/psnr", "render/ssim", "render/psnr_band", "render/psnr_rest", "depth/abs_rel",
    "depth/abs_rel_band", "cloud/accuracy", "cloud/completeness", "cloud/f_0.1",
)  # fmt: skip


def train(config, folder):
    """A whole training run, then its evaluators; the run goes on where an earlier one stopped."""
    return _run(config, folder)


def finetune(config, folder, needs):
    """A fine-tuning of the run among ``needs`` whose role is 'base'."""
    config.init_from = str(_weights(needs))
    return _run(config, folder)


def measure(config, folder, needs):
    """The run among ``needs`` as it is, on other data."""
    del folder
    from gsjax.systems import base
    from gsjax.train import loop

    system = base.build(config)
    variables = loop.load_for_inference(config, _weights(needs), system)
    return _kept(*study_scores.scores(config, system, variables))


def _run(config, folder):
    metrics, outcomes = _kept(*study_scores.trained(config, folder))
    return metrics | study_scores.pace(folder, config.train.num_steps), outcomes


def _kept(metrics, details):
    """(metrics, {evaluator: {score: [scenes]}})."""
    outcomes = {}
    for name, found in details.items():
        outcomes[name] = dict(index=[int(i) for i in found["index"]])
        for score in KEPT:
            if score in found:
                outcomes[name][score] = [_number(x) for x in found[score]]
    return metrics, outcomes


def _number(value) -> float | None:
    """None for a scene that has no such score, such as one without depth jumps."""
    return None if np.isnan(value) else round(float(value), 4)


def _weights(needs):
    """File of all variables of the base run among ``needs``.

    Raises:
        ValueError: there is none.
    """
    found = study_weights.of_role(needs, ROLE, _export)
    if found is None:
        raise ValueError(f"needs: none has the role {ROLE!r}; expected the run to start from")
    return found


def _export(folder, file):
    from gsjax.io import safetensors_file
    from gsjax.train import trained

    safetensors_file.save_arrays(file, trained.load(folder).arrays)


KINDS = dict(posed=train, posed_finetune=finetune, posed_measure=measure)
