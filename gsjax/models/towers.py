"""Frozen image/text towers by name, and the weight files they come from.

``load`` is the one door: a file exported by this package (``.npz`` that says what it holds), or
``KIND:PATH`` for weights in another project's format. A new family of towers is one module named in
``FOREIGN``; nothing else changes.

Our own weight files are plain NumPy archives, float16, without pickle, with their architecture and digest
as JSON; a damaged file is refused.
"""

import dataclasses
import functools
import hashlib
import importlib
import io
import json
import re
import struct
import tokenize
import urllib.parse
import zipfile
import zlib
from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from gsjax.models import toy_towers

_META = "__meta__"


@dataclasses.dataclass(frozen=True)
class Towers:
    """A frozen pair, ready to embed.

    Attributes:
        name: kind of the towers.
        dim: D, width of both embeddings.
        digest: hex digest of architecture and weights.
        preprocessing: what ``prepare_image`` and ``tokenize`` do, in words; part of a cache's key.
        prepare_image: host: picture uint8 [H, W, 3 or 4] -> tower input (one example).
        tokenize: host: captions -> ids, leading axis B.
        encode_images: device, compiled: inputs [B, ...] -> unit vectors [B, D]. Call it as it is:
            another ``jax.jit`` around it makes constants of the weights.
        encode_texts: device, compiled likewise: ids [B, ...] -> unit vectors [B, D].
        licence: of the weights, as whoever loads them states it; not part of any digest.
        batch: pictures that a call of ``encode_images`` had best get; 0 = any number.
    """

    name: str
    dim: int
    digest: str
    preprocessing: str
    prepare_image: Callable[[np.ndarray], np.ndarray]
    tokenize: Callable[[Sequence[str]], np.ndarray]
    encode_images: Callable[[jax.Array], jax.Array]
    encode_texts: Callable[[jax.Array], jax.Array]
    licence: str = "unknown"
    batch: int = 0


@dataclasses.dataclass(frozen=True)
class Checked:
    """A pair in another project's format, known from names, shapes and files beside it alone.

    Attributes:
        name: architecture by name, or the kind.
        config: the architecture as plain values, all that arrays do not tell included.
        preprocessing, dim, licence: as of ``Towers``.
        options: that load it by ``KIND:PATH?...`` without the files beside it, as far as options can.
        unused: keys of the file that belong to the format and are not read.
        files: name -> text of the files that must lie beside the weights where options cannot tell
            everything; they also keep the licence.
    """

    name: str
    config: Mapping
    preprocessing: str
    dim: int
    licence: str
    options: Mapping[str, str]
    unused: Sequence[str]
    files: Mapping[str, str]


def resize_rgb(picture: np.ndarray, size: int) -> np.ndarray:
    """A picture as RGB of a given side: alpha composited on white, bicubic where sizes differ.

    Args:
        picture: uint8 [H, W, 3] or [H, W, 4].
        size: S.

    Returns:
        uint8 [S, S, 3].

    Raises:
        ValueError: another shape or type.
    """
    if picture.ndim != 3 or picture.shape[-1] not in (3, 4) or picture.dtype != np.uint8:
        raise ValueError(
            f"picture: expected uint8 [H, W, 3 or 4], found {picture.dtype} {picture.shape}"
        )
    if picture.shape[-1] == 4:
        alpha = picture[..., 3:].astype(np.float32) / 255
        white = picture[..., :3] * alpha + 255 * (1 - alpha)
        picture = np.round(white).astype(np.uint8)
    if picture.shape[:2] == (size, size):
        return picture
    from PIL import Image

    return np.asarray(Image.fromarray(picture).resize((size, size), Image.Resampling.BICUBIC))


def digest_of(kind: str, config: Mapping, arrays: Mapping[str, np.ndarray]) -> str:
    """SHA-256 over kind, architecture and every array with its name, type and shape."""
    result = hashlib.sha256(json.dumps([kind, config], sort_keys=True).encode())
    for name in sorted(arrays):
        value = np.ascontiguousarray(arrays[name])
        result.update(f"{name} {value.dtype.str} {value.shape}".encode())
        result.update(value.reshape(-1).view(np.uint8))
    return result.hexdigest()


