"""Projection, SH and tile lists against gsplat's own torch functions, on a real scene, on CPU.

gsplat 1.5.3 (``gsplat.cuda._torch_impl``); its pixel compositor needs CUDA and is not compared.
Differences of convention, and how they are met here:

* its torch projection knows no opacity: radii are 3.33 sigma; ours are compared at opacity 1, whose
  own extent is sqrt(2 ln 255) = 3.329 sigma (its tests allow radii to differ by 1);
* its compensation factor has no floor, ours one of 0.005;
* its determinants are a d - b b in float32; tolerances are those of its tests (tests/test_basic.py).

Needs torch (a CPU build will do) and gsplat without its dependencies; see BUILD_NOTES.md.
"""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gsjax.core import sh
from gsjax.raster import constants
from gsjax.raster import project as projection
from gsjax.raster.blend import tiles

torch = pytest.importorskip("torch", reason="torch is not installed")
impl = pytest.importorskip(
    "gsplat.cuda._torch_impl", reason="gsplat cannot be imported", exc_type=ImportError
)

pytestmark = pytest.mark.parity


@pytest.fixture(scope="module")
def garden(gsjax_data):
    """Points and cameras of the garden, with shapes drawn as gsplat's tests draw them."""
    with np.load(gsjax_data / "scenes/garden_3view/test_garden.npz") as data:
        points, viewmats, Ks = (np.float32(data[k]) for k in ("means3d", "viewmats", "Ks"))
        width, height = int(data["width"]), int(data["height"])
    means = points[np.all(np.abs(points) < 2, -1)]
    rng = np.random.default_rng(42)
    num = len(means)
    return types.SimpleNamespace(
        means=means,
        quats=rng.normal(size=(num, 4)).astype(np.float32),
        scales=rng.uniform(1e-4, 0.02, (num, 3)).astype(np.float32),
        opacities=rng.uniform(size=num).astype(np.float32),
        viewmats=viewmats,
        Ks=Ks,
        width=width,
        height=height,
    )


def _ours(garden, means, quats, scales, opacities, viewmats, **options):
    """Splats of all cameras."""

    def one(viewmat, K):
        return projection.project(
            means, quats, scales, opacities, viewmat, K, garden.width, garden.height, **options
        )

    return jax.vmap(one)(viewmats, jnp.asarray(garden.Ks))


def _theirs(garden, means, quats, scales, viewmats):
    """radii, means2d, depths, conics, compensations."""
    covars, _ = impl._quat_scale_to_covar_preci(quats, scales, compute_preci=False)
    Ks = torch.tensor(garden.Ks)
    return impl._fully_fused_projection(
        means, covars, viewmats, Ks, garden.width, garden.height, calc_compensations=True
    )


def _inputs(garden):
    return garden.means, garden.quats, garden.scales


def test_projection(garden):
    ones = np.ones(len(garden.means), np.float32)
    splats = _ours(garden, *_inputs(garden), ones, garden.viewmats)
    filtered = _ours(garden, *_inputs(garden), ones, garden.viewmats, rasterize_mode="antialiased")
    expected = _theirs(garden, *map(torch.tensor, (*_inputs(garden), garden.viewmats)))
    radii, means2d, depths, conics, compensations = (x.numpy() for x in expected)
    visible = np.all(radii > 0, -1)
    # Their radii may be 1 larger, so at the image border one may see what the other culls.
    assert np.mean(visible != np.all(splats.radii > 0, -1)) < 1e-4
    visible &= np.all(np.asarray(splats.radii) > 0, -1)
    assert visible.sum() > 50_000
    # One pixel by rounding up, and 3.33 against 3.329 sigma, which shows beyond 3,000 pixels.
    assert np.all(np.abs(splats.radii - radii)[visible] <= 1 + 3e-4 * radii[visible])
    for found, theirs, atol in (
        (splats.means2d, means2d, 1e-4),
        (splats.depths, depths, 1e-4),
        (splats.conics, conics, 1e-4),
        (filtered.opacities, np.maximum(compensations, constants.COMPENSATION_MIN), 1e-3),
    ):
        np.testing.assert_allclose(found[visible], theirs[visible], rtol=1e-4, atol=atol)


def test_projection_gradients(garden):
    inputs = *_inputs(garden), garden.viewmats
    ones = np.ones(len(garden.means), np.float32)
    tensors = [torch.tensor(x, requires_grad=True) for x in inputs]
    radii, *theirs = _theirs(garden, *tensors)
    visible = np.all(radii.numpy() > 0, -1)
    rng = np.random.default_rng(1)
    # Normed by gsplat's habit: cotangents of means2d, depths and conics only where visible.
    seeds = [
        np.float32(rng.normal(size=x.shape) * visible.reshape(*visible.shape, *[1] * (x.ndim - 2)))
        for x in theirs[:3]
    ]

    @jax.jit
    def gradients(*inputs):
        def loss(*inputs):
            means, quats, scales, viewmats = inputs
            splats = _ours(garden, means, quats, scales, ones, viewmats)
            smooth = splats.means2d, splats.depths, splats.conics
            return sum(jnp.sum(s * c) for s, c in zip(smooth, seeds, strict=True))

        return jax.grad(loss, argnums=range(4))(*inputs)

    sum((x * torch.tensor(s)).sum() for x, s in zip(theirs[:3], seeds, strict=True)).backward()
    for found, tensor in zip(gradients(*inputs), tensors, strict=True):
        expected = tensor.grad.numpy()
        assert np.linalg.norm(found - expected) <= 1e-3 * np.linalg.norm(expected)


