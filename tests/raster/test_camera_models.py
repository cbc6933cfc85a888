"""Camera models and lenses: against the formulas in numpy, their derivatives, and where they fold."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gsjax.raster import arg_specs, camera_models
from gsjax.raster import project as projection

WIDTH, HEIGHT, NUM = 40, 30, 16
SHAPES = ("means", "quats", "scales", "opacities", "viewmats", "Ks")
BARREL = np.array([-0.28, 0.08, -0.01, 0.02, 0.01, -0.003])
TANGENTIAL = np.array([0.011, -0.007])
FISHEYE = np.array([-0.03, 0.01, -0.004, 0.001])
LENSES = {
    "ortho": ("ortho", None, None),
    "fisheye": ("fisheye", None, None),
    "fisheye lens": ("fisheye", FISHEYE, None),
    "pinhole lens": ("pinhole", BARREL, TANGENTIAL),
    "two coefficients": ("pinhole", BARREL[:2], None),
    "tangential": ("pinhole", None, TANGENTIAL),
}


def _inputs(model, radial, tangential, dtype=np.float64):
    scene = arg_specs.random_scene(0, NUM, WIDTH, HEIGHT)
    args = {k: scene[k][0] if k in ("viewmats", "Ks") else scene[k] for k in SHAPES}
    args["means"] = 1.5 * args["means"]  # some beyond the image
    args["Ks"] = args["Ks"].copy()
    args["Ks"][0, 2] += 3
    if model == "ortho":
        args["Ks"][[0, 1], [0, 1]] = 12.0
    args |= dict(radial_coeffs=radial, tangential_coeffs=tangential)
    return {k: None if v is None else jnp.asarray(v, dtype) for k, v in args.items()}


@functools.partial(jax.jit, static_argnames=("camera_model", "radius_clip"))
def _project(args, **options):
    args = dict(args)
    positional = [args.pop(k) for k in SHAPES]
    return projection.project(*positional, WIDTH, HEIGHT, **args, **options)


def _image(model, point, K, radial, tangential):
    """Pixel of one point, from the textbook."""
    x, y, z = point
    if model == "ortho":
        a, b = x, y
    elif model == "fisheye":
        r = np.hypot(x, y)
        theta = np.arctan2(r, z)
        powers = theta ** (2 * np.arange(1, 1 + len(radial)))
        a, b = (c / r * theta * (1 + np.sum(radial * powers)) for c in (x, y))
    else:
        x, y = x / z, y / z
        r2 = x * x + y * y
        k = np.concatenate([radial, np.zeros(6 - len(radial))])
        ratio = (1 + k[0] * r2 + k[1] * r2**2 + k[2] * r2**3) / (
            1 + k[3] * r2 + k[4] * r2**2 + k[5] * r2**3
        )
        p1, p2 = tangential
        a = x * ratio + 2 * p1 * x * y + p2 * (r2 + 2 * x * x)
        b = y * ratio + p1 * (r2 + 2 * y * y) + 2 * p2 * x * y
    return np.array([K[0, 0] * a + K[0, 2], K[1, 1] * b + K[1, 2]])


@pytest.mark.parametrize("case", LENSES)
def test_centres_and_covariances_follow_the_formulas(case):
    model, radial, tangential = LENSES[case]
    with jax.enable_x64(True):
        args = _inputs(model, radial, tangential)
        splats = _project(args, camera_model=model)
        plain = {k: v for k, v in args.items() if not k.endswith("coeffs")}
        sigma = np.asarray(_covariances(plain["quats"], plain["scales"]))
    radial = np.zeros(0) if radial is None else radial
    tangential = np.zeros(2) if tangential is None else tangential
    view, K = np.asarray(args["viewmats"]), np.asarray(args["Ks"])
    image = functools.partial(_image, model, K=K, radial=radial, tangential=tangential)
    checked = 0
    for i in range(NUM):
        point = view[:3, :3] @ np.asarray(args["means"])[i] + view[:3, 3]
        center = image(point)
        if not np.all((center > 0) & (center < (WIDTH, HEIGHT))):
            continue  # a pinhole's Jacobian may be clamped there
        checked += 1
        np.testing.assert_allclose(splats.means2d[i], center, rtol=1e-9)
        h = 1e-6 * np.eye(3)
        jacobian = np.stack([(image(point + e) - image(point - e)) / 2e-6 for e in h], -1)
        jacobian = jacobian @ view[:3, :3]
        inverse = np.linalg.inv(jacobian @ sigma[i] @ jacobian.T + 0.3 * np.eye(2))
        np.testing.assert_allclose(splats.conics[i], inverse[[0, 0, 1], [0, 1, 1]], rtol=1e-5)
    assert checked >= 5


@jax.jit
def _covariances(quats, scales):
    axes = projection._axes(quats, scales)
    m = jnp.stack([jnp.stack(row, -1) for row in axes], -2)
    return jnp.einsum("nij,nkj->nik", m, m)


@functools.partial(jax.jit, static_argnames=("camera_model", "rasterize_mode"))
def _value_and_grad(args, **options):
    def loss(args):
        args = dict(args)
        positional = [args.pop(k) for k in SHAPES]
        splats = projection.project(*positional, WIDTH, HEIGHT, **args, **options)
        smooth = splats.means2d, splats.conics, splats.opacities, splats.depths
        return sum(jnp.sum(jnp.sin(x)) for x in smooth)

    return jax.value_and_grad(loss)(args)


@pytest.mark.parametrize(
    "case",
    [
        *(pytest.param(case, marks=pytest.mark.slow) for case in ("ortho", "fisheye lens")),
        "pinhole lens",
    ],
)
def test_gradients_equal_finite_differences(case):
    model, radial, tangential = LENSES[case]
    with jax.enable_x64(True):
        options = dict(camera_model=model, rasterize_mode="antialiased")
        args = {k: v for k, v in _inputs(model, radial, tangential).items() if v is not None}
        args["means"] = args["means"].at[0].set(0.0)  # near the axis
        _, grads = _value_and_grad(args, **options)
        rng = np.random.default_rng(100)
        for name, grad in grads.items():
            step = 1e-7 * rng.normal(size=grad.shape)
            ends = [float(_value_and_grad(args | {name: args[name] + s * step}, **options)[0])
                    for s in (1, -1)]  # fmt: skip
            slope = np.sum(grad * step)
            np.testing.assert_allclose(
                (ends[0] - ends[1]) / 2, slope, rtol=1e-5, atol=1e-13, err_msg=name
            )
            assert np.any(np.asarray(grad) != 0), name


@pytest.mark.slow
def test_zero_coefficients_are_the_ideal_camera():
    for model, count in (("pinhole", 6), ("fisheye", 4)):
        ideal = _project(_inputs(model, None, None, np.float32), camera_model=model)
        tangential = np.zeros(2) if model == "pinhole" else None
        lens = _inputs(model, np.zeros(count), tangential, np.float32)
        found = _project(lens, camera_model=model)
        for name, a, b in zip(found._fields, found, ideal, strict=True):
            np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-5, err_msg=name)


def test_fisheye_is_smooth_on_the_axis():
    """Values and derivatives across the border between series and quotient, in float32."""
    offsets = np.concatenate([[0.0], np.geomspace(1e-6, 2.0, 200)])
    squared = jnp.asarray(offsets**2 * 4, jnp.float32)
    z = jnp.full_like(squared, 2.0)
    function = camera_models._angle_over_radius
    exact = np.where(offsets > 0, np.arctan(offsets) / np.maximum(offsets, 1e-9), 1.0) / 2
    np.testing.assert_allclose(function(squared, z), exact, rtol=3e-7)
    slope = jax.jit(jax.vmap(jax.grad(function)))(squared, z)
    q = offsets**2
    expected = np.where(
        offsets > 0.05,
        (1 / (1 + q) - np.arctan(offsets) / np.maximum(offsets, 1e-9)) / np.maximum(2 * q, 1e-9),
        -1 / 3 + 2 * q / 5 - 3 * q * q / 7,
    )
    np.testing.assert_allclose(slope, expected / 8, rtol=2e-4)


@pytest.mark.slow
@pytest.mark.parametrize("lens", [None, FISHEYE], ids=["ideal", "lens"])
def test_fisheye_gradients_are_finite_next_to_the_camera_plane(lens):
    means = jnp.array([[x, 0.0, z] for x in (0.0, 1e-9, 0.3) for z in (2e-9, 1e-8, 3e-7, 1e-3)])
    count = len(means)
    quats, scales = jnp.tile(jnp.array([1.0, 0, 0, 0]), (count, 1)), jnp.full((count, 3), 0.01)
    K = jnp.array([[10.0, 0, 20], [0, 10, 15], [0, 0, 1]])
    lens = None if lens is None else jnp.asarray(lens, jnp.float32)

    @jax.jit
    @functools.partial(jax.value_and_grad, argnums=(0, 1), has_aux=True)
    def gradients(means, viewmat):
        splats = projection.project(
            means, quats, scales, jnp.full(count, 0.5), viewmat, K, WIDTH, HEIGHT, near_plane=0.0,
            camera_model="fisheye", radial_coeffs=lens,
        )  # fmt: skip
        return sum(jnp.sum(jnp.sin(x)) for x in splats[:4]), splats.radii

    (_, radii), grads = gradients(means, jnp.eye(4))
    # Those off the axis are seen, next to a right angle, but for one at it: there the lens folds.
    assert np.all(radii[-3:] > 0)
    assert all(np.all(np.isfinite(g)) for g in grads)
    assert np.all(np.any(np.asarray(grads[0])[-3:] != 0, -1))


@functools.partial(jax.jit, static_argnums=0)
def _linearize(model, point, K, lens):
    view = camera_models.linearize(model, point, K, lens, WIDTH, HEIGHT)
    return view.image, view.valid


def test_points_beyond_the_fold_are_culled():
    # r - 0.3 r^3 grows until r = sqrt(1 / 0.9) = 1.054 and is back at 0 for r = 1.83.
    radii = np.array([0.0, 0.9, 1.0, 1.05, 1.06, 1.5, 1.8, 5.0, 1e10], np.float32)
    point = tuple(jnp.asarray(p) for p in (radii, 0 * radii, 1 + 0 * radii))
    lens = camera_models.Lens(jnp.array([-0.3]), None)
    K = jnp.array([[20.0, 0, 20], [0, 20, 15], [0, 0, 1]])
    view = _linearize("pinhole", point, K, lens)
    assert view[1].tolist() == [True] * 4 + [False] * 5
    assert all(np.all(np.isfinite(x)) for x in view[0])
    # theta - theta^3 / 3 grows until theta = 1, that is r = tan(1) = 1.557.
    lens = camera_models.Lens(jnp.array([-1 / 3]), None)
    view = _linearize("fisheye", point, K, lens)
    assert view[1].tolist() == [True] * 6 + [False] * 3


def test_a_pole_of_the_rational_model_ends_its_range():
    lens = camera_models.Lens(jnp.array([0.0, 0, 0, -1.0]), None)  # r / (1 - r^2)
    radii = jnp.array([0.5, 0.9, 1.1, 2.0])
    limit = jax.jit(lambda lens: camera_models._first_fold(
        lambda r: camera_models._radial_slope(r, lens), camera_models._tangents(jnp.float32)
    ))(lens)  # fmt: skip
    np.testing.assert_allclose(limit, 1.0, rtol=1e-3)
    assert (radii < limit).tolist() == [True, True, False, False]


def test_undistort_inverts_distort_with_its_derivatives():
    with jax.enable_x64(True):
        lens = camera_models.Lens(jnp.asarray(BARREL), jnp.asarray(TANGENTIAL))
        a, b = jnp.linspace(-0.8, 0.7, 7), jnp.linspace(0.5, -0.6, 7)

        @jax.jit
        def back(a, b, lens):
            return camera_models.undistort(a, b, lens, jnp.asarray(1.2))

        distorted = jax.jit(camera_models.distort)(a, b, lens)
        found = back(*distorted, lens)
        assert found[2].all()
        np.testing.assert_allclose(found[:2], (a, b), atol=1e-12)

        @jax.jit
        def loss(args):
            found = back(*args)
            return jnp.sum(jnp.sin(3 * found[0]) + found[1] ** 2)

        args = (*distorted, lens)
        grads = jax.grad(loss)(args)
        rng = np.random.default_rng(0)
        step = jax.tree.map(lambda x: 1e-6 * rng.normal(size=x.shape), args)
        ends = [loss(jax.tree.map(lambda x, d: x + s * d, args, step)) for s in (1, -1)]  # noqa: B023
        slope = sum(jnp.sum(g * d) for g, d in zip(*map(jax.tree.leaves, (grads, step))))
        np.testing.assert_allclose((ends[0] - ends[1]) / 2, slope, rtol=1e-7)
        assert not back(jnp.array([5.0]), jnp.array([5.0]), lens)[2].any()  # never imaged


def test_covariances_instead_of_rotations_and_scales():
    args = _inputs("pinhole", None, None, np.float32)
    expected = _project(args, camera_model="fisheye")
    covars = _covariances(args["quats"], args["scales"])
    skewed = covars + 7 * jnp.array([[0, 1, -2], [-1, 0, 3], [2, -3, 0]])  # as good: symmetric part
    found = _project(args | dict(quats=None, scales=None, covars=skewed), camera_model="fisheye")
    for name, a, b in zip(found._fields, found, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4, err_msg=name)


def test_covariance_gradients_equal_finite_differences_even_of_flat_ones():
    with jax.enable_x64(True):
        args = _inputs("pinhole", None, None)
        args["scales"] = args["scales"].at[:4, 0].set(0.0)
        covars = _covariances(args["quats"], args["scales"])
        args = {k: v for k, v in args.items() if v is not None and k not in ("quats", "scales")}

        @jax.jit
        def loss(covars):
            splats = projection.project(
                args["means"], None, None, *(args[k] for k in SHAPES[3:]), WIDTH, HEIGHT,
                covars=covars, rasterize_mode="antialiased",
            )  # fmt: skip
            return jnp.sum(jnp.sin(splats.conics)) + jnp.sum(splats.opacities**2)

        grad = jax.jit(jax.grad(loss))(covars)
        step = 1e-8 * np.random.default_rng(1).normal(size=covars.shape)
        difference = (loss(covars + step) - loss(covars - step)) / 2
        np.testing.assert_allclose(difference, np.sum(grad * step), rtol=1e-5)
        np.testing.assert_allclose(grad, jnp.swapaxes(grad, 1, 2), atol=1e-12)


def test_covariances_that_are_none_are_culled():
    args = _inputs("pinhole", None, None, np.float32)
    args["means"] = jnp.zeros((NUM, 3))
    covars = jnp.broadcast_to(0.01 * jnp.eye(3), (NUM, 3, 3))
    covars = covars.at[0].set(-0.01 * jnp.eye(3)).at[1, 2, 2].set(jnp.nan).at[2].set(0.0)
    covars = covars.at[3].set(0.01 - 0.02 * jnp.eye(3))  # eigenvalues 0.01, -0.02, -0.02
    splats = _project(args | dict(quats=None, scales=None, covars=covars), camera_model="pinhole")
    shown = np.asarray(splats.radii[:, 0] > 0)
    expected = np.asarray(args["opacities"]) > 1 / 255
    expected[[0, 1, 3]] = False
    np.testing.assert_array_equal(shown, expected)
    assert all(np.all(np.isfinite(x)) for x in splats)


def test_radius_clip_drops_what_is_small_in_both_directions():
    args = _inputs("pinhole", None, None, np.float32)
    radii = np.asarray(_project(args).radii)
    found = np.asarray(_project(args, radius_clip=5.0).radii)
    keep = np.any(radii > 5, -1)
    assert 0 < keep.sum() < np.sum(radii[:, 0] > 0)
    np.testing.assert_array_equal(found, np.where(keep[:, None], radii, 0))


@pytest.mark.parametrize(
    ("model", "radial", "tangential", "message"),
    [
        ("panorama", None, None, "camera_model: .*'panorama'.*fisheye"),
        ("pinhole", 7, None, "radial_coeffs: found 7.*1 to 6"),
        ("fisheye", 6, None, "radial_coeffs: found 6.*1 to 4"),
        ("ortho", 2, None, "radial_coeffs: .*'ortho'.*None"),
        ("fisheye", None, 2, "tangential_coeffs: .*'fisheye'"),
    ],
)
def test_lenses_that_a_model_does_not_have_are_refused(model, radial, tangential, message):
    coefficients = (None if n is None else jnp.zeros(n) for n in (radial, tangential))
    with pytest.raises(ValueError, match=message):
        camera_models.check(model, camera_models.Lens(*coefficients))
