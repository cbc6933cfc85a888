"""What the loop waits for: steps only where it logs or saves, the compiler once, data; and traces of it."""

import contextlib
import gzip
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax._src import array as jax_array

from gsjax.train import compiling, distributed, loop, prefetch, trace_table
from gsjax.train import logging as logs
from gsjax.train import step as step_lib
from tests.train import tiny


def lines(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").open()]


# Fetches ------------------------------------------------------------------------------------------


class Fetches:
    """Counts arrays that go to the host, by what the loop was doing. (Between CPU and host there is no
    transfer that ``jax.transfer_guard`` would see.)"""

    def __init__(self, monkeypatch):
        self.doing = "nothing"
        self.found: dict[str, int] = {}
        kept = jax_array.ArrayImpl._value
        self._nested = False

        def value(array):
            self._count()
            return kept.fget(array)

        monkeypatch.setattr(jax_array.ArrayImpl, "_value", property(value))
        for name in ("asarray", "array"):  # on CPU these read the array's own memory
            self._see_numpy(monkeypatch, name)

    def _count(self):
        if not self._nested:
            self.found[self.doing] = self.found.get(self.doing, 0) + 1

    def _see_numpy(self, monkeypatch, name):
        kept = getattr(np, name)

        def converted(x, *args, **kwargs):
            if isinstance(x, jax.Array) and not self._nested:
                self._count()
                self._nested = True
                try:
                    return kept(x, *args, **kwargs)
                finally:
                    self._nested = False
            return kept(x, *args, **kwargs)

        monkeypatch.setattr(np, name, converted)

    @contextlib.contextmanager
    def during(self, what):
        before, self.doing = self.doing, what
        try:
            yield
        finally:
            self.doing = before

    def wrap(self, monkeypatch, owner, name):
        """Whatever ``owner.name`` fetches counts under its name."""
        kept = getattr(owner, name)

        def wrapped(*args, **kwargs):
            with self.during(name):
                return kept(*args, **kwargs)

        monkeypatch.setattr(owner, name, wrapped)


@pytest.mark.parametrize(
    "fetch",
    [float, int, bool, jax.device_get, lambda x: np.asarray(x), lambda x: np.array(x).item()],
    ids=["float", "int", "bool", "device_get", "asarray", "array"],
)
def test_the_counter_sees_every_way_to_the_host(monkeypatch, fetch):
    x = jnp.float32(1.0) + 1
    fetches = Fetches(monkeypatch)
    fetch(x)
    assert fetches.found.get("nothing", 0) >= 1


def test_nothing_is_fetched_but_where_the_loop_logs_or_saves(tmp_path, monkeypatch):
    fetches = Fetches(monkeypatch)
    fetches.wrap(monkeypatch, logs.RunLog, "train")
    fetches.wrap(monkeypatch, step_lib.NonFiniteGuard, "flush")
    fetches.wrap(monkeypatch, loop, "_save")
    flushed = []
    kept = step_lib.NonFiniteGuard.flush
    monkeypatch.setattr(
        step_lib.NonFiniteGuard, "flush", lambda self: (flushed.append(self._waiting[-1:]), kept(self))
    )  # fmt: skip
    steps = loop._steps

    def counted(*args):
        with fetches.during("steps"):
            return steps(*args)

    monkeypatch.setattr(loop, "_steps", counted)
    config = tiny.config(train__num_steps=12, train__log_every=4, train__save_every=6)
    loop.run(config, tmp_path, system=tiny.build())
    assert [line["step"] for line in lines(tmp_path)] == [4, 8, 12]
    assert fetches.found["train"] and fetches.found["flush"] and fetches.found["_save"]
    assert "steps" not in fetches.found, fetches.found
    assert [newest[0][0] for newest in flushed if newest] == [4, 6, 8, 12]


class Late:
    """A result that is waited for."""

    def __init__(self, waited, step):
        self._waited, self._step = waited, step

    def block_until_ready(self):
        self._waited.append(self._step)
        return self


def test_two_steps_are_under_way_while_the_host_waits():
    waited: list[int] = []
    guard = step_lib.NonFiniteGuard(3)
    after = []
    for step in range(1, 6):
        guard.push(step, dict.fromkeys(("bad_run", "loss", "grad_norm"), Late(waited, step)))
        after.append(max(waited, default=0))
    assert after == [0, 0, 1, 2, 3]


# The compiler -------------------------------------------------------------------------------------


@pytest.fixture
def cache_of_its_own(tmp_path):
    """An empty compilation cache that keeps even the quickest programs."""
    names = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")
    before = {name: getattr(jax.config, name) for name in names}
    from jax.experimental.compilation_cache import compilation_cache

    compilation_cache.reset_cache()
    jax.config.update(names[1], 0.0)
    yield str(tmp_path / "cache")
    for name, value in before.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()


def test_lines_say_what_was_compiled_and_what_the_cache_had(tmp_path, cache_of_its_own):
    def run(name):
        jax.clear_caches()
        config = tiny.config(
            train__num_steps=3, train__compilation_cache=cache_of_its_own, mesh__data=1
        )
        loop.run(config, tmp_path / name, system=tiny.build(width=24))
        return lines(tmp_path / name)

    first, second = run("first"), run("second")
    assert first[0]["compile_seconds"] > 0
    assert 0 < first[0]["compile_cache_misses"] <= first[0]["compile_programs"]
    assert second[0]["compile_cache_hits"] >= first[0]["compile_cache_misses"]
    assert second[0]["compile_cache_misses"] == 0
    for line in (*first[1:], *second[1:]):  # a step that compiles again would say so
        assert "compile_seconds" not in line, line
    for line in (*first[1:], *second[1:]):
        assert 0 <= line["data_wait"] <= 1


def test_programs_are_counted_from_the_last_question_on():
    count = compiling.Compiling()
    jax.jit(lambda x: x * 3 + 1)(jnp.zeros(7)).block_until_ready()
    assert count.peek()["compile_programs"] >= 1
    assert count.take() and count.take() == {} and count.describe() == "nothing compiled"


# Traces -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def traced(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("traced")
    config = tiny.config(
        train__num_steps=8, train__profile__start_step=3, train__profile__num_steps=4
    )
    loop.run(config, workdir, system=tiny.build())
    return workdir


def test_a_trace_has_the_steps_of_its_window_and_no_others(traced):
    (path,) = traced.rglob("*.xplane.pb")
    # Where xprof looks: <logdir>/plugins/profile/<run>/<host>.xplane.pb
    assert path.parts[-4:-2] == ("plugins", "profile") and path.is_relative_to(traced / "profile")
    data = jax.profiler.ProfileData.from_file(str(path))
    planes = {plane.name for plane in data.planes}
    assert "/host:CPU" in planes
    events = [e for plane in data.planes for line in plane.lines for e in line.events]
    steps = [dict(e.stats)["step_num"] for e in events if e.name == "train"]
    assert sorted(steps) == [3, 4, 5, 6]
    assert sum(e.name == prefetch.WAIT for e in events) == 4
    assert all(e.duration_ns >= 0 for e in events)


def test_a_trace_opens_in_chrome_and_perfetto(traced):
    (path,) = traced.rglob("*.trace.json.gz")
    events = json.loads(gzip.open(path).read())["traceEvents"]
    assert sum(e.get("name") == "train" and e.get("ph") == "X" for e in events) == 4


def test_a_trace_opens_in_xprof(traced):
    convert = pytest.importorskip("xprof.convert.raw_to_tool_data", reason="xprof is an extra")
    paths = [str(path) for path in traced.rglob("*.xplane.pb")]
    assert "trace_viewer@" in convert.xspace_to_tool_names(paths)
    for tool in ("overview_page", "framework_op_stats", "trace_viewer@"):
        data, kind = convert.xspace_to_tool_data(paths, tool, {})
        assert kind == "application/json" and json.loads(data), tool
    names = [event.get("name", "") for event in json.loads(data)["traceEvents"]]
    assert [name for name in names if name.startswith(distributed.STEP)] == [
        f"train {number}" for number in (3, 4, 5, 6)
    ]


def test_a_trace_is_summed_up_without_xprof(traced):
    found = trace_table.summary(traced)
    assert found.steps == 4 and found.seconds > 0 and 0 <= found.wait_share < 1
    text = trace_table.table(found)
    assert "4 steps" in text and "waiting for data" in text and len(text.splitlines()) > 5


def test_a_folder_without_a_trace_is_refused(tmp_path):
    with pytest.raises(ValueError, match="no trace.*train.profile.num_steps"):
        trace_table.summary(tmp_path)


def test_a_window_that_the_run_ends_in_is_written(tmp_path):
    config = tiny.config(
        train__num_steps=3, train__profile__start_step=2, train__profile__num_steps=9
    )
    loop.run(config, tmp_path, system=tiny.build())
    assert trace_table.summary(tmp_path).steps == 1


def test_no_window_writes_nothing(tmp_path):
    window = distributed.ProfileWindow(tiny.config().train.profile, tmp_path)
    with window.before(0):
        pass
    window.after(0, None)
    window.close()
    assert not list(pathlib.Path(tmp_path).rglob("*"))
