"""The interface of point-cloud backbones: what goes in, what comes out, and how one is found by name.

A backbone is a flax module in a file of this folder, which exports

    Config      frozen dataclass of its sizes
    PRESETS     {'paper': Config, 'small': Config, ...}
    Model       module with the one attribute ``config`` (and ``dtype``), whose call is ``Backbone``'s
    FUSE_AT     'last' or 'stem': where ``fuse`` is applied

so that a new backbone adds a file and touches nothing else. Downstream heads read the result; image
features come in through ``fuse`` alone, so a backbone holds no image code and is the same network
without it.

Every shape is static. What is not there is masked: a masked point reaches no reduction, and outputs
of valid points do not depend on how many masked ones there are, nor on what they hold (UniPre3D,
arXiv 2506.09952, trains six such backbones; the interface is this project's).
"""

import dataclasses
import importlib
import pkgutil
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import flax.linen as nn
import jax
import jax.numpy as jnp

FUSE_PLACES = ("last", "stem")
_EXPORTS = ("Config", "PRESETS", "Model", "FUSE_AT")
FEATURES = {"height": 1, "rgb": 3, "normal": 3}  # that points may have; name -> channels


class PointBatch(NamedTuple):
    """Clouds of points.

    Attributes:
        xyz: f32 [B, N, 3].
        feat: f32 [B, N, F] of each point beside its position; F may be 0.
        mask: bool [B, N], True for real points.
    """

    xyz: jax.Array
    feat: jax.Array
    mask: jax.Array


class Sites(NamedTuple):
    """Features at places: what ``fuse`` reads and returns.

    Attributes:
        xyz: f32 [B, M, 3].
        feat: [B, M, C].
        mask: bool [B, M].
        voxels: sorted int32 voxel keys [B, M] where sites are voxels (``core.voxels``); else None.
        origin: f32 [B, 3], corner of the voxel grid; else None.
        dropped: int32 [B], sites that found no place in the capacity so far.
    """

    xyz: jax.Array
    feat: jax.Array
    mask: jax.Array
    voxels: jax.Array | None = None
    origin: jax.Array | None = None
    dropped: jax.Array | None = None


class PointFeatures(NamedTuple):
    """What a backbone returns.

    Attributes:
        xyz: f32 [B, M, 3] of the places that have features: patch centres, points or voxels.
        feat: [B, M, C].
        mask: bool [B, M].
        pooled: [B, D], a description of the whole cloud.
        dropped: int32 [B], points or voxels that exceeded a capacity; 0 = nothing was lost.
    """

    xyz: jax.Array
    feat: jax.Array
    mask: jax.Array
    pooled: jax.Array
    dropped: jax.Array


Fuse = Callable[[Sites], Sites]


class Backbone(Protocol):
    """The call of every ``Model``."""

    def __call__(
        self,
        points: PointBatch,
        *,
        fuse: Fuse | None = None,
        train: bool = False,
        keys: jax.Array | None = None,
    ) -> PointFeatures:
        """Features of clouds.

        Args:
            points: the clouds.
            fuse: applied once, at ``FUSE_AT``: after the last block or decoder layer, or right after
                the stem. None = not at all.
            train: whether norms use the statistics of the batch (and update the running ones).
            keys: [B] PRNG keys of stochastic depth and the like, one a cloud so that results do not
                depend on how a batch lies over devices; None = nothing random (inference).
        """


def names() -> list[str]:
    """Known backbones."""
    import gsjax.models.backbones as package

    return sorted(m.name for m in pkgutil.iter_modules(package.__path__) if m.name != "base")


def module(name: str):
    """The file of a backbone: one of this folder, or any importable module by its dotted name.

    Raises:
        ValueError: unknown name; the message lists the known ones. Or a module that exports less than a
            backbone's file does.
    """
    if name in names():
        return importlib.import_module(f"gsjax.models.backbones.{name}")
    if "." not in name:
        raise ValueError(
            f"backbone: unknown {name!r}; known: {', '.join(names())}, or the dotted name of a module "
            "of your own (docs/own_backbone.md)"
        )
    try:
        file = importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise ValueError(
            f"backbone: {name!r}: {error}; its folder has to be on PYTHONPATH"
        ) from error
    missing = [export for export in _EXPORTS if not hasattr(file, export)]
    if missing:
        raise ValueError(f"backbone: {name!r} lacks {', '.join(missing)} (docs/own_backbone.md)")
    return file


