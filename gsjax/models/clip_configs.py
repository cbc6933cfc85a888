"""Config files beside weights of CLIP pairs: what they state, read and written.

OpenCLIP publishes open_clip_config.json, Hugging Face config.json and preprocessor_config.json. They
state what arrays cannot tell (heads, activation, how pictures are prepared), and must not contradict
what arrays do tell. `gsjax convert` writes the same files, with one entry more, ``licence``. Which of
arrays, files and the architecture's name settle a pair is up to ``clip_towers``; what is particular to
the file of an EVA pair, to ``eva_towers``.
"""

import functools
import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from etils import epath

from gsjax.models import clip, clip_presets, image_preprocess

CONFIG_FILES = {"openclip": "open_clip_config.json", "hf_clip": "config.json"}
PREPROCESSOR = "preprocessor_config.json"  # of hf_clip, beside config.json
_OPENCLIP_IMAGE = {"image_size", "layers", "width", "patch_size", "head_width", "mlp_ratio"}
_OPENCLIP_TEXT = {"context_length", "vocab_size", "width", "heads", "layers", "mlp_ratio"}
# (block of the config file, name there, field of ClipConfig)
_OPENCLIP_SIZES = (
    ("", "embed_dim", "dim"),
    ("vision_cfg", "image_size", "image_size"),
    ("vision_cfg", "patch_size", "patch"),
    ("vision_cfg", "width", "image_width"),
    ("vision_cfg", "layers", "image_layers"),
    ("text_cfg", "context_length", "context"),
    ("text_cfg", "vocab_size", "vocabulary"),
    ("text_cfg", "width", "text_width"),
    ("text_cfg", "layers", "text_layers"),
    ("text_cfg", "heads", "text_heads"),
)
_HF_SIZES = (
    ("", "projection_dim", "dim"),
    ("vision_config", "image_size", "image_size"),
    ("vision_config", "patch_size", "patch"),
    ("vision_config", "hidden_size", "image_width"),
    ("vision_config", "num_hidden_layers", "image_layers"),
    ("vision_config", "num_attention_heads", "image_heads"),
    ("vision_config", "intermediate_size", "image_hidden"),
    ("text_config", "max_position_embeddings", "context"),
    ("text_config", "vocab_size", "vocabulary"),
    ("text_config", "hidden_size", "text_width"),
    ("text_config", "num_hidden_layers", "text_layers"),
    ("text_config", "num_attention_heads", "text_heads"),
    ("text_config", "intermediate_size", "text_hidden"),
)


def read(
    kind: str, path: str, found: Mapping, pixels: image_preprocess.Pixels
) -> tuple[dict, image_preprocess.Pixels, str] | None:
    """What the config file beside a pair's weights says; None if there is none.

    Args:
        kind: of ``CONFIG_FILES``.
        path: of the weights: a file, or a folder of them.
        found: fields of ``ClipConfig`` that the arrays tell.
        pixels: of what the file leaves out.

    Returns:
        (more fields of ``ClipConfig``: heads and activation; pixels; licence, '' if unstated).

    Raises:
        ValueError: naming the file: it contradicts the arrays, is of another class of model, or asks
            for preprocessing that is not known here.
    """
    parse = _from_openclip if kind == "openclip" else _from_hf
    known = sorted(clip_presets.PRESETS)
    return beside(path, CONFIG_FILES[kind], lambda text: parse(text, found, pixels), known)


def read_preprocessor(
    path: str, size: int, pixels: image_preprocess.Pixels
) -> image_preprocess.Pixels:
    """Pixels of preprocessor_config.json beside weights of kind hf_clip.

    Args:
        path: of the weights: a file, or a folder of them.
        size: S, side of the tower's pictures.
        pixels: of what the file leaves out; the result where there is no file.

    Raises:
        ValueError: naming the file: it asks for preprocessing that is not known here.
    """
    parse = functools.partial(image_preprocess.hugging_face_pixels, size=size, default=pixels)
    return beside(path, PREPROCESSOR, parse, sorted(clip_presets.PRESETS)) or pixels


def files(
    kind: str, config: clip.ClipConfig, pixels: image_preprocess.Pixels, licence: str
) -> dict[str, str]:
    """The config files of a pair: name -> JSON text. They say the same when read.

    Args:
        kind: of ``CONFIG_FILES``.
        config: sizes.
        pixels: how the image tower takes pictures.
        licence: of the weights.
    """
    write = _openclip_files if kind == "openclip" else _hf_files
    made = write(config, pixels, licence)
    return {name: json.dumps(value, indent=2) + "\n" for name, value in made.items()}


def beside(path: str, name: str, parse: Callable[[Mapping], Any], known: Iterable[str]) -> Any:
    """What ``parse`` makes of a JSON file beside the weights; None if there is no such file.

    Args:
        path: of the weights: a file, or a folder of them.
        name: of the file.
        parse: of what the file holds; raises ValueError where it cannot be used.
        known: architectures to name in the message.

    Raises:
        ValueError: naming the file and what is wrong with it.
    """
    place = epath.Path(path)
    file = (place if place.is_dir() else place.parent) / name
    if not file.exists():
        return None
    try:
        return parse(json.loads(file.read_text()))
    except (KeyError, TypeError, AttributeError, ValueError, RecursionError) as error:
        raise ValueError(
            f"{file}: cannot be used ({type(error).__name__}: {error}); if it belongs to another "
            f"model, move the weights away from it and give ?arch= with one of {list(known)}"
        ) from None