@pytest.mark.parametrize("degree", range(5))
def test_spherical_harmonics_and_their_gradients(degree):
    rng = np.random.default_rng(degree)
    dirs = rng.normal(size=(1000, 3)).astype(np.float32)
    coefficients = rng.normal(size=(1000, 25, 3)).astype(np.float32)
    seed = rng.normal(size=(1000, 3)).astype(np.float32)
    tensors = [torch.tensor(x, requires_grad=True) for x in (dirs, coefficients)]
    expected = impl._spherical_harmonics(degree, *tensors)
    (expected * torch.tensor(seed)).sum().backward()
    found, back = jax.vjp(lambda d, c: sh.eval_sh(degree, d, c), dirs, coefficients)
    np.testing.assert_allclose(found, expected.detach().numpy(), rtol=1e-4, atol=1e-4)
    for grad, tensor in zip(back(seed), tensors, strict=True):
        theirs = np.zeros(tensor.shape) if tensor.grad is None else tensor.grad.numpy()
        np.testing.assert_allclose(grad, theirs, rtol=1e-4, atol=1e-4)


@pytest.fixture(scope="module")
def crop(garden):
    """A subset that gsplat's Python loop over pairs can hold: first camera, larger Gaussians."""
    pick = np.random.default_rng(0).choice(len(garden.means), 1500, replace=False)
    scales = garden.scales[pick] * np.float32([6, 2, 2])
    args = garden.means[pick], garden.quats[pick], scales
    radii, means2d, depths, _, _ = _theirs(garden, *map(torch.tensor, (*args, garden.viewmats)))
    splats = _ours(garden, *args, garden.opacities[pick], garden.viewmats)
    first = jax.tree.map(lambda x: x[0], splats)
    return first, (means2d[0], radii[0], depths[0])


def _gsplat_lists(arrays, garden, tile_size):
    """[tiles] lists of Gaussians, front to back; ties of depth by index."""
    means2d, radii, depths = arrays
    columns, rows = -(-garden.width // tile_size), -(-garden.height // tile_size)
    _, ids, flat = impl._isect_tiles(
        means2d[None], radii[None].float(), depths[None], tile_size, columns, rows
    )
    offsets = impl._isect_offset_encode(ids, 1, columns, rows).numpy().ravel()
    flat, ends = flat.numpy(), np.append(offsets[1:], len(flat))
    order = [
        np.lexsort((flat[a:b], depths.numpy()[flat[a:b]]))
        for a, b in zip(offsets, ends, strict=True)
    ]
    return [list(flat[a:b][o]) for a, b, o in zip(offsets, ends, order, strict=True)]


def _our_lists(splats, garden, tile_size, exact):
    function = jax.jit(tiles.tile_lists, static_argnums=(1, 2),
                       static_argnames=("tile_size", "capacity", "exact"))  # fmt: skip
    ids, bounds, wanted = jax.tree.map(
        np.asarray,
        function(
            splats, garden.width, garden.height, tile_size=tile_size, capacity=2**17, exact=exact
        ),
    )
    assert wanted <= 2**17
    return [list(ids[a:b]) for a, b in zip(bounds[:-1], bounds[1:], strict=True)]


def test_tile_lists_are_equal_in_box_mode(garden, crop):
    _, theirs = crop
    means2d, radii, depths = (jnp.asarray(x.numpy()) for x in theirs)
    zeros = jnp.zeros_like(depths)
    splats = projection.Splats(means2d, jnp.zeros((len(zeros), 3)), zeros, depths, radii)
    found = _our_lists(splats, garden, 16, exact=False)
    assert found == _gsplat_lists(theirs, garden, 16)
    assert sum(map(len, found)) > 5000


def test_exact_tile_lists_are_a_subset_that_drops_only_invisible_pairs(garden, crop):
    splats, theirs = crop
    size, columns = 16, -(-garden.width // 16)
    exact, boxes = _our_lists(splats, garden, size, True), _gsplat_lists(theirs, garden, size)
    means, conics, opacities = (np.float64(x) for x in splats[:3])
    dropped = []
    for tile, (ours, box) in enumerate(zip(exact, boxes, strict=True)):
        kept = set(ours)
        assert kept <= set(box)
        assert ours == [g for g in box if g in kept], "order"
        dropped += [(tile, g) for g in box if g not in kept]
    tile, gaussian = np.array(dropped).T
    offset = np.arange(size) + 0.5
    x = ((tile % columns) * size)[:, None, None] + offset
    y = ((tile // columns) * size)[:, None, None] + offset[:, None]
    inside = (x < garden.width) & (y < garden.height)  # the last tiles reach beyond the image
    x, y = means[gaussian, 0, None, None] - x, means[gaussian, 1, None, None] - y
    a, b, c = (conics[gaussian, k, None, None] for k in range(3))
    alpha = np.exp(-0.5 * (a * x * x + c * y * y) - b * x * y) * opacities[gaussian, None, None]
    alpha = np.where(inside, alpha, 0)
    assert alpha.max() < 1 / 255
    assert len(dropped) > 0.1 * sum(map(len, boxes))