def build(name: str, size: str = "small", *, dtype: Any = jnp.float32, **changes) -> nn.Module:
    """A backbone of a preset size.

    Args:
        name: file name, e.g. 'transformer', or dotted name of another module.
        size: a key of its ``PRESETS``.
        dtype: what it computes in; parameters, norms' statistics and scans stay float32.
        **changes: fields of its ``Config`` to set otherwise.

    Raises:
        ValueError: unknown name, size or field; the message lists the known ones.
    """
    file = module(name)
    if size not in file.PRESETS:
        raise ValueError(f"{name}: unknown size {size!r}; known: {', '.join(file.PRESETS)}")
    known = [field.name for field in dataclasses.fields(file.Config)]
    unknown = sorted(set(changes) - set(known))
    if unknown:
        raise ValueError(f"{name}: unknown settings {unknown}; known: {', '.join(known)}")
    return file.Model(dataclasses.replace(file.PRESETS[size], **changes), dtype)


def of_config(m, channels: int | None = None) -> nn.Module:
    """The backbone that ``config.model`` of a system describes.

    Args:
        m: with ``backbone``, ``backbone_size``, ``backbone_changes`` and ``dtype``.
        channels: columns of a point beside its position; None = those of ``m.features``.

    Raises:
        ValueError: as :func:`build`, or an unknown feature.
    """
    changes = {name: plain(value) for name, value in m.backbone_changes.items()}
    channels = num_channels(m.features) if channels is None else channels
    return build(
        m.backbone, m.backbone_size, dtype=jnp.dtype(m.dtype), channels=channels, **changes
    )


def plain(value):
    """Lists of config files as nested tuples, which dataclasses can hash."""
    return tuple(map(plain, value)) if isinstance(value, list | tuple) else value


def num_channels(features) -> int:
    """Channels of features named by ``FEATURES``.

    Raises:
        ValueError: an unknown name.
    """
    unknown = sorted(set(features) - set(FEATURES))
    if unknown:
        raise ValueError(f"model.features: unknown {unknown}; known: {sorted(FEATURES)}")
    return sum(FEATURES[name] for name in features)


def with_features(
    xyz: jax.Array,
    mask: jax.Array,
    features,
    *,
    rgb: jax.Array | None = None,
    normal: jax.Array | None = None,
) -> PointBatch:
    """Clouds with the features asked for, in that order.

    Args:
        xyz: [B, N, 3]; +y is up where 'height' is asked for.
        mask: bool [B, N].
        features: names of ``FEATURES``: 'height' above the lowest point, 'rgb' in [-1, 1], 'normal'.
        rgb: [B, N, 3] in [0, 1].
        normal: [B, N, 3].
    """
    made = [jnp.zeros((*xyz.shape[:2], 0), xyz.dtype)]
    for name in features:
        if name == "height":
            up = xyz[..., 1:2]
            made.append(up - jnp.min(jnp.where(mask[..., None], up, jnp.inf), 1, keepdims=True))
        else:
            made.append(2 * rgb - 1 if name == "rgb" else normal)
    feat = jnp.where(mask[..., None], jnp.concatenate(made, -1), 0.0)
    return PointBatch(xyz, feat, mask)


def inputs(points: PointBatch, channels: int, what: str) -> jax.Array:
    """Features [B, N, channels] that a network reads, masked rows zero.

    Args:
        points: the clouds; NaN or anything else in masked rows is harmless.
        channels: of ``feat`` that the network was made for.
        what: name for the message.

    Raises:
        ValueError: other shapes.
    """
    xyz, feat, mask = points
    if xyz.ndim != 3 or xyz.shape[-1] != 3 or feat.ndim != 3 or feat.shape[:2] != xyz.shape[:2]:
        raise ValueError(
            f"{what}: expected xyz [B, N, 3] and feat [B, N, F], found {list(xyz.shape)} and "
            f"{list(feat.shape)}"
        )
    if mask.shape != xyz.shape[:2]:
        raise ValueError(f"mask: expected {list(xyz.shape[:2])}, found {list(mask.shape)}")
    if feat.shape[-1] != channels:
        raise ValueError(
            f"{what}: made for {channels} feature channels a point, found {feat.shape[-1]}; set "
            "channels, or give the data those features"
        )
    return jnp.where(mask[..., None], feat, 0.0)


