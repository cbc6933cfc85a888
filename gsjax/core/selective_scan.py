"""The selective scan of Mamba (arXiv 2312.00752) and the short convolution before it, on arrays.

    h_t = exp(dt_t A) h_{t-1} + dt_t B_t u_t        y_t = C_t h_t + D u_t        h_0 = 0

with a state of N numbers for each of E channels; A is learned, dt, B and C come from the input. The
mixers that learn them live in ``models``. Everything is computed in float32 at least.

A token without a step (dt = 0) leaves the state alone: exp(0) = 1 and nothing is added. That is how
masked tokens and the tail of the last chunk pass through.
"""

import functools

import jax
import jax.numpy as jnp

METHODS = ("auto", "associative", "sequential")
DEFAULT_CHUNK = 64


def selective_scan(
    u: jax.Array,
    dt: jax.Array,
    a: jax.Array,
    b: jax.Array,
    c: jax.Array,
    d: jax.Array | None = None,
    *,
    mask: jax.Array | None = None,
    reverse: bool = False,
    chunk: int | None = DEFAULT_CHUNK,
    method: str = "auto",
) -> jax.Array:
    """Runs the recurrence over L tokens.

    Memory: all L states are never held at once when ``chunk`` is set. Chunks follow one another and
    pass the last state on; the backward pass recomputes each from its first state, so that it holds
    L / chunk states and those of one chunk.

    Args:
        u: [..., L, E], the input.
        dt: [..., L, E], step sizes, positive (after softplus).
        a: [E, N], negative.
        b: [..., L, N], how the input enters the state.
        c: [..., L, N], how the state is read.
        d: [E], what of the input goes past the state; None = nothing.
        mask: bool [..., L], True for real tokens. The state passes masked ones unchanged, whatever
            they hold (NaN too), and their output is 0. None = all are real.
        reverse: from the last token to the first.
        chunk: most tokens of a chunk, best 32 to 128; None = all at once.
        method: within a chunk, 'associative' (a parallel prefix, log2 levels) or 'sequential' (token
            by token); 'auto' = sequential on CPUs, which it suits, and associative elsewhere.

    Returns:
        [..., L, E] in float32 at least.

    Raises:
        ValueError: shapes that do not fit, chunk < 1, an unknown method.
    """
    _check(u, dt, a, b, c, d, mask, chunk, method)
    wide = functools.reduce(jnp.promote_types, (x.dtype for x in (u, dt, a, b, c)), jnp.float32)
    tokens = [x.astype(wide) for x in (u, dt, b, c)]
    if mask is not None:
        tokens = [jnp.where(mask[..., None], x, 0.0) for x in tokens]
    past = tokens[0]
    tokens = [jnp.moveaxis(x, -2, 0) for x in tokens]  # [L, ..., E or N]
    length, leading = u.shape[-2], u.shape[:-2]
    count = 1 if chunk is None else -(-length // chunk)
    size = -(-length // count)
    tail = count * size - length
    if tail:
        tokens = [jnp.pad(x, ((0, tail), *[(0, 0)] * (x.ndim - 1))) for x in tokens]
    run = functools.partial(_chunk, a=a.astype(wide), reverse=reverse, method=method)
    state = jnp.zeros((*leading, *a.shape), wide)
    if count == 1:
        _, y = run(state, tokens)
    else:
        tokens = [x.reshape(count, size, *x.shape[1:]) for x in tokens]
        # Nothing can be moved out of a scan's body, so the guard against that would only cost.
        body = jax.checkpoint(run, prevent_cse=False)
        _, y = jax.lax.scan(body, state, tokens, reverse=reverse)
        y = y.reshape(count * size, *y.shape[2:])
    y = jnp.moveaxis(y[:length], 0, -2)
    return y if d is None else y + d.astype(wide) * past


def causal_conv(
    x: jax.Array, kernel: jax.Array, bias: jax.Array | None = None, *, reverse: bool = False
) -> jax.Array:
    """Each channel's own convolution over the current token and the K - 1 before it.

        y_t = sum_j kernel_j x_{t - (K - 1) + j} + bias        x_t = 0 for t < 0

    Args:
        x: [..., L, E].
        kernel: [K, E], the last row for the current token.
        bias: [E].
        reverse: over the current token and the K - 1 after it (the mirror image).

    Returns:
        [..., L, E].

    Raises:
        ValueError: shapes that do not fit.
    """
    if x.ndim < 2 or kernel.ndim != 2 or kernel.shape[1] != x.shape[-1]:
        raise ValueError(
            f"kernel: expected [K, E] for x [..., L, E], found {list(kernel.shape)} and "
            f"{list(x.shape)}"
        )
    taps, length = kernel.shape[0], x.shape[-2]
    ends = (0, taps - 1) if reverse else (taps - 1, 0)
    x = jnp.pad(x, (*[(0, 0)] * (x.ndim - 2), ends, (0, 0)))
    kernel = kernel[::-1] if reverse else kernel
    y = sum(kernel[j] * x[..., j : j + length, :] for j in range(taps))
    return y if bias is None else y + bias


def _check(u, dt, a, b, c, d, mask, chunk, method):
    if u.ndim < 2 or a.ndim != 2 or a.shape[0] != u.shape[-1]:
        raise ValueError(
            f"a: expected [E, N] for u [..., L, E], found {list(a.shape)} and {list(u.shape)}"
        )
    states = (*u.shape[:-1], a.shape[1])
    for name, x, shape in (("dt", dt, u.shape), ("b", b, states), ("c", c, states)):
        if x.shape != shape:
            raise ValueError(f"{name}: expected {list(shape)}, found {list(x.shape)}")
    if d is not None and d.shape != a.shape[:1]:
        raise ValueError(f"d: expected {list(a.shape[:1])}, found {list(d.shape)}")
    if mask is not None and mask.shape != u.shape[:-1]:
        raise ValueError(f"mask: expected {list(u.shape[:-1])}, found {list(mask.shape)}")
    if chunk is not None and chunk < 1:
        raise ValueError(f"chunk: expected at least 1 token, or None for all, found {chunk}")
    if method not in METHODS:
        raise ValueError(f"method: unknown {method!r}; known: {', '.join(METHODS)}")


def _chunk(state, tokens, *, a, reverse, method):
    """The tokens of one chunk: state [..., E, N], tokens u, dt, b, c [l, ..., E or N].

    Returns:
        The state after them, and y [l, ..., E] without the share of D.
    """
    associative = functools.partial(_associative, reverse=reverse)
    sequential = functools.partial(_sequential, reverse=reverse)
    if method == "auto":
        return jax.lax.platform_dependent(state, a, *tokens, cpu=sequential, default=associative)
    return {"associative": associative, "sequential": sequential}[method](state, a, *tokens)


def _associative(state, a, u, dt, b, c, *, reverse):
    decay = jnp.exp(dt[..., None] * a)
    added = (dt * u)[..., None] * b[..., None, :]

    def combine(earlier, later):
        return earlier[0] * later[0], later[0] * earlier[1] + later[1]

    decay, states = jax.lax.associative_scan(combine, (decay, added), reverse=reverse)
    states = states + decay * state
    return states[0 if reverse else -1], jnp.sum(states * c[..., None, :], -1)


def _sequential(state, a, u, dt, b, c, *, reverse):
    def step(h, token):
        u, dt, b, c = token
        h = jnp.exp(dt[..., None] * a) * h + (dt * u)[..., None] * b[..., None, :]
        return h, jnp.sum(h * c[..., None, :], -1)

    return jax.lax.scan(step, state, (u, dt, b, c), reverse=reverse)
