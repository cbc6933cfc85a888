import dataclasses
import io

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gsjax.models import towers, toy_towers

CONFIG = toy_towers.TowerConfig(
    dim=16,
    image_size=32,
    image_widths=(8, 8, 8, 8),
    text_width=8,
    text_heads=2,
    buckets=64,
    max_words=4,
    max_grams=3,
)
CAPTIONS = ["a red cube", "the blue sphere", ""]


@pytest.fixture(scope="module")
def params():
    model = toy_towers.ToyTowers(CONFIG)
    pixels = jnp.zeros((1, 32, 32, 3))
    variables = jax.jit(model.init)(jax.random.key(0), pixels, CONFIG.tokenizer(["a"]))
    # Away from the zero initialisations, so that every weight matters.
    return jax.tree.map(
        lambda x: x + 0.1 * jax.random.normal(jax.random.key(x.size), x.shape), variables["params"]
    )


@pytest.fixture()
def weights(tmp_path, params):
    path = tmp_path / "towers.npz"
    towers.save(path, "toy_clip", dataclasses.asdict(CONFIG), params, {"steps": 3})
    return path


def test_export_and_import_give_the_same_embeddings(weights, params):
    loaded = towers.load(weights)
    assert loaded.name == "toy_clip" and loaded.dim == 16
    halved = jax.tree.map(lambda x: x.astype(np.float16).astype(np.float32), params)
    model = toy_towers.ToyTowers(CONFIG)
    pictures = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), np.uint8)
    tokens = loaded.tokenize(CAPTIONS)
    expected = jax.jit(model.apply)({"params": halved}, toy_towers.to_unit_range(pictures), tokens)
    found = jax.jit(loaded.encode_images)(pictures), jax.jit(loaded.encode_texts)(tokens)
    for one, other in zip(found, expected):
        assert one.shape == (3, 16) and one.dtype == jnp.float32
        np.testing.assert_allclose(one, other, atol=5e-6)
        np.testing.assert_allclose(np.linalg.norm(one, axis=-1), 1.0, atol=1e-5)


def test_digest_follows_weights_and_architecture_not_notes(tmp_path, params):
    def save(config, tree, notes):
        return towers.save(tmp_path / "t.npz", "toy_clip", config, tree, notes)

    config = dataclasses.asdict(CONFIG)
    first = save(config, params, {})
    assert save(config, params, {"note": 1}) == first
    assert save({**config, "max_words": 5}, params, {}) != first
    assert save(config, jax.tree.map(lambda x: x * 1.01, params), {}) != first


def test_damaged_and_foreign_files_are_refused(tmp_path, weights):
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="not a weight file of gsjax, or is damaged"):
        towers.load(weights)
    with np.load(io.BytesIO(whole)) as archive:
        arrays = {name: archive[name] for name in archive.files}
    arrays["image/head/bias"] = arrays["image/head/bias"] + 1
    np.savez(tmp_path / "changed.npz", **arrays)
    with pytest.raises(ValueError, match="do not match their digest"):
        towers.load(tmp_path / "changed.npz")
    with pytest.raises(ValueError, match="there is no weight file"):
        towers.load(tmp_path / "absent.npz")


def test_unknown_kinds_name_the_known_ones(weights):
    with pytest.raises(
        ValueError, match=r"'open_clip'.*known: \[.*'openclip', 'semantic', 'toy_clip'\]"
    ):
        towers.load(f"open_clip:{weights}")
    assert towers.load(f"toy_clip:{weights}").dim == 16


def test_weights_must_fit_their_architecture(tmp_path, params):
    config = {**dataclasses.asdict(CONFIG), "dim": 8}
    towers.save(tmp_path / "t.npz", "toy_clip", config, params)
    with pytest.raises(ValueError, match=r"head.*kernel.*expected \(8, 8\), found \(8, 16\)"):
        towers.load(tmp_path / "t.npz")


def test_pictures_are_composited_on_white_and_resized():
    clear = np.zeros((8, 8, 4), np.uint8)
    assert (towers.resize_rgb(clear, 8) == 255).all()
    assert towers.resize_rgb(np.full((20, 30, 3), 7, np.uint8), 16).shape == (16, 16, 3)
    with pytest.raises(ValueError, match="expected uint8"):
        towers.resize_rgb(np.zeros((8, 8)), 8)


def test_a_drawing_changes_the_embedding_of_a_white_picture(params):
    tower = jax.jit(toy_towers.ImageTower(CONFIG).apply)
    blank = tower({"params": params["image"]}, jnp.ones((1, 32, 32, 3)))
    drawn = tower({"params": params["image"]}, jnp.ones((1, 32, 32, 3)).at[:, 8:24, 8:24].set(-1))
    assert blank.shape == (1, 16) and float(jnp.abs(blank - drawn).max()) > 1e-2


def test_padding_words_do_not_reach_the_text_embedding(params):
    wide = dataclasses.replace(CONFIG, max_words=6)
    place = params["text"]["place"]
    longer = jnp.concatenate([place, 9.0 * jnp.ones((2, place.shape[1]))])
    text = {**params["text"], "place": longer}
    one = jax.jit(toy_towers.TextTower(CONFIG).apply)(
        {"params": params["text"]}, CONFIG.tokenizer(CAPTIONS)
    )
    two = jax.jit(toy_towers.TextTower(wide).apply)({"params": text}, wide.tokenizer(CAPTIONS))
    np.testing.assert_allclose(one, two, atol=1e-5)


def test_odd_sizes_are_refused():
    with pytest.raises(ValueError, match="multiple of 16"):
        toy_towers.TowerConfig(image_size=60)
    with pytest.raises(ValueError, match="four multiples of 8"):
        toy_towers.TowerConfig(image_widths=(8, 8, 8))
    with pytest.raises(ValueError, match="does not divide"):
        toy_towers.TowerConfig(text_heads=5)
