"""The selective scan against the recurrence token by token; the convolution before it."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gsjax.core import selective_scan as scans

quick = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
B, L, E, N = 2, 11, 3, 4
VARIANTS = [
    ("associative", None, False),
    ("associative", 4, True),
    ("sequential", None, True),
    ("sequential", 4, False),
    ("auto", 3, False),
]


def arguments(seed: int = 0, length: int = L, dtype=np.float32) -> list[jax.Array]:
    """u, dt, a, b, c, d of the sizes above."""
    rng = np.random.default_rng(seed)
    return [
        jnp.asarray(x, dtype)
        for x in (
            rng.normal(size=(B, length, E)),
            np.exp(rng.uniform(np.log(1e-2), np.log(2.0), (B, length, E))),
            -np.exp(rng.normal(size=(E, N))),
            rng.normal(size=(B, length, N)),
            rng.normal(size=(B, length, N)),
            rng.normal(size=E),
        )
    ]


def oracle(u, dt, a, b, c, d, reverse=False):
    """The definition, one token after the other."""

    def step(h, token):
        u, dt, b, c = token
        h = jnp.exp(dt[:, :, None] * a) * h + dt[:, :, None] * b[:, None] * u[:, :, None]
        return h, jnp.einsum("ben,bn->be", h, c) + d * u

    tokens = [jnp.swapaxes(x, 0, 1) for x in (u, dt, b, c)]
    first = jnp.zeros((u.shape[0], *a.shape), u.dtype)
    return jnp.swapaxes(jax.lax.scan(step, first, tokens, reverse=reverse)[1], 0, 1)


def weighted(function):
    """A scalar of y that weighs every element differently."""
    return lambda *x: jnp.sum(jnp.sin(jnp.arange(B * L * E).reshape(B, L, E)) * function(*x))


@pytest.fixture(scope="module")
def expected():
    """By direction: y and its gradients, of the definition."""
    everything = tuple(range(6))
    return {
        way: (
            quick(functools.partial(oracle, reverse=way))(*arguments()),
            quick(jax.grad(weighted(functools.partial(oracle, reverse=way)), everything))(
                *arguments()
            ),
        )
        for way in (False, True)
    }


@pytest.mark.parametrize("method, chunk, reverse", VARIANTS)
def test_values_and_gradients_are_the_definitions(method, chunk, reverse, expected):
    run = functools.partial(scans.selective_scan, method=method, chunk=chunk, reverse=reverse)
    y, grads = quick(lambda *x: (run(*x), jax.grad(weighted(run), tuple(range(6)))(*x)))(
        *arguments()
    )
    # Products of decays are formed in another order: some ulps of float32.
    np.testing.assert_allclose(y, expected[reverse][0], atol=5e-6)
    for got, want in zip(grads, expected[reverse][1], strict=True):
        np.testing.assert_allclose(got, want, atol=5e-6 * float(jnp.abs(want).max()))


def test_two_tokens_by_hand():
    one = lambda *x: jnp.asarray(x, jnp.float32)[:, None]  # noqa: E731
    # h1 = 0.5 * 4 * 3 = 6; h2 = exp(-1) h1 + 1 * 2 * 5 = 10 + 6/e; y = c h + d u
    y = scans.selective_scan(
        one(3, 5), one(0.5, 1), jnp.full((1, 1), -1.0), one(4, 2), one(1, 10), jnp.ones(1)
    )
    np.testing.assert_allclose(y[:, 0], [6 + 3, 10 * (10 + 6 / np.e) + 5], rtol=1e-6)


def test_finite_differences_in_float64():
    with jax.enable_x64(True):
        args = arguments(1, 6, np.float64)
        run = lambda *x: jnp.sum(jnp.sin(  # noqa: E731
            scans.selective_scan(*x, chunk=4, method="associative")))  # fmt: skip
        assert run(*args).dtype == np.float64
        rng = np.random.default_rng(2)
        step = [jnp.asarray(rng.normal(size=x.shape)) for x in args]
        value = quick(lambda h: run(*(x + h * s for x, s in zip(args, step, strict=True))))
        slope = jax.jit(jax.grad(lambda h: run(*(x + h * s for x, s in zip(args, step)))))(0.0)
        eps = 1e-5
        np.testing.assert_allclose(slope, (value(eps) - value(-eps)) / (2 * eps), rtol=1e-7)


@pytest.mark.parametrize("reverse", [False, True])
def test_masked_tokens_are_passed_over(reverse):
    args = arguments()
    keep = np.array([0, 1, 4, 5, 6, 9])
    mask = np.isin(np.arange(L), keep) & np.ones((B, 1), bool)
    u, dt, a, b, c, d = args
    junk = [jnp.where(mask[..., None], x, jnp.nan) for x in (u, dt, b, c)]
    run = functools.partial(scans.selective_scan, mask=jnp.asarray(mask), chunk=4, reverse=reverse)
    y = quick(run)(junk[0], junk[1], a, junk[2], junk[3], d)
    few = oracle(u[:, keep], dt[:, keep], a, b[:, keep], c[:, keep], d, reverse)
    np.testing.assert_allclose(y[:, keep], few, atol=5e-6)
    assert not np.asarray(y)[~mask].any()
    grads = quick(jax.grad(lambda *x: jnp.sum(jnp.square(run(*x))), (0, 1, 2, 3, 4, 5)))(
        junk[0], junk[1], a, junk[2], junk[3], d
    )
    assert all(np.isfinite(g).all() for g in grads)
    assert not np.asarray(grads[1])[~mask].any()


def test_long_sequences_neither_overflow_nor_vanish():
    u, dt, a, b, c, d = arguments(3, 400)
    args = (u, 50 * dt, a, b, c, d)  # exp(dt a) underflows to 0
    run = functools.partial(scans.selective_scan, method="associative", chunk=64)
    y, g = quick(lambda *x: (run(*x), jax.grad(lambda *x: jnp.sum(run(*x)), 1)(*x)))(*args)
    np.testing.assert_allclose(y, oracle(*args), rtol=1e-4, atol=1e-3)
    assert np.isfinite(g).all()


def test_low_precision_inputs_are_scanned_in_float32():
    args = arguments()
    half = [x.astype(jnp.bfloat16) for x in args]
    y = scans.selective_scan(*half)
    assert y.dtype == jnp.float32
    np.testing.assert_allclose(y, oracle(*(x.astype(jnp.float32) for x in half)), atol=5e-6)


@pytest.mark.slow
def test_the_chunked_backward_pass_holds_less():
    u, dt, a, b, c, d = arguments(0, 256)

    def memory(chunk):
        run = functools.partial(scans.selective_scan, method="associative", chunk=chunk)
        grad = jax.jit(jax.grad(lambda *x: jnp.sum(run(*x)), (0, 1)))
        return grad.lower(u, dt, a, b, c, d).compile().memory_analysis().temp_size_in_bytes

    assert memory(32) < 0.6 * memory(None)


def test_convolution_reads_the_current_and_earlier_tokens():
    rng = np.random.default_rng(0)
    x, kernel, bias = rng.normal(size=(2, 7, 3)), rng.normal(size=(4, 3)), rng.normal(size=3)
    y = scans.causal_conv(*(jnp.asarray(v, jnp.float32) for v in (x, kernel, bias)))
    for e in range(3):
        want = [np.convolve(row[:, e], kernel[::-1, e])[:7] + bias[e] for row in x]
        np.testing.assert_allclose(y[..., e], want, atol=1e-5)


def test_reversed_convolution_is_the_mirror_image():
    rng = np.random.default_rng(0)
    x, kernel = (jnp.asarray(rng.normal(size=s), jnp.float32) for s in ((7, 3), (4, 3)))
    mirrored = scans.causal_conv(x[::-1], kernel)[::-1]
    np.testing.assert_allclose(scans.causal_conv(x, kernel, reverse=True), mirrored, atol=1e-6)


@pytest.mark.parametrize(
    "change, message",
    [
        (dict(a=jnp.zeros((5, 4))), r"a: expected \[E, N\] for u \[..., L, E\], found \[5, 4\]"),
        (dict(dt=jnp.zeros((2, 11, 4))), r"dt: expected \[2, 11, 3\], found \[2, 11, 4\]"),
        (dict(b=jnp.zeros((2, 11, 3))), r"b: expected \[2, 11, 4\], found \[2, 11, 3\]"),
        (dict(c=jnp.zeros((11, 4))), r"c: expected \[2, 11, 4\], found \[11, 4\]"),
        (dict(d=jnp.zeros(4)), r"d: expected \[3\], found \[4\]"),
        (dict(mask=jnp.ones((2, 10), bool)), r"mask: expected \[2, 11\], found \[2, 10\]"),
        (dict(chunk=0), "chunk: expected at least 1 token, or None for all, found 0"),
        (dict(method="blelloch"), "method: unknown 'blelloch'; known: auto, associative, seq"),
    ],
)
def test_what_does_not_fit_is_refused(change, message):
    named = dict(zip(("u", "dt", "a", "b", "c", "d"), arguments(), strict=True))
    with pytest.raises(ValueError, match=message):
        scans.selective_scan(**{**named, **change})


def test_a_kernel_of_other_channels_is_refused():
    with pytest.raises(ValueError, match=r"kernel: expected \[K, E\]"):
        scans.causal_conv(jnp.zeros((2, 7, 3)), jnp.zeros((4, 2)))
