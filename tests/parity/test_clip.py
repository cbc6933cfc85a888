"""CLIP towers, pictures, captions and weight files against torch, transformers and OpenCLIP, on CPU.

Small models with random weights, written and read back as files: every block's output, features,
preprocessing, ids. Tolerance: float32 sums over 100 numbers differ by 1e-6 relative; activations
here are of order 1 to 10, two blocks deep; 2e-5 is ten times what was seen.

    pip install 'torch==2.13.0' 'torchvision==0.28.0' 'transformers==5.23.0' 'gsjax[clip]'
    pip install --no-deps 'open-clip-torch==3.3.0' 'timm==1.0.31'
    python -m pytest -q -s tests/parity/test_clip.py

prints the largest errors as a table. Whatever is absent is skipped.
"""

import dataclasses
import json

import jax
import numpy as np
import pytest

from gsjax.io import weights
from gsjax.models import bpe, clip, clip_tables, image_preprocess, name_tables, towers
from tests.models import clip_case
from tests.parity import torch_vision

torch = pytest.importorskip("torch", reason="torch is not installed")

pytestmark = pytest.mark.parity

TOLERANCE = 2e-5


@pytest.fixture(scope="module")
def report():
    """Collects (what, largest error); prints the table at the end."""
    rows: list[tuple[str, float]] = []
    yield rows
    width = max((len(what) for what, _ in rows), default=0)
    print("\n" + "\n".join(f"{what:{width}}  {error:.1e}" for what, error in rows))


def _compare(report, record_property, what, found, expected, tolerance=TOLERANCE):
    found, expected = np.asarray(found), expected.detach().numpy()
    assert found.shape == expected.shape, what
    error = float(np.abs(found - expected).max())
    report.append((what, error))
    record_property(what, error)
    assert error < tolerance, f"{what}: largest error {error}"
    assert np.abs(expected).max() > 0.01, f"{what}: nothing to compare"


@pytest.fixture(scope="module")
def inputs():
    rng = np.random.default_rng(0)
    pixels = rng.normal(size=(3, 24, 24, 3)).astype(np.float32)
    ids = np.zeros((3, 9), np.int32)
    ids[0, :4] = 48, 3, 4, 49
    ids[1] = 48, *rng.integers(1, 48, 7), 49
    ids[2, :2] = 48, 49
    return pixels, ids


