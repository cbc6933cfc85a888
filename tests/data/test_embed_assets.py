import importlib.resources
import types

import jax
import numpy as np
import pytest

from gsjax.data import embed
from gsjax.models import towers

SHIPPED = sorted(
    item.name
    for item in importlib.resources.files("gsjax.assets").iterdir()
    if item.name.endswith(".npz") and not item.name.startswith("clip_gs")
)

PARTS = {"image_autoencoder.npz": {"encoder", "decoder"}}  # all others are pairs of towers


def _config(name):
    return types.SimpleNamespace(name=name, get=lambda key, default="": default)


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_weights_are_intact_small_and_say_how_they_were_made(name):
    path = importlib.resources.files("gsjax.assets") / name
    assert path.stat().st_size < 2_000_000
    meta, params = towers.read(path)
    assert {"dataset", "fingerprint", "split", "num_steps", "seed"} <= set(meta["notes"])
    assert meta["notes"]["split"] == "train"
    assert set(params) == PARTS.get(name, {"image", "text"})
    readme = (importlib.resources.files("gsjax.assets") / "README.md").read_text()
    assert name in readme and meta["digest"][:12] in readme


def test_procedural_towers_ship_and_know_their_kinds():
    pair = embed.resolve_towers(_config("procedural"))
    texts = jax.jit(pair.encode_texts)(
        pair.tokenize(["a red mug", "a mug that is red", "a blue rocket"])
    )
    similarity = np.asarray(texts @ texts.T)
    assert similarity[0, 1] > similarity[0, 2] + 0.2