def save(path, kind: str, config: Mapping, params: Mapping, notes: Mapping | None = None) -> str:
    """Writes a weight file.

    Args:
        path: target, ``.npz``; local or anything ``epath`` opens.
        kind: a name in ``TOWERS``.
        config: the architecture as JSON values.
        params: nested dict of arrays, stored as float16.
        notes: JSON values kept beside the weights (recipe, metrics); not part of the digest.

    Returns:
        The digest.

    Raises:
        ValueError: a weight is not finite in float16.
    """
    arrays = {}
    for keys, value in jax.tree_util.tree_flatten_with_path(dict(params))[0]:
        name = "/".join(str(key.key) for key in keys)
        with np.errstate(over="ignore"):  # reported below, by name
            arrays[name] = np.asarray(value, np.float16)
        if not np.isfinite(arrays[name]).all():
            raise ValueError(f"save: weight {name!r} is not finite in float16; train again")
    config = json.loads(json.dumps(dict(config)))
    digest = digest_of(kind, config, arrays)
    meta = dict(kind=kind, config=config, digest=digest, notes=dict(notes or {}))
    text = np.frombuffer(json.dumps(meta, sort_keys=True).encode(), np.uint8)
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **{_META: text}, **arrays)
    path = epath.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.parent / f".{path.name}.tmp"
    scratch.write_bytes(buffer.getvalue())
    scratch.replace(path)
    return digest


# What a damaged archive makes zipfile and NumPy raise: an array's header is parsed as Python.
_BROKEN = (
    *(KeyError, ValueError, TypeError, AttributeError, OSError, EOFError, OverflowError),
    *(MemoryError, RuntimeError, IndexError, SyntaxError, zipfile.BadZipFile, zlib.error),
    *(struct.error, tokenize.TokenError),
)


def read(path) -> tuple[dict, dict]:
    """Reads a weight file.

    Returns:
        (meta, params): ``meta`` with ``kind``, ``config``, ``digest``, ``notes``; ``params`` as a
        nested dict of float32 arrays.

    Raises:
        ValueError: no such file, not a weight file, or damaged.
    """
    path = epath.Path(path)
    if not path.exists():
        raise ValueError(f"towers: there is no weight file {path}")
    try:
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
        meta = json.loads(arrays.pop(_META).tobytes())
        intact = digest_of(meta["kind"], meta["config"], arrays) == meta["digest"]
    except _BROKEN as error:
        raise ValueError(
            f"towers: {path} is not a weight file of gsjax, or is damaged ({error})"
        ) from None
    if not intact:
        raise ValueError(f"towers: the weights in {path} do not match their digest; get it again")
    params: dict = {}
    for name, value in arrays.items():
        *folders, leaf = name.split("/")
        node = params
        for folder in folders:
            node = node.setdefault(folder, {})
        node[leaf] = value.astype(np.float32)
    return meta, params


def _load_toy(path) -> Towers:
    """The pair that ``gsjax.systems.toy_clip`` trains."""
    meta, params = read(path)
    if meta["kind"] != "toy_clip":
        raise ValueError(f"towers: {path} holds towers of kind {meta['kind']!r}, not 'toy_clip'")
    lists = {k: tuple(v) if isinstance(v, list) else v for k, v in meta["config"].items()}
    config = toy_towers.TowerConfig(**lists)
    model = toy_towers.ToyTowers(config)
    size = config.image_size
    _check_params(path, model, params)
    params = jax.tree.map(jnp.asarray, params)

    @jax.jit
    def encode_images(params, pictures):
        pixels = toy_towers.to_unit_range(pictures)
        return model.apply({"params": params}, pixels, method="encode_images")

    @jax.jit
    def encode_texts(params, tokens):
        return model.apply({"params": params}, tokens, method="encode_texts")

    return Towers(
        name="toy_clip",
        dim=config.dim,
        digest=meta["digest"],
        preprocessing=(
            f"alpha on white, bicubic to {size} px, [-1, 1]; hashed words and n-grams, "
            f"{config.buckets} buckets, {config.max_words} words of {config.max_grams} n-grams"
        ),
        prepare_image=lambda picture: resize_rgb(picture, size),
        tokenize=config.tokenizer,
        encode_images=functools.partial(encode_images, params),
        encode_texts=functools.partial(encode_texts, params),
        licence=meta["notes"].get("licence", "Apache-2.0"),
    )


