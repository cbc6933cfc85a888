"""What every backbone must pass; each test file gives it a tiny model.

Reference and tolerances: a cloud with masked junk appended is the same cloud, so results must agree
to rounding (sums are regrouped): 1e-5 relative to the size of the features.
"""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np

from gsjax.core import voxels
from gsjax.models.backbones import base

quick_jit_options = {"xla_backend_optimization_level": 0}  # compiles in half the time


def cloud(
    seed: int, batch: int, num: int, channels: int, *, extent: float = 1.0
) -> base.PointBatch:
    """Points on noisy ellipsoids, with random features; all valid."""
    rng = np.random.default_rng(seed)
    xyz = rng.normal(size=(batch, num, 3))
    xyz /= np.linalg.norm(xyz, axis=-1, keepdims=True)
    xyz = xyz * rng.uniform(0.6, 1.0, (batch, 1, 3)) * (1 + 0.02 * rng.normal(size=(batch, num, 1)))
    return base.PointBatch(
        jnp.asarray(xyz * extent / 2, jnp.float32),
        jnp.asarray(rng.normal(size=(batch, num, channels)), jnp.float32),
        jnp.ones((batch, num), bool),
    )


def padded(points: base.PointBatch, more: int) -> base.PointBatch:
    """The clouds with ``more`` masked rows of junk: NaN, huge numbers, copies of real points."""
    xyz, feat, mask = points

    def junk(x):
        rows = jnp.resize(x[:, : min(more, x.shape[1])], (x.shape[0], more, x.shape[2]))
        rows = rows.at[:, ::3].set(jnp.nan)
        return jnp.concatenate([x, rows.at[:, 1::3].set(1e30)], 1)

    return base.PointBatch(junk(xyz), junk(feat), jnp.pad(mask, ((0, 0), (0, more))))


def init(model, points: base.PointBatch, seed: int = 0) -> dict:
    """Variables with running statistics that are not the trivial ones."""
    variables = jax.jit(lambda key: model.init(key, points), compiler_options=quick_jit_options)(
        jax.random.key(seed)
    )
    rng = np.random.default_rng(seed)

    def leaf(path, x):
        name = path[-1].key
        if name == "mean":
            return jnp.asarray(0.1 * rng.normal(size=x.shape), x.dtype)
        return jnp.asarray(rng.uniform(0.5, 1.5, x.shape), x.dtype) if name == "var" else x

    stats = jax.tree_util.tree_map_with_path(leaf, dict(variables).get("batch_stats", {}))
    return {"params": variables["params"], **({"batch_stats": stats} if stats else {})}


def apply(model, variables, points, *, full_size: bool = False, **options):
    """The compiled call; what is not optimised compiles faster, but runs a full-size model for minutes."""
    compiler_options = None if full_size else quick_jit_options
    return jax.jit(lambda v, p: model.apply(v, p, **options), compiler_options=compiler_options)(
        variables, points
    )


def valid(features: base.PointFeatures) -> list[np.ndarray]:
    """Features of each cloud's valid sites, sorted by place, so that order does not matter."""
    rows = []
    for xyz, feat, mask in zip(*(np.asarray(x) for x in features[:3]), strict=True):
        xyz, feat = xyz[mask], feat[mask]
        rows.append(np.concatenate([xyz, feat], -1)[np.lexsort(np.round(xyz, 5).T)])
    return rows


def assert_same(a: base.PointFeatures, b: base.PointFeatures, tolerance: float = 1e-5):
    """Equal features at equal places, equal pooled vectors."""
    for x, y in zip(valid(a), valid(b), strict=True):
        assert x.shape == y.shape
        np.testing.assert_allclose(x, y, atol=tolerance * max(1.0, np.abs(x).max()), rtol=0)
    size = max(1.0, float(jnp.abs(a.pooled).max()))
    np.testing.assert_allclose(a.pooled, b.pooled, atol=tolerance * size, rtol=0)


