"""One training step: gradients over the global batch, guard, update. Compiled as a whole."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from gsjax.systems import base
from gsjax.train import optim, sharding
from gsjax.train import state as state_lib


def split_batch(batch: base.Batch, parts: int, mesh: Mesh | None = None):
    """[B, ...] -> [parts, B / parts, ...] for gradient accumulation.

    Part i holds the examples i, parts + i, ...: reshaping to [B / parts, parts] keeps each example
    on its device, where [parts, B / parts] would move nearly all of them.
    """

    def leaf(x):
        x = jnp.swapaxes(x.reshape(x.shape[0] // parts, parts, *x.shape[1:]), 0, 1)
        if mesh is None:
            return x
        spec = NamedSharding(mesh, P(None, sharding.BATCH_AXES))
        return jax.lax.with_sharding_constraint(x, spec)

    return jax.tree.map(leaf, batch)


def gradients(system: base.System, params, collections, batch, rng, *, parts: int = 1, mesh=None):
    """Mean loss, metrics, new collections and gradients over the batch.

    With ``parts`` > 1 the batch passes in that many pieces, whose losses and gradients are averaged
    (a contrastive loss then sees the negatives of its piece only). Every piece gets the same
    ``rng``: systems fold each example's index into it, so results do not depend on the pieces.

    Returns:
        (loss [], metrics, collections, gradients like ``params``).
    """

    def loss_fn(params, collections, batch):
        loss, metrics, new = system.loss({"params": params, **collections}, batch, rng, True)
        return loss, (metrics, {**collections, **new})

    value_and_grad = jax.value_and_grad(loss_fn, has_aux=True)
    if parts == 1:
        (loss, (metrics, collections)), grads = value_and_grad(params, collections, batch)
        return loss, metrics, collections, grads

    def body(carry, piece):
        collections, total = carry
        (loss, (metrics, collections)), grads = value_and_grad(params, collections, piece)
        return (collections, jax.tree.map(jnp.add, total, grads)), (loss, metrics)

    zeros = jax.tree.map(jnp.zeros_like, params)
    (collections, total), (losses, metrics) = jax.lax.scan(
        body, (collections, zeros), split_batch(batch, parts, mesh)
    )
    mean = jax.tree.map(lambda x: jnp.mean(x, 0), metrics)
    return jnp.mean(losses), mean, collections, jax.tree.map(lambda g: g / parts, total)


def update(
    system: base.System,
    optimizer: optim.Optimizer,
    state: state_lib.TrainState,
    batch: base.Batch,
    key: jax.Array,
    *,
    parts: int = 1,
    ema: float = 0.0,
    mesh: Mesh | None = None,
):
    """State after one step. An update with a non-finite loss or gradient is skipped and counted.

    Args:
        system: what is trained.
        optimizer: from :func:`gsjax.train.optim.build`.
        state: before the step.
        batch: {field: [B, ...]}.
        key: of the whole run; the step's own is ``fold_in(key, state.step)``.
        parts: pieces of gradient accumulation.
        ema: decay of the averaged parameters, if the state has any; see :func:`ema_decay`.
        mesh: for the layout of the pieces.

    Returns:
        (state, {name: scalar}): the system's metrics and loss, grad_norm, lr, bad_run, bad_total.
    """
    rng = jax.random.fold_in(key, state.step)
    loss, metrics, collections, grads = gradients(
        system, state.params, state.collections, batch, rng, parts=parts, mesh=mesh
    )
    norm = optax.global_norm(grads)
    good = jnp.isfinite(norm) & jnp.isfinite(loss)
    params, opt_state, lr = optimizer.update(grads, state.opt_state, state.params, state.step)
    params = system.project_params(params)
    averaged = state.ema
    if averaged is not None:
        keep = ema_decay(ema, state.step)
        averaged = jax.tree.map(lambda a, p: a * keep + p * (1 - keep), averaged, params)

    def choose(new, old):
        return jax.tree.map(lambda n, o: jnp.where(good, n, o), new, old)

    new_state = state_lib.TrainState(
        step=state.step + 1,
        params=choose(params, state.params),
        collections=choose(collections, state.collections),
        opt_state=choose(opt_state, state.opt_state),
        ema=choose(averaged, state.ema),
        bad_run=jnp.where(good, 0, state.bad_run + 1),
        bad_total=state.bad_total + (~good).astype(jnp.int32),
    )
    report = dict(loss=loss, grad_norm=norm, lr=lr)
    report |= dict(bad_run=new_state.bad_run, bad_total=new_state.bad_total)
    return new_state, {**metrics, **report}


def ema_decay(limit: float, step: jax.Array) -> jax.Array:
    """Decay of the averaged parameters at a step: (1 + step) / (10 + step) until it reaches ``limit``.

    With the limit from the start, a short run's average would be made of its random first weights:
    after n steps a share of limit^n is left of them (the ramp is that of TensorFlow's moving averages).
    """
    return jnp.minimum(limit, (1.0 + step) / (10.0 + step))


def compile_step(
    system: base.System, optimizer: optim.Optimizer, mesh: Mesh, state_shardings, **options
) -> Callable:
    """:func:`update` jit-compiled for a mesh, the state donated.

    Returns:
        (state, batch, key) -> (state, metrics).
    """

    def train_step(state, batch, key):
        return update(system, optimizer, state, batch, key, mesh=mesh, **options)

    everywhere = sharding.replicated(mesh)
    return jax.jit(
        train_step,
        in_shardings=(state_shardings, sharding.batch(mesh), everywhere),
        out_shardings=(state_shardings, everywhere),
        donate_argnums=0,
    )


class NonFiniteGuard:
    """Stops the run after ``limit`` skipped updates in a row, and keeps the host from running far ahead.

    Counts stay on the device until :meth:`flush` fetches them, all at once: the loop calls it where it waits
    for a step anyway (to log, to save). In between nothing is fetched. :meth:`push` waits for the step
    two before its own, so two are always under way: the device does not wait for the host, the time
    that the host waits for data is the device's, and batches of more steps take no memory.
    """

    _LAG = 2

    def __init__(self, limit: int):
        self._limit = limit
        self._waiting: list[tuple[int, dict]] = []

    def push(self, step: int, metrics: dict) -> None:
        """Takes the metrics of a step that is under way."""
        kept = {name: metrics[name] for name in ("bad_run", "loss", "grad_norm")}
        self._waiting.append((step, kept))
        if len(self._waiting) > self._LAG:
            jax.block_until_ready(self._waiting[-1 - self._LAG][1])

    def flush(self) -> None:
        """Looks at all steps since the last call; waits for the newest.

        Raises:
            FloatingPointError: too many skipped updates in a row.
        """
        waiting, self._waiting = self._waiting, []
        steps = [step for step, _ in waiting]
        for step, metrics in zip(steps, jax.device_get([kept for _, kept in waiting])):
            self._check(step, metrics)

    def _check(self, step: int, metrics: dict) -> None:
        run = int(metrics["bad_run"])
        if run >= self._limit > 0:
            raise FloatingPointError(
                f"step {step}: {run} updates in a row had a non-finite loss or gradient "
                f"(train.max_bad_steps={self._limit}); loss={float(metrics['loss'])}, "
                f"grad_norm={float(metrics['grad_norm'])}. All of them were skipped, so the last "
                "checkpoint is sound. Lower optim.lr, set optim.clip, compute in float32, or look "
                "for bad input with JAX_DEBUG_NANS=True"
            )
