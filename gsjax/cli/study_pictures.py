"""Pictures of a study of feed-forward splatting: runs side by side on the same held-out scenes."""

import pathlib
from collections.abc import Sequence


def posed(runs: Sequence[tuple], out, *, rows: int = 4) -> None:
    """Writes what ``systems.pm_loss.show`` draws, of views outside the context.

    Args:
        runs: (arm 'SET/NAME', config, run folder) of one set of scenes.
        out: folder of pictures and clouds.
        rows: scenes at most.

    Raises:
        ValueError: a run folder without a checkpoint.
    """
    from gsjax.systems import base
    from gsjax.systems.pm_loss import show
    from gsjax.train import loop

    drawn, source = {}, None
    for arm, config, folder in runs:
        config = config.copy_and_resolve_references()
        config.init_from = ""  # how it began
        system = base.build(config)
        if not (pathlib.Path(folder) / "checkpoints").exists():
            raise ValueError(
                f"--plot: {folder} has no checkpoint of {arm!r}; run the study on this machine first, or "
                "name its folder with --workdir"
            )
        variables = loop.load_for_inference(config, folder, system)
        drawn[arm.partition("/")[2]] = show.Run(system.predict_fns, variables)
        source = source or system
    show.write(source.eval_data("test/extrapolation"), drawn, out, rows=rows)