def check_padding(model, points: base.PointBatch, more: int = 37):
    """Masked junk changes nothing, in inference mode and (values) with batch statistics."""
    variables = init(model, points)
    plain = apply(model, variables, points)
    assert np.asarray(plain.mask).any() and float(jnp.abs(plain.feat).max()) > 1e-3
    assert_same(plain, apply(model, variables, padded(points, more)))
    train = dict(train=True, mutable=["batch_stats"])
    plain, stats = apply(model, variables, points, **train)
    other, other_stats = apply(model, variables, padded(points, more), **train)
    assert_same(plain, other, 1e-4)  # statistics of few rows are worse conditioned
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4), stats, other_stats)


def check_batch(model, points: base.PointBatch):
    """Inference on a batch is inference on its clouds one by one."""
    variables = init(model, points)
    whole = apply(model, variables, points)
    for i in range(points.xyz.shape[0]):
        one = apply(model, variables, _cloud(points, i))
        assert_same(_cloud(whole, i), one)


def _cloud(tree, i: int):
    return jax.tree.map(lambda x: x[i : i + 1], tree)


def check_gradients(model, points: base.PointBatch):
    """Gradients in all parameters are finite, with junk rows too, and reach nearly every parameter."""
    points = padded(points, 8)
    variables = init(model, points)

    def loss(params):
        out, _ = model.apply(
            {**variables, "params": params}, points, train=True, mutable=["batch_stats"]
        )
        weights = jnp.cos(jnp.arange(out.feat.shape[-1]))
        total = jnp.sum(jnp.where(out.mask[..., None], jnp.square(out.feat) * weights, 0.0))
        return total + jnp.sum(jnp.square(out.pooled))

    grads = jax.jit(jax.grad(loss), compiler_options=quick_jit_options)(variables["params"])
    leaves = jax.tree_util.tree_leaves_with_path(grads)
    for path, g in leaves:
        assert np.isfinite(g).all(), jax.tree_util.keystr(path)
    still = [jax.tree_util.keystr(p) for p, g in leaves if not np.abs(g).max() > 0]
    assert len(still) <= 0.2 * len(leaves), still


def check_fuse(name: str, model, points: base.PointBatch):
    """``fuse`` is applied once, where the file says, and what it returns goes on."""
    seen = []

    def fuse(sites: base.Sites) -> base.Sites:
        seen.append(sites)
        return sites._replace(feat=sites.feat + 1.0)

    variables = init(model, points)
    plain = apply(model, variables, points)
    assert not seen
    fused = apply(model, variables, points, fuse=fuse)  # compiled: 'seen' are shapes
    assert len(seen) == 1 and base.module(name).FUSE_AT in base.FUSE_PLACES
    assert seen[0].feat.shape[:2] == seen[0].mask.shape == seen[0].xyz.shape[:2]
    changed = jnp.abs(fused.feat - plain.feat)[plain.mask]
    assert float(changed.max()) > 1e-3
    if base.module(name).FUSE_AT == "last":
        np.testing.assert_allclose(changed, 1.0, atol=1e-4)


def check_masked_sites(model, variables, points: base.PointBatch):
    """Voxels that ``fuse`` masks are as if it had taken them away: in features and in statistics."""

    def without_first(sites, remove):
        keep = sites.mask.at[:, :9].set(False)
        if not remove:
            return sites._replace(mask=keep, feat=sites.feat.at[:, :9].set(jnp.nan))
        keys = jnp.where(keep, sites.voxels, voxels.SENTINEL)
        rows = jnp.argsort(keys)
        kept = [
            jnp.take_along_axis(x, rows.reshape(*rows.shape, *[1] * (x.ndim - 2)), 1)
            for x in (keys, sites.xyz, sites.feat, keep)
        ]
        return sites._replace(voxels=kept[0], xyz=kept[1], feat=kept[2], mask=kept[3])

    def found(remove):
        fuse = functools.partial(without_first, remove=remove)
        options = dict(train=True, mutable=["batch_stats"])
        return apply(model, variables, points, fuse=fuse, **options)

    (masked, stats), (removed, other_stats) = found(False), found(True)
    assert (masked.mask.sum(1) == removed.mask.sum(1)).all()
    assert_same(masked, removed, 1e-4)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4), stats, other_stats)


def num_parameters(model, points: base.PointBatch) -> int:
    """Parameters, without computing any."""
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), points))
    return sum(math.prod(x.shape) for x in jax.tree.leaves(shapes["params"]))
