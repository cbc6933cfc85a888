"""The system whole: a step learns and reaches the encoder; predictions; pictures at the end of a run."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gsjax.systems import base
from gsjax.train import single
from tests.systems.pm_loss import tiny

STEPS = 8


@pytest.fixture(scope="module")
def learned():
    """(system, batch, parameters before, variables after, metrics of each step)."""
    config = tiny.config(loss__intermediate=0.9)
    config.optim.update(dict(lr=2e-3, schedule="constant", warmup=0, wd=0.0))
    built = base.build(config)
    batch = tiny.batch(built)
    state, step, mesh = single.start(built, config, STEPS)
    before = jax.device_get(state.params)
    metrics = []
    with jax.set_mesh(mesh):
        for _ in range(STEPS):
            state, found = step(state, batch, jax.random.key(0))
            metrics.append(jax.device_get(found))
    return built, batch, before, jax.device_get(state.variables()), metrics


@pytest.mark.slow
def test_the_loss_of_one_batch_falls(learned):
    losses = [float(m["loss"]) for m in learned[4]]
    assert np.isfinite(losses).all() and losses[-1] < 0.9 * losses[0], losses
    assert learned[4][-1]["bad_total"] == 0


def test_gradients_reach_every_part_of_the_network(learned):
    _, _, before, after, _ = learned
    moved = jax.tree.map(lambda a, b: bool(np.any(a != b)), before, after["params"])
    paths = jax.tree_util.tree_flatten_with_path(moved)[0]
    still = [jax.tree_util.keystr(path) for path, value in paths if not value]
    # A bias in front of an instance norm moves nothing.
    assert not [name for name in still if "shortcut" not in name], still
    assert any("cnn" in jax.tree_util.keystr(path) for path, _ in paths)


def test_predictions_have_their_shapes_and_agree(learned):
    built, batch, _, variables, _ = learned

    @jax.jit
    def run(variables, batch):
        return {name: built.predict_fns[name](variables, batch) for name in built.predict_fns}

    found = run(variables, batch)
    assert set(found) == {"render", "gaussians", "depths", "oracle"}
    for name in ("render", "oracle"):
        assert found[name]["images"].shape == (2, 2, 16, 16, 3)
        assert 0 <= found[name]["images"].min() and found[name]["images"].max() <= 1
        assert found[name]["depths"].shape == found[name]["alphas"].shape == (2, 2, 16, 16)
    assert found["gaussians"]["means"].shape == (2, 512, 3)
    assert found["depths"]["depths"].shape == (2, 2, 16, 16)
    for outputs in found.values():
        np.testing.assert_array_equal(outputs["index"], batch["index"])
        assert outputs["valid"].all()
        assert all(np.isfinite(x).all() for x in outputs.values())
    # Centres lie at the depths that are told: offsets in the pixel change no depth.
    c2ws, told = np.asarray(batch["context_c2ws"]), found["depths"]["depths"]
    means = np.asarray(found["gaussians"]["means"]).reshape(2, 2, 256, 3)
    local = np.einsum("bvji,bvnj->bvni", c2ws[..., :3, :3], means - c2ws[..., None, :3, 3])
    np.testing.assert_allclose(local[..., 2].reshape(told.shape), told, rtol=1e-3)


@pytest.mark.slow
def test_the_oracle_is_another_picture_where_depths_were_wrong(learned):
    built, batch, _, variables, _ = learned
    draw = jax.jit(built.predict_fns["oracle"])
    one = draw(variables, batch)["images"]
    two = draw(variables, dict(batch, context_depths=1.3 * batch["context_depths"]))["images"]
    assert float(jnp.abs(one - two).max()) > 1e-3


@pytest.mark.slow
def test_a_picture_is_written(learned, tmp_path):
    built, _, _, variables, _ = learned
    built.show(variables, tmp_path)
    assert (tmp_path / "novel_views.png").stat().st_size > 1000


def test_the_pretrained_transformer_learns_slowly():
    rule = tiny.system(
        "network=depthsplat,loss=none", model__changes={}, model__vit_lr_scale=0.01,
        data__height=16,
    ).param_rules  # fmt: skip
    assert rule == (base.ParamRule(r"^vit/", lr_scale=0.01),)
    assert tiny.system().param_rules == ()
    assert dataclasses.is_dataclass(rule[0])
