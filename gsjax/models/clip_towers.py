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
import re
from collections.abc import Iterable, Mapping

import jax
import jax.numpy as jnp
import numpy as np

from gsjax.models import (
    bpe,
    clip,
    clip_configs,
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
    return towers.Checked(
        name=plan.arch or "clip",
        config=plan.described,
        preprocessing=plan.preprocessing,
        dim=plan.config.dim,
        licence=plan.options["licence"],
        options=telling_options(plan.arch, plan.pixels, plan.options),
        unused=matching(state_dict, clip_tables.IGNORE[NAMINGS[kind]]),
        files=clip_configs.files(kind, plan.config, plan.pixels, plan.options["licence"]),
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
    stated = clip_configs.read(kind, path, found, pixels)
    if stated is not None:
        more, pixels, licence = stated
        told |= more
    elif wanted is None:
        raise _untold(path, found)
    if kind == "hf_clip":
        pixels = clip_configs.read_preprocessor(path, found["image_size"], pixels)
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
    files = " or ".join(clip_configs.CONFIG_FILES.values())
    return ValueError(
        f"{path}: no known model has these sizes: {found}; number of heads and activation cannot be "
        f"seen. Put the model's config file ({files}) beside it"
    )
