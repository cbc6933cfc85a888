"""A small frozen image/text pair of two networks that know the world, joined by learned projections.

Images go through EfficientNet-Lite0 (ImageNet), texts through all-MiniLM-L6-v2; both stay as they
were published and come from installed packages (``models.packaged``). Only the two projections into
the common space are learned here, by ``gsjax.systems.toy_clip`` on renders and captions, and only
they are in the weight file. Far below CLIP, which was trained on 400 M pairs; well above the hashed
pair of ``models.toy_towers``, since words and pictures never seen in training have a meaning.

Reading state dicts is ``io``'s affair: whoever loads passes ``io.weights.read_state_dict``.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from gsjax.models import (
    efficientnet,
    linear,
    minilm,
    name_tables,
    packaged,
    towers,
    toy_towers,
    wordpiece,
)

KIND = "semantic"
ReadStateDict = Callable[[object], Mapping[str, np.ndarray]]


@dataclasses.dataclass(frozen=True)
class SemanticConfig:
    """Sizes of the pair; plain numbers, stored beside the projections.

    Attributes:
        dim: D, width of the common space.
        hidden: width of a layer between the image features and the common space; 0 = none, a plain
            linear projection.
        image_size: side of the square pictures that EfficientNet-Lite0 sees.
        max_length: word pieces of a caption at most.
    """

    dim: int = 256
    hidden: int = 0
    image_size: int = efficientnet.IMAGE_SIZE
    max_length: int = 64

    def __post_init__(self):
        if self.dim < 1 or self.hidden < 0 or self.image_size < 32 or self.max_length < 3:
            raise ValueError(
                "SemanticConfig: needs dim >= 1, hidden >= 0, image_size >= 32 and max_length >= 3; "
                f"found {self.dim}, {self.hidden}, {self.image_size}, {self.max_length}"
            )


class ImageProjection(nn.Module):
    """Image features [B, 1280] to the common space [B, D], not normalised."""

    config: SemanticConfig

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = nn.LayerNorm(name="norm")(x)
        if self.config.hidden:
            x = nn.gelu(linear.Dense(self.config.hidden, name="hidden")(x))
        return linear.Dense(self.config.dim, name="head")(x)


class Projections(nn.Module):
    """Features of the frozen networks to the common space, as unit vectors."""

    config: SemanticConfig

    def setup(self):
        self.image = ImageProjection(self.config)
        self.text = linear.Dense(self.config.dim)

    def encode_images(self, features: jax.Array) -> jax.Array:
        """Image features [B, 1280] to unit vectors [B, D]."""
        return toy_towers.normalize(self.image(features))

    def encode_texts(self, features: jax.Array) -> jax.Array:
        """Sentence vectors [B, 384] to unit vectors [B, D]."""
        return toy_towers.normalize(self.text(features))

    def __call__(self, images: jax.Array, texts: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Both, for initialisation and training."""
        return self.encode_images(images), self.encode_texts(texts)


@dataclasses.dataclass(frozen=True)
class Bases:
    """The two frozen networks, without projections.

    Attributes:
        config: sizes of what goes in.
        checksums: {network: SHA-256 of its weight file}.
        tokenize: host: captions -> ids int32 [B, T].
        image_features: device, compiled: uint8 [B, S, S, 3] -> [B, 1280].
        text_features: device, compiled: ids int32 [B, T] -> unit vectors [B, 384].
    """

    config: SemanticConfig
    checksums: Mapping[str, str]
    tokenize: wordpiece.WordPiece
    image_features: Callable[[jax.Array], jax.Array]
    text_features: Callable[[jax.Array], jax.Array]

    @property
    def preprocessing(self) -> str:
        """What happens to pixels and text before the networks, in words."""
        return (
            f"alpha on white, bicubic to {self.config.image_size} px, (x - 127) / 128; "
            f"BERT word pieces, uncased, {self.config.max_length} at most"
        )

    def prepare_image(self, picture: np.ndarray) -> np.ndarray:
        """Host: a picture uint8 [H, W, 3 or 4] to uint8 [S, S, 3]."""
        return towers.resize_rgb(picture, self.config.image_size)


def checksums() -> dict[str, str]:
    """What the weight files of the frozen networks must be."""
    return dict(
        efficientnet_lite0=packaged.EFFICIENTNET_LITE0.sha256, minilm=packaged.MINILM.sha256
    )


