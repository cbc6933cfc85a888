"""What both kinds of pairs share: the sentences they learn kinds from, and the note beside weights."""

import jax

from gsjax.data import store

WEIGHTS = "towers.npz"  # in a run's folder of pictures
CLASS_TEMPLATES = "short"  # sentences around category names; see ``data.templates``


def notes(config, folder, **more) -> dict:
    """What made the weights, as JSON values kept beside them; ``more`` is added."""
    return dict(
        dataset=config.data.name,
        fingerprint=store.fingerprint(folder),
        split="train",
        num_steps=config.train.num_steps,
        batch_size=config.train.batch_size,
        lr=config.optim.lr,
        seed=config.seed,
        backend=jax.default_backend(),
        **more,
    )
