"""Loads CLIP towers from state dicts of OpenCLIP and of Hugging Face transformers.

The door is ``towers.load('openclip:PATH?arch=ViT-B-32', weights.open_state_dict)``; options:

    arch        a name of ``clip_presets``; needed where neither a config file beside the weights
                (open_clip_config.json; config.json for hf_clip) nor shapes say everything: shapes
                never tell quick GELU from GELU
    dtype       float32 (default) or bfloat16: what the towers compute in and are held in
    background  white (default), grey or black: behind transparent pixels
    norm        mean and deviation of pixels: clip (default) or half (0.5, 0.5); a config file beside
                the weights that states its own wins
    resize      shortest (default) or squash; the config file wins likewise
    on_long     truncate (default) or error: captions beyond the context
    licence     of the weights, kept as text

Which file belongs to which name: docs/weights.md.
"""

import functools
import json
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from gsjax.models import (
    bpe,
    clip,
    clip_presets,
    clip_tables,
    image_preprocess,
    name_tables,
    towers,
    toy_towers,
)

NAMINGS = {"openclip": "openclip", "hf_clip": "hf"}
DEFAULTS = dict(
    arch="",
    dtype="float32",
    background="white",
    norm="clip",
    resize="shortest",
    on_long="truncate",
    licence="unknown",
)
DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}
CONFIG_FILES = {"openclip": "open_clip_config.json", "hf_clip": "config.json"}
_OPENCLIP_IMAGE = {"image_size", "layers", "width", "patch_size", "head_width", "mlp_ratio"}
_OPENCLIP_TEXT = {"context_length", "vocab_size", "width", "heads", "layers", "mlp_ratio"}


def build(
    kind: str, path: str, state_dict: Mapping[str, np.ndarray], options: Mapping[str, str]
) -> towers.Towers:
    """Towers of a state dict.

    Args:
        kind: 'openclip' or 'hf_clip': how the arrays are named.
        path: where they come from; a config file is looked for beside it.
        state_dict: name -> array, read one at a time.
        options: of ``DEFAULTS``.

    Raises:
        ValueError: an unknown option, a model of another class, sizes that ``arch`` or the config
            contradict, or an architecture that must be told; one message lists all misfits.
    """
    options = checked(options)
    shapes = _shapes(state_dict)
    found = clip_tables.sizes(shapes, NAMINGS[kind], path)
    config, pixels = _architecture(kind, path, found, options)
    mean, std, resize = pixels
    dtype = DTYPES[options["dtype"]]
    converted = name_tables.convert(
        state_dict,
        clip_tables.table(config, NAMINGS[kind]),
        name_tables.flat_shapes(clip.abstract_variables(config)),
        what=f"{path} as {options['arch'] or kind}",
        ignore=clip_tables.IGNORE[NAMINGS[kind]],
        dtype=dtype,
    )
    arrays = name_tables.flatten(converted.variables)
    described = dict(vars(config), dtype=options["dtype"])
    params = jax.tree.map(jnp.asarray, converted.variables)
    model = clip.Clip(config, dtype)
    background = image_preprocess.BACKGROUNDS[options["background"]]
    tokenizer = bpe.BpeTokenizer(config.context, options["on_long"])

    # The weights are arguments of the compiled functions: as constants they would be copied into the
    # programs, which takes minutes for large towers.
    @jax.jit
    def encode_images(params, pictures):
        pixels = image_preprocess.normalize(pictures, mean, std).astype(dtype)
        features = model.apply({"params": params}, pixels, method="encode_images")
        return toy_towers.normalize(features)

    @jax.jit
    def encode_texts(params, tokens):
        features = model.apply({"params": params}, tokens, method="encode_texts")
        return toy_towers.normalize(features)

    return towers.Towers(
        name="clip",
        dim=config.dim,
        digest=towers.digest_of("clip", described, arrays),
        preprocessing=(
            f"alpha on {options['background']}, {resize}, bicubic to {config.image_size} px, centre "
            f"crop, mean {mean}, std {std}; CLIP byte pairs, {config.context} ids, long captions: "
            f"{options['on_long']}"
        ),
        prepare_image=lambda picture: image_preprocess.crop(
            picture, config.image_size, background, resize
        ),
        tokenize=tokenizer,
        encode_images=functools.partial(encode_images, params),
        encode_texts=functools.partial(encode_texts, params),
        licence=options["licence"],
    )


def checked(options: Mapping[str, str]) -> dict[str, str]:
    """Options with ``DEFAULTS`` filled in.

    Raises:
        ValueError: an unknown name or value.
    """
    unknown = sorted(set(options) - set(DEFAULTS))
    if unknown:
        raise ValueError(f"towers: unknown options {unknown}; known: {sorted(DEFAULTS)}")
    options = {**DEFAULTS, **options}
    for name, known in (
        ("dtype", DTYPES),
        ("background", image_preprocess.BACKGROUNDS),
        ("norm", image_preprocess.NORMS),
        ("resize", image_preprocess.RESIZES),
        ("on_long", bpe.ON_LONG),
    ):
        if options[name] not in known:
            raise ValueError(
                f"towers: option {name}: unknown {options[name]!r}; known: {list(known)}"
            )
    return options


