"""Builds the autoencoder as a trainable system (no maths here)."""

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from gsjax.data import prepare, store
from gsjax.models import autoencoder
from gsjax.systems import base
from gsjax.systems.image_autoencoder import data, losses

WEIGHTS = "autoencoder.npz"  # in a run's folder of pictures
_AUGMENT = ("shift", "flip", "invert", "mix", "gain")
_SHOWN = 8


def build(config) -> base.System:
    """The system; prepares the data set first if it is not there.

    Args:
        config: ``configs/image_autoencoder.py``.

    Raises:
        ValueError: sizes that do not fit, or what ``prepare.ensure`` raises.
    """
    return assemble(config, prepare.ensure(config.data))


def model_config(block) -> autoencoder.Config:
    """The ``model`` block of the config as the network's own sizes."""
    return autoencoder.Config(
        widths=tuple(block.widths), latent=block.latent, blocks=block.blocks, groups=block.groups
    )


def assemble(config, folder) -> base.System:
    """The system over a prepared data set.

    Raises:
        ValueError: a picture's side is no multiple of the network's stride, or the loss has a negative
            weight.
    """
    sizes, side = model_config(config.model), config.model.image_size
    if side < 2 or side % sizes.stride:
        raise ValueError(
            f"model.image_size: expected a multiple of {sizes.stride}, found {side}; each of "
            f"{len(sizes.widths)} widths but the first halves the sides"
        )
    if config.loss.edges < 0:
        raise ValueError(f"loss.edges: expected 0 or more, found {config.loss.edges}")
    net = autoencoder.Autoencoder(sizes)

    def examples(split, train):
        return data.examples(folder, split, side, seed=config.seed, train=train)

    def reconstruct(variables, batch):
        return _reconstruct(net, variables, batch)

    def show(variables, target):
        notes = recipe(config, folder)
        autoencoder.save(
            target / WEIGHTS, sizes, jax.tree.map(np.asarray, variables["params"]), notes
        )
        chosen = examples(config.eval.split, False)
        batch = [chosen[i] for i in range(min(_SHOWN, len(chosen)))]
        batch = {name: np.stack([example[name] for example in batch]) for name in batch[0]}
        found = jax.jit(reconstruct)(variables, batch)["picture"]
        sheet(batch["view"], np.asarray(found)).save(str(target / "reconstructed.png"))

    return base.System(
        name="image_autoencoder",
        batch_spec=data.batch_spec(side),
        init=lambda rng: net.init(rng, jnp.zeros((1, side, side, 3))),
        loss=lambda *args: _loss(net, config, *args),
        predict_fns={"reconstruct": reconstruct},
        train_data=lambda: examples("train", True),
        eval_data=lambda split: examples(split, False),
        show=show,
    )


def to_unit_range(view: jax.Array) -> jax.Array:
    """uint8 pictures to [-1, 1]."""
    return view.astype(jnp.float32) / 127.5 - 1.0


def _loss(net: autoencoder.Autoencoder, config, variables, batch, rng, train: bool):
    """Forward pass of a step; see ``base.System.loss``."""
    pictures = to_unit_range(batch["view"])
    if train and config.augment.enable:
        options = {name: config.augment[name] for name in _AUGMENT}
        keys = jax.vmap(lambda i: jax.random.fold_in(rng, i))(batch["index"])
        pictures = jax.vmap(lambda key, x: data.augment(key, x, **options))(keys, pictures)
    found, _ = net.apply({"params": variables["params"]}, pictures)
    loss, metrics = losses.total_loss(found, pictures, batch["valid"], config.loss.edges)
    return loss, metrics, {}


def _reconstruct(net: autoencoder.Autoencoder, variables, batch) -> dict[str, jax.Array]:
    """``picture`` uint8 [B, S, S, 3]; ``psnr`` f32 [B], and ``psnr_flat`` of each picture's own mean
    colour, below which nothing is learned; ``valid``."""
    pictures = to_unit_range(batch["view"])
    found, _ = net.apply({"params": variables["params"]}, pictures)
    flat = jnp.broadcast_to(pictures.mean((1, 2), keepdims=True), pictures.shape)
    shown = jnp.round(127.5 * (jnp.clip(found, -1.0, 1.0) + 1.0))
    return {
        "picture": shown.astype(jnp.uint8),
        "psnr": losses.psnr(found, pictures),
        "psnr_flat": losses.psnr(flat, pictures),
        "valid": batch["valid"],
    }


def recipe(config, folder) -> dict:
    """What made the weights, as JSON values kept beside them."""
    return dict(
        licence="Apache-2.0",
        dataset=config.data.name,
        fingerprint=store.fingerprint(folder),
        split="train",
        num_steps=config.train.num_steps,
        batch_size=config.train.batch_size,
        lr=config.optim.lr,
        edges=config.loss.edges,
        seed=config.seed,
        backend=jax.default_backend(),
    )


def sheet(views: np.ndarray, found: np.ndarray) -> Image.Image:
    """Pictures uint8 [B, S, S, 3] in a row, what became of them below."""
    rows = [np.concatenate(list(pictures), axis=1) for pictures in (views, found)]
    return Image.fromarray(np.concatenate(rows, axis=0))
