"""CLIP-GS augmentation: consistent over all attributes, the same on every layout."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gsjax
from gsjax.core import cameras, gaussians
from gsjax.systems.clip_gs import augment, randomness

_OPTIONS = dict(scale=(0.8, 1.25), shift=0.1, tilt=0.06, max_tilt=0.18, spin=True)


def _raw(num=30):
    rng = np.random.default_rng(0)
    draw = lambda *shape: jnp.asarray(rng.normal(size=(1, num, *shape)), jnp.float32)  # noqa: E731
    return gaussians.RawGaussians(draw(3) * 0.4, draw(4), draw(3) * 0.4 - 2.0, draw(), draw(1, 3))


@jax.jit
def _render(raw, viewmat):
    g = raw.activate()
    image, _, _ = gsjax.rasterize(
        g.means[0], g.quats[0], g.scales[0], g.opacities[0], g.sh[0],
        viewmat[None], cameras.intrinsics_from_fov(50.0, 24, 24)[None], 24, 24,
        sh_degree=0, backend="reference",
    )  # fmt: skip
    return image


@pytest.mark.slow
def test_rendering_commutes_with_the_augmentation():
    raw = _raw()
    draws = jnp.asarray(np.random.default_rng(3).uniform(size=(1, 8)), jnp.float32)
    factor, turn, translation = augment.similarity(draws, **_OPTIONS)
    moved = gaussians.transform(raw, factor, turn, translation)
    viewmat = cameras.look_at(
        jnp.asarray([0.0, 0.5, 3.0]), jnp.zeros(3), jnp.asarray([0.0, 1.0, 0.0])
    )
    # The camera that sees the moved object as the first one saw the object: x = (x' - t) R / s.
    # Scaling a camera's rotation does not change the picture, so s stays in the depth.
    rotation = viewmat[:3, :3] @ turn[0].T
    offset = factor[0] * viewmat[:3, 3] - rotation @ translation[0]
    follow = jnp.eye(4).at[:3, :3].set(rotation).at[:3, 3].set(offset)
    before, after = _render(raw, viewmat), _render(moved, follow)
    # eps2d is in pixels and unchanged; what is left is rounding
    np.testing.assert_allclose(after, before, atol=2e-4)
    assert before.max() > 0.2
    # the same with one attribute forgotten is another picture
    lazy = dataclasses.replace(moved, quats=raw.quats, log_scales=raw.log_scales)
    assert jnp.abs(_render(lazy, follow) - before).max() > 1e-2


def test_draws_depend_on_the_record_number_alone():
    sizes = dict(num_group=4, depth=1, num_views=3)
    key = jax.random.key(0)
    whole = randomness.draw(key, jnp.arange(8), **sizes)
    part = randomness.draw(key, jnp.asarray([5, 2]), **sizes)
    for x, y in zip(whole, part, strict=True):
        np.testing.assert_array_equal(x[np.asarray([5, 2])], y)
    assert not np.allclose(whole.views[0], whole.views[1])


def test_range_of_the_similarity():
    draws = jnp.asarray(np.random.default_rng(0).uniform(size=(500, 8)), jnp.float32)
    draws = draws.at[0].set(0.0)  # the inverse normal distribution is infinite there
    factor, turn, translation = augment.similarity(draws, **_OPTIONS)
    assert 0.8 <= float(factor.min()) and float(factor.max()) <= 1.25
    np.testing.assert_allclose(jnp.linalg.det(turn), 1.0, atol=1e-5)
    assert float(jnp.linalg.norm(translation, axis=-1).max()) <= 0.1 * 3**0.5 + 1e-6
    lean = jnp.arccos(jnp.clip(turn[:, 1, 1], -1, 1))  # of the up axis
    assert float(lean.max()) < 0.18 * 2.1
    spins = jnp.arctan2(turn[:, 0, 2], turn[:, 2, 2])
    assert float(spins.min()) < -2.5 and float(spins.max()) > 2.5


def test_color_drop_turns_whole_objects_grey():
    raw = jax.tree.map(lambda x: jnp.repeat(x, 2, 0), _raw())
    grey = augment._drop_color(raw, jnp.asarray([True, False]))
    np.testing.assert_allclose(0.5 + 0.2820948 * grey.sh[0], augment.NO_COLOR, atol=1e-6)
    np.testing.assert_array_equal(grey.sh[1], raw.sh[1])
