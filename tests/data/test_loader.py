"""Batches: the same sequence whatever the number of processes, and after any interruption."""

import grain
import numpy as np
import pytest

from gsjax.data import loader

TOTAL, BATCH = 22, 8


def _numbers(n=TOTAL):
    def draw(x, rng):
        return {"x": np.int32(x), "draw": rng.integers(1 << 30), "valid": np.bool_(True)}

    return grain.MapDataset.source(list(range(n))).random_map(draw, seed=5)


def _run(processes: int, steps: int, start: int = 0, threads: int = 2, seed: int = 1):
    """Global batches: the processes' local ones end to end."""
    iterators = [
        loader.train_iterator(
            _numbers(),
            seed=seed,
            global_batch=BATCH,
            process_index=p,
            process_count=processes,
            num_threads=threads,
        )
        for p in range(processes)
    ]
    out = []
    for iterator in iterators:
        iterator.set_state({"global_next_index": start})
    for _ in range(steps):
        batches = [next(iterator) for iterator in iterators]
        out.append({k: np.concatenate([b[k] for b in batches]) for k in batches[0]})
    states = [iterator.get_state() for iterator in iterators]
    for iterator in iterators:
        iterator.close()
    assert all(state == states[0] for state in states)
    return out, states[0]


def _same(a, b):
    assert len(a) == len(b)
    for one, two in zip(a, b):
        for name in one:
            np.testing.assert_array_equal(one[name], two[name])


def test_every_epoch_shows_every_example_once_in_a_new_order():
    batches, _ = _run(1, TOTAL)  # BATCH epochs exactly
    order = np.concatenate([b["x"] for b in batches]).reshape(BATCH, TOTAL)
    for epoch in order:
        assert sorted(epoch) == list(range(TOTAL))
    assert len({tuple(epoch) for epoch in order}) == BATCH


def test_draws_differ_between_epochs_and_seeds_differ():
    batches, _ = _run(1, 12)
    x = np.concatenate([b["x"] for b in batches])
    draws = np.concatenate([b["draw"] for b in batches])
    assert len(set(draws[x == 3])) == np.sum(x == 3) > 1
    other, _ = _run(1, 2, seed=2)
    assert not np.array_equal(batches[0]["x"], other[0]["x"])


@pytest.mark.parametrize("threads", [0, 1, 4])
def test_read_threads_do_not_change_batches(threads):
    _same(_run(1, 5, threads=threads)[0], _run(1, 5, threads=2)[0])


@pytest.mark.parametrize("processes", [2, 4])
def test_global_batches_do_not_depend_on_the_number_of_processes(processes):
    _same(_run(processes, 6)[0], _run(1, 6)[0])


def test_state_survives_changes_of_the_number_of_processes():
    whole, _ = _run(1, 9)
    first, state = _run(1, 3)
    second, state = _run(2, 3, state["global_next_index"])
    third, state = _run(4, 3, state["global_next_index"])
    _same(first + second + third, whole)
    assert state == {"global_next_index": 9 * BATCH}


def test_resume_inside_an_epoch_equals_the_uninterrupted_run():
    whole, _ = _run(1, 8)
    for steps in (1, 4):
        _, state = _run(1, steps)
        rest, _ = _run(1, 8 - steps, state["global_next_index"])
        _same(rest, whole[steps:])


@pytest.mark.parametrize("processes", [1, 2, 4])
def test_eval_batches_show_everything_once_and_mark_the_padding(processes):
    parts = [
        list(
            loader.eval_batches(
                _numbers(), global_batch=BATCH, process_index=p, process_count=processes
            )
        )
        for p in range(processes)
    ]
    assert len({len(part) for part in parts}) == 1
    for part in parts:
        assert all(len(b["x"]) == BATCH // processes for b in part)
    seen = [x for step in zip(*parts) for b in step for x, ok in zip(b["x"], b["valid"]) if ok]
    assert seen == list(range(TOTAL))


def test_bad_arguments_are_refused():
    with pytest.raises(ValueError, match="multiple of the number of processes"):
        loader.train_iterator(_numbers(), seed=0, global_batch=9, process_count=2)
    with pytest.raises(ValueError, match="process_index"):
        loader.train_iterator(_numbers(), seed=0, global_batch=8, process_index=2, process_count=2)
    with pytest.raises(ValueError, match="empty"):
        loader.train_iterator(_numbers(0), seed=0, global_batch=8)
    with pytest.raises(ValueError, match="empty"):
        next(loader.eval_batches(_numbers(0), global_batch=8))
    iterator = loader.train_iterator(_numbers(), seed=0, global_batch=8)
    with pytest.raises(ValueError, match="global_next_index"):
        iterator.set_state({"next": 3})
    iterator.close()


def test_examples_without_valid_are_refused_in_evaluation():
    plain = grain.MapDataset.source(list(range(3))).map(lambda x: {"x": np.int32(x)})
    with pytest.raises(ValueError, match="valid"):
        next(loader.eval_batches(plain, global_batch=2, num_threads=0))
