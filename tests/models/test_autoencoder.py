import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gsjax.models import autoencoder, name_tables, towers

CONFIG = autoencoder.Config(widths=(4, 8), latent=2, blocks=1, groups=2)
QUICK = {"xla_backend_optimization_level": 0}


@pytest.fixture(scope="module")
def params():
    x = jnp.zeros((1, 4, 4, 3))
    init = jax.jit(autoencoder.Autoencoder(CONFIG).init, compiler_options=QUICK)
    found = init(jax.random.key(0), x)["params"]
    return jax.tree.map(lambda x: np.asarray(x, np.float16).astype(np.float32), found)


def test_sizes_as_shipped_stay_below_a_megabyte():
    shapes = autoencoder.param_shapes(autoencoder.Config())
    count = sum(int(np.prod(shape)) for shape in shapes.values())
    assert count == 336_235 and 2 * count < 1e6  # two bytes each


def test_nothing_leads_around_the_latents(params):
    """What the encoder does not say, the decoder cannot know: it sees latents alone."""
    net = autoencoder.Autoencoder(CONFIG)
    x = jnp.asarray(np.random.default_rng(0).uniform(-1, 1, (2, 4, 6, 3)), jnp.float32)

    def both(net, x):
        latents = net.encoder(x)
        return latents, net.decoder(latents), net(x)

    run = jax.jit(lambda p, x: net.apply({"params": p}, x, method=both), compiler_options=QUICK)
    latents, (picture, features), whole = run(params, x)
    assert latents.shape == (2, 2, 3, 2)
    assert picture.shape == (2, 4, 6, 3) and features.shape == (2, 4, 6, 4)
    np.testing.assert_allclose(picture, whole[0], atol=1e-6)
    # Without a word from the encoder both pictures come out alike, and alike within themselves but
    # for the border.
    silent = jax.tree.map(lambda x: x, params)
    silent["encoder"]["latent"] = jax.tree.map(np.zeros_like, params["encoder"]["latent"])
    plain = np.asarray(run(silent, x)[1][0])
    np.testing.assert_array_equal(plain[0], plain[1])


def test_a_block_is_what_its_formula_says():
    rng = np.random.default_rng(1)
    x = rng.normal(size=(3, 4, 4))
    block = autoencoder.Block(2)
    shapes = name_tables.flat_shapes(
        jax.eval_shape(block.init, jax.random.key(0), jnp.zeros((1, 3, 4, 4)))["params"]
    )
    flat = {path: rng.normal(size=shape) for path, shape in shapes.items()}
    variables = {"params": name_tables.nest(flat)}
    found = jax.jit(block.apply, compiler_options=QUICK)(variables, x[None])[0]
    y = x
    for i in range(2):
        rows = y.reshape(3, 4, 2, 2)
        rows = rows - rows.mean((0, 1, 3), keepdims=True)
        rows = rows / np.sqrt((rows**2).mean((0, 1, 3), keepdims=True) + 1e-6)
        y = rows.reshape(3, 4, 4) * flat[f"norm_{i}/scale"] + flat[f"norm_{i}/bias"]
        y = np.pad(y / (1 + np.exp(-y)), ((1, 1), (1, 1), (0, 0)))
        kernel = flat[f"conv_{i}/kernel"]
        y = flat[f"conv_{i}/bias"] + sum(
            y[a : a + 3, b : b + 4] @ kernel[a, b] for a in range(3) for b in range(3)
        )
    np.testing.assert_allclose(found, x + y, atol=2e-4)


def test_files_give_back_what_was_written(params, tmp_path):
    path = tmp_path / "a.npz"
    digest = autoencoder.save(path, CONFIG, params, {"seed": 3})
    config, found, meta = autoencoder.read(path)
    assert config == CONFIG and meta["digest"] == digest and meta["notes"] == {"seed": 3}
    jax.tree.map(np.testing.assert_array_equal, found, params)


def test_other_files_are_refused(params, tmp_path):
    path = tmp_path / "a.npz"
    towers.save(path, "toy_clip", {}, params)
    with pytest.raises(ValueError, match="kind 'toy_clip', not 'image_autoencoder'"):
        autoencoder.read(path)
    other = autoencoder.Config(widths=(4, 8), latent=4, groups=2)
    autoencoder.save(path, other, params)
    with pytest.raises(ValueError, match=r"encoder/latent/kernel: expected \(1, 1, 8, 4\), found"):
        autoencoder.read(path)


def test_sizes_that_cannot_work_are_refused():
    with pytest.raises(ValueError, match="groups=3 must divide"):
        autoencoder.Config(groups=3)
    with pytest.raises(ValueError, match="from 1 on"):
        autoencoder.Config(latent=0)
    with pytest.raises(ValueError, match=r"multiples of 2, found \[3, 4\]"):
        autoencoder.Autoencoder(CONFIG).init(jax.random.key(0), jnp.zeros((1, 3, 4, 3)))
