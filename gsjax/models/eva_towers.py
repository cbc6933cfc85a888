"""Loads EVA-CLIP pairs from state dicts of OpenCLIP and of EVA-CLIP itself.

The door is ``towers.load('evaclip:PATH', weights.open_state_dict)``. Options are those of
``clip_towers`` and

    stream      no (default) or yes: the image tower stays in the file, and one layer at a time is on the
                device (one device); for towers larger than its memory. Slow unless many pictures pass
                a call, which `gsjax.data.embed` takes care of

``arch``, a name of ``eva_presets``, is only needed to be sure: the published sizes all differ in their
shapes.
"""

import functools
from collections.abc import Iterator, Mapping

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

DEFAULTS = dict(clip_towers.DEFAULTS, stream="no")
_STREAM_BATCH = 1024  # pictures a pass over the file; 0.9 GB of tokens of E-14 in bfloat16


def build(
    kind: str, path: str, state_dict: Mapping[str, np.ndarray], options: Mapping[str, str]
) -> towers.Towers:
    """Towers of a state dict.

    Args:
        kind: 'evaclip'.
        path: where it comes from, for messages.
        state_dict: name -> array, read one at a time.
        options: of ``DEFAULTS``.

    Raises:
        ValueError: an unknown option, a model of another class, or arrays that do not fit; one
            message lists all misfits.
    """
    options = {**DEFAULTS, **options}
    stream = options.pop("stream")
    if stream not in ("no", "yes"):
        raise ValueError(f"towers: option stream: unknown {stream!r}; known: ['no', 'yes']")
    options = clip_towers.checked(options)
    dtype = clip_towers.DTYPES[options["dtype"]]
    arch, config = architecture(path, state_dict, options["arch"])
    described = dict(vars(config.image), dtype=options["dtype"], text=vars(config.text))
    background = image_preprocess.BACKGROUNDS[options["background"]]
    mean, std = image_preprocess.NORMS[options["norm"]]
    size, resize = config.image.image_size, options["resize"]
    text = clip.TextTower(config.text, dtype)
    params = {"text": convert_text(path, state_dict, config, dtype)}
    if stream == "yes":
        check_image(path, state_dict, config)
        read = eva_tables.layer_reader(config.image, state_dict)
        arrays = {f"text/{name}": x for name, x in name_tables.flatten(params["text"]).items()}
        digest = towers.digest_of(kind, described, _Layers(arrays, config.image, read, dtype))

        def images(pictures):
            pixels = np.asarray(image_preprocess.normalize(pictures, mean, std))
            return toy_towers.normalize(
                jnp.asarray(eva.stream_encode(config.image, read, pixels, dtype=dtype))
            )

    else:
        params["image"] = convert_image(path, state_dict, config, dtype)
        digest = towers.digest_of(kind, described, name_tables.flatten(params))
        tower = eva.EvaTower(config.image, dtype)

        # The weights are arguments: as constants they would be copied into the compiled programs.
        @jax.jit
        def encode_images(params, pictures):
            pixels = image_preprocess.normalize(pictures, mean, std).astype(dtype)
            return toy_towers.normalize(tower.apply({"params": params}, pixels))

        images = functools.partial(encode_images, jax.tree.map(jnp.asarray, params["image"]))

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
        encode_images=images,
        encode_texts=functools.partial(encode_texts, jax.tree.map(jnp.asarray, params["text"])),
        licence=options["licence"],
        batch=_STREAM_BATCH if stream == "yes" else 0,
    )


class _Layers(Mapping):
    """All arrays as :func:`convert` gives them, those of the image tower read a layer at a time."""

    def __init__(self, rest: Mapping[str, np.ndarray], config: eva.EvaConfig, read, dtype):
        self._rest, self._read, self._dtype = rest, read, dtype
        names = name_tables.flat_shapes(eva.abstract_variables(config))
        self._names = [f"image/{name}" for name in names]
        self._layer: tuple[str, dict] = ("", {})

    def __getitem__(self, name: str) -> np.ndarray:
        if name in self._rest:
            return self._rest[name]
        _, layer, leaf = name.split("/", 2)
        if self._layer[0] != layer:
            self._layer = layer, name_tables.flatten(self._read(layer))
        return np.array(self._layer[1][leaf], self._dtype, order="C")

    def __iter__(self) -> Iterator[str]:
        return iter([*self._names, *self._rest])

    def __len__(self) -> int:
        return len(self._names) + len(self._rest)


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


def convert_image(
    path: str, state_dict: Mapping[str, np.ndarray], config: eva_presets.EvaClipConfig, dtype=None
) -> dict:
    """Parameters of ``eva.EvaTower`` as NumPy arrays.

    Args:
        path: for messages.
        state_dict: of either naming; read array by array.
        config: sizes.
        dtype: None keeps the file's.

    Raises:
        ValueError: keys missing or left over, or of other shapes; one message lists them.
    """
    return _convert_image(path, eva_tables.image_view(state_dict, path), config, dtype)


def check_image(path: str, state_dict: Mapping, config: eva_presets.EvaClipConfig) -> None:
    """Raises as :func:`convert_image` does, from names and shapes alone, without reading arrays."""
    view = eva_tables.image_view(state_dict, path)
    blank = {name: np.broadcast_to(np.int8(0), shape) for name, shape in view.shapes().items()}
    _convert_image(path, blank, config, None)


def _convert_image(path, view, config, dtype):
    return name_tables.convert(
        view,
        eva_tables.image_table(config.image, eva_tables.is_fused(view)),
        name_tables.flat_shapes(eva.abstract_variables(config.image)),
        what=f"{path}, image tower",
        ignore=eva_tables.IGNORE,
        dtype=dtype,
    ).variables


def convert_text(
    path: str, state_dict: Mapping[str, np.ndarray], config: eva_presets.EvaClipConfig, dtype=None
) -> dict:
    """Parameters of ``clip.TextTower``; otherwise as :func:`convert_image`."""
    tokens = jax.ShapeDtypeStruct((1, config.text.context), jnp.int32)
    wanted = jax.eval_shape(clip.TextTower(config.text).init, jax.random.key(0), tokens)["params"]
    return name_tables.convert(
        eva_tables.text_view(state_dict),
        eva_tables.text_table(config),
        name_tables.flat_shapes({"text": wanted}),
        what=f"{path}, text tower",
        ignore=(*eva_tables.IGNORE, r"logit_scale$"),
        dtype=dtype,
    ).variables["text"]
