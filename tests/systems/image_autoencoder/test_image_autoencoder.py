import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from configs import image_autoencoder as config_file
from gsjax.core import image
from gsjax.data import pictures, store
from gsjax.evals import reconstruction
from gsjax.models import autoencoder
from gsjax.models.image_features import base as image_features
from gsjax.systems.image_autoencoder import data, losses, system

QUICK = {"xla_backend_optimization_level": 0}
quick_jit = functools.partial(jax.jit, compiler_options=QUICK)


def _config():
    config = config_file.get_config("quick")
    config.model.image_size = 16
    config.model.widths = (8, 8)
    config.model.latent = 4
    return config


@pytest.fixture(scope="module")
def made():
    return system.assemble(_config(), "nowhere")


@pytest.fixture(scope="module")
def variables(made):
    return quick_jit(made.init)(jax.random.key(0))


@pytest.fixture
def records(monkeypatch):
    view = data.synthetic_batch(16, 5)["view"]
    found = [
        dict(index=i, uid=str(i), category=0, captions=["a square"], views=view[i][None])
        for i in range(5)
    ]
    monkeypatch.setattr(pictures, "open_decoded", lambda *args: found)
    monkeypatch.setattr(store, "fingerprint", lambda folder: "f" * 64)
    return view


# -------------------------------------------------------------------------------------- losses


def test_losses_of_hand_computed_pictures():
    pictures = jnp.zeros((1, 2, 3, 3))
    found = jnp.array([[[0.0, 1.0, 0.0], [0.0, 1.0, 2.0]]])[..., None] * jnp.ones(3)
    # Squares 0 1 0 / 0 1 4, mean 1; rows differ by 0 0 2, mean of squares 4/3; columns by 1 -1 / 1 1,
    # mean of squares 1.
    np.testing.assert_allclose(losses.pixel_loss(found, pictures), [1.0], rtol=1e-6)
    np.testing.assert_allclose(losses.edge_loss(found, pictures), [0.5 * (4 / 3 + 1)], rtol=1e-6)
    np.testing.assert_allclose(losses.edge_loss(found + 0.3, pictures), [7 / 6], rtol=1e-5)
    loss, metrics = losses.total_loss(found, pictures, jnp.array([True]), 0.5)
    np.testing.assert_allclose([loss, metrics["mse"]], [1 + 7 / 12, 1.0], rtol=1e-6)
    # Shown, the 2 is a 1: squares 0 1 0 / 0 1 1, mean 1/2 of a range of 2.
    np.testing.assert_allclose(metrics["psnr"], 10 * np.log10(4 / 0.5), rtol=1e-5)


def test_padding_pictures_count_for_nothing():
    rng = np.random.default_rng(0)
    found, pictures = rng.normal(size=(2, 3, 4, 4, 3)).astype(np.float32)
    found[1] = np.nan
    both = losses.total_loss(found, pictures, jnp.array([True, False, True]), 1.0)
    alone = losses.total_loss(found[::2], pictures[::2], jnp.array([True, True]), 1.0)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), both, alone)


# -------------------------------------------------------------------------------- augmentation


def _augment(pixels, key=0, **options):
    plain = dict(shift=0, flip=0.0, invert=0.0, mix=0.0, gain=0.0)
    return data.augment(jax.random.key(key), pixels, **{**plain, **options})


def test_each_change_does_what_it_says():
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.uniform(-1, 1, (6, 6, 3)), jnp.float32)
    np.testing.assert_array_equal(_augment(x), x)
    np.testing.assert_array_equal(_augment(x, flip=1.0), x[:, ::-1])
    np.testing.assert_array_equal(_augment(x, invert=1.0), -x)
    mixed = [np.asarray(_augment(x, key, mix=1.0)) for key in range(8)]
    for one in mixed:
        np.testing.assert_array_equal(np.sort(one, -1), np.sort(x, -1))
    assert len({one.tobytes() for one in mixed}) > 2
    wide = np.pad(x, ((2, 2), (2, 2), (0, 0)), mode="edge")
    places = {wide[i : i + 6, j : j + 6].tobytes() for i in range(5) for j in range(5)}
    moved = {np.asarray(_augment(x, key, shift=2)).tobytes() for key in range(8)}
    assert moved <= places and len(moved) > 3
    pale = np.asarray(_augment(x, gain=0.5))
    slope = (pale[0, 0] - pale[0, 1]) / (x[0, 0] - x[0, 1])
    assert np.abs(pale).max() <= 1.0 and 0.5 <= slope[0] < 1.0
    np.testing.assert_allclose(slope, slope[0], rtol=1e-4)


