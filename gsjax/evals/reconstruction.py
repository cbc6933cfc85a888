"""How well held-out pictures come out of an autoencoder.

For systems whose ``predict_fns['reconstruct']`` gives ``psnr`` and ``psnr_flat`` [B] in dB, the latter
of each picture's own mean colour.
"""

import jax

from gsjax.evals import features

DEFAULTS = dict(split="test", batch_size=32)


class Evaluator:
    """``psnr``: mean over pictures; ``psnr_flat``: of the mean colour; ``gain``: the difference."""

    def __init__(self, system, options):
        self._system = system
        self._options = features.refuse_unknown("reconstruction", options, DEFAULTS)
        reconstruct = system.predict_fns["reconstruct"]
        kept = ("psnr", "psnr_flat", "valid")
        self._predict = jax.jit(
            lambda variables, batch: {
                name: x for name, x in reconstruct(variables, batch).items() if name in kept
            }
        )

    def run(self, variables, put_batch) -> dict[str, float]:
        """Returns {metric: value}."""
        found = features.collect(
            self._system, self._predict, variables, put_batch, self._options["split"],
            batch_size=self._options["batch_size"],
        )  # fmt: skip
        result = {name: float(found[name].mean()) for name in ("psnr", "psnr_flat")}
        return dict(
            num_pictures=float(len(found["psnr"])),
            **result,
            gain=result["psnr"] - result["psnr_flat"],
        )
