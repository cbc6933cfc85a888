"""Exact nearest neighbours by cosine, in blocks: memory does not grow with the gallery."""

import numpy as np


def top_k(
    queries: np.ndarray, gallery: np.ndarray, k: int, *, block: int = 16_384
) -> tuple[np.ndarray, np.ndarray]:
    """The k gallery items of largest cosine for each query, best first.

    Only a [Q, block + k] table of cosines exists at a time. Equal cosines keep the gallery's order.

    Args:
        queries: [Q, D] unit vectors.
        gallery: [G, D] unit vectors; may be memory-mapped.
        k: how many; at most G are returned.
        block: gallery items at a time.

    Returns:
        int [Q, min(k, G)] places in the gallery, float32 [Q, min(k, G)] cosines.

    Raises:
        ValueError: widths that differ, or ``k`` or ``block`` below 1.
    """
    queries = np.asarray(queries, np.float32)
    if queries.ndim != 2 or gallery.ndim != 2 or queries.shape[1] != gallery.shape[1]:
        raise ValueError(
            f"queries, gallery: found shapes {queries.shape} and {gallery.shape}; expected [Q, D] "
            "and [G, D]"
        )
    if k < 1 or block < 1:
        raise ValueError(f"k, block: found {k} and {block}; expected at least 1")
    places = np.zeros((len(queries), 0), np.int64)
    scores = np.zeros((len(queries), 0), np.float32)
    for start in range(0, len(gallery), block):
        part = queries @ np.asarray(gallery[start : start + block], np.float32).T
        numbers = np.broadcast_to(np.arange(start, start + part.shape[1]), part.shape)
        scores = np.concatenate([scores, part], 1)
        places = np.concatenate([places, numbers], 1)
        order = np.argsort(-scores, 1, kind="stable")[:, :k]  # earlier blocks stand first
        scores = np.take_along_axis(scores, order, 1)
        places = np.take_along_axis(places, order, 1)
    return places, scores
