"""A system that is nothing but posed pictures of a textured wall: depths, warps and baselines are known.

The wall is the plane z = ``DEPTH``; every camera looks along z without turning, so that all of them see it
fronto-parallel. ``step`` makes the right half of it nearer.
"""

import jax.numpy as jnp
import numpy as np

from gsjax.data import examples
from gsjax.evals import posed_views
from gsjax.systems import base

SIZE, DEPTH = (20, 24), 2.0
# Normalised: focal lengths and principal point in widths and heights.
K = np.array([[1.2, 0, 0.5], [0, 1.5, 0.45], [0, 0, 1]], np.float32)
NEAR, FAR = 1.0, 8.0


def _texture(x, y, phase):
    waves = np.stack(
        [np.sin(6 * x + phase), np.cos(5 * y + 2 * x), np.sin(4 * (x + y) - phase)], -1
    )
    return np.uint8(np.round(255 * (0.5 + 0.4 * waves)))


def _view(centre, phase, step, size):
    """(picture uint8 [H, W, 3], viewmat [4, 4], depth [H, W]) of a camera at (x, y, 0)."""
    across, down = ((np.arange(count) + 0.5) / count for count in size[::-1])
    depth = np.full(size, DEPTH)
    depth[:, size[1] // 2 :] -= step
    x = centre[0] + (across - K[0, 2]) / K[0, 0] * depth
    y = centre[1] + ((down - K[1, 2]) / K[1, 1])[:, None] * depth
    viewmat = np.eye(4)
    viewmat[:2, 3] = -np.asarray(centre)
    return _texture(x, y, phase), viewmat, depth


def example(
    index, contexts=((-0.1, 0.0), (0.1, 0.0)), targets=((0.05, 0.02), (-0.12, 0.0)), step=0.0,
    size=SIZE,
):  # fmt: skip
    """One example; its phase, and so its colours, are its own."""
    result = dict(
        index=np.int32(index), valid=np.bool_(True), near=np.float32(NEAR), far=np.float32(FAR)
    )
    for side, centres in dict(context=contexts, target=targets).items():
        views = [_view(centre, 0.4 * index, step, size) for centre in centres]
        viewmats = np.stack([view[1] for view in views]).astype(np.float32)
        result |= {
            f"{side}_images": np.stack([view[0] for view in views]),
            f"{side}_viewmats": viewmats,
            f"{side}_c2ws": np.linalg.inv(viewmats),
            f"{side}_Ks": np.stack([K] * len(views)),
            f"{side}_frames": np.arange(len(views), dtype=np.int32),
            f"{side}_depths": np.stack([view[2] for view in views]).astype(np.float32),
        }
    return result


def system(rows, training=None, *, error=0.1, depth_factor=1.1, shift=0.05, **info):
    """Predicts the truth but for: ``error`` added to pictures, a factor on depths, means moved along z."""

    def render(variables, batch, wrong=error):
        truth = batch["target_images"].astype(jnp.float32) / 255
        depths = batch["target_depths"]
        return dict(
            images=truth + wrong, depths=depths * depth_factor, alphas=jnp.ones_like(depths),
            index=batch["index"], valid=batch["valid"],
        )  # fmt: skip

    def depths(variables, batch):
        return dict(depths=batch["context_depths"] * depth_factor, **_facts(batch))

    def gaussians(variables, batch):
        means = posed_views.surface(batch) + jnp.asarray([0.0, 0.0, shift])
        # A floater that is nearly transparent, first of all.
        means = jnp.concatenate([jnp.full_like(means[:, :1], 50.0), means], 1)
        opacities = jnp.ones(means.shape[:2]).at[:, 0].set(0.01)
        turns = jnp.broadcast_to(jnp.asarray([1.0, 0, 0, 0]), (*means.shape[:2], 4))
        return dict(
            means=means, opacities=opacities, quats=turns, scales=jnp.full(means.shape, 0.01),
            sh=jnp.zeros((*means.shape[:2], 1, 3)), **_facts(batch),
        )  # fmt: skip

    splits = dict(test=rows, train=training or rows)
    return base.System(
        name="made up", batch_spec={}, init=None, loss=None, train_data=None,
        predict_fns=dict(
            render=render, depths=depths, gaussians=gaussians,
            oracle=lambda variables, batch: render(variables, batch, error / 10),
        ),
        eval_data=lambda split: examples.in_memory(splits[split]), info=info,
    )  # fmt: skip


def _facts(batch):
    return {name: batch[name] for name in ("index", "valid")}
