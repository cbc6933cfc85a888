import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gsjax.raster import api, arg_specs, sharded
from tests import compiling

WIDTH, HEIGHT, NUM = 40, 36, 203  # no multiples of tiles or devices
NAMES = ("means", "quats", "scales", "opacities", "colors", "viewmats", "Ks")


@pytest.fixture(scope="module")
def scene():
    made = arg_specs.random_scene(3, NUM, WIDTH, HEIGHT)
    arrays = {name: np.asarray(made[name]) for name in NAMES}
    moved = arrays["viewmats"][:1] + np.array([[0, 0, 0, 0.1]] + 3 * [[0] * 4], np.float32)
    arrays["viewmats"] = np.concatenate([arrays["viewmats"][:1], moved])
    arrays["Ks"] = np.repeat(arrays["Ks"][:1], 2, axis=0)
    arrays["backgrounds"] = np.array([[0.1, 0.2, 0.3], [0.4, 0.0, 0.9]], np.float32)
    return {name: jnp.asarray(value) for name, value in arrays.items()}


def _mesh(shape, names):
    return jax.make_mesh(shape, names, axis_types=(jax.sharding.AxisType.Auto,) * len(shape))


def _run(render, scene):
    """(image, alpha, meta) and gradients of all inputs."""
    rng = np.random.default_rng(0)
    weights = [jnp.asarray(rng.normal(size=(2, HEIGHT, WIDTH, c)), jnp.float32) for c in (4, 1)]

    def loss(scene):
        out = render(**scene, width=WIDTH, height=HEIGHT, render_mode="RGB+ED")
        return sum(jnp.sum(a * b) for a, b in zip(out[:2], weights)), out

    step = jax.jit(jax.grad(loss, has_aux=True), compiler_options=compiling.CAREFUL)
    gradients, out = step(scene)
    return jax.tree.map(np.asarray, (out, gradients))


@pytest.fixture(scope="module")
def single(scene):
    return _run(lambda **kw: api.rasterize(**kw, backend="xla_loop"), scene)


@pytest.mark.slow
@pytest.mark.parametrize(
    "shape,axes,rows",
    [
        ((8,), dict(tiles="t"), None),
        ((2, 4), dict(views="v", tiles="t"), 51),
    ],
    ids=["strips", "views and strips, needed rows only"],
)
def test_devices_make_the_image_and_gradients_of_one(scene, single, shape, axes, rows):
    mesh = _mesh(shape, tuple(axes.values()))
    (image, alpha, meta), gradients = _run(
        lambda **kw: sharded.rasterize_sharded(
            **kw, mesh=mesh, **axes, exchange_rows=rows, backend="xla_loop"
        ),
        scene,
    )
    (expected, expected_alpha, expected_meta), expected_gradients = single
    assert not meta["overflow"].any()
    np.testing.assert_allclose(image, expected, atol=1e-5)
    np.testing.assert_allclose(alpha, expected_alpha, atol=1e-6)
    for name, found in gradients.items():
        scale = np.linalg.norm(expected_gradients[name])
        assert np.linalg.norm(found - expected_gradients[name]) < 1e-4 * scale, name
    np.testing.assert_array_equal(
        meta["num_culled_nonfinite"], expected_meta["num_culled_nonfinite"]
    )


@pytest.mark.slow
@pytest.mark.parametrize("leading", [(), (2,)], ids=["per scene", "per view"])
def test_sh_colors_are_split_with_their_gaussians(scene, leading):
    coefficients = np.random.default_rng(1).normal(size=(*leading, NUM, 4, 3))
    scene = scene | dict(colors=jnp.asarray(coefficients, jnp.float32))
    options = dict(width=WIDTH, height=HEIGHT, sh_degree=1, backend="xla_loop")
    mesh = _mesh((2, 4), ("v", "t"))

    @jax.jit
    def both(scene):
        split = sharded.rasterize_sharded(**scene, **options, mesh=mesh, views="v", tiles="t")
        return split[0], api.rasterize(**scene, **options)[0]

    found, expected = both(scene)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert np.std(found) > 0.1


@pytest.mark.slow
def test_the_plan_is_enough_and_no_less_is(scene, single):
    meta = single[0][2]
    needed = sharded.plan_exchange(
        jnp.asarray(meta["radii"]), jnp.asarray(meta["means2d"]), HEIGHT, 8, 4
    )
    assert 0 < needed <= -(-NUM // 4)
    mesh = _mesh((4,), ("t",))

    def overflow(rows):
        render = jax.jit(
            lambda scene: sharded.rasterize_sharded(
                **scene, width=WIDTH, height=HEIGHT, mesh=mesh, tiles="t", exchange_rows=rows,
                backend="xla_loop",
            )[2]["overflow"]
        )  # fmt: skip
        return int(render(scene).sum())

    assert overflow(needed) == 0 < overflow(needed - 1)


def test_bytes_are_those_of_the_compiled_program(scene):
    mesh = _mesh((4,), ("t",))
    render = jax.jit(
        lambda scene: sharded.rasterize_sharded(
            **scene, width=WIDTH, height=HEIGHT, mesh=mesh, tiles="t", backend="xla_loop"
        )[0]
    )
    text = render.lower(scene).compile().as_text()
    gathers = [line for line in text.splitlines() if " all-gather(" in line]
    per_device = -(-NUM // 4)
    # Beside it the image is put together, for a caller who wants it whole.
    assert sum(f"f32[2,{4 * per_device},12]" in line for line in gathers) == 1
    assert sharded.exchanged_bytes(NUM, 3, 2, 4) == 4 * 2 * 3 * per_device * 12


@pytest.mark.parametrize(
    "change,message",
    [
        (dict(tiles="x"), "tiles is 'x'; the mesh has the axes"),
        (dict(views="t"), "2 cameras cannot be split over the 4 devices"),
        (dict(tiles="t", views="t"), "both 't'"),
        (dict(tiles="t", exchange_rows=0), "exchange_rows is 0"),
        (dict(tiles="t", exchange_rows=1.5), "exchange_rows: found 1.5, expected an integer"),
        (dict(tiles="t", render_mode="MD"), "no selected depth"),
        (dict(tiles="t", masks=None), r"does not take \['masks'\]"),
    ],
)
def test_bad_arguments_are_named(scene, change, message):
    with pytest.raises(ValueError, match=message):
        sharded.rasterize_sharded(
            **scene, width=WIDTH, height=HEIGHT, mesh=_mesh((4,), ("t",)), **change
        )
