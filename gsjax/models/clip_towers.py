"""Loads CLIP towers from state dicts of OpenCLIP and of Hugging Face transformers.

The door is ``towers.load('openclip:PATH?arch=ViT-B-32', weights.open_state_dict)``; options:

    arch        a name of ``clip_presets``; needed where neither a config file beside the weights
                (open_clip_config.json; config.json for hf_clip) nor shapes say everything: shapes
                never tell quick GELU from GELU
    dtype       float32 (default) or bfloat16: what the towers compute in and are held in
    background  white (default), grey or black: behind transparent pixels
    norm        mean and deviation of pixels: clip (default) or half (0.5, 0.5); a file beside the
                weights that states its own (open_clip_config.json; preprocessor_config.json for
                hf_clip) wins
    resize      shortest (default) or squash; the file wins likewise
    on_long     truncate (default) or error: captions beyond the context
    licence     of the weights, kept as text; default: the entry 'licence' of the config file

Which file belongs to which name: docs/weights.md.
"""

import dataclasses
import functools
import json
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

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


@dataclasses.dataclass(frozen=True)
class _Plan:
    """What names, shapes and files beside the weights say; ``arch``: '' if of no public size."""

    arch: str
    config: clip.ClipConfig
    pixels: image_preprocess.Pixels
    options: Mapping[str, str]

    @property
    def preprocessing(self) -> str:
        return described_inputs(self.config, self.pixels, self.options)

    @property
    def described(self) -> dict:
        return dict(vars(self.config), dtype=self.options["dtype"])


def build(
    kind: str, path: str, state_dict: Mapping[str, np.ndarray], options: Mapping[str, str]
) -> towers.Towers:
    """Towers of a state dict.

    Args:
        kind: 'openclip' or 'hf_clip': how the arrays are named.
        path: where they come from; config files are looked for beside it.
        state_dict: name -> array, read one at a time.
        options: of ``DEFAULTS``.

    Raises:
        ValueError: an unknown option, a model of another class, sizes that ``arch`` or a config file
            contradict, another vocabulary than the tokenizer's, preprocessing that is not known here,
            or an architecture that must be told; one message lists all misfits.
    """
    plan = _plan(kind, path, state_dict, options)
    config, pixels, options = plan.config, plan.pixels, plan.options
    dtype = DTYPES[options["dtype"]]
    converted = _convert(kind, path, state_dict, plan, dtype)
    arrays = name_tables.flatten(converted.variables)
    params = jax.tree.map(jnp.asarray, converted.variables)
    model = clip.Clip(config, dtype)
    background = image_preprocess.BACKGROUNDS[options["background"]]
    tokenizer = bpe.BpeTokenizer(config.context, options["on_long"])

    # The weights are arguments of the compiled functions: as constants they would be copied into the
    # programs, which takes minutes for large towers.
    @jax.jit
    def encode_images(params, pictures):
        x = image_preprocess.normalize(pictures, pixels.mean, pixels.std).astype(dtype)
        features = model.apply({"params": params}, x, method="encode_images")
        return toy_towers.normalize(features)

    @jax.jit
    def encode_texts(params, tokens):
        features = model.apply({"params": params}, tokens, method="encode_texts")
        return toy_towers.normalize(features)

    return towers.Towers(
        name="clip",
        dim=config.dim,
        digest=towers.digest_of("clip", plan.described, arrays),
        preprocessing=plan.preprocessing,
        prepare_image=lambda picture: image_preprocess.crop(
            picture, config.image_size, background, pixels.resize
        ),
        tokenize=tokenizer,
        encode_images=functools.partial(encode_images, params),
        encode_texts=functools.partial(encode_texts, params),
        licence=options["licence"],
    )


def check(
    kind: str, path: str, state_dict: Mapping[str, np.ndarray], options: Mapping[str, str]
) -> towers.Checked:
    """Checks all that :func:`build` does but reads no array.

    Args, Raises: as :func:`build`.
    """
    plan = _plan(kind, path, state_dict, options)
    _convert(kind, path, blank(state_dict), plan, None)
    write = _openclip_files if kind == "openclip" else _hf_files
    return towers.Checked(
        name=plan.arch or "clip",
        config=plan.described,
        preprocessing=plan.preprocessing,
        dim=plan.config.dim,
        licence=plan.options["licence"],
        options=telling_options(plan.arch, plan.pixels, plan.options),
        unused=matching(state_dict, clip_tables.IGNORE[NAMINGS[kind]]),
        files={name: json.dumps(value, indent=2) + "\n" for name, value in write(plan).items()},
    )


def _plan(kind: str, path: str, state_dict: Mapping, options: Mapping[str, str]) -> _Plan:
    given = options
    options = checked(options)
    shapes = _shapes(state_dict)
    found = clip_tables.sizes(shapes, NAMINGS[kind], path)
    config, pixels, licence = _architecture(kind, path, found, options)
    check_vocabulary(path, config.vocabulary)
    options["licence"] = given.get("licence") or licence or DEFAULTS["licence"]
    arch = options["arch"] or next(
        (name for name, known in clip_presets.PRESETS.items() if known == config), ""
    )
    return _Plan(arch, config, pixels, options)


def _convert(kind: str, path: str, state_dict: Mapping, plan: _Plan, dtype):
    return name_tables.convert(
        state_dict,
        clip_tables.table(plan.config, NAMINGS[kind]),
        name_tables.flat_shapes(clip.abstract_variables(plan.config)),
        what=f"{path} as {plan.options['arch'] or kind}",
        ignore=clip_tables.IGNORE[NAMINGS[kind]],
        dtype=dtype,
    )


