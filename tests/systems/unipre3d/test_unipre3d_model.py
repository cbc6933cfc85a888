"""Model and system: what is trained, what is not, what is drawn."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gsjax.models.backbones import base as backbones
from gsjax.models.image_features import base as image_features
from gsjax.systems import base
from tests.systems.unipre3d import tiny


@pytest.fixture(scope="module")
def built():
    return tiny.system()


@pytest.fixture(scope="module")
def variables(built):
    return tiny.variables(built)


@pytest.fixture(scope="module")
def batch(built):
    return tiny.batch(built)


def test_backbone_holds_no_fusion_and_no_image_code(variables):
    params = variables["params"]
    assert sorted(params) == ["backbone", "fusion", "head"]
    alone = tiny.variables(tiny.system(model__fusion="none", data__references=0))
    shapes = [jax.tree.map(jnp.shape, v["params"]["backbone"]) for v in (variables, alone)]
    assert shapes[0] == shapes[1]
    assert sorted(alone["params"]) == ["backbone", "head"]


def test_gradients_reach_adapter_backbone_and_head_alone(batch):
    built = tiny.system(model__image_encoder="random_conv")
    variables = tiny.variables(built)
    assert jax.tree.leaves(variables["image_encoder"])

    def loss(params, frozen):
        everything = {**variables, "params": params, "image_encoder": frozen}
        return built.loss(everything, batch, jax.random.key(0), True)[0]

    grads, frozen = tiny.quick_jit(jax.grad(loss, (0, 1)))(
        variables["params"], variables["image_encoder"]
    )
    assert all((x == 0).all() for x in jax.tree.leaves(frozen))
    for part in (grads["backbone"], grads["head"], grads["fusion"]["adapter"]):
        assert all(np.isfinite(x).all() for x in jax.tree.leaves(part))
        assert max(float(jnp.abs(x).max()) for x in jax.tree.leaves(part)) > 0


def test_weights_of_the_image_encoder_are_arguments():
    built = tiny.system(model__image_encoder="random_conv")
    variables = tiny.variables(built)
    encoder = image_features.load("random_conv")
    largest = max(x.size for x in jax.tree.leaves(encoder.arrays))
    assert largest > 1000
    text = jax.jit(built.predict_fns["render"]).lower(variables, tiny.batch(built)).as_text()
    numbers = [len(part) for part in text.split("dense<")[1:]]
    assert not any(length > 4 * largest for length in numbers)


def test_reference_views_are_not_supervised(built, batch, variables):
    """A target's pixels change the loss; those of a reference only through features that points get."""
    loss = tiny.quick_jit(lambda b: built.loss(variables, b, jax.random.key(0), False)[0])
    dark = {**batch, "images": batch["images"].at[:, 1:].set(0)}
    assert float(loss(dark)) != pytest.approx(float(loss(batch)), rel=1e-3)
    other = {**batch, "images": batch["images"].at[:, 0].set(0)}
    assert float(loss(other)) != float(loss(batch))
    behind = batch["viewmats"].at[:, 0, 2, 3].add(-10.0)  # the reference sees nothing of the object
    values = [float(loss({**b, "viewmats": behind})) for b in (batch, other)]
    assert values[0] == values[1]


def test_padding_examples_change_nothing(built, batch, variables):
    loss = tiny.quick_jit(lambda b: built.loss(variables, b, jax.random.key(0), False)[0])
    padded = {**batch, "valid": jnp.asarray([True, True, True, False])}
    junk = {**padded, "xyz": padded["xyz"].at[3].mul(100.0)}
    np.testing.assert_allclose(loss(padded), loss(junk), rtol=1e-6)


def test_rendered_views_carry_their_targets(built, batch, variables):
    found = tiny.quick_jit(built.predict_fns["render"])(variables, batch)
    assert found["image"].shape == found["target"].shape == (4, 3, 16, 16, 3)
    assert found["alpha"].shape == (4, 3, 16, 16)
    assert 0.05 < float(found["target_alpha"].mean()) < 0.8
    blind = tiny.quick_jit(built.predict_fns["blind"])(variables, batch)
    assert float(jnp.abs(blind["image"] - found["image"]).max()) > 1e-6


