"""A train step on eight virtual devices against one: all that a step changes.

The step is plain descent at rate 1, so that the change of a parameter is its gradient.
"""

import functools

import jax
import numpy as np

from gsjax.train import optim, sharding
from gsjax.train import state as state_lib
from gsjax.train import step as step_lib

KEYS = (5, 6, 7)
# Rounding can flip a discrete choice (which row is a maximum, whether a pixel is cut off): then a
# gradient is off by the share of that choice. No key may be far off, and some key must see no flip.
CLOSE, FLIPPED = 1e-4, 0.05
SMALL = 1e-6  # biases before a norm have no gradient but rounding: measured against all parameters


def steps(system, config, batch, devices: int):
    """(state before, state after, metrics) as host arrays, for each key."""
    mesh = sharding.make_mesh(devices)
    plain = config.optim.copy_and_resolve_references()
    plain.update(dict(name="sgd", lr=1.0, wd=0.0, clip=0.0, warmup=0, schedule="constant"))
    result = []
    with jax.set_mesh(mesh):
        shapes = jax.eval_shape(system.init, jax.random.key(0))
        tx = optim.build(plain, 10, shapes["params"], system.param_rules)
        make = functools.partial(state_lib.create, optimizer=tx, ema=False)
        shardings = sharding.of_state(mesh, jax.eval_shape(make, shapes))
        init = jax.jit(lambda k: make(system.init(k)), out_shardings=shardings)
        step = step_lib.compile_step(system, tx, mesh, shardings)
        spread = jax.device_put(batch, sharding.batch(mesh))
        assert len(spread["index"].sharding.device_set) == devices
        for seed in KEYS:
            state = init(jax.random.key(seed))
            before = jax.device_get(state)
            after, metrics = step(state, spread, jax.random.key(seed))
            result.append((before, jax.device_get(after), jax.device_get(metrics)))
    return result


def changes(before, after) -> dict[str, np.ndarray]:
    """What a step did to every parameter and every running statistic."""
    tree = lambda s: state_lib.flat(dict(params=s.params, **s.collections))  # noqa: E731
    old, new = tree(before), tree(after)
    return {path: np.float64(new[path]) - np.float64(old[path]) for path in old}


def distances(found, expected) -> dict[str, float]:
    """Relative Frobenius distances; of arrays that hardly change, relative to all of their kind."""
    result = {}
    for path, x in expected.items():
        kind = path.split("/")[0]
        whole = np.sqrt(sum(np.sum(y**2) for p, y in expected.items() if p.startswith(kind)))
        size = np.linalg.norm(x)
        result[path] = np.linalg.norm(x - found[path]) / (size if size > SMALL * whole else whole)
    return result


def check_one_against_eight(system, config, batch):
    """Returns the changes of one step on one device, after comparing."""
    apart, reports = [], []
    for one, eight in zip(*(steps(system, config, batch, n) for n in (1, 8)), strict=True):
        expected, found = changes(*one[:2]), changes(*eight[:2])
        far = distances(found, expected)
        worst = max(far, key=far.get)
        apart.append(far[worst])
        reports.append((worst, far[worst]))
        for path in far:  # running statistics are continuous: nothing flips in them
            assert path.startswith("params") or far[path] < CLOSE, (path, far[path])
        for name, value in one[2].items():
            if name != "grad_norm":
                np.testing.assert_allclose(eight[2][name], value, rtol=CLOSE, err_msg=name)
        assert one[2]["bad_total"] == 0
    assert min(apart) < CLOSE and max(apart) < FLIPPED, reports
    return expected


def moved(changed, part) -> bool:
    """Whether the step changed anything there."""
    return any(np.any(x != 0) for path, x in changed.items() if path.startswith(part))
