import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from configs import toy_clip as config_file
from gsjax.data import pictures, store
from gsjax.models import towers, toy_towers
from gsjax.systems.toy_clip import data, system
from tests import compiling

SIZES = toy_towers.TowerConfig(
    dim=16,
    image_size=32,
    image_widths=(8, 8, 8, 8),
    text_width=16,
    text_heads=2,
    buckets=64,
    max_words=6,
    max_grams=3,
)


@pytest.fixture(scope="module")
def built():
    config = config_file.get_config("quick")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store, "category_names", lambda folder: ["cube", "mug"])
        return config, system.assemble(config, SIZES, "nowhere")


@pytest.fixture(scope="module")
def plain():
    """As ``built``, without augmentation."""
    config = config_file.get_config("quick")
    config.augment.enable = False
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store, "category_names", lambda folder: ["cube", "mug"])
        return system.assemble(config, SIZES, "nowhere")


@pytest.fixture(scope="module")
def variables(built):
    return jax.jit(built[1].init)(jax.random.key(0))


def test_a_batch_of_the_spec_is_what_the_system_takes(built):
    batch = data.synthetic_batch(SIZES, 4)
    for name, spec in built[1].batch_spec.items():
        assert batch[name].shape == (4, *spec.shape) and batch[name].dtype == spec.dtype


def test_loss_falls_on_one_batch(plain, variables):
    made = plain
    batch = jax.tree.map(jnp.asarray, data.synthetic_batch(SIZES, 16))
    optimizer = optax.adam(1e-2)

    @functools.partial(jax.jit, compiler_options=compiling.CAREFUL)
    def step(params, state, rng):
        def objective(params):
            loss, metrics, _ = made.loss({"params": params}, batch, rng, True)
            return loss, metrics

        (loss, metrics), grads = jax.value_and_grad(objective, has_aux=True)(params)
        updates, state = optimizer.update(grads, state)
        return made.project_params(optax.apply_updates(params, updates)), state, loss, metrics

    params, state = variables["params"], optimizer.init(variables["params"])
    losses = []
    for i in range(100):
        params, state, loss, metrics = step(params, state, jax.random.key(i))
        losses.append(float(loss))
    assert np.mean(losses[-10:]) < 0.6 * np.log(16)
    assert metrics["logit_scale"] <= 4.6052


def test_a_weight_outside_its_range_is_refused(built):
    config = config_file.get_config("quick")
    config.loss.kinds = 1.5
    with pytest.MonkeyPatch.context() as patch, pytest.raises(ValueError, match="found 1.5"):
        patch.setattr(store, "category_names", lambda folder: ["cube", "mug"])
        system.assemble(config, SIZES, "nowhere")


def test_augmentation_depends_on_the_index_not_on_the_place(built, variables):
    _, made = built
    batch = jax.tree.map(jnp.asarray, data.synthetic_batch(SIZES, 8))
    loss = jax.jit(lambda b: made.loss(variables, b, jax.random.key(3), True)[0])
    order = jnp.array([3, 1, 0, 2, 7, 6, 5, 4])
    shuffled = jax.tree.map(lambda x: x[order], batch)
    np.testing.assert_allclose(loss(batch), loss(shuffled), rtol=1e-5)


def test_padding_rows_change_nothing(built, variables):
    _, made = built
    batch = jax.tree.map(jnp.asarray, data.synthetic_batch(SIZES, 8))
    batch["valid"] = jnp.arange(8) < 5
    noisy = {**batch, "view": batch["view"].at[5:].set(77)}
    loss = jax.jit(lambda b: made.loss(variables, b, jax.random.key(3), False)[0])
    np.testing.assert_allclose(loss(batch), loss(noisy), rtol=1e-6)


def test_exported_towers_embed_as_the_trained_ones(built, variables, tmp_path):
    _, made = built
    rounded = jax.tree.map(lambda x: x.astype(jnp.float16).astype(jnp.float32), variables)
    batch = data.synthetic_batch(SIZES, 4)
    path = tmp_path / "towers.npz"
    digest = system.export(variables["params"], SIZES, path, {"note": "test"})
    loaded = towers.load(path)
    assert loaded.digest == digest
    expected = jax.jit(made.predict_fns["embed"])(rounded, batch)
    np.testing.assert_allclose(
        jax.jit(loaded.encode_images)(batch["view"]), expected["image_embed"], atol=1e-5
    )
    np.testing.assert_allclose(
        jax.jit(loaded.encode_texts)(batch["tokens"]), expected["text_embed"], atol=1e-5
    )


def test_show_writes_weights_and_a_picture(built, variables, tmp_path, monkeypatch):
    _, made = built
    batch = data.synthetic_batch(SIZES, 5)
    records = [
        dict(
            index=i,
            uid=str(i),
            category=0,
            captions=[f"a square {i}"],
            views=batch["view"][i][None],
        )
        for i in range(5)
    ]
    monkeypatch.setattr(pictures, "open_decoded", lambda *args: records)
    monkeypatch.setattr(store, "fingerprint", lambda folder: "f" * 64)
    made.show(variables, tmp_path)
    assert towers.read(tmp_path / "towers.npz")[0]["notes"]["fingerprint"] == "f" * 64
    assert (tmp_path / "retrieved.png").stat().st_size > 1000


def test_class_sentences_are_tokenized_for_evaluators(built, variables):
    _, made = built
    tokens = np.asarray(made.info["class_tokens"])
    assert tokens.shape == (2, 4, *SIZES.tokenizer.shape)
    texts = jax.jit(made.predict_fns["texts"])(variables, {"tokens": tokens[0]})
    assert texts.shape == (4, 16)
