"""Held-out retrieval between pictures and captions, and classification of pictures by names.

For systems that train both towers, so that class vectors are embedded here and now:
``predict_fns['embed']`` gives ``image_embed`` and ``text_embed`` [B, D], ``predict_fns['texts']``
embeds ``tokens`` alone, and ``info['class_tokens']`` [C, S, ...] holds S tokenized sentences for
each of ``info['class_names']``.
"""

import jax
import numpy as np

from gsjax.evals import features
from gsjax.metrics import classification, retrieval

DEFAULTS = dict(
    split="test",
    ks=(1, 5, 10),
    exclude=(),  # names of categories that are left out, as objects and as answers
    batch_size=128,
)


class Evaluator:
    """Recalls ``image_to_text`` and ``text_to_image``, and top-k accuracy over category names.

    ``R@k_any`` counts every object with the query's caption as correct, as several objects may
    share one; ``R@k`` only the query's own. Ties count against the correct item. All in per cent.
    """

    def __init__(self, system, options):
        self._system = system
        self._options = features.refuse_unknown("image_text", options, DEFAULTS)
        self._embed = jax.jit(system.predict_fns["embed"])
        self._texts = jax.jit(system.predict_fns["texts"])

    def run(self, variables, put_batch) -> dict[str, float]:
        """Returns {metric: value}."""
        o = self._options
        found = features.collect(
            self._system, self._embed, variables, put_batch, o["split"],
            batch_size=o["batch_size"],
        )  # fmt: skip
        found, kept = features.keep_categories(
            found, self._system.info["class_names"], o["exclude"]
        )
        result = dict(num_objects=float(len(found["category"])))
        embeds = dict(image=found["image_embed"], text=found["text_embed"])
        for suffix, ids in (("", None), ("_any", found["caption_hash"])):
            for direction, ranks in retrieval.cross_modal(embeds, ids, anchor="image").items():
                name = direction.replace("->", "_to_")
                recall = retrieval.Recall.from_ranks(ranks.pessimistic, tuple(o["ks"]))
                result |= {f"{name}/{k}{suffix}": value for k, value in recall.compute().items()}
        return result | self._classify(variables, found, kept)

    def _classify(self, variables, found, kept) -> dict[str, float]:
        """Pictures against the normalised mean of each class's embedded sentences."""
        tokens = np.asarray(self._system.info["class_tokens"], np.int32)
        sentences = np.asarray(
            self._texts(variables, {"tokens": tokens.reshape(-1, *tokens.shape[2:])})
        )
        classes = sentences.reshape(*tokens.shape[:2], -1).mean(1)[kept]
        classes /= np.maximum(np.linalg.norm(classes, axis=-1, keepdims=True), 1e-12)
        labels = (np.cumsum(kept) - 1)[found["category"]]
        ranks = classification.class_ranks(found["image_embed"], classes, labels)
        state = classification.TopK.from_ranks(ranks, labels, int(kept.sum()), (1, 5))
        majority = 100.0 * float(state.totals.max() / state.totals.sum())
        return {**state.compute(), "majority": majority, "chance": 100.0 / int(kept.sum())}