def described_inputs(
    config: clip.ClipConfig, pixels: image_preprocess.Pixels, options: Mapping[str, str]
) -> str:
    """What happens to pictures and captions, in words; part of caches' keys."""
    return (
        f"{pixels.describe(config.image_size, options['background'])}; CLIP byte pairs, "
        f"{config.context} ids, long captions: {options['on_long']}"
    )


def check_vocabulary(path: str, rows: int) -> None:
    """Raises unless a token table has as many rows as the tokenizer has ids.

    Ids beyond a table are clamped on the device without a word: captions would be read as others.
    """
    if rows != bpe.VOCABULARY:
        raise ValueError(
            f"{path}: its token table has {rows} rows, the tokenizer (CLIP's byte pairs) has "
            f"{bpe.VOCABULARY} ids; its captions were split by another tokenizer, which is not "
            "supported: take a pair trained with CLIP's own"
        )


def blank(state_dict: Mapping) -> dict[str, np.ndarray]:
    """Arrays of the same names and shapes that take no memory."""
    return {name: np.broadcast_to(np.int8(0), shape) for name, shape in _shapes(state_dict).items()}


def matching(names: Iterable[str], patterns: Iterable[str]) -> list[str]:
    """Names that one of the regular expressions matches from the start."""
    return [name for name in names if any(re.match(pattern, name) for pattern in patterns)]


def telling_options(
    arch: str, pixels: image_preprocess.Pixels, options: Mapping[str, str]
) -> dict[str, str]:
    """Those of ``DEFAULTS`` that say again what was found: architecture, pixels, licence."""
    norms = [n for n, value in image_preprocess.NORMS.items() if value == (pixels.mean, pixels.std)]
    told = dict(arch=arch, norm=(*norms, "clip")[0], resize=pixels.resize)
    told["licence"] = options["licence"]
    return {name: value for name, value in told.items() if value != DEFAULTS[name]}


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
    """(config, pixels, licence) from the files beside the weights, the name, or both in accord."""
    pixels = default_pixels(options)
    licence, arch = "", options["arch"]
    wanted = clip_presets.preset(arch) if arch else None
    told: dict = dict(found)
    known = sorted(clip_presets.PRESETS)
    stated = beside(
        path, CONFIG_FILES[kind], lambda text: _FROM_FILE[kind](text, found, pixels), known
    )
    if stated is not None:
        more, pixels, licence = stated
        told |= more
    elif wanted is None:
        raise _untold(path, found)
    if kind == "hf_clip":
        read = functools.partial(
            image_preprocess.hugging_face_pixels, size=found["image_size"], default=pixels
        )
        pixels = beside(path, PREPROCESSOR, read, known) or pixels
    if wanted is None:
        return clip.ClipConfig(**told), pixels, licence
    wrong = [
        f"{name}: found {value}, expected {getattr(wanted, name)}"
        for name, value in told.items()
        if value != getattr(wanted, name)
    ]
    if wrong:
        raise ValueError(f"{path} is no {arch}:\n" + "\n".join(wrong))
    return wanted, pixels, licence


def default_pixels(options: Mapping[str, str]) -> image_preprocess.Pixels:
    """Pixels that the options ask for."""
    return image_preprocess.Pixels(*image_preprocess.NORMS[options["norm"]], options["resize"])


def beside(path: str, name: str, read: Callable[[Mapping], Any], known: Iterable[str]) -> Any:
    """What ``read`` makes of a JSON file beside the weights; None if there is no such file.

    Args:
        path: of the weights: a file, or a folder of them.
        name: of the file.
        read: of what the file holds; raises ValueError where it cannot be used.
        known: architectures to name in the message.

    Raises:
        ValueError: naming the file and what is wrong with it.
    """
    place = epath.Path(path)
    file = (place if place.is_dir() else place.parent) / name
    if not file.exists():
        return None
    try:
        return read(json.loads(file.read_text()))
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise ValueError(
            f"{file}: cannot be used ({type(error).__name__}: {error}); if it belongs to another "
            f"model, move the weights away from it and give ?arch= with one of {list(known)}"
        ) from None


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


_FROM_FILE = {"openclip": _from_openclip, "hf_clip": _from_hf}


def preprocess_cfg(pixels: image_preprocess.Pixels) -> dict:
    """The block of open_clip_config.json that says the same."""
    return dict(
        mean=list(pixels.mean),
        std=list(pixels.std),
        interpolation="bicubic",
        resize_mode=pixels.resize,
    )


def _openclip_files(plan: _Plan) -> dict[str, dict]:
    """open_clip_config.json of a pair."""
    c = plan.config
    image = dict(
        head_width=c.image_width // c.image_heads, mlp_ratio=c.image_hidden / c.image_width
    )
    text = dict(mlp_ratio=c.text_hidden / c.text_width)
    model: dict = dict(quick_gelu=c.quick_gelu, vision_cfg=image, text_cfg=text)
    _fill(model, c, _OPENCLIP_SIZES)
    about = dict(model_cfg=model, preprocess_cfg=preprocess_cfg(plan.pixels))
    return {CONFIG_FILES["openclip"]: about | dict(licence=plan.options["licence"])}


def _hf_files(plan: _Plan) -> dict[str, dict]:
    """config.json and preprocessor_config.json of a pair."""
    c, pixels = plan.config, plan.pixels
    act = dict(hidden_act="quick_gelu" if c.quick_gelu else "gelu", projection_dim=c.dim)
    about: dict = dict(model_type="clip", architectures=["CLIPModel"])
    about |= dict(vision_config=dict(act), text_config=dict(act), licence=plan.options["licence"])
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
