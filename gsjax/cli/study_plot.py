"""The plot of a transfer study: arms beside one another, a panel a setting, a row a backbone."""

import numpy as np

from gsjax.cli import study_transfer
from gsjax.metrics import trials

_SIZE = (2.6, 2.4)  # inches a panel


def transfer(rows: list[dict], path: str) -> None:
    """Writes the picture: points are runs, bars their means with 95 % intervals by Student's t.

    Args:
        rows: of a study whose table is 'transfer'.
        path: picture file; its ending names the format.

    Raises:
        ImportError: matplotlib is not installed; the message says what to install.
        ValueError: there is no finished run.
    """
    try:
        import matplotlib.pyplot as plt
    except ImportError as error:
        raise ImportError("--plot needs matplotlib: pip install 'gsjax[plots]'") from error
    groups = study_transfer.grouped(rows)
    if not groups:
        raise ValueError("--plot: the study has no finished runs; run it first")
    backbones = list(dict.fromkeys(b for (b, _, _) in groups))
    settings = sorted({s for (_, s, _) in groups}, key=lambda s: (s != "probe", s))
    size = (_SIZE[0] * len(settings), _SIZE[1] * len(backbones))
    figure, axes = plt.subplots(
        len(backbones), len(settings), figsize=size, squeeze=False, layout="constrained"
    )
    for i, backbone in enumerate(backbones):
        for k, setting in enumerate(settings):
            _panel(axes[i, k], groups, backbone, setting)
            if i == 0:
                axes[i, k].set_title(setting, fontsize=9)
        axes[i, 0].set_ylabel(f"{backbone}\nper cent", fontsize=9)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def _panel(axis, groups, backbone, setting):
    arms = [a for a in study_transfer.ARMS if (backbone, setting, a) in groups]
    for place, arm in enumerate(arms):
        means = study_transfer.outcomes(groups[backbone, setting, arm]).mean(1)
        axis.plot(np.full(len(means), place), means, ".", color="0.65", markersize=4)
        if len(means) > 1:
            state = trials.Trials.of(means).compute()
            low, high = state["mean"] - state["low"], state["high"] - state["mean"]
            axis.errorbar(place, state["mean"], [[low], [high]], fmt="o", color="C0", capsize=3)
        else:
            axis.plot(place, means[0], "o", color="C0")
    near = groups.get((backbone, setting, study_transfer.NEAREST))
    if near:
        value = study_transfer.outcomes(near).mean()
        axis.axhline(value, color="C1", linewidth=1, linestyle="--", label="Chamfer 1-NN")
    axis.set_xticks(range(len(arms)), arms)
    axis.tick_params(labelsize=8)
