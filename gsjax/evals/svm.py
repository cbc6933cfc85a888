"""Linear support vector machines on frozen features: on the device, or scikit-learn's.

The published protocol of the cross-modal system is scikit-learn's ``SVC(kernel='linear', C=1)`` (one
against one, hinge) on standardised features. ``Linear`` is the usual stand-in that runs where the
features are: one against the rest, squared hinge, which is smooth. Both see the training set alone.
"""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
import optax

KINDS = ("device", "sklearn")
MAX_STEPS = 500
TOLERANCE = 1e-4  # of the gradient's norm, relative to the first one


def standardised(known: np.ndarray, *others: np.ndarray) -> list[np.ndarray]:
    """All sets with the columns of the first at mean 0 and deviation 1; constant columns become 0.

    Args:
        known: [n, D]. others: [m, D] each.
    """
    known = np.asarray(known, np.float64)
    mean, deviation = known.mean(0), known.std(0)
    constant = deviation <= 1e-6 * np.sqrt(np.mean(np.square(known), 0))
    scale = np.where(constant, np.inf, deviation)
    return [(np.asarray(x, np.float64) - mean) / scale for x in (known, *others)]


class Linear:
    """One machine a class against all others: least ``|w|^2 / 2 + C sum max(0, 1 - y (w x + b))^2``.

    Attributes:
        weights: f32 [D, K].
        bias: f32 [K], not penalised.
    """

    def __init__(self, weights, bias):
        self.weights, self.bias = weights, bias

    @classmethod
    def fit(cls, features, labels, num_classes: int, *, inverse_penalty: float = 1.0) -> "Linear":
        """Minimises by L-BFGS on the default device.

        Args:
            features: [n, D], standardised.
            labels: [n] int.
            num_classes: K.
            inverse_penalty: C.

        Raises:
            ValueError: shapes that differ, features not finite, or labels outside.
        """
        features, labels = _checked(features, labels, num_classes)
        found = _minimise(
            jnp.asarray(features, jnp.float32), jnp.asarray(labels), inverse_penalty, num_classes
        )
        return cls(found["weights"], found["bias"])

    def predict(self, features) -> np.ndarray:
        """Class of the largest score: int [m] of features [m, D]."""
        features = jnp.asarray(features, jnp.float32)
        scores = jnp.dot(features, self.weights, precision="highest") + self.bias
        return np.asarray(jnp.argmax(scores, -1))


def _checked(features, labels, num_classes):
    features, labels = np.asarray(features), np.asarray(labels)
    if features.ndim != 2 or labels.shape != features.shape[:1] or not len(labels):
        raise ValueError(
            f"features, labels: expected [n, D] and [n], found {list(features.shape)} and "
            f"{list(labels.shape)}"
        )
    if not np.isfinite(features).all():
        raise ValueError("features: found numbers that are not finite; the encoder diverged")
    if labels.min() < 0 or labels.max() >= num_classes:
        raise ValueError(
            f"labels: expected 0 to {num_classes - 1}, found {labels.min()} to {labels.max()}"
        )
    return features, labels


def objective(params, x, signs, inverse_penalty):
    """Sum over classes of the machine's objective.

    Args:
        params: weights [D, K], bias [K].
        x: [n, D].
        signs: [n, K], 1 at the own class and -1 elsewhere.
        inverse_penalty: C.
    """
    scores = jnp.dot(x, params["weights"], precision="highest") + params["bias"]
    slack = jnp.maximum(1.0 - signs * scores, 0.0)
    return jnp.sum(jnp.square(params["weights"])) / 2 + inverse_penalty * jnp.sum(jnp.square(slack))


@functools.partial(jax.jit, static_argnums=3)
def _minimise(x, labels, inverse_penalty, num_classes):
    signs = jnp.where(labels[:, None] == jnp.arange(num_classes), 1.0, -1.0)
    loss = lambda p: objective(p, x, signs, inverse_penalty)  # noqa: E731
    solver = optax.lbfgs(memory_size=20)
    start = dict(weights=jnp.zeros((x.shape[1], num_classes)), bias=jnp.zeros(num_classes))
    value_and_grad = optax.value_and_grad_from_state(loss)
    first = optax.tree.norm(jax.grad(loss)(start))

    def step(carry):
        params, state, _, count = carry
        value, grads = value_and_grad(params, state=state)
        change, state = solver.update(grads, state, params, value=value, grad=grads, value_fn=loss)
        params = optax.apply_updates(params, change)
        slope = optax.tree.norm(optax.tree.get(state, "grad"))
        return params, state, slope, count + 1

    def go_on(carry):
        return (carry[2] > TOLERANCE * first) & (carry[3] < MAX_STEPS)

    return jax.lax.while_loop(go_on, step, (start, solver.init(start), first, 0))[0]


def hits(known, labels, others, truth, *, kind: str = "device", inverse_penalty: float = 1.0):
    """:func:`hits_of_all` of one set: bool [m]."""
    return hits_of_all(known, labels, [others], truth, kind=kind, inverse_penalty=inverse_penalty)[
        0
    ]


def hits_of_all(
    known: np.ndarray,
    labels: np.ndarray,
    others: Sequence[np.ndarray],
    truth: np.ndarray,
    *,
    kind: str = "device",
    inverse_penalty: float = 1.0,
) -> list[np.ndarray]:
    """Which held-out objects a machine fitted on the known ones classifies rightly.

    Args:
        known: [n, D]. labels: [n] int, any numbers.
        others: sets of features [m, D] of the same objects. truth: [m] int; classes that are not known
            count as wrong.
        kind: of ``KINDS``.
        inverse_penalty: C.

    Returns:
        bool [m] for each set.

    Raises:
        ImportError: 'sklearn' without scikit-learn.
        ValueError: an unknown kind, fewer than two classes, or features not finite.
    """
    if kind not in KINDS:
        raise ValueError(f"svm: unknown {kind!r}; known: {', '.join(KINDS)}")
    classes, compact = np.unique(labels, return_inverse=True)
    if len(classes) < 2:
        raise ValueError(f"labels: expected at least two classes, found {classes.tolist()}")
    x, *rest = standardised(known, *others)
    if kind == "device":
        machine = Linear.fit(x, compact, len(classes), inverse_penalty=inverse_penalty)
    else:
        machine = _sklearn(*_checked(x, compact, len(classes)), inverse_penalty)
    return [classes[machine.predict(z)] == truth for z in rest]


def _sklearn(x, labels, inverse_penalty):
    try:
        from sklearn import svm
    except ImportError as error:
        raise ImportError("svm 'sklearn' needs scikit-learn: pip install 'gsjax[eval]'") from error
    return svm.SVC(kernel="linear", C=inverse_penalty).fit(x, labels)
