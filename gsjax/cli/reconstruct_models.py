"""What turns posed pictures into Gaussians: a run of system pm_loss, its export, or converted weights."""

import copy
import dataclasses

import jax
import numpy as np

from gsjax.cli import reconstruct_scene

# Pictures and near of the data that published weights were trained with, by preset.
# RealEstate10K at 256 x 256 (MVSplat: near 1, DepthSplat: 0.5), DL3DV at 256 x 448 (0.5; PM-Loss: 1).
_PUBLISHED = {
    "mvsplat": (256, 256, 1.0),
    "base_448": (256, 448, 0.5),
    "small_448": (448, 768, 0.5),
    "base_448_oct2024": (256, 448, 0.5),
    "pm_loss": (256, 448, 1.0),
}
_DEFAULT = (256, 256, 0.5)


@dataclasses.dataclass(frozen=True)
class Model:
    """Attributes:
    predict: see ``reconstruct_scene.reconstruct``.
    height, width: of the pictures it was trained with.
    fit: how they got that size, see ``view_fit.fit``.
    near: of its training, which scenes are scaled to.
    views: how many it was trained with.
    stride: what sides must be multiples of; None = not known.
    name: for messages.
    """

    predict: reconstruct_scene.Predict
    height: int
    width: int
    fit: str
    near: float
    views: int
    stride: int | None
    name: str


def load(path) -> Model:
    """What ``--weights`` names.

    Args:
        path: run folder, checkpoint in it, or ``.npz``: an export of a run, or weights of ``gsjax convert mvsplat``
            or ``depthsplat``.

    Raises:
        ValueError: nothing there, or of another system.
    """
    from gsjax.io import archive
    from gsjax.train import trained

    if str(path).endswith(".npz"):
        stored = archive.read(path)
        if stored.kind in NETWORKS and "run" not in stored.config:
            return _converted(stored, path)
        del stored
    return from_run(trained.load(path), path)


def from_run(found, path) -> Model:
    """The model of a training run (``train.trained.Trained``).

    Raises:
        ValueError: a run of another system.
    """
    from gsjax.systems import base

    if found.system != "pm_loss":
        raise ValueError(
            f"--weights: {path} is a run of {found.system}; expected one of pm_loss, which is trained on posed "
            "videos"
        )
    config = inference(found.config)
    gaussians = jax.jit(base.build(config).predict_fns["gaussians"])
    variables, d = found.variables(), config.data
    views = d.get("context_views", 2)
    return Model(
        predict=lambda batch: gaussians(variables, batch),
        height=d.height,
        width=d.width,
        fit=d.get("fit", "cover"),
        near=float(d.near),
        views=int(views if isinstance(views, int) else views[0]),
        stride=None,
        name=f"{config.model.network} of {path}, step {found.step}",
    )


def inference(config):
    """The config without what only training opens: a teacher's maps, weights of a perceptual loss."""
    config = copy.deepcopy(config)
    with config.unlocked():
        if "teacher" in config.data:
            config.data.teacher.kind = "none"
        for name in ("lpips", "pm"):
            if name in config.get("loss", {}):
                config.loss[name] = 0.0
    return config


def _mvsplat(preset: str):
    from gsjax.models.feedforward import mvsplat, mvsplat_tables

    return mvsplat.MVSplat(mvsplat_tables.published(mvsplat.PRESETS[preset]))


def _depthsplat(preset: str):
    from gsjax.models.feedforward import depthsplat, depthsplat_tables

    return depthsplat.DepthSplat(depthsplat_tables.published(depthsplat.PRESETS[preset]))


# Kinds of archives -> preset to network.
NETWORKS = {"mvsplat": _mvsplat, "depthsplat": _depthsplat}


def _converted(stored, path) -> Model:
    from gsjax.models import name_tables

    preset = stored.config["preset"]
    module = NETWORKS[stored.kind](preset)
    variables = {k: np.asarray(v, np.float32) for k, v in stored.arrays.items()}
    variables = name_tables.nest(variables)
    height, width, near = _PUBLISHED.get(preset, _DEFAULT)
    name = f"{stored.kind} {preset} of {path}"
    return from_module(module, variables, height=height, width=width, near=near, name=name)


def from_module(module, variables, *, height: int, width: int, near: float, name: str) -> Model:
    """The model of a network and its parameters.

    Args:
        module: of ``models.feedforward``.
        variables: its variables.
        height, width, near, name: see :class:`Model`.
    """

    @jax.jit
    def gaussians(variables, batch):
        g = module.apply(
            variables, batch["context_images"].astype(jax.numpy.float32) / 255,
            batch["context_Ks"], batch["context_c2ws"], batch["near"], batch["far"],
        )["gaussians"]  # fmt: skip
        return dict(
            means=g.means, quats=g.quats, scales=g.scales, opacities=g.opacities, sh=g.sh
        )  # fmt: skip

    return Model(
        predict=lambda batch: gaussians(variables, batch),
        height=height,
        width=width,
        fit="cover",
        near=near,
        views=2,
        stride=module.config.stride,
        name=name,
    )