def load_bases(config: SemanticConfig, read_state_dict: ReadStateDict) -> Bases:
    """Loads the frozen networks from the installed packages.

    Args:
        config: picture side and caption length.
        read_state_dict: path -> {name: array}, ``io.weights.read_state_dict``.

    Raises:
        ValueError: a package is absent (the message says what to install), or is of another version.
    """
    image_weights, text_weights = _networks(read_state_dict)
    return Bases(
        config=config,
        checksums=checksums(),
        tokenize=wordpiece.WordPiece.from_file(packaged.vocabulary(), config.max_length),
        # Weights go in as an argument: closed over, they would be constants of the program.
        image_features=functools.partial(_image_features, image_weights),
        text_features=functools.partial(_text_features, text_weights),
    )


@jax.jit
def _image_features(variables, pictures):
    return efficientnet.EfficientNetLite().apply(variables, efficientnet.normalize(pictures))


@jax.jit
def _text_features(params, ids):
    return minilm.SentenceEncoder().apply({"params": params}, ids)


@functools.lru_cache(maxsize=1)
def _networks(read_state_dict: ReadStateDict) -> tuple[dict, dict]:
    """Variables of the image network and parameters of the text network, on the device."""
    image = efficientnet.convert(read_state_dict(packaged.verified(packaged.EFFICIENTNET_LITE0)))
    text = minilm.convert(read_state_dict(packaged.verified(packaged.MINILM)))
    return jax.tree.map(jnp.asarray, (image, text))


def load(path, read_state_dict: ReadStateDict) -> towers.Towers:
    """The pair: a file of projections, and the installed networks that they belong to.

    Args:
        path: weight file of kind ``semantic``, see ``towers.save``.
        read_state_dict: as for `load_bases`.

    Raises:
        ValueError: as `load_bases`; the file is of another kind, does not fit its architecture, or
            was trained on other networks than those that are installed.
    """
    meta, params = towers.read(path)
    if meta["kind"] != KIND:
        raise ValueError(f"towers: {path} holds towers of kind {meta['kind']!r}, not {KIND!r}")
    sizes = dict(meta["config"])
    if sizes.pop("networks") != checksums():
        raise ValueError(
            f"towers: the projections in {path} were trained on other networks than those of "
            f"{', '.join(p.requirement for p in packaged.PACKAGES)}; train them again"
        )
    config = SemanticConfig(**sizes)
    _check(path, config, params)
    bases = load_bases(config, read_state_dict)
    project_images, project_texts = projectors(config, params)

    return towers.Towers(
        name=KIND,
        dim=config.dim,
        digest=meta["digest"],
        preprocessing=bases.preprocessing,
        prepare_image=bases.prepare_image,
        tokenize=bases.tokenize,
        encode_images=lambda pictures: project_images(bases.image_features(pictures)),
        encode_texts=lambda ids: project_texts(bases.text_features(ids)),
        licence=f"Apache-2.0 ({', '.join(p.what for p in packaged.PACKAGES)}; projections)",
    )


def projectors(config: SemanticConfig, params: Mapping) -> tuple[Callable, Callable]:
    """Compiled: image features [B, 1280], sentence vectors [B, 384] -> unit vectors [B, D]."""
    model = Projections(config)
    params = jax.tree.map(jnp.asarray, params)

    def project(method: str):
        apply = jax.jit(lambda p, x: model.apply({"params": p}, x, method=method))
        return functools.partial(apply, params)

    return project("encode_images"), project("encode_texts")


def save(path, config: SemanticConfig, params: Mapping, notes: Mapping | None = None) -> str:
    """Writes the projections, with the checksums of the networks they belong to.

    Returns:
        The digest, which covers projections, sizes and networks.
    """
    return towers.save(
        path, KIND, dataclasses.asdict(config) | dict(networks=checksums()), params, notes
    )


def _check(path, config: SemanticConfig, params: Mapping) -> None:
    """Raises unless the projections are exactly those that the architecture asks for."""
    images = jax.ShapeDtypeStruct((1, efficientnet.FEATURES), jnp.float32)
    texts = jax.ShapeDtypeStruct((1, minilm.BertConfig().width), jnp.float32)
    wanted = jax.eval_shape(Projections(config).init, jax.random.key(0), images, texts)
    shapes = name_tables.flat_shapes(wanted["params"]), name_tables.flat_shapes(params)
    wrong = sorted(k for k in {*shapes[0], *shapes[1]} if shapes[0].get(k) != shapes[1].get(k))
    if wrong:
        lines = [f"{k}: expected {shapes[0].get(k)}, found {shapes[1].get(k)}" for k in wrong]
        raise ValueError(f"towers: {path} does not fit its architecture:\n" + "\n".join(lines))
