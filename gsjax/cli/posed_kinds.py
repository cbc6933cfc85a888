"""Runs of a study of feed-forward splatting: one network trained, and fine-tunings of it.

Kinds of ``study_kinds``: (config, run folder, needs) -> (metrics, outcomes a scene).
"""

import logging

import numpy as np

from gsjax.cli import study_scores

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
    return _measured(config, system, variables)


def _run(config, folder):
    from gsjax.systems import base
    from gsjax.train import loop

    system = base.build(config)
    plain = config.copy_and_resolve_references()
    plain.eval.evaluators = {}  # measured once, below, with outcomes a scene
    loop.run(plain, folder, system=system)
    metrics, outcomes = _measured(config, system, loop.load_for_inference(plain, folder, system))
    return metrics | study_scores.pace(folder, config.train.num_steps), outcomes


def _measured(config, system, variables):
    """(metrics, {evaluator: {score: [scenes]}})."""
    metrics, details = study_scores.scores(config, system, variables)
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
    """All variables of the base run in one file; where file and folder are gone, the run is made again.

    Raises:
        ValueError: no base run among ``needs``.
    """
    from gsjax.io import safetensors_file
    from gsjax.train import loop, trained

    for need in needs:
        if need.config.study.get("role", "") != ROLE:
            continue
        if not need.weights.exists():
            if not (need.folder / "checkpoints" / str(need.config.train.num_steps)).exists():
                logging.warning("%s is gone: its run is made again, or finished", need.folder)
                loop.run(need.config, need.folder)
            need.weights.parent.mkdir(parents=True, exist_ok=True)
            safetensors_file.save_arrays(need.weights, trained.load(need.folder).arrays)
        return need.weights
    raise ValueError(f"needs: none has the role {ROLE!r}; expected the run to start from")


KINDS = dict(posed=train, posed_finetune=finetune, posed_measure=measure)
