"""CLIP-GS losses: every reading of the voting loss against the formula, masks, false negatives."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gsjax.losses import contrastive
from gsjax.systems.clip_gs import losses
from tests.systems.clip_gs import tiny

B, K, D = 6, 3, 8


@functools.cache
def _inputs(num=B, seed=0):
    rng = np.random.default_rng(seed)
    draw = lambda *shape: jnp.asarray(rng.normal(size=shape), jnp.float32)  # noqa: E731
    text = draw(num, D)
    return dict(
        gaussian=draw(num, D),
        text=text,
        image=text[:, None] + draw(num, K, D),
        valid=jnp.ones(num, bool),
        caption_hash=jnp.arange(num, dtype=jnp.uint32),
        logit_scale=jnp.float32(2.0),
        logit_bias=jnp.float32(-1.0),
    )


def _options(**overrides):
    result = tiny.config().loss
    result.update(overrides)
    return result


def _total(inputs, **overrides):
    options = _options(**overrides)
    return jax.jit(lambda inputs: losses.total_loss(**inputs, options=options))(inputs)


def _formula(inputs, mode, reduce):
    """L_img written out."""
    unit = lambda x: np.asarray(x) / np.linalg.norm(x, axis=-1, keepdims=True)  # noqa: E731
    g, t, v = unit(inputs["gaussian"]), unit(inputs["text"]), unit(inputs["image"])
    tau = np.exp(2.0)
    cosine = np.einsum("bd,bkd->bk", t, v)
    positive = np.maximum(cosine, 0)
    soft = np.exp(cosine / 0.07)
    s = {
        "none": np.ones_like(cosine),
        "cosine": positive,
        "normalized": positive * K / positive.sum(1, keepdims=True),
        "softmax": K * soft / soft.sum(1, keepdims=True),
    }[mode]
    total = 0.0
    for k in range(K):
        logits = tau * g @ v[:, k].T
        log_p = np.diag(logits) - np.log(np.exp(logits).sum(1))
        log_q = np.diag(logits) - np.log(np.exp(logits).sum(0))
        total += np.sum(s[:, k] * (log_p + log_q))
    return -total / (2 * (B * K if reduce == "mean" else B))


@pytest.mark.parametrize("mode", losses.SCORE_MODES)
@pytest.mark.parametrize("reduce", ["mean", "sum"])
def test_voting_loss_follows_the_formula(mode, reduce):
    _, metrics = _total(_inputs(), score_mode=mode, view_reduce=reduce)
    np.testing.assert_allclose(metrics["loss_image"], _formula(_inputs(), mode, reduce), rtol=1e-4)


def test_gradient_of_the_voting_loss_follows_its_formula():
    """dL_img/dL_ij = (1/2Z) [S_ik (P_ij - d_ij) + S_jk (Q_ij - d_ij)], then the chain to g_i."""
    inputs = _inputs()
    g, v = contrastive.unit(inputs["gaussian"]), contrastive.unit(inputs["image"])
    scores = jnp.asarray(np.random.default_rng(1).uniform(size=(B, K)), jnp.float32)
    tau = jnp.exp(2.0)

    def loss(g):
        row, col = contrastive.pair_log_probs(g, v, tau)
        return losses.image_voting_loss(
            row, col, scores, jnp.ones((B, K), bool), view_reduce="mean"
        )

    expected = np.zeros((B, D))
    for k in range(K):
        logits = np.asarray(tau * g @ v[:, k].T)
        p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
        q = np.exp(logits) / np.exp(logits).sum(0, keepdims=True)
        eye, s = np.eye(B), np.asarray(scores)[:, k]
        slope = (s[:, None] * (p - eye) + s[None] * (q - eye)) / (2 * B * K)
        expected += np.asarray(tau) * slope @ np.asarray(v[:, k])
    np.testing.assert_allclose(jax.jit(jax.grad(loss))(g), expected, atol=1e-6)


def test_text_loss_of_unrelated_vectors_is_log_batch():
    rng = np.random.default_rng(0)
    g, t = (jnp.asarray(rng.normal(size=(64, 2048)), jnp.float32) for _ in range(2))
    inputs = {**_inputs(64), "gaussian": g, "text": t, "image": t[:, None]}
    _, metrics = _total(inputs)
    # cosines of unrelated vectors in 2048 dimensions are about 0.02
    np.testing.assert_allclose(metrics["loss_text"], np.log(64), rtol=0.02)


@pytest.mark.parametrize("kind", losses.KINDS)
def test_padding_and_missing_images_change_nothing(kind):
    inputs = _inputs()
    reference, _ = _total(inputs, kind=kind)
    padded = {
        name: x if x.ndim == 0 else jnp.concatenate([x, _inputs(2, seed=5)[name]])
        for name, x in inputs.items()
    }
    padded["valid"] = jnp.arange(B + 2) < B
    padded["caption_hash"] = jnp.arange(B + 2, dtype=jnp.uint32)
    found, _ = _total(padded, kind=kind)
    np.testing.assert_allclose(found, reference, rtol=1e-5)


def test_objects_without_images_keep_their_place_among_the_negatives():
    inputs = _inputs()
    missing = {**inputs, "image": inputs["image"].at[2].set(0.0)}
    loss, metrics = _total(missing, score_mode="none")
    assert bool(jnp.isfinite(loss))
    row, col = contrastive.pair_log_probs(
        contrastive.unit(inputs["gaussian"]),
        contrastive.unit(missing["image"]),
        jnp.exp(2.0),
        valid_b=jnp.ones((B, K), bool).at[2].set(False),
    )
    keep = np.asarray([0, 1, 3, 4, 5])
    expected = -jnp.sum(row[keep] + col[keep]) / (2 * len(keep) * K)
    np.testing.assert_allclose(metrics["loss_image"], expected, rtol=1e-5)


def test_gradients_are_finite_with_duplicates_and_zero_rows():
    inputs = _inputs()
    same = {**inputs, "gaussian": jnp.zeros((B, D)), "caption_hash": jnp.zeros(B, jnp.uint32)}
    same["text"] = jnp.broadcast_to(inputs["text"][:1], (B, D))

    @jax.jit
    def gradient(g, scale):
        return jax.grad(
            lambda g, scale: _total({**same, "gaussian": g, "logit_scale": scale})[0], (0, 1)
        )(g, scale)

    assert all(bool(jnp.isfinite(g).all()) for g in gradient(same["gaussian"], jnp.float32(4.6)))


def test_equal_captions_are_masked_only_on_request():
    inputs = {**_inputs(), "caption_hash": jnp.asarray([1, 1, 2, 3, 4, 5], jnp.uint32)}
    masked = _total(inputs, mask_duplicate_text=True)[1]["loss_text"]
    plain = _total(inputs, mask_duplicate_text=False)[1]["loss_text"]
    assert float(masked) < float(plain)


def test_sampled_views_are_distinct():
    draws = jnp.asarray(np.random.default_rng(0).uniform(size=(20, 6)))
    views = losses.sample_views(draws, 5)
    assert all(len(set(row)) == 5 and max(row) < 6 for row in views.tolist())


@pytest.mark.slow
@pytest.mark.parametrize("sharding", ["gather", "ring"])
@pytest.mark.parametrize("kind", losses.KINDS)
def test_the_sharding_option_keeps_value_and_gradient(kind, sharding):
    inputs = _inputs(8)
    inputs = inputs | dict(
        valid=inputs["valid"].at[6].set(False),
        caption_hash=inputs["caption_hash"].at[1].set(0),
        image=inputs["image"].at[2, 1].set(0.0),
    )
    moving = ("gaussian", "logit_scale", "logit_bias")

    def gradient(sharding):
        options = _options(kind=kind, sharding=sharding, mask_duplicate_text=True)

        def loss(parameters):
            return losses.total_loss(**{**inputs, **parameters}, options=options)[0]

        return jax.jit(jax.value_and_grad(loss))({name: inputs[name] for name in moving})

    value, grads = gradient("none")
    with jax.set_mesh(jax.make_mesh((4,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))):
        found, found_grads = gradient(sharding)
        with pytest.raises(ValueError, match="batch 6 is not divisible by the 4 devices"):
            _total(_inputs(), kind=kind, sharding=sharding)
    np.testing.assert_allclose(found, value, rtol=2e-6)
    for name in moving:
        np.testing.assert_allclose(found_grads[name], grads[name], atol=2e-6, err_msg=name)


@pytest.mark.parametrize("kind", losses.KINDS)
def test_unknown_options_are_refused(kind):
    fields = ["kind", "score_mode", "sharding"]
    fields += ["view_reduce", "negatives"] if kind == "softmax" else []
    for field in fields:
        with pytest.raises(ValueError, match="'nonsense'"):
            _total(_inputs(), **{"kind": kind, field: "nonsense"})


@pytest.mark.parametrize(
    "option",
    [dict(negatives="all_views"), dict(view_reduce="sum"), dict(legacy_detached_gather=True)],
)
def test_the_sigmoid_loss_refuses_what_only_the_softmax_has(option):
    with pytest.raises(ValueError, match="loss.kind 'sigmoid' has no such form"):
        _total(_inputs(), kind="sigmoid", **option)