def _check_params(path, model: toy_towers.ToyTowers, params: Mapping) -> None:
    """Raises unless the weights are exactly those that the architecture asks for."""
    config = model.config
    pixels = jax.ShapeDtypeStruct((1, config.image_size, config.image_size, 3), jnp.float32)
    tokens = jax.ShapeDtypeStruct((1, *config.tokenizer.shape), jnp.int32)
    wanted = jax.eval_shape(model.init, jax.random.key(0), pixels, tokens)["params"]
    shapes = [
        {jax.tree_util.keystr(k): v.shape for k, v in jax.tree_util.tree_leaves_with_path(tree)}
        for tree in (wanted, params)
    ]
    wrong = sorted(
        name for name in {*shapes[0], *shapes[1]} if shapes[0].get(name) != shapes[1].get(name)
    )
    if wrong:
        lines = [f"{n}: expected {shapes[0].get(n)}, found {shapes[1].get(n)}" for n in wrong]
        raise ValueError(f"towers: {path} does not fit its architecture:\n" + "\n".join(lines))


# Kind -> loader of a weight file of our own.
TOWERS: dict[str, Callable[[str], Towers]] = {"toy_clip": _load_toy}
# Projections of our own on networks that come as packages: ``models.semantic_towers``.
SEMANTIC = "semantic"
# Kind of another project's checkpoint -> module with
# ``build(kind, path, state_dict, options) -> Towers`` and ``check``, of the same arguments, ``-> Checked``.
FOREIGN: dict[str, str] = {
    "openclip": "gsjax.models.clip_towers",
    "hf_clip": "gsjax.models.clip_towers",
    "evaclip": "gsjax.models.eva_towers",
}


def load(spec, open_state_dict: Callable[[str], Mapping[str, np.ndarray]] | None = None) -> Towers:
    """Loads frozen towers.

    Args:
        spec: path of a weight file exported by this package, or ``KIND:PATH`` with a kind of
            ``TOWERS``, ``SEMANTIC`` or ``FOREIGN``; for the latter ``KIND:PATH?OPTION=VALUE&...``, the options
            are those of its module.
        open_state_dict: reads the weights of the other kinds: ``gsjax.io.weights.open_state_dict``.

    Raises:
        ValueError: unknown kind (the message lists the known ones), or the loader's own complaint.
    """
    kind, path = _split_spec(str(spec))
    if kind is None:
        kind = read(path)[0]["kind"]
    if kind in TOWERS:
        return TOWERS[kind](path)
    if kind not in (SEMANTIC, *FOREIGN):
        raise ValueError(
            f"towers: {spec!r} asks for kind {kind!r}, which this version cannot load; known: "
            f"{sorted([*TOWERS, SEMANTIC, *FOREIGN])}"
        )
    if open_state_dict is None:
        raise ValueError(
            f"towers: kind {kind!r} needs weights in another project's format; pass open_state_dict="
            "gsjax.io.weights.open_state_dict"
        )
    if kind == SEMANTIC:
        return importlib.import_module("gsjax.models.semantic_towers").load(path, open_state_dict)
    path, options = _split_options(path)
    module = importlib.import_module(FOREIGN[kind])
    return module.build(kind, path, open_state_dict(path), options)


def _split_options(path: str) -> tuple[str, dict[str, str]]:
    """('path', {'option': 'value'}) of 'path?option=value&...'."""
    path, _, query = path.partition("?")
    try:
        pairs = urllib.parse.parse_qsl(query, keep_blank_values=True, strict_parsing=bool(query))
    except ValueError as error:
        raise ValueError(
            f"towers: {query!r} behind {path!r} is not of the form option=value&... ({error})"
        ) from None
    return path, dict(pairs)


def _split_spec(spec: str) -> tuple[str | None, str]:
    """('kind', 'path') of 'kind:path'; the kind is None for a bare path, also for 'gs://...'."""
    match = re.fullmatch(r"([A-Za-z][\w.-]+):(?!//)(.+)", spec)
    return (match[1], match[2]) if match else (None, spec)
