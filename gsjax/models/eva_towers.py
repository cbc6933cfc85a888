"""Loads EVA-CLIP pairs from state dicts of OpenCLIP and of EVA-CLIP itself.

The door is ``towers.load('evaclip:PATH', weights.open_state_dict)``. Options are those of
``clip_towers`` and

    stream      no (default) or yes: the image tower stays in the file, and one layer at a time is on the
                device (one device); for towers larger than its memory. Slow unless many pictures pass
                a call, which `gsjax.data.embed` takes care of

``arch``, a name of ``eva_presets``, is only needed to be sure: the published sizes all differ in their
shapes. An open_clip_config.json beside the weights is read for ``preprocess_cfg`` and must not
contradict the sizes found.
"""

import dataclasses
import functools
import json
from collections.abc import Iterator, Mapping

import jax
import jax.numpy as jnp
import numpy as np

from gsjax.models import (
    bpe,
    clip,
    clip_configs,
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
_CONFIG_FILE = clip_configs.CONFIG_FILES["openclip"]
_STREAM_BATCH = 1024  # pictures a pass over the file; 0.9 GB of tokens of E-14 in bfloat16


@dataclasses.dataclass(frozen=True)
class _Plan:
    """What names, shapes and the file beside the weights say.

    Attributes:
        arch: name in ``eva_presets``.
        config: its sizes.
        pixels: how the image tower takes pictures.
        options: filled in, ``stream`` included.
        model_cfg: block of the file beside the weights; empty without one.
    """

    arch: str
    config: eva_presets.EvaClipConfig
    pixels: image_preprocess.Pixels
    options: Mapping[str, str]
    model_cfg: Mapping

    @property
    def preprocessing(self) -> str:
        return clip_towers.described_inputs(self.config.text, self.pixels, self.options)

    @property
    def described(self) -> dict:
        parts = dict(vars(self.config.image), dtype=self.options["dtype"])
        return parts | dict(text=vars(self.config.text))


def build(
    kind: str, path: str, state_dict: Mapping[str, np.ndarray], options: Mapping[str, str]
) -> towers.Towers:
    """Towers of a state dict.

    Args:
        kind: 'evaclip'.
        path: where it comes from; open_clip_config.json is looked for beside it.
        state_dict: name -> array, read one at a time.
        options: of ``DEFAULTS``.

    Raises:
        ValueError: an unknown option, a model of another class, arrays that do not fit, another
            vocabulary than the tokenizer's, or a config file that contradicts the arrays or asks for
            preprocessing that is not known here; one message lists all misfits.
    """
    plan = _plan(path, state_dict, options)
    config, pixels, options = plan.config, plan.pixels, plan.options
    dtype = clip_towers.DTYPES[options["dtype"]]
    background = image_preprocess.BACKGROUNDS[options["background"]]
    size, stream = config.image.image_size, options["stream"]
    text = clip.TextTower(config.text, dtype)
    params = {"text": convert_text(path, state_dict, config, dtype)}
    if stream == "yes":
        check_image(path, state_dict, config)
        read = eva_tables.layer_reader(config.image, state_dict)
        arrays = {f"text/{name}": x for name, x in name_tables.flatten(params["text"]).items()}
        digest = towers.digest_of(kind, plan.described, _Layers(arrays, config.image, read, dtype))

        def images(pictures):
            x = np.asarray(image_preprocess.normalize(pictures, pixels.mean, pixels.std))
            return toy_towers.normalize(
                jnp.asarray(eva.stream_encode(config.image, read, x, dtype=dtype))
            )

    else:
        params["image"] = convert_image(path, state_dict, config, dtype)
        digest = towers.digest_of(kind, plan.described, name_tables.flatten(params))
        tower = eva.EvaTower(config.image, dtype)

        # The weights are arguments: as constants they would be copied into the compiled programs.
        @jax.jit
        def encode_images(params, pictures):
            x = image_preprocess.normalize(pictures, pixels.mean, pixels.std).astype(dtype)
            return toy_towers.normalize(tower.apply({"params": params}, x))

        images = functools.partial(encode_images, jax.tree.map(jnp.asarray, params["image"]))

    @jax.jit
    def encode_texts(params, tokens):
        return toy_towers.normalize(text.apply({"params": params}, tokens))

    return towers.Towers(
        name=plan.arch,
        dim=config.image.dim,
        digest=digest,
        preprocessing=plan.preprocessing,
        prepare_image=lambda picture: image_preprocess.crop(
            picture, size, background, pixels.resize
        ),
        tokenize=bpe.BpeTokenizer(config.text.context, options["on_long"]),
        encode_images=images,
        encode_texts=functools.partial(encode_texts, jax.tree.map(jnp.asarray, params["text"])),
        licence=options["licence"],
        batch=_STREAM_BATCH if stream == "yes" else 0,
    )


def check(
    kind: str, path: str, state_dict: Mapping[str, np.ndarray], options: Mapping[str, str]
) -> towers.Checked:
    """Checks all that :func:`build` does but reads no array.

    Args, Raises: as :func:`build`.
    """
    del kind
    plan = _plan(path, state_dict, options)
    check_image(path, state_dict, plan.config)
    convert_text(path, clip_towers.blank(state_dict), plan.config)
    about = dict(model_cfg=plan.model_cfg) if plan.model_cfg else {}
    about |= dict(preprocess_cfg=clip_configs.preprocess_cfg(plan.pixels))
    about |= dict(licence=plan.options["licence"])
    return towers.Checked(
        name=plan.arch,
        config=plan.described,
        preprocessing=plan.preprocessing,
        dim=plan.config.image.dim,
        licence=plan.options["licence"],
        options=clip_towers.telling_options(plan.arch, plan.pixels, plan.options),
        unused=clip_towers.matching(state_dict, eva_tables.IGNORE),
        files={_CONFIG_FILE: json.dumps(about, indent=2) + "\n"},
    )


def _plan(path: str, state_dict: Mapping, options: Mapping[str, str]) -> _Plan:
    given = dict(options)
    stream = given.pop("stream", DEFAULTS["stream"])
    if stream not in ("no", "yes"):
        raise ValueError(f"towers: option stream: unknown {stream!r}; known: ['no', 'yes']")
    filled = dict(clip_towers.checked(given), stream=stream)
    arch, config = architecture(path, state_dict, filled["arch"])
    clip_towers.check_vocabulary(path, config.text.vocabulary)
    pixels, licence, model_cfg = clip_towers.default_pixels(filled), "", {}
    stated = clip_configs.beside(
        path, _CONFIG_FILE, lambda text: _from_file(text, config, pixels), eva_presets.PRESETS
    )
    if stated is not None:
        pixels, licence, model_cfg = stated
    filled["licence"] = given.get("licence") or licence or DEFAULTS["licence"]
    return _Plan(arch, config, pixels, filled, model_cfg)


def _from_file(text: Mapping, config: eva_presets.EvaClipConfig, pixels: image_preprocess.Pixels):
    """(pixels, licence, model_cfg) of open_clip_config.json; it may leave out ``model_cfg``."""
    model = text.get("model_cfg") or {}
    clip_configs.check_openclip_sizes(model, vars(config.text))
    image = model.get("vision_cfg") or {}
    tower = image.get("timm_model_name") or image.get("eva_model_name") or ""
    if image and not tower.lower().startswith("eva"):
        raise ValueError(f"its image tower is {tower or 'a plain ViT'!r}, the arrays are EVA's")
    if model.get("quick_gelu"):
        raise ValueError("quick_gelu; the text towers of EVA-CLIP have plain GELU")
    stated = text.get("preprocess_cfg") or {}
    pixels = image_preprocess.openclip_pixels(stated, config.image.image_size, pixels)
    return pixels, clip_configs.stated_licence(text), model


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
    names = ("token_embedding", "transformer.resblocks.0.mlp.c_fc")
    ranks = dict.fromkeys((*(f"text.{x}.weight" for x in names), "text.positional_embedding"), 2)
    try:
        name_tables.check_ranks(view.shapes(), ranks, path)
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
    convert_image(path, clip_towers.blank(state_dict), config)


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