def clean(points: PointBatch) -> PointBatch:
    """The clouds with zeros in masked rows, so that no junk takes part in any arithmetic."""
    xyz, feat, mask = points
    return PointBatch(
        jnp.where(mask[..., None], xyz, 0.0), jnp.where(mask[..., None], feat, 0.0), mask
    )


@jax.custom_jvp
def masked_max(x: jax.Array, mask: jax.Array) -> jax.Array:
    """Maximum over the valid rows, 0 where there is none; its gradient goes to the first such row.

    The usual gradient of a maximum asks which rows equal it. A compiler that computes the rows a
    second time for that, and rounds otherwise, finds none, and divides by their number; here one row
    is chosen by its index, and is found whatever the rounding.

    Args:
        x: [..., N, C].
        mask: bool [..., N], or with axes of length 1.

    Returns:
        [..., C].
    """
    filled, mask = _lowered(x, mask)
    return jnp.where(jnp.any(mask, -2), jnp.max(filled, -2), 0)


def _lowered(x, mask):
    mask = jnp.broadcast_to(mask, x.shape[:-1])[..., None]
    return jnp.where(mask, x, jnp.finfo(x.dtype).min), mask


@masked_max.defjvp
def _masked_max_jvp(primals, tangents):
    x, mask = primals
    filled, valid = _lowered(x, mask)
    rows = jax.lax.broadcasted_iota(jnp.int32, x.shape, x.ndim - 2)
    chosen = valid & (rows == jnp.argmax(filled, -2, keepdims=True))
    return masked_max(x, mask), jnp.sum(jnp.where(chosen, tangents[0], 0), -2)


def masked_mean(x: jax.Array, mask: jax.Array) -> jax.Array:
    """Mean over the valid rows; 0 where there is none. Arguments as :func:`masked_max`."""
    weights = jnp.broadcast_to(mask[..., None], x.shape).astype(x.dtype)
    total = jnp.sum(jnp.where(weights > 0, x, 0.0), -2)
    return total / jnp.maximum(jnp.sum(weights, -2), 1.0)


def pool(feat: jax.Array, mask: jax.Array) -> jax.Array:
    """[B, M, C] -> [B, 2C]: maximum and mean over valid sites."""
    return jnp.concatenate([masked_max(feat, mask), masked_mean(feat, mask)], -1)


def apply_alone(backbone: nn.Module, variables, points: PointBatch) -> PointFeatures:
    """Inference by the backbone of a larger model, which keeps its variables under ``backbone``."""
    return backbone.clone(name=None, parent=None).apply(_own(variables), points)


def statistics_alone(backbone: nn.Module, variables, points: PointBatch) -> dict:
    """Running statistics that a pass in training mode leaves, nothing random in it.

    Returns:
        {'batch_stats': {'backbone': ...}}, as in the variables of the larger model; {} of a backbone
        without BatchNorms.
    """
    alone = backbone.clone(name=None, parent=None)
    _, new = alone.apply(_own(variables), points, train=True, mutable=["batch_stats"])
    return {name: {"backbone": value} for name, value in new.items()}


def _own(variables):
    return {name: value["backbone"] for name, value in variables.items() if "backbone" in value}


def uniform(keys: jax.Array | None, place: int, shape: tuple[int, ...] = ()) -> jax.Array | None:
    """Numbers in [0, 1) of each cloud for one place in a network: [B, *shape]; None without keys.

    Args:
        keys: [B] PRNG keys, or None.
        place: a number that no other place uses.
        shape: of one cloud's numbers.
    """
    if keys is None:
        return None
    return jax.vmap(lambda key: jax.random.uniform(jax.random.fold_in(key, place), shape))(keys)
