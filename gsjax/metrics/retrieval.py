"""Cross-modal retrieval: ranks computed in blocks, and recall at k as a mergeable state.

The similarity matrix never exists as a whole and nothing is sorted: a rank is a count of gallery
items above the correct one.
"""

import dataclasses
import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

# Dot products of unit vectors closer than this are a tie: float32 rounding, not an order.
TIE = 1e-6


@dataclasses.dataclass(frozen=True)
class Ranks:
    """Rank of the correct gallery item for each query; 1 is best.

    Attributes:
        optimistic: [Q] ties go in favour of the correct item.
        pessimistic: [Q] ties go against it. Constant embeddings then rank last, not first.
    """

    optimistic: np.ndarray
    pessimistic: np.ndarray


def ranks(
    queries: np.ndarray,
    gallery: np.ndarray,
    query_ids: np.ndarray | None = None,
    gallery_ids: np.ndarray | None = None,
    *,
    block: int = 1024,
) -> Ranks:
    """Ranks of the best correct item of every query among the incorrect ones.

    Args:
        queries: [Q, D] unit vectors.
        gallery: [G, D] unit vectors.
        query_ids: [Q] integers; default 0, 1, 2, ...
        gallery_ids: [G] integers; an item is correct for a query with an equal id. Default
            0, 1, 2, ...: only the item at the query's own place is.
        block: queries, and gallery items, that are compared at a time.

    Raises:
        ValueError: widths that differ, a query with no correct item, or values that are not finite.
    """
    queries, gallery = np.asarray(queries, np.float32), np.asarray(gallery, np.float32)
    if queries.ndim != 2 or gallery.ndim != 2 or queries.shape[1] != gallery.shape[1]:
        raise ValueError(
            f"queries, gallery: found shapes {queries.shape} and {gallery.shape}; expected "
            "[Q, D] and [G, D]"
        )
    check_finite(queries=queries, gallery=gallery)
    query_ids = _ids(query_ids, len(queries))
    gallery_ids = _ids(gallery_ids, len(gallery))
    if not np.isin(query_ids, gallery_ids).all():
        missing = query_ids[~np.isin(query_ids, gallery_ids)][0]
        raise ValueError(f"query_ids: no gallery item has id {missing}; every query needs one")
    # only equality matters: small numbers fit int32, and leave -1 and -2 to mark padding
    _, places = np.unique(np.concatenate([query_ids, gallery_ids]), return_inverse=True)
    query_ids, gallery_ids = np.split(places.astype(np.int32), [len(queries)])
    block = min(block, max(len(queries), len(gallery)))
    items = jnp.asarray(_blocks(gallery, block, 0.0)), jnp.asarray(_blocks(gallery_ids, block, -1))
    parts = [
        _block_ranks(jnp.asarray(q), jnp.asarray(ids), *items)
        for q, ids in zip(_blocks(queries, block, 0.0), _blocks(query_ids, block, -2), strict=True)
    ]
    low, high = (np.concatenate([np.asarray(p[i]) for p in parts])[: len(queries)] for i in (0, 1))
    return Ranks(low, high)


def check_finite(**arrays: np.ndarray) -> None:
    """Raises ValueError where a row is not finite: it would compare as neither better nor worse."""
    for name, x in arrays.items():
        bad = int((~np.isfinite(x)).any(-1).sum())
        if bad:
            raise ValueError(f"{name}: {bad} of {len(x)} rows hold NaN or infinities")


def _ids(ids, num):
    """``ids`` as int64, or 0, 1, 2, ..."""
    return np.arange(num) if ids is None else np.asarray(ids).astype(np.int64)


def _blocks(x: np.ndarray, block: int, fill) -> np.ndarray:
    """[n, ...] -> [ceil(n / block), block, ...], padded."""
    pad = -len(x) % block
    x = np.concatenate([x, np.full((pad, *x.shape[1:]), fill, x.dtype)])
    return x.reshape(-1, block, *x.shape[1:])


@jax.jit
def _block_ranks(queries, query_ids, gallery, gallery_ids):
    """Ranks (optimistic, pessimistic) of one block of queries against all blocks of the gallery."""

    def similarity(block):
        items, ids = block
        sim = jnp.matmul(queries, items.T, precision="highest")
        return sim, query_ids[:, None] == ids[None], ids[None] != -1

    def best(pos, block):
        sim, correct, _ = similarity(block)
        return jnp.maximum(pos, jnp.max(jnp.where(correct, sim, -jnp.inf), -1)), None

    pos, _ = jax.lax.scan(best, jnp.full(queries.shape[0], -jnp.inf), (gallery, gallery_ids))

    def count(above, block):
        sim, correct, real = similarity(block)
        other = real & ~correct
        higher = jnp.sum(other & (sim > pos[:, None] + TIE), -1)
        equal = jnp.sum(other & (sim >= pos[:, None] - TIE), -1)
        return (above[0] + higher, above[1] + equal), None

    ones = jnp.ones(queries.shape[0], jnp.int32)
    return jax.lax.scan(count, (ones, ones), (gallery, gallery_ids))[0]


@dataclasses.dataclass(frozen=True)
class Recall:
    """Hits at each k and the number of queries; ``+`` merges two states.

    Attributes:
        ks: the k of R@k.
        hits: [len(ks)] queries whose rank is at most k.
        total: number of queries.
    """

    ks: tuple[int, ...]
    hits: np.ndarray
    total: int

    @classmethod
    def from_ranks(cls, ranks: np.ndarray, ks: Sequence[int] = (1, 5, 10)) -> "Recall":
        hits = np.asarray([np.sum(ranks <= k) for k in ks], np.int64)
        return cls(tuple(ks), hits, len(ranks))

    def __add__(self, other: "Recall") -> "Recall":
        if self.ks != other.ks:
            raise ValueError(f"Recall: cannot merge k = {self.ks} with k = {other.ks}")
        return Recall(self.ks, self.hits + other.hits, self.total + other.total)

    def compute(self) -> dict[str, float]:
        """{'R@k': per cent}."""
        scale = 100.0 / max(self.total, 1)
        return {f"R@{k}": float(h * scale) for k, h in zip(self.ks, self.hits, strict=True)}


def cross_modal(
    embeds: dict[str, np.ndarray], ids: np.ndarray | None = None, *, anchor: str, block: int = 1024
) -> dict[str, Ranks]:
    """Ranks of ``anchor`` against every other modality, both ways.

    Args:
        embeds: {modality: [Q, D] unit vectors}, row i of each belonging to object i.
        ids: [Q]; objects with equal ids count as correct for one another. Default: none do.
        anchor: one of the modalities.
        block: as in :func:`ranks`.

    Returns:
        {'text->gaussian': Ranks, ...}; the arrow points from query to gallery.
    """
    run = functools.partial(ranks, query_ids=ids, gallery_ids=ids, block=block)
    result = {}
    for name in sorted(set(embeds) - {anchor}):
        result[f"{name}->{anchor}"] = run(embeds[name], embeds[anchor])
        result[f"{anchor}->{name}"] = run(embeds[anchor], embeds[name])
    return result