def stated_licence(text: Mapping) -> str:
    """The entry that `gsjax convert` adds to config files; '' without it."""
    licence = text.get("licence", "")
    if not isinstance(licence, str):
        raise ValueError(f"licence: expected a text, found {licence!r}")
    return licence


def check_openclip_sizes(model: Mapping, found: Mapping) -> None:
    """Raises where ``model_cfg`` contradicts the fields of ``ClipConfig`` that were found."""
    _check_sizes(model, found, _OPENCLIP_SIZES)


def _check_sizes(stated: Mapping, found: Mapping, names) -> None:
    wrong = []
    for block, name, field in names:
        part = (stated.get(block) or {}) if block else stated
        if name not in part or field not in found:
            continue
        value, size = part[name], found[field]
        if value not in (size, [size, size]):
            wrong.append(f"{block}{'.' * bool(block)}{name} {value}, the arrays have {size}")
    if wrong:
        raise ValueError("; ".join(wrong))


def _from_openclip(text: Mapping, found: Mapping, pixels: image_preprocess.Pixels):
    """(heads and activation, pixels, licence) of open_clip_config.json."""
    model = text["model_cfg"]
    image, words = model["vision_cfg"], model["text_cfg"]
    odd = sorted(
        {*(set(image) - _OPENCLIP_IMAGE), *(set(words) - _OPENCLIP_TEXT)}
        | (set(model) - {"embed_dim", "quick_gelu", "vision_cfg", "text_cfg"})
    )
    if odd:
        raise ValueError(f"settings that plain CLIP towers lack: {odd}")
    check_openclip_sizes(model, found)
    more = dict(
        image_heads=found["image_width"] // image.get("head_width", 64),
        text_heads=words["heads"],
        quick_gelu=bool(model.get("quick_gelu", False)),
    )
    stated = text.get("preprocess_cfg") or {}
    pixels = image_preprocess.openclip_pixels(stated, found["image_size"], pixels)
    return more, pixels, stated_licence(text)


def _from_hf(text: Mapping, found: Mapping, pixels: image_preprocess.Pixels):
    """The same of config.json; what it leaves out has transformers' defaults."""
    image = text.get("vision_config") or {}
    words = text.get("text_config") or {}
    acts = {part.get("hidden_act", "quick_gelu") for part in (image, words)}
    if len(acts) != 1 or not acts <= {"quick_gelu", "gelu"}:
        raise ValueError(f"activations {sorted(acts)}; known are quick_gelu or gelu, for both")
    for part in (image, words):
        if part.get("layer_norm_eps", clip.LAYER_NORM_EPS) != clip.LAYER_NORM_EPS:
            raise ValueError(f"layer_norm_eps {part['layer_norm_eps']}, not {clip.LAYER_NORM_EPS}")
    _check_sizes(text, found, _HF_SIZES)
    more = dict(
        image_heads=image.get("num_attention_heads", 12),
        text_heads=words.get("num_attention_heads", 8),
        quick_gelu=acts == {"quick_gelu"},
    )
    return more, pixels, stated_licence(text)


def preprocess_cfg(pixels: image_preprocess.Pixels) -> dict:
    """The block of open_clip_config.json that says the same."""
    return dict(
        mean=list(pixels.mean),
        std=list(pixels.std),
        interpolation="bicubic",
        resize_mode=pixels.resize,
    )


def _openclip_files(
    c: clip.ClipConfig, pixels: image_preprocess.Pixels, licence: str
) -> dict[str, dict]:
    """open_clip_config.json of a pair."""
    image = dict(
        head_width=c.image_width // c.image_heads, mlp_ratio=c.image_hidden / c.image_width
    )
    text = dict(mlp_ratio=c.text_hidden / c.text_width)
    model: dict = dict(quick_gelu=c.quick_gelu, vision_cfg=image, text_cfg=text)
    _fill(model, c, _OPENCLIP_SIZES)
    about = dict(model_cfg=model, preprocess_cfg=preprocess_cfg(pixels))
    return {CONFIG_FILES["openclip"]: about | dict(licence=licence)}


def _hf_files(c: clip.ClipConfig, pixels: image_preprocess.Pixels, licence: str) -> dict[str, dict]:
    """config.json and preprocessor_config.json of a pair."""
    act = dict(hidden_act="quick_gelu" if c.quick_gelu else "gelu", projection_dim=c.dim)
    about: dict = dict(model_type="clip", architectures=["CLIPModel"])
    about |= dict(vision_config=dict(act), text_config=dict(act), licence=licence)
    _fill(about, c, _HF_SIZES)
    side = dict(height=c.image_size, width=c.image_size)
    pictures = dict(
        image_processor_type="CLIPImageProcessor",
        do_resize=True,
        size=side if pixels.resize == "squash" else dict(shortest_edge=c.image_size),
        resample=image_preprocess.BICUBIC,
        do_center_crop=True,
        crop_size=side,
        do_rescale=True,
        rescale_factor=1 / 255,
        do_normalize=True,
        image_mean=list(pixels.mean),
        image_std=list(pixels.std),
        do_convert_rgb=True,
    )
    return {CONFIG_FILES["hf_clip"]: about, PREPROCESSOR: pictures}


def _fill(stated: dict, config: clip.ClipConfig, names) -> None:
    for block, name, field in names:
        (stated[block] if block else stated)[name] = getattr(config, field)
