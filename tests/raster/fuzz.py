"""Random scenes that nobody would train, rendered with gradients: python -m tests.raster.fuzz.

Scales from 1e-8 to 1e8, cameras inside Gaussians, focal lengths from 1e-2 to 1e5 pixels, zero
quaternions, opacities 0 and 1, rows with NaN and infinities. `check` names the first scene in which
the image or the gradient of a finite row is not finite, a spoilt row has a gradient, or the count of
spoilt rows is wrong. About half of the scenes show something; a run in which fewer than a third do
proves nothing and fails.
"""

import argparse
import functools
import time

import jax
import jax.numpy as jnp
import numpy as np

from gsjax import runtime

NUM, WIDTH, HEIGHT = 40, 24, 17
SPOILT = (np.nan, np.inf, -np.inf)
GAUSSIANS = ("means", "quats", "scales", "opacities", "colors")


def _powers(rng, low, high, shape):
    return 10.0 ** rng.uniform(low, high, shape)


def random_batch(seed: int, size: int) -> tuple[dict, np.ndarray]:
    """`size` scenes as arguments of `rasterize`, and bool [size, NUM]: the spoilt rows."""
    rng = np.random.default_rng(seed)
    spread = _powers(rng, -4, 6, (size, 1, 1))
    scene = dict(
        means=rng.normal(size=(size, NUM, 3)) * spread,
        quats=rng.normal(size=(size, NUM, 4)) * _powers(rng, -12, 6, (size, NUM, 1)),
        scales=spread * _powers(rng, -8, 2, (size, NUM, 3)),
        opacities=rng.choice([0.0, 1.0, 1 / 255, np.nan], (size, NUM)),
        colors=rng.normal(size=(size, NUM, 3)) * _powers(rng, -3, 3, (size, 1, 1)),
    )
    scene["opacities"] = np.where(
        np.isnan(scene["opacities"]), rng.uniform(size=(size, NUM)), scene["opacities"]
    )
    scene["quats"][rng.uniform(size=(size, NUM)) < 0.05] = 0.0
    scene["scales"][rng.uniform(size=(size, NUM)) < 0.05] = 0.0
    viewmats = np.tile(np.eye(4), (size, 1, 1, 1))
    viewmats[:, 0, :3, :3] = _rotations(rng, size)
    viewmats[:, 0, :3, 3] = rng.normal(size=(size, 3)) * spread[:, 0] * rng.choice([0, 1, 3])
    Ks = np.zeros((size, 1, 3, 3))
    Ks[:, 0, 0, 0], Ks[:, 0, 1, 1] = _powers(rng, -2, 5, (2, size))
    Ks[:, 0, 0, 2], Ks[:, 0, 1, 2] = rng.uniform(-WIDTH, 2 * WIDTH, (2, size))
    Ks[:, 0, 2, 2] = 1.0
    spoilt = _spoil(rng, scene)
    scene |= dict(viewmats=viewmats, Ks=Ks)
    return {name: value.astype(np.float32) for name, value in scene.items()}, spoilt


def _rotations(rng, size):
    return np.linalg.qr(rng.normal(size=(size, 3, 3)))[0]


def _spoil(rng, scene):
    """Puts a NaN or an infinity into some rows; returns which."""
    spoilt = rng.uniform(size=scene["opacities"].shape) < 0.05
    for name in GAUSSIANS:
        value = scene[name].reshape(*spoilt.shape, -1)
        hit = spoilt & (rng.integers(len(GAUSSIANS), size=spoilt.shape) == 0)
        value[hit, rng.integers(value.shape[-1])] = rng.choice(SPOILT)
        scene[name] = value.reshape(scene[name].shape)
    found = [~np.isfinite(scene[name]).reshape(*spoilt.shape, -1).all(-1) for name in GAUSSIANS]
    return np.any(found, 0)


@functools.cache
def renderer(backend: str):
    """scenes -> (image, alpha, culled counts) and gradients."""
    from gsjax.raster import api

    weights = jnp.asarray(np.random.default_rng(0).normal(size=(HEIGHT, WIDTH, 4)), jnp.float32)

    def loss(scene):
        image, alpha, meta = api.rasterize(
            **scene, width=WIDTH, height=HEIGHT, backend=backend, render_mode="RGB+ED"
        )
        value = jnp.sum(image * weights) + jnp.sum(alpha)
        return value, (image, alpha, meta["num_culled_nonfinite"])

    return jax.jit(jax.grad(loss, has_aux=True))


def check(backend: str, seed: int, size: int) -> float:
    """Renders one batch; raises AssertionError naming seed and scene.

    Returns:
      The share of scenes that show something and have gradients.
    """
    scene, spoilt = random_batch(seed, size)
    gradients, (image, alpha, culled) = jax.tree.map(np.asarray, renderer(backend)(scene))
    for k in range(size):
        where = f"seed {seed}, scene {k}, {backend}"
        assert np.isfinite(image[k]).all() and np.isfinite(alpha[k]).all(), f"{where}: image"
        assert culled[k, 0] >= spoilt[k].sum(), f"{where}: {culled[k, 0]} culled"
        for name in (*GAUSSIANS, "viewmats", "Ks"):
            assert np.isfinite(gradients[name][k]).all(), f"{where}: gradient of {name}"
        for name in GAUSSIANS:
            assert not gradients[name][k][spoilt[k]].any(), f"{where}: spoilt rows of {name}"
    shows = alpha.reshape(size, -1).max(1) > 0.1
    return float(np.mean(shows & gradients["means"].reshape(size, -1).any(1)))


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--scenes", type=int, default=10_000)
    parser.add_argument("--backends", default="xla_loop,xla_group")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    runtime.configure_environment()
    size = 50
    for backend in args.backends.split(","):
        begin, batches = time.perf_counter(), range(-(-args.scenes // size))
        share = float(np.mean([check(backend, args.seed + batch, size) for batch in batches]))
        assert share > 1 / 3, f"only {share:.0%} of the scenes show anything"
        seconds = time.perf_counter() - begin
        print(
            f"{backend}: {args.scenes} scenes, {share:.0%} of them visible, nothing found,", end=""
        )
        print(f" {seconds:.0f} s", flush=True)


if __name__ == "__main__":
    main()