def _shapes(state_dict: Mapping) -> dict[str, tuple[int, ...]]:
    """Shapes without data, where the mapping can tell them (``io.weights.StateDict``)."""
    tell = getattr(state_dict, "shape", lambda name: np.shape(state_dict[name]))
    return {name: tuple(tell(name)) for name in state_dict}


def _architecture(kind: str, path: str, found: dict, options: Mapping[str, str]):
    """(config, (mean, std, resize)) from the file beside the weights, the name, or both in accord."""
    pixels = (*image_preprocess.NORMS[options["norm"]], options["resize"])
    arch, file = options["arch"], _config_file(kind, path)
    wanted = clip_presets.preset(arch) if arch else None
    told: dict = dict(found)
    if file is not None:
        try:
            text = json.loads(file.read_text())
            more, pixels = _FROM_FILE[kind](text, found, pixels)
            told |= more
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise ValueError(
                f"{file}: cannot be used ({type(error).__name__}: {error}); if it belongs to another "
                f"model, move the weights away from it and give ?arch= with one of "
                f"{sorted(clip_presets.PRESETS)}"
            ) from None
    elif wanted is None:
        raise _untold(path, found)
    if wanted is None:
        return clip.ClipConfig(**told), pixels
    wrong = [
        f"{name}: found {value}, expected {getattr(wanted, name)}"
        for name, value in told.items()
        if value != getattr(wanted, name)
    ]
    if wrong:
        raise ValueError(f"{path} is no {arch}:\n" + "\n".join(wrong))
    return wanted, pixels


def _config_file(kind: str, path: str) -> epath.Path | None:
    place = epath.Path(path)
    file = (place if place.is_dir() else place.parent) / CONFIG_FILES[kind]
    return file if file.exists() else None


def _untold(path: str, found: dict) -> ValueError:
    """What must be told; arrays never tell everything."""
    fitting = [
        name
        for name, config in clip_presets.PRESETS.items()
        if all(getattr(config, key) == value for key, value in found.items())
    ]
    if fitting:
        return ValueError(
            f"{path} fits {fitting}: the arrays do not tell which activation they were trained with. "
            "OpenAI's weights (and MetaCLIP's, DFN's) need -quickgelu, LAION's and DataComp's do not; "
            f"give it as '{path}?arch={fitting[0]}', or put the model's config file beside it"
        )
    return ValueError(
        f"{path}: no known model has these sizes: {found}; number of heads and activation cannot be "
        f"seen. Put the model's config file ({' or '.join(CONFIG_FILES.values())}) beside it"
    )


def _from_openclip(text: Mapping, found: Mapping, pixels: tuple):
    """(heads and activation, (mean, std, resize)) of open_clip_config.json."""
    model = text["model_cfg"]
    image, words = model["vision_cfg"], model["text_cfg"]
    odd = sorted(
        {*(set(image) - _OPENCLIP_IMAGE), *(set(words) - _OPENCLIP_TEXT)}
        | (set(model) - {"embed_dim", "quick_gelu", "vision_cfg", "text_cfg"})
    )
    if odd:
        raise ValueError(f"settings that plain CLIP towers lack: {odd}")
    stated = text.get("preprocess_cfg", {})
    if stated.get("interpolation", "bicubic") != "bicubic":
        raise ValueError(f"interpolation {stated['interpolation']!r}; known: 'bicubic'")
    mean, std = (stated.get(key) or default for key, default in zip(("mean", "std"), pixels))
    resize = stated.get("resize_mode") or pixels[2]
    if resize not in image_preprocess.RESIZES:
        raise ValueError(f"resize_mode {resize!r}; known: {image_preprocess.RESIZES}")
    more = dict(
        image_heads=found["image_width"] // image.get("head_width", 64),
        text_heads=words["heads"],
        quick_gelu=bool(model.get("quick_gelu", False)),
    )
    return more, (tuple(mean), tuple(std), resize)


def _from_hf(text: Mapping, found: Mapping, pixels: tuple):
    """(heads and activation, pixels) of config.json; what it leaves out has transformers' defaults."""
    del found
    image = text.get("vision_config") or {}
    words = text.get("text_config") or {}
    acts = {part.get("hidden_act", "quick_gelu") for part in (image, words)}
    if len(acts) != 1 or not acts <= {"quick_gelu", "gelu"}:
        raise ValueError(f"activations {sorted(acts)}; known are quick_gelu or gelu, for both")
    for part in (image, words):
        if part.get("layer_norm_eps", clip.LAYER_NORM_EPS) != clip.LAYER_NORM_EPS:
            raise ValueError(f"layer_norm_eps {part['layer_norm_eps']}, not {clip.LAYER_NORM_EPS}")
    more = dict(
        image_heads=image.get("num_attention_heads", 12),
        text_heads=words.get("num_attention_heads", 8),
        quick_gelu=acts == {"quick_gelu"},
    )
    return more, pixels


_FROM_FILE = {"openclip": _from_openclip, "hf_clip": _from_hf}
