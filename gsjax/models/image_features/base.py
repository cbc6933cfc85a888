"""The interface of frozen image encoders: pictures in, feature maps out, and how one is found by name.

A kind of encoder is a file of this folder, which exports

    OPTIONS                         {option: default}, all texts; what may stand behind '?'
    build(path, options, open_state_dict) -> ImageEncoder

so that a new kind adds a file and touches nothing else. UniPre3D (arXiv 2506.09952) mixes such maps
into point features; no encoder here is ever trained with it. Projections to the width of a network,
and sampling at projected points, are the affair of whoever reads the maps.
"""

import dataclasses
import importlib
import pkgutil
import re
import urllib.parse
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gsjax.models import name_tables, towers

Arrays = Any  # nested dict of arrays
OpenStateDict = Callable[[Any], Mapping[str, np.ndarray]]


@dataclasses.dataclass(frozen=True, eq=False)
class ImageEncoder:
    """A frozen encoder.

    Attributes:
        name: the kind.
        channels: C of the map.
        digest: hex digest of kind, settings and weights.
        licence: of the weights, as whoever made them states it.
        description: what is computed from what, in words; kept in checkpoints.
        arrays: the weights, a nested dict that a flax collection can hold; {} if there are none.
        apply: ``(arrays, images) -> features``: pure, to be called within ``jax.jit`` with both as
            arguments (closed over, weights become constants of the program). ``images``: f32
            [B, H, W, 3] in [0, 1]; ``features``: f32 [B, H', W', C]. The map covers exactly the
            picture, whatever its size: cell i of H' lies around (i + 0.5) / H' of the height, so that
            reading it at relative coordinates is right.
    """

    name: str
    channels: int
    digest: str
    licence: str
    description: str
    arrays: Arrays
    apply: Callable[[Arrays, jax.Array], jax.Array]


def names() -> list[str]:
    """Known kinds."""
    import gsjax.models.image_features as package

    return sorted(m.name for m in pkgutil.iter_modules(package.__path__) if m.name != "base")


def load(spec: str, open_state_dict: OpenStateDict | None = None) -> ImageEncoder:
    """A frozen encoder by its name.

    Args:
        spec: ``KIND``, ``KIND?OPTION=VALUE&...``, ``KIND:PATH`` or ``KIND:PATH?OPTION=VALUE&...``; e.g.
            'rgb', 'random_conv?seed=3', 'efficientnet?stage=3', 'sd_vae:weights/vae?dtype=bfloat16'.
        open_state_dict: reads other projects' weights: ``gsjax.io.weights.open_state_dict``. Kinds
            without such weights do not need it.

    Raises:
        ValueError: an unknown kind or option (the message lists the known ones), a value that makes
            no sense, weights that are absent or of another model.
    """
    kind, path, options = split_spec(str(spec))
    if kind not in names():
        raise ValueError(
            f"image encoder: {spec!r} asks for kind {kind!r}; known: {', '.join(names())}"
        )
    file = importlib.import_module(f"gsjax.models.image_features.{kind}")
    unknown = sorted(set(options) - set(file.OPTIONS))
    if unknown:
        known = ", ".join(sorted(file.OPTIONS)) or "none"
        raise ValueError(f"image encoder {kind!r}: unknown options {unknown}; known: {known}")
    return file.build(path, {**file.OPTIONS, **options}, open_state_dict)


def split_spec(spec: str) -> tuple[str, str, dict[str, str]]:
    """('kind', 'path', {'option': 'value'}) of a spec; the path is '' where there is none.

    Raises:
        ValueError: it is of no such form.
    """
    match = re.fullmatch(r"(\w+)(?::([^?]+))?(?:\?(.*))?", spec)
    if match is None:
        raise ValueError(
            f"image encoder: {spec!r} is not of the form KIND, KIND:PATH or KIND:PATH?OPTION=VALUE&..."
        )
    kind, path, query = match[1], match[2] or "", match[3] or ""
    try:
        pairs = urllib.parse.parse_qsl(query, keep_blank_values=True, strict_parsing=bool(query))
    except ValueError as error:
        raise ValueError(
            f"image encoder: {query!r} in {spec!r} is not of the form OPTION=VALUE&... ({error})"
        ) from None
    return kind, path, dict(pairs)


def no_path(kind: str, path: str) -> None:
    """For kinds that read no file.

    Raises:
        ValueError: there is a path.
    """
    if path:
        raise ValueError(f"image encoder {kind!r}: takes no file, found {path!r}; leave it out")


def choice(kind: str, options: Mapping[str, str], name: str, known: Mapping[str, Any]) -> Any:
    """The value that an option names.

    Raises:
        ValueError: another text; the message lists the known ones.
    """
    if options[name] not in known:
        raise ValueError(
            f"image encoder {kind!r}: {name}={options[name]!r}; known: {', '.join(known)}"
        )
    return known[options[name]]


def whole_number(kind: str, options: Mapping[str, str], name: str, lowest: int, most: int) -> int:
    """The number that an option names.

    Raises:
        ValueError: it is no whole number of lowest .. most.
    """
    text = options[name]
    if not re.fullmatch(r"\d{1,10}", text) or not lowest <= int(text) <= most:
        raise ValueError(
            f"image encoder {kind!r}: {name}={text!r}; expected a whole number from {lowest} to {most}"
        )
    return int(text)


def check_images(images: jax.Array) -> None:
    """Raises ValueError unless ``images`` are [B, H, W, 3] of floats."""
    if images.ndim != 4 or images.shape[-1] != 3 or 0 in images.shape[1:3]:
        raise ValueError(f"images: expected [B, H, W, 3], found {list(images.shape)}")
    if not jnp.issubdtype(images.dtype, jnp.floating):
        raise ValueError(f"images: expected floats in [0, 1], found {images.dtype}; divide by 255")


def pad(images: jax.Array, multiple: int) -> jax.Array:
    """Repeats the last row and column until both sides are multiples; what a coarse grid needs."""
    more = [-side % multiple for side in images.shape[1:3]]
    return jnp.pad(images, ((0, 0), (0, more[0]), (0, more[1]), (0, 0)), mode="edge")


def crop(features: jax.Array, images: jax.Array) -> jax.Array:
    """A map of one cell a pixel without what :func:`pad` added to ``images``."""
    return features[:, : images.shape[1], : images.shape[2]]


def on_device(tree: Arrays) -> Arrays:
    """Nested arrays as JAX arrays."""
    return jax.tree.map(jnp.asarray, tree)


def digest(kind: str, settings: Mapping, arrays: Arrays) -> str:
    """SHA-256 over kind, settings (JSON values) and every array with its path, type and shape."""
    flat = {path: np.asarray(value) for path, value in name_tables.flatten(arrays).items()}
    return towers.digest_of(f"image_features/{kind}", dict(settings), flat)