def test_grey_discs_stand_where_the_object_is(built, batch, variables):
    found = tiny.quick_jit(built.predict_fns["discs"])(variables, batch)
    inside = np.asarray(found["target_alpha"]) > 0.5
    alpha = np.asarray(found["alpha"])
    # 16 pixels a side: what lies outside is mostly beside the rim
    assert alpha[inside].mean() > 0.6 and alpha[~inside].mean() < 0.4


def test_embeddings_are_the_backbones_own(built, batch, variables):
    found = tiny.quick_jit(built.predict_fns["embed"])(variables, batch)
    assert found["gaussian"].shape == (4, 48)
    without = {**batch, "images": jnp.zeros_like(batch["images"])}
    again = tiny.quick_jit(built.predict_fns["embed"])(variables, without)
    np.testing.assert_array_equal(found["gaussian"], again["gaussian"])


@pytest.mark.slow
def test_one_batch_is_learned():
    """Loss falls to under a third in 60 steps; the margins of a whole run are a command's affair."""
    built = tiny.system()
    variables, batch = tiny.variables(built), tiny.batch(built)

    @jax.jit
    def step(variables, moments, number):
        def loss(params):
            value, metrics, new = built.loss(
                {**variables, "params": params}, batch, jax.random.key(0), True
            )
            return value, (metrics, new)

        (value, (metrics, new)), grads = jax.value_and_grad(loss, has_aux=True)(variables["params"])
        moments = jax.tree.map(
            lambda m, g: (0.9 * m[0] + 0.1 * g, 0.99 * m[1] + 0.01 * g * g),
            moments,
            grads,
            is_leaf=lambda m: isinstance(m, tuple),
        )
        fixed = jax.tree.map(
            lambda p, m: (
                p - 5e-3 * (m[0] / (1 - 0.9**number)) / (jnp.sqrt(m[1] / (1 - 0.99**number)) + 1e-8)
            ),
            variables["params"],
            moments,
            is_leaf=lambda m: isinstance(m, tuple),
        )
        return {**variables, **new, "params": fixed}, moments, value, metrics

    moments = jax.tree.map(lambda p: (jnp.zeros_like(p), jnp.zeros_like(p)), variables["params"])
    history = []
    for number in range(1, 61):
        variables, moments, value, metrics = step(variables, moments, number)
        history.append(float(value))
    assert history[-1] < history[0] / 3, history[::10]
    assert float(metrics["iou"]) > 0.5


@pytest.mark.parametrize(
    "overrides, message",
    [
        (dict(model__fusion="none"), "data.references: found 1 with model.fusion='none'"),
        (dict(data__references=0), "data.references: found 0; fusion reads at least one"),
        (dict(model__fusion="early"), "model.fusion: unknown 'early'"),
        (dict(model__features=("curvature",)), r"model.features: unknown \['curvature'\]"),
        (dict(model__backbone="pointcnn"), "backbone: unknown 'pointcnn'; known: "),
    ],
)
def test_settings_that_do_not_go_together_are_refused(overrides, message):
    with pytest.raises(ValueError, match=message):
        base.build(tiny.config(**overrides))


def test_height_is_above_the_lowest_point():
    mask, rgb = jnp.asarray([[True, True, False]]), jnp.full((1, 3, 3), 0.25)
    xyz = jnp.asarray([[[0.0, -0.4, 0], [0, 0.1, 0], [0, -9.0, 0]]])
    found = backbones.with_features(xyz, mask, ("height", "rgb"), rgb=rgb)
    np.testing.assert_allclose(found.feat[0, :2, 0], [0.0, 0.5], atol=1e-6)
    np.testing.assert_allclose(found.feat[0, :2, 1:], -0.5)
    assert (found.feat[0, 2] == 0).all()
