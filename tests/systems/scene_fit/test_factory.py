"""The data factory: what it writes, what a restart does, what a bad object does."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gsjax.data import fitted, mesh_collections, prepare, store
from gsjax.systems.scene_fit import batch_size, factory, many, steps

_STEPS, _NUM = 20, 64


def _write_meshes(folder, count=5):
    """Boxes of several colours and shapes, one file each, in two categories."""
    corners = np.stack(np.meshgrid([0, 1], [0, 1], [0, 1], indexing="ij"), -1).reshape(-1, 3) - 0.5
    quads = [(0, 1, 3, 2), (4, 6, 7, 5), (0, 4, 5, 1), (2, 3, 7, 6), (0, 2, 6, 4), (1, 5, 7, 3)]
    lines = [f"3 {q[0]} {q[1]} {q[2]}\n3 {q[0]} {q[2]} {q[3]}" for q in quads]
    for k in range(count):
        place = folder / ("tall" if k % 2 else "flat")
        place.mkdir(parents=True, exist_ok=True)
        points = corners * [1, 0.2 + 0.3 * k, 0.5]
        text = "\n".join(" ".join(f"{x:.6f}" for x in point) for point in points)
        (place / f"box_{k}.off").write_text(f"OFF\n8 12 0\n{text}\n" + "\n".join(lines) + "\n")


def _plan(batch=2):
    recipe = dataclasses.replace(
        factory.FAST, num_steps=_STEPS, num_gaussians=_NUM, refine_start=5, refine_stop=15,
        refine_every=10,
    )  # fmt: skip
    return factory.Plan(recipe, factory.view_recipe(6, 24), num_held_out=2, batch=batch)


@pytest.fixture(scope="module")
def items(tmp_path_factory):
    pytest.importorskip("trimesh")
    folder = tmp_path_factory.mktemp("meshes")
    _write_meshes(folder)
    return mesh_collections.load(str(folder))


def _run(items, folder, plan, **options):
    return factory.run(items, folder, plan, mesh=many.make_mesh(jax.devices()[:1]), **options)


def _fitted(folder):
    return {o.number: o for o in fitted.read(folder)}


def _assert_same(a, b):
    assert a.keys() == b.keys()
    for number in a:
        for name in fitted.FIELDS:
            np.testing.assert_array_equal(a[number].gaussians[name], b[number].gaussians[name])


@pytest.fixture(scope="module")
def whole(items, tmp_path_factory):
    """All objects in waves of two."""
    folder = tmp_path_factory.mktemp("whole")
    plan = _plan()
    fitted.check_identity(folder, plan.identity(items[1]))
    result = _run(items[0], folder, plan)
    assert (result["fitted"], result["failed"], result["left"]) == (5, 0, 0)
    return folder


@pytest.mark.parametrize("batch", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_results_do_not_depend_on_waves_shards_or_order(items, whole, tmp_path, batch):
    for shard in (1, 0):
        _run(factory.shard_of(items[0], shard, 2), tmp_path, _plan(batch))
    _assert_same(_fitted(whole), _fitted(tmp_path))


def test_an_interrupted_run_does_the_rest(items, whole, tmp_path):
    result = _run(items[0], tmp_path, _plan(), stop=lambda: True)
    assert result["left"] == 5 - result["fitted"] > 0
    before = {p.name: p.stat().st_mtime_ns for p in tmp_path.glob("wave-*")}
    assert _run(items[0], tmp_path, _plan())["left"] == 0
    assert all((tmp_path / name).stat().st_mtime_ns == t for name, t in before.items())
    _assert_same(_fitted(whole), _fitted(tmp_path))


def test_a_bad_mesh_is_noted_and_passed_over(items, tmp_path):
    bad = dataclasses.replace(
        items[0][1], mesh=lambda: (_ for _ in ()).throw(ValueError("no faces"))
    )
    chosen = [items[0][0], bad, items[0][2]]
    result = _run(chosen, tmp_path, _plan())
    assert (result["fitted"], result["failed"]) == (2, 1)
    assert fitted.failed(tmp_path) == {1: "no faces"}
    assert _run(chosen, tmp_path, _plan())["fitted"] == 0


def _spoil(monkeypatch, first, second=()):
    """Rotations that are NaN, hence gradients, in the first and second attempts at these objects."""
    sound = factory.prepare

    def prepare(item, plan):
        ready = sound(item, plan)
        if item.number in (second if plan.retried else first):
            broken = ready.params | {"quats": np.full_like(ready.params["quats"], np.nan)}
            ready = dataclasses.replace(ready, params=broken)
        return ready

    monkeypatch.setattr(factory, "prepare", prepare)


def _light(monkeypatch, plan):
    """Steps that cost little to compile and still show their rates; the plan of a seed of its own,
    since programs are remembered by their recipe."""

    def one_step(recipe, views, state):
        rate = 1 - 20 * recipe.lr_means
        params = {name: value * rate for name, value in state.params.items()}
        finite = state.ok & jnp.stack([jnp.isfinite(x).all() for x in params.values()]).all()
        zero = jnp.float32(0)
        state = state._replace(params=params, step=state.step + 1, ok=finite)
        return state, {"loss": zero, "psnr": zero}

    monkeypatch.setattr(steps, "one_step", one_step)
    monkeypatch.setattr(steps, "refine", lambda recipe, state: state)
    return dataclasses.replace(plan, recipe=dataclasses.replace(plan.recipe, seed=99))


@pytest.mark.parametrize("real", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_what_diverged_is_tried_once_more_at_half_the_rates(items, tmp_path, monkeypatch, real):
    plan = _plan() if real else _light(monkeypatch, _plan())
    folders = [tmp_path / name for name in ("sound", "spoiled", "alone")]
    for folder in folders[:2]:
        fitted.check_identity(folder, plan.identity(items[1]))
    sound, spoiled, alone = folders
    _run(items[0], sound, plan)
    with monkeypatch.context() as patched:
        _spoil(patched, {1, 3}, {3})
        result = _run(items[0], spoiled, plan)
    assert [result[k] for k in ("fitted", "retried", "failed", "left")] == [4, 1, 1, 0]
    found, expected = _fitted(spoiled), _fitted(sound)
    assert found[1].scores["retried"] == 1
    assert list(fitted.failed(spoiled)) == [3] and "diverged twice" in fitted.failed(spoiled)[3]
    assert not any("retried" in found[number].scores for number in (0, 2, 4))
    _assert_same({n: found[n] for n in (0, 2, 4)}, {n: expected[n] for n in (0, 2, 4)})
    assert (spoiled / fitted.IDENTITY).read_text() == (sound / fitted.IDENTITY).read_text()
    # The retry is a fit from the beginning, at these rates, and no other.
    gentle = factory.gentler(plan, 1).recipe
    assert (gentle.lr_means, gentle.lr_opacities) == (0.5e-3, 2.5e-2)
    assert gentle.lr_means_final == plan.recipe.lr_means_final
    alone.mkdir()
    _run(items[0][1:2], alone, dataclasses.replace(plan, recipe=gentle))
    _assert_same({1: found[1]}, _fitted(alone))
    assert (found[1].gaussians["means"] != expected[1].gaussians["means"]).any()
    again = _run(items[0], spoiled, plan)
    assert again["fitted"] == again["failed"] == again["left"] == 0


def test_stopped_after_every_wave_it_retries_once_all_the_same(items, tmp_path, monkeypatch):
    _spoil(monkeypatch, {1, 3}, {3})
    plan = _light(monkeypatch, _plan())
    attempts, fit = [], factory.many.fit
    monkeypatch.setattr(
        factory.many, "fit", lambda recipe, *rest: attempts.append(recipe) or fit(recipe, *rest)
    )
    left = []
    while (not left or left[-1]) and len(left) < 9:
        left.append(_run(items[0], tmp_path, plan, stop=lambda: True)["left"])
    # Waves (0, 1), (2, 3), (4), then the retries of 1 and 3 together.
    assert left == [4, 3, 2, 0]
    assert [recipe.lr_means for recipe in attempts] == [1e-3, 1e-3, 1e-3, 0.5e-3]
    assert set(_fitted(tmp_path)) == {0, 1, 2, 4} and set(fitted.failed(tmp_path)) == {3}
    assert _fitted(tmp_path)[1].scores["retried"] == 1


def test_a_note_cut_short_by_a_kill_is_passed_over(tmp_path):
    assert factory.diverged(tmp_path) == set()
    (tmp_path / factory.DIVERGED).write_text('{"number": 4, "uid": "a"}\n{"number": 5, "ui')
    assert factory.diverged(tmp_path) == {4}


def test_other_settings_want_another_folder(items, whole):
    other = dataclasses.replace(_plan(), num_held_out=3)
    with pytest.raises(ValueError, match="held_out"):
        fitted.check_identity(whole, other.identity(items[1]))
    fitted.check_identity(whole, _plan(batch=7).identity(items[1]))


def test_fitted_objects_are_a_data_set(whole, tmp_path):
    config = dict(name="fitted", source=str(whole), dir=str(tmp_path), num_gaussians=16, views=2,
                  view_size=16)  # fmt: skip
    meta = store.read_meta(prepare.ensure(config))
    assert meta["splits"] == {"train": 5} and meta["categories"] == ["flat", "tall"]


@pytest.mark.slow
def test_the_batch_is_measured_once(tmp_path, monkeypatch):
    one = many.make_mesh(jax.devices()[:1])
    monkeypatch.setattr(many, "make_mesh", lambda: one)
    monkeypatch.setattr(batch_size, "MOST_IN_SEQUENCE", 2)
    plan = _light(monkeypatch, _plan(batch=0))
    assert batch_size.choose(plan, tmp_path) in (1, 2)
    path = tmp_path / batch_size.FILE
    known = json.loads(path.read_text())
    for value in known.values():
        assert set(value["object_steps_per_second"]) == {"1", "2"}
        value["batch"] = 77
    path.write_text(json.dumps(known))
    assert batch_size.choose(plan, tmp_path) == 77


@pytest.mark.slow
def test_killed_ten_times_the_records_are_those_of_a_whole_run(tmp_path):
    pytest.importorskip("trimesh")
    _write_meshes(tmp_path / "meshes", 8)
    command = [sys.executable, "-m", "gsjax.cli.main", "fit-objects", str(tmp_path / "meshes")]
    command += "--num_steps=40 --num_gaussians=64 --views=6 --held_out=2 --size=24".split()
    command += "--batch=1 --devices=1".split()
    environment = os.environ | {"JAX_COMPILATION_CACHE_DIR": str(tmp_path / "cache")}
    subprocess.run([*command, f"--out={tmp_path / 'whole'}"], check=True, env=environment)
    rng, out, kills = np.random.default_rng(0), tmp_path / "killed", 0
    while kills < 10:
        if len(fitted.finished(out)) == 8:  # done too early: begin again, the kills count on
            for path in out.glob("wave-*"):
                path.unlink()
        process = subprocess.Popen([*command, f"--out={out}"], env=environment)
        time.sleep(rng.uniform(1, 14))
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
            kills += 1
        process.wait()
    subprocess.run([*command, f"--out={out}"], check=True, env=environment)
    _assert_same(_fitted(tmp_path / "whole"), _fitted(out))