def _stirred(model, seed=0):
    """A torch model whose every parameter is random: initial zeros and ones would hide mistakes."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            fan = parameter.shape[-1] if parameter.ndim > 1 else 4
            parameter.copy_(noise / fan**0.5)
    return model.eval()


def _ours(state_dict, naming, config, inputs):
    """(features, block outputs) of our model with these weights."""
    variables = name_tables.convert(
        state_dict,
        clip_tables.table(config, naming),
        name_tables.flat_shapes(clip.abstract_variables(config)),
        what=naming,
        ignore=clip_tables.IGNORE[naming],
        dtype=np.float32,
    ).variables

    @jax.jit
    def run(params, pixels, ids):
        blocks = lambda module, _: isinstance(module, clip.Block)  # noqa: E731
        return clip.Clip(config).apply(
            {"params": params}, pixels, ids, capture_intermediates=blocks
        )

    features, state = run(variables, *inputs)
    hidden = {
        f"{tower} block {i}": state["intermediates"][tower][f"blocks_{i}"]["__call__"][0]
        for tower, layers in (("image", config.image_layers), ("text", config.text_layers))
        for i in range(layers)
    }
    return features, hidden


def _check(report, record_property, name, ours, features, hidden):
    for what, expected in hidden.items():
        _compare(report, record_property, f"{name} {what}", ours[1][what], expected)
    for what, found, expected in zip(("image", "text"), ours[0], features, strict=True):
        _compare(report, record_property, f"{name} {what} features", found, expected)


# ------------------------------------------------------------------------------ transformers


@pytest.mark.parametrize("act", ["gelu", "quick_gelu"])
@pytest.mark.parametrize("ending", ["safetensors", "bin"])
def test_transformers_clip(tmp_path, report, record_property, inputs, act, ending):
    torch_vision.available()  # transformers imports it where it is installed
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    c = dataclasses.replace(clip_case.CONFIG, quick_gelu=act == "quick_gelu", vocabulary=49_408)
    config = transformers.CLIPConfig(
        text_config=dict(
            vocab_size=c.vocabulary, hidden_size=c.text_width, intermediate_size=c.text_hidden,
            num_hidden_layers=c.text_layers, num_attention_heads=c.text_heads, hidden_act=act,
            max_position_embeddings=c.context, projection_dim=c.dim, eos_token_id=49,
            bos_token_id=48, pad_token_id=0,
        ),
        vision_config=dict(
            hidden_size=c.image_width, intermediate_size=c.image_hidden, hidden_act=act,
            num_hidden_layers=c.image_layers, num_attention_heads=c.image_heads,
            image_size=c.image_size, patch_size=c.patch, projection_dim=c.dim,
        ),
        projection_dim=c.dim,
    )  # fmt: skip
    model = _stirred(transformers.CLIPModel(config))
    if ending == "safetensors":
        pytest.importorskip("safetensors", reason="safetensors is not installed")
        model.save_pretrained(tmp_path)
    else:
        torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
        config.save_pretrained(tmp_path)
    state_dict = weights.open_state_dict(tmp_path)
    pixels, ids = torch.tensor(inputs[0]).permute(0, 3, 1, 2), torch.tensor(inputs[1]).long()
    with torch.no_grad():
        found = model(input_ids=ids, pixel_values=pixels)
        image = model.vision_model(pixel_values=pixels, output_hidden_states=True)
        text = model.text_model(input_ids=ids, output_hidden_states=True)
        features = (
            model.visual_projection(image.pooler_output),
            model.text_projection(text.pooler_output),
        )
    hidden = {f"image block {i}": image.hidden_states[i + 1] for i in range(c.image_layers)}
    hidden |= {f"text block {i}": text.hidden_states[i + 1] for i in range(c.text_layers)}
    ours = _ours(state_dict, "hf", c, inputs)
    _check(report, record_property, f"transformers {act} {ending}", ours, features, hidden)
    # The loader, which finds heads and activation in config.json.
    loaded = towers.load(f"hf_clip:{tmp_path}", weights.open_state_dict)
    _compare(
        report, record_property, f"transformers {act} {ending} unit text vectors",
        loaded.encode_texts(inputs[1]), found.text_embeds,
    )  # fmt: skip


# ------------------------------------------------------------------------------ OpenCLIP


@pytest.fixture(scope="module")
def open_clip():
    pytest.importorskip("ftfy", reason="the extra clip is not installed")
    if not torch_vision.available():
        pytest.skip("torchvision is not installed")
    return pytest.importorskip(
        "open_clip", reason="open_clip cannot be imported", exc_type=ImportError
    )


def _open_clip_sizes(c):
    image = dict(
        image_size=c.image_size, layers=c.image_layers, width=c.image_width, patch_size=c.patch,
        head_width=c.image_width // c.image_heads, mlp_ratio=c.image_hidden / c.image_width,
    )  # fmt: skip
    text = dict(
        context_length=c.context, vocab_size=c.vocabulary, width=c.text_width,
        heads=c.text_heads, layers=c.text_layers,
    )  # fmt: skip
    return dict(embed_dim=c.dim, quick_gelu=c.quick_gelu, vision_cfg=image, text_cfg=text)


@pytest.mark.parametrize("quick", [False, True], ids=["gelu", "quickgelu"])
@pytest.mark.parametrize("ending", ["zip.pt", "legacy.pt", "safetensors"])
def test_openclip(tmp_path, open_clip, report, record_property, inputs, quick, ending):
    c = dataclasses.replace(clip_case.CONFIG, quick_gelu=quick, vocabulary=49_408)
    sizes = _open_clip_sizes(c)
    model = _stirred(open_clip.CLIP(**sizes))
    path = tmp_path / f"open_clip_model.{ending}"
    if ending == "safetensors":
        pytest.importorskip("safetensors.torch", reason="safetensors is not installed")
        from safetensors.torch import save_file

        save_file(model.state_dict(), path)
    else:  # as its training loop writes them
        torch.save(
            {"epoch": 1, "state_dict": {f"module.{k}": v for k, v in model.state_dict().items()}},
            path,
            _use_new_zipfile_serialization=ending == "zip.pt",
        )
    (tmp_path / "open_clip_config.json").write_text(json.dumps(dict(model_cfg=sizes)))
    pixels, ids = torch.tensor(inputs[0]).permute(0, 3, 1, 2), torch.tensor(inputs[1]).long()
    hidden = {}

    def keep(name):
        return lambda module, args, result: hidden.__setitem__(name, result)

    for tower, stack in (("image", model.visual.transformer), ("text", model.transformer)):
        for i, block in enumerate(stack.resblocks):
            block.register_forward_hook(keep(f"{tower} block {i}"))
    with torch.no_grad():
        features = model.encode_image(pixels), model.encode_text(ids)
        unit = model.encode_text(ids, normalize=True)
    ours = _ours(weights.open_state_dict(path), "openclip", c, inputs)
    name = f"open_clip {'quickgelu' if quick else 'gelu'} {ending}"
    _check(report, record_property, name, ours, features, hidden)
    loaded = towers.load(f"openclip:{path}", weights.open_state_dict)
    _compare(
        report, record_property, f"{name} unit text vectors", loaded.encode_texts(inputs[1]), unit
    )


def _captions() -> list[str]:
    rng = np.random.default_rng(0)
    words = (
        "a photo of the cat's chair don't they'll we've I'm it'd NAÏVE café Straße 東京 москва ١٢٣ ½ 12 "
        "3D x² 🍵 👩‍🚀 -- ... ?! #tag @you e-mail snake_case CamelCase http://x.y/z?q=1 &amp; &lt;b&gt; "
        "&amp;quot; schÃ¶n â€œquotedâ€\x9d “curly” ﬁne \u200b\xa0 \t \n <start_of_text> <end_of_text> ''"
    ).split(" ")
    many = [" ".join(rng.choice(words, rng.integers(1, 14))) for _ in range(160)]
    letters = [chr(c) for c in (*range(33, 0x250), *range(0x370, 0x400), *range(0x4E00, 0x4E40))]
    odd = ["".join(rng.choice(letters, rng.integers(1, 40))) for _ in range(38)]
    return ["", "word " * 200, *many, *odd]


def test_ids_of_varied_captions(open_clip, report):
    captions = _captions()
    assert len(captions) == 200
    expected = open_clip.SimpleTokenizer()(captions).numpy()
    found = bpe.BpeTokenizer()(captions)
    differing = [c for c, a, b in zip(captions, found, expected) if (a != b).any()]
    report.append(("captions whose ids differ, of 200", float(len(differing))))
    assert not differing


@pytest.mark.parametrize("shape", [(64, 48), (48, 65), (24, 24), (17, 23), (200, 31)])
@pytest.mark.parametrize("resize", image_preprocess.RESIZES)
def test_preprocessed_pictures(open_clip, report, record_property, shape, resize):
    from PIL import Image

    picture = np.random.default_rng(sum(shape)).integers(0, 256, (*shape, 3), np.uint8)
    transform = open_clip.image_transform(24, is_train=False, resize_mode=resize)
    expected = transform(Image.fromarray(picture)).permute(1, 2, 0)
    found = image_preprocess.normalize(image_preprocess.crop(picture, 24, resize=resize))
    _compare(report, record_property, f"picture {shape} {resize}", found, expected, tolerance=2e-6)


# ------------------------------------------------------------------------------ weight files


@pytest.mark.parametrize("new", [True, False], ids=["zip", "legacy"])
def test_arrays_of_torch_files(tmp_path, new):
    tensors = {
        "float": torch.randn(3, 4),
        "transposed": torch.randn(4, 6).T[1:3],
        "strided": torch.arange(20.0).view(4, 5)[::2, 1::2],
        "half": torch.randn(5).half(),
        "bfloat16": torch.randn(5, 2).bfloat16(),
        "double": torch.randn(2).double(),
        "long": torch.arange(3),
        "bool": torch.tensor([True, False]),
        "scalar": torch.tensor(2.5),
        "empty": torch.zeros(0, 3),
        "expanded": torch.ones(1).expand(4),
        "parameter": torch.nn.Parameter(torch.randn(2)),
        "complex": torch.randn(2, dtype=torch.complex64),
    }
    tensors["shared"] = tensors["float"][1]
    torch.save(tensors, tmp_path / "w.pt", _use_new_zipfile_serialization=new)
    found = weights.open_state_dict(tmp_path / "w.pt")
    for name, tensor in tensors.items():
        tensor = tensor.detach()
        expected = tensor.float() if name == "bfloat16" else tensor
        assert str(found[name].dtype) == str(tensor.dtype).removeprefix("torch.")
        np.testing.assert_array_equal(found[name].astype(expected.numpy().dtype), expected.numpy())


@pytest.mark.parametrize("new", [True, False], ids=["zip", "legacy"])
def test_whole_models_are_refused(tmp_path, new):
    model = torch.nn.Linear(2, 3)
    torch.save(model, tmp_path / "w.pt", _use_new_zipfile_serialization=new)
    with pytest.raises(ValueError, match=r"torch\.nn\.modules\.linear\.Linear, which no tensor"):
        weights.open_state_dict(tmp_path / "w.pt")
    if new:
        torch.jit.script(model).save(tmp_path / "w.pt")
        with pytest.raises(ValueError, match="a TorchScript archive"):
            weights.open_state_dict(tmp_path / "w.pt")