# -------------------------------------------------------------------------------------- system


def test_a_batch_of_the_spec_is_what_the_system_takes(made):
    batch = data.synthetic_batch(16, 4)
    assert set(batch) == set(made.batch_spec)
    for name, spec in made.batch_spec.items():
        assert batch[name].shape == (4, *spec.shape) and batch[name].dtype == spec.dtype


def test_loss_falls_on_one_batch(variables):
    config = _config()
    config.augment.enable = False
    plain = system.assemble(config, "nowhere")
    batch = jax.tree.map(jnp.asarray, data.synthetic_batch(16, 4))
    optimizer = optax.adam(1e-2)

    @jax.jit
    def step(params, state):
        objective = lambda p: plain.loss({"params": p}, batch, jax.random.key(0), True)[0]  # noqa: E731
        loss, grads = jax.value_and_grad(objective)(params)
        updates, state = optimizer.update(grads, state)
        return optax.apply_updates(params, updates), state, loss

    params, state, found = variables["params"], optimizer.init(variables["params"]), []
    for _ in range(60):
        params, state, loss = step(params, state)
        found.append(float(loss))
    assert found[-1] < 0.1 * found[0]


def test_augmentation_depends_on_the_index_not_on_the_place(made, variables):
    batch = jax.tree.map(jnp.asarray, data.synthetic_batch(16, 4))
    loss = quick_jit(lambda b, train: made.loss(variables, b, jax.random.key(3), train)[0],
                     static_argnums=1)  # fmt: skip
    shuffled = jax.tree.map(lambda x: x[jnp.array([3, 1, 0, 2])], batch)
    np.testing.assert_allclose(loss(batch, True), loss(shuffled, True), rtol=1e-5)
    renamed = {**batch, "index": batch["index"] + 7}
    assert loss(batch, True) != loss(renamed, True)
    np.testing.assert_array_equal(loss(batch, False), loss(renamed, False))


def test_a_run_leaves_weights_that_the_image_encoder_reads(made, variables, records, tmp_path):
    made.show(variables, tmp_path)
    config, params, meta = autoencoder.read(tmp_path / "autoencoder.npz")
    assert meta["notes"]["fingerprint"] == "f" * 64 and config.widths == (8, 8)
    encoder = image_features.load(f"autoencoder:{tmp_path}/autoencoder.npz")
    apply = jax.jit(encoder.apply, compiler_options=QUICK)
    features = apply(encoder.arrays, jnp.asarray(records, jnp.float32) / 255)
    net = autoencoder.Autoencoder(config)
    expected = quick_jit(net.apply)({"params": params}, system.to_unit_range(records))[1]
    np.testing.assert_allclose(features, expected, atol=1e-5)
    assert (tmp_path / "reconstructed.png").stat().st_size > 100


def test_the_evaluator_averages_over_the_split(made, variables, records):
    evaluator = reconstruction.Evaluator(made, dict(batch_size=8))
    found = evaluator.run(variables, lambda batch: batch)
    view = system.to_unit_range(jnp.asarray(records))
    net = autoencoder.Autoencoder(system.model_config(_config().model))
    output = quick_jit(net.apply)(variables, view)[0]
    shown = jnp.clip(output, -1, 1)
    each = [float(image.psnr(a, b, data_range=2.0)) for a, b in zip(shown, view)]
    assert found["num_pictures"] == 5
    assert found["psnr"] == pytest.approx(np.mean(each), rel=1e-4)
    assert found["gain"] == pytest.approx(found["psnr"] - found["psnr_flat"])
    with pytest.raises(ValueError, match="nonsense"):
        reconstruction.Evaluator(made, dict(nonsense=1))


def test_settings_that_cannot_work_are_refused():
    config = _config()
    config.model.image_size = 15
    with pytest.raises(ValueError, match="expected a multiple of 2, found 15"):
        system.assemble(config, "nowhere")
    config = _config()
    config.loss.edges = -1.0
    with pytest.raises(ValueError, match="found -1.0"):
        system.assemble(config, "nowhere")
