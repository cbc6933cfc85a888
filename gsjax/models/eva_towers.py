"""Loads EVA-CLIP pairs from state dicts of OpenCLIP and of EVA-CLIP itself.

The door is ``towers.load('evaclip:PATH', weights.open_state_dict)``. Options are those of
``clip_towers``; ``arch``, a name of ``eva_presets``, is only needed to be sure, since the published
sizes all differ in their shapes. Towers larger than the device: ``eva.stream_encode``.
"""

import functools
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

from gsjax.models import (
    bpe,
    clip,
    clip_towers,
    eva,
    eva_presets,
    eva_tables,
    image_preprocess,
    name_tables,
    towers,
    toy_towers,
)


def build(
    kind: str, path: str, state_dict: Mapping[str, np.ndarray], options: Mapping[str, str]
) -> towers.Towers:
    """Towers of a state dict.

    Args:
        kind: 'evaclip'.
        path: where it comes from, for messages.
        state_dict: name -> array, read one at a time.
        options: of ``clip_towers.DEFAULTS``.

    Raises:
        ValueError: an unknown option, a model of another class, or arrays that do not fit; one
            message lists all misfits.
    """
    options = clip_towers.checked(options)
    dtype = clip_towers.DTYPES[options["dtype"]]
    arch, config = architecture(path, state_dict, options["arch"])
    params = convert(path, state_dict, config, dtype)
    described = dict(vars(config.image), dtype=options["dtype"], text=vars(config.text))
    digest = towers.digest_of(kind, described, name_tables.flatten(params))
    params = jax.tree.map(jnp.asarray, params)
    image, text = eva.EvaTower(config.image, dtype), clip.TextTower(config.text, dtype)
    background = image_preprocess.BACKGROUNDS[options["background"]]
    mean, std = image_preprocess.NORMS[options["norm"]]
    size, resize = config.image.image_size, options["resize"]

    # The weights are arguments: as constants they would be copied into the compiled programs.
    @jax.jit
    def encode_images(params, pictures):
        pixels = image_preprocess.normalize(pictures, mean, std).astype(dtype)
        return toy_towers.normalize(image.apply({"params": params}, pixels))

    @jax.jit
    def encode_texts(params, tokens):
        return toy_towers.normalize(text.apply({"params": params}, tokens))

    return towers.Towers(
        name=arch or kind,
        dim=config.image.dim,
        digest=digest,
        preprocessing=(
            f"alpha on {options['background']}, {resize}, bicubic to {size} px, centre crop, mean "
            f"{mean}, std {std}; CLIP byte pairs, {config.text.context} ids, long captions: {options['on_long']}"
        ),
        prepare_image=lambda picture: image_preprocess.crop(picture, size, background, resize),
        tokenize=bpe.BpeTokenizer(config.text.context, options["on_long"]),
        encode_images=functools.partial(encode_images, params["image"]),
        encode_texts=functools.partial(encode_texts, params["text"]),
        licence=options["licence"],
    )


def architecture(
    path: str, state_dict: Mapping[str, np.ndarray], arch: str = ""
) -> tuple[str, eva_presets.EvaClipConfig]:
    """(name, sizes) of a pair, from its shapes.

    Args:
        path: for messages.
        state_dict: of either naming.
        arch: name of ``eva_presets`` that it must be; '' = the one that fits.

    Raises:
        ValueError: no EVA pair, no published one, or not the one asked for.
    """
    found = eva_tables.sizes(eva_tables.image_view(state_dict, path).shapes(), path)
    text = _text_sizes(state_dict, path)
    names = [arch] if arch else list(eva_presets.PRESETS)
    wrong: list[str] = []
    for name in names:
        config = eva_presets.preset(name)
        wrong = [
            f"{what}: found {value}, expected {getattr(part, what)}"
            for part, values in ((config.image, found), (config.text, text))
            for what, value in values.items()
            if value != getattr(part, what)
        ]
        if not wrong:
            return name, config
    if arch:
        raise ValueError(f"{path} is no {arch}:\n" + "\n".join(wrong))
    raise ValueError(
        f"{path}: no published EVA-CLIP pair has these sizes: image {found}, text {text}; known: "
        f"{sorted(eva_presets.PRESETS)}"
    )


def _text_sizes(state_dict, path) -> dict:
    """Fields of ``ClipConfig`` that the text tower's shapes tell."""
    view = eva_tables.text_view(state_dict)
    try:
        vocabulary, width = view.shape("text.token_embedding.weight")
        context = view.shape("text.positional_embedding")[0]
        hidden = view.shape("text.transformer.resblocks.0.mlp.c_fc.weight")[0]
    except KeyError as error:
        raise ValueError(
            f"{path}: an EVA image tower without its text tower (it lacks {error}); take the file of "
            "the whole pair"
        ) from None
    layers = {key.split(".")[3] for key in view if key.startswith("text.transformer.resblocks.")}
    return dict(
        text_width=width,
        text_layers=len(layers),
        text_hidden=hidden,
        context=context,
        vocabulary=vocabulary,
    )


def convert(
    path: str,
    state_dict: Mapping[str, np.ndarray],
    config: eva_presets.EvaClipConfig,
    dtype=None,
) -> dict:
    """Parameters {'image': of ``eva.EvaTower``, 'text': of ``clip.TextTower``} as NumPy arrays.

    Args:
        path: for messages.
        state_dict: of either naming; read array by array.
        config: sizes.
        dtype: None keeps the file's.

    Raises:
        ValueError: keys missing or left over, or of other shapes; one message a tower lists them.
    """
    view = eva_tables.image_view(state_dict, path)
    image = name_tables.convert(
        view,
        eva_tables.image_table(config.image, eva_tables.is_fused(view)),
        name_tables.flat_shapes(eva.abstract_variables(config.image)),
        what=f"{path}, image tower",
        ignore=eva_tables.IGNORE,
        dtype=dtype,
    )
    tokens = jax.ShapeDtypeStruct((1, config.text.context), jnp.int32)
    tower = clip.TextTower(config.text)
    wanted = jax.eval_shape(tower.init, jax.random.key(0), tokens)["params"]
    text = name_tables.convert(
        eva_tables.text_view(state_dict),
        eva_tables.text_table(config),
        name_tables.flat_shapes({"text": wanted}),
        what=f"{path}, text tower",
        ignore=(*eva_tables.IGNORE, r"logit_scale$"),
        dtype=dtype,
    )
    return {"image": image.variables, "text": text.variables["text"]}
