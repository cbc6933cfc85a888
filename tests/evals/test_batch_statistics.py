"""Running statistics measured anew: against whole-set moments, and where features are probed."""

import dataclasses

import flax.linen as nn
import grain
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gsjax.evals import batch_statistics, linear_probe
from gsjax.models import masked_norm
from gsjax.systems import base

COUNT, DIM, SIZE = 64, 5, 16  # four batches are the whole set


class Net(nn.Module):
    """Two norms of different kinds and momenta, one after the other; a third may be frozen."""

    frozen: bool = False

    @nn.compact
    def __call__(self, x, train: bool):
        x = masked_norm.MaskedBatchNorm(0.99, name="first")(x, None, train)
        if self.frozen:
            x = nn.BatchNorm(use_running_average=True, name="frozen")(x)
        x = nn.Dense(DIM, name="dense")(jnp.tanh(x))
        return nn.BatchNorm(use_running_average=not train, momentum=0.5, name="second")(x)


def _examples(count=COUNT, start=0):
    rng = np.random.default_rng(start)
    scale = np.asarray([0.01, 1, 10, 1, 1])
    labels = np.arange(count) % 2
    x = np.asarray([3.0, 0, -50, 0, 0]) + scale * rng.normal(size=(count, DIM))
    x[:, 0] += 0.05 * labels  # classes differ here, three times the column's noise
    return [
        dict(
            index=np.int32(start + i),
            valid=np.bool_(True),
            category=np.int32(labels[i]),
            x=x[i].astype(np.float32),
        )
        for i in range(count)
    ]


def make_system(train, test=(), net=Net()):  # noqa: B008
    """Embeds by the net's running statistics."""

    def norm_pass(variables, batch):
        own = {name: value["net"] for name, value in variables.items()}
        _, new = net.apply(own, batch["x"], True, mutable=["batch_stats"])
        return {"batch_stats": {"net": new["batch_stats"]}}

    def embed(variables, batch):
        own = {name: value["net"] for name, value in variables.items()}
        return {**batch, "gaussian": net.apply(own, batch["x"], False)}

    def init(rng):
        own = net.init(rng, jnp.zeros((1, DIM)), False)
        variables = {name: {"net": dict(value)} for name, value in own.items()}
        variables["batch_stats"]["head"] = {"norm": {"mean": jnp.ones(2), "var": jnp.ones(2)}}
        return variables

    return base.System(
        name="normed",
        batch_spec={k: jax.ShapeDtypeStruct(v.shape, v.dtype) for k, v in train[0].items()},
        init=init,
        loss=lambda *args: None,
        predict_fns={"embed": embed},
        train_data=lambda: grain.MapDataset.source(train),
        eval_data=lambda split: grain.MapDataset.source(train if split == "train" else test),
        info=dict(class_names=["left", "right"]),
        norm_pass=norm_pass,
    )


@pytest.fixture(scope="module")
def system():
    return make_system(_examples(), _examples(32, start=100))


@pytest.fixture(scope="module")
def variables(system):
    return system.init(jax.random.key(0))


def measured(system, variables, **options):
    options = dict(batches=4, batch_size=SIZE) | options
    return batch_statistics.reestimate(system, variables, lambda batch: batch, **options)


def test_statistics_are_those_of_all_batches_together(system, variables):
    found = measured(system, variables)["batch_stats"]["net"]["first"]
    x = np.stack([e["x"] for e in _examples()]).astype(np.float64)
    np.testing.assert_allclose(found["mean"], x.mean(0), rtol=1e-5)
    np.testing.assert_allclose(found["var"], x.var(0), rtol=1e-4)
    # batches of eight differ in their means: their own variances alone would come out an eighth less
    few = measured(system, variables, batches=8, batch_size=8)["batch_stats"]["net"]["first"]
    np.testing.assert_allclose(few["var"], x.var(0), rtol=1e-3)


def test_later_norms_see_what_training_would_have_shown_them(system, variables):
    """The second norm's input is normalised by the batch's own statistics."""
    found = measured(system, variables, batches=1, batch_size=COUNT)["batch_stats"]["net"]
    x = jnp.stack([e["x"] for e in _examples()])
    own = {name: value["net"] for name, value in variables.items()}
    expected, _ = Net().apply(own, x, True, mutable=["batch_stats"])
    # With one batch, the running statistics are its own: inference is then what training does.
    again = Net().apply({**own, "batch_stats": found}, x, False)
    np.testing.assert_allclose(again, expected, atol=2e-4)


def test_what_was_there_before_does_not_matter_and_the_rest_stays(system, variables):
    other = {**variables, "batch_stats": jax.tree.map(lambda x: x + 7, variables["batch_stats"])}
    first, second = measured(system, variables), measured(system, other)
    for name in ("first", "second"):
        np.testing.assert_array_equal(
            first["batch_stats"]["net"][name]["var"], second["batch_stats"]["net"][name]["var"]
        )
    head = second["batch_stats"]["head"]["norm"]
    np.testing.assert_array_equal(head["mean"], other["batch_stats"]["head"]["norm"]["mean"])
    assert second["params"] is other["params"]
    kinds = [jax.tree.map(lambda x: (x.shape, x.dtype), v) for v in (variables, first)]
    assert kinds[0] == kinds[1]
    assert float(other["batch_stats"]["net"]["first"]["mean"][0]) == 7.0  # left as it was


def test_the_seed_draws_the_batches(system, variables):
    stats = [
        measured(system, variables, batches=1, seed=seed)["batch_stats"]["net"]["first"]["mean"]
        for seed in (0, 0, 1)
    ]
    np.testing.assert_array_equal(stats[0], stats[1])
    assert not np.array_equal(stats[0], stats[2])


def test_a_network_without_norms_stays_as_it_is(system):
    bare = dataclasses.replace(system, norm_pass=lambda variables, batch: {})
    variables = {"params": {"w": np.ones(2)}}
    assert measured(bare, variables) == variables


def test_what_cannot_work_is_refused(system, variables):
    with pytest.raises(ValueError, match="'normed' names no pass"):
        measured(dataclasses.replace(system, norm_pass=None), variables)
    with pytest.raises(ValueError, match="'normed' names no pass"):  # before hours of training
        linear_probe.Evaluator(
            dataclasses.replace(system, norm_pass=None), dict(reestimate_norms=1)
        )
    with pytest.raises(ValueError, match="found 0 batches, expected 1 or more"):
        measured(system, variables, batches=0)
    frozen = make_system(_examples(), net=Net(frozen=True))
    with pytest.raises(ValueError, match="leaves the norm /net/frozen as it was"):
        measured(frozen, frozen.init(jax.random.key(0)))
    broken = jax.tree.map(lambda x: x * np.nan, variables["params"])
    with pytest.raises(FloatingPointError, match="statistics of /net/second are not finite"):
        measured(system, {**variables, "params": broken})


def test_a_probe_sees_the_features_again(system, variables):
    """At the initial statistics tanh is saturated at the offsets; measured ones free it."""
    put = lambda batch: {k: jnp.asarray(v) for k, v in batch.items()}  # noqa: E731
    scores = []
    for batches in (0, 4):
        options = dict(bootstrap=0, reestimate_norms=batches, batch_size=SIZE, standard="columns")
        options["inverse_penalty"] = 10.0
        probe = linear_probe.Evaluator(system, options)
        scores.append(probe.run(variables, put)["top1"])
    assert scores[1] >= 95.0 and scores[1] > scores[0] + 10
