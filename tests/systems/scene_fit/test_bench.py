"""The benchmark's table and figures; times themselves are not tested."""

import json
import math

import jax
import numpy as np
import pytest

from gsjax.raster import bench as raster_bench
from gsjax.systems.scene_fit import batch_size, bench, many, steps


@pytest.fixture
def light(monkeypatch):
    """Steps that only shrink the scene: nothing to compile, the same states and pictures."""

    def one_step(recipe, views, state):
        del recipe
        params = state.params | {"means": state.params["means"] * 0.999}
        seen = views.images.astype("float32").mean()
        return state._replace(params=params, step=state.step + 1), {"loss": seen, "psnr": seen}

    monkeypatch.setattr(steps, "one_step", one_step)
    monkeypatch.setattr(steps, "refine", lambda recipe, state: state)
    # Programs are remembered by their recipe: one that no other test has.
    return ["--quick", "--num_steps=499"]


@pytest.mark.slow
def test_table_ratios_and_json(light, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(bench.runtime, "keep_freed_memory", lambda: False)
    out = tmp_path / "rows" / "bench.json"
    devices = sorted({1, min(2, len(jax.devices()))})
    args = bench.parse(
        [*light, "--batches=1,2", "--modes=map,vmap", f"--json={out}"]
        + [f"--devices={','.join(map(str, devices))}"]
    )
    result = bench.run(args)
    rows = {(r["objects"], r["mode"], r["devices"]): r for r in result["rows"]}
    layouts = {(mode, d) for mode in ("map", "vmap") for d in devices} | {("loop", 1)}
    # One object cannot be shared by two devices.
    assert set(rows) == {(b, m, d) for b in (1, 2) for m, d in layouts if b % d == 0}
    lines = [x for x in capsys.readouterr().out.splitlines() if x.startswith("|")]
    assert len(lines) == 2 + len(rows) and len({line.count("|") for line in lines}) == 1
    for (batch, mode, count), row in rows.items():
        loop = rows[batch, "loop", 1]
        rate = row["object_steps_per_second"]
        assert row["ratio"] == pytest.approx(rate / loop["object_steps_per_second"])
        assert row["objects_per_minute"] == pytest.approx(60 * rate / args.num_steps)
        assert row["ms_per_step"] == pytest.approx(1e3 / rate)
        least = min(
            r["objects"] for r in rows.values() if (r["mode"], r["devices"]) == (mode, count)
        )
        assert (row["mb_per_object"] is None) == (mode == "loop" or batch == least)
        if row["mb_per_object"] is not None:
            # Pictures and parameters with both moments are arguments: nothing takes less.
            assert row["mb_per_object"] * 1e6 >= 6 * 4 * 24 * 24 + 3 * 4 * 14 * 64
    json.dumps(result)


def test_it_counts_bytes_as_the_choice_of_the_batch_does(light):
    from gsjax.systems.scene_fit import factory

    plan, ready = bench.prepared(bench.parse(light))
    mesh = many.make_mesh(jax.devices()[:1])
    found = bench.wave_of_fits(plan, ready, plan.recipe.refine_every, mesh, "map")
    arguments = (*factory.begin(ready, plan), plan.recipe.refine_every, mesh, "map")
    program = many.advance.lower(plan.recipe, *arguments).compile()
    assert found.device_bytes == batch_size.device_bytes(program) > 0


def test_a_chunk_is_one_chunk_for_all_objects(light):
    plan, ready = bench.prepared(bench.parse(light))
    loop = bench.loop_of_single_fits(plan, ready, 3)
    loop.call()
    loop.call()
    (scenes,) = [
        cell.cell_contents for cell in loop.call.__closure__ if isinstance(cell.cell_contents, list)
    ]
    assert [int(state.step) for _, state in scenes] == [6, 6]


def test_the_estimate_is_that_of_the_design():
    """16,384 Gaussians of SH 0, 36 RGB views of 256 x 256: 3.7 + 7.1 + 12 + 2.4 = 25 MB."""
    parts = bench.estimate_bytes(16_384, 256, 36, channels=3)
    rounded = {name: round(value / 1e6, 1) for name, value in parts.items()}
    assert rounded == {"parameters": 3.7, "pictures": 7.1, "workspace": 11.8, "lists": 2.4}
    assert bench.estimate_bytes(1000, 1, 1, sh_degree=3)["parameters"] == 16 * 59 * 1000


def test_made_up_objects_differ_and_are_closed():
    meshes = [bench.turned_shape(number) for number in range(3)]
    for mesh in meshes:
        corners = mesh.vertices[mesh.faces].astype(float)
        normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
        # The area vectors of a closed surface sum to zero; it encloses a volume.
        assert np.abs(normals.sum(0)).max() < 1e-5 * np.abs(normals).sum()
        assert abs(np.einsum("fc,fc->", corners[:, 0], normals)) / 6 > 1
        assert len(np.unique(mesh.face_rgb, axis=0)) == 2
    assert not np.allclose(meshes[0].vertices, meshes[1].vertices)


def test_a_mesh_file_or_folder_is_taken(tmp_path):
    for number in range(3):
        mesh = bench.turned_shape(number)
        np.savez(tmp_path / f"{number}.npz", vertices=mesh.vertices, faces=mesh.faces)
    assert len(bench.items(str(tmp_path), 2)) == 2
    (one,) = bench.items(str(tmp_path / "1.npz"), 8)
    np.testing.assert_array_equal(one.mesh().vertices, bench.turned_shape(1).vertices)


@pytest.mark.parametrize(
    "option", ["--batches=0", "--batches=a", "--modes=pmap", "--views=7", "--chunk=0"]
)
def test_bad_options_are_named(option, capsys):
    with pytest.raises(SystemExit):
        bench.parse([option])
    assert option.split("=")[0] in capsys.readouterr().err


@pytest.mark.slow
def test_quick_measures_real_steps(tmp_path, monkeypatch):
    out = tmp_path / "bench.json"
    monkeypatch.setattr(bench.runtime, "keep_freed_memory", lambda: False)
    monkeypatch.setattr(jax.config, "update", lambda *unused: None)  # devices are what they are
    bench.main(["--quick", f"--json={out}"])
    result = json.loads(out.read_text())
    assert [(r["objects"], r["mode"]) for r in result["rows"]] == [
        (2, "loop"), (2, "map"), (4, "loop"), (4, "map")]  # fmt: skip
    assert all(r["ms_per_step"] > 0 and math.isfinite(r["ratio"]) for r in result["rows"])
    assert set(raster_bench.describe()) == set(result["environment"])
