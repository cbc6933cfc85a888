"""Properties that hold for every scene, on scenes drawn by hypothesis; and a short fuzz run."""

import functools

import jax
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gsjax.raster import api, arg_specs
from tests.raster import fuzz

WIDTH, HEIGHT, NUM = 28, 21, 24
BACKENDS = ("xla_loop", "xla_group")
SEEDS = st.integers(0, 2**32 - 1)
GAUSSIANS = ("means", "quats", "scales", "opacities", "colors")

pytestmark = pytest.mark.parametrize("backend", BACKENDS)
drawn = settings(
    max_examples=12, deadline=None, suppress_health_check=[HealthCheck.too_slow], database=None
)


@functools.cache
def _renderer(backend):
    def render(scene):
        return api.rasterize(**scene, width=WIDTH, height=HEIGHT, backend=backend, near_plane=1e-6)[
            :2
        ]

    return jax.jit(render)


def _render(backend, scene):
    image, alpha = _renderer(backend)(scene)
    return np.concatenate([image, alpha], -1)[0]


def _scene(seed, opacity=1.0):
    """A scene of NUM Gaussians whose other half has opacity 0, so that halves have equal shapes."""
    scene = {k: np.asarray(v) for k, v in arg_specs.random_scene(seed, NUM, WIDTH, HEIGHT).items()}
    scene["opacities"] = scene["opacities"] * np.float32(opacity)
    return scene


def _with(scene, **changes):
    return {**scene, **changes}


@drawn
@given(seed=SEEDS)
def test_order_of_the_gaussians_does_not_matter(backend, seed):
    scene = _scene(seed)
    order = np.random.default_rng(seed).permutation(NUM)
    shuffled = _with(scene, **{k: scene[k][order] for k in GAUSSIANS})
    np.testing.assert_allclose(_render(backend, shuffled), _render(backend, scene), atol=1e-6)


@drawn
@given(seed=SEEDS)
def test_gaussians_of_opacity_zero_change_nothing(backend, seed):
    """Compared with the same rows far behind the camera instead."""
    scene, rng = _scene(seed), np.random.default_rng(seed)
    unused = rng.uniform(size=NUM) < 0.5
    clear = _with(scene, opacities=np.where(unused, 0.0, scene["opacities"]).astype(np.float32))
    behind = -1e4 * scene["viewmats"][0, 2, :3]  # along -z of the camera
    away = _with(scene, means=np.where(unused[:, None], behind, scene["means"]).astype(np.float32))
    np.testing.assert_array_equal(_render(backend, clear), _render(backend, away))


@drawn
@given(seed=SEEDS, scale=st.floats(0.01, 100.0))
def test_world_and_camera_may_be_scaled_and_moved_together(backend, seed, scale):
    scene, rng = _scene(seed), np.random.default_rng(seed)
    move = rng.normal(size=3)
    means = scale * scene["means"].astype(np.float64) + move
    viewmats = scene["viewmats"].astype(np.float64).copy()
    viewmats[:, :3, 3] = scale * viewmats[:, :3, 3] - viewmats[:, :3, :3] @ move
    moved = _with(scene, means=means, scales=scale * scene["scales"], viewmats=viewmats)
    moved = {k: np.asarray(v, np.float32) for k, v in moved.items()}
    error = np.abs(_render(backend, moved) - _render(backend, scene)).max(-1)
    # Rounding may carry an alpha across 1/255 at a pixel here and there.
    assert np.quantile(error, 0.99) < 2e-3
    assert error.max() < 3 / 255


@drawn
@given(seed=SEEDS, share=st.floats(0.1, 0.9))
def test_layers_in_depth_compose_to_the_whole(backend, seed, share):
    scene = _scene(seed, opacity=0.3)  # no pixel closes: 0.7^24 > 1e-4
    viewmat = scene["viewmats"][0]
    depths = scene["means"] @ viewmat[2, :3] + viewmat[2, 3]
    near = depths < np.quantile(depths, share)
    front, back = (
        _with(scene, opacities=np.where(part, scene["opacities"], 0).astype(np.float32))
        for part in (near, ~near)
    )
    front, back, whole = (_render(backend, part) for part in (front, back, scene))
    composed = front + (1 - front[..., -1:]) * back
    np.testing.assert_allclose(composed, whole, atol=1e-5)


@pytest.mark.slow
def test_no_scene_makes_a_number_that_is_not_finite(backend):
    shares = [fuzz.check(backend, seed, 50) for seed in range(2)]
    assert min(shares) > 0.2  # else the scenes would show nothing that could go wrong
