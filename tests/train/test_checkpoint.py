"""Checkpoints: round trip, resharding, donated buffers, damage, warm start."""

import resource

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gsjax.train import checkpoint, sharding
from gsjax.train import state as state_lib

INFO = {"config_hash": "x"}


def tree(value=1.0):
    return {
        "params": {"a": {"kernel": value * jnp.arange(4096.0).reshape(64, 64)}, "b": jnp.ones(3)},
        "opt_state": (jnp.zeros((64, 64)), {"count": jnp.int32(7)}),
        "flag": jnp.array([True, False]),
        "half": jnp.arange(6, dtype=jnp.bfloat16),
        "empty": jnp.zeros((4, 0, 3)),  # the higher bands of SH degree 0
    }


def abstract(value, mesh=None):
    mesh = mesh or sharding.make_mesh(1, 1)
    return sharding.abstract(value, sharding.of_state(mesh, value))


def write(folder, steps=(1, 2, 3), keep=3):
    store = checkpoint.Checkpoints(folder, keep=keep)
    for step in steps:
        store.save(step, tree(float(step)), {"global_next_index": 10 * step}, INFO)
    store.close()


def restore(folder, template=None):
    store = checkpoint.Checkpoints(folder, keep=3)
    try:
        return store.restore(abstract(tree()) if template is None else template), store.steps
    finally:
        store.close()


def data_file(folder, step):
    """The largest file of a checkpoint's arrays."""
    files = [p for p in (folder / "checkpoints" / str(step) / "state").rglob("*") if p.is_file()]
    return max(files, key=lambda p: p.stat().st_size)


def test_round_trip_is_exact_and_keeps_the_newest(tmp_path):
    write(tmp_path, steps=(1, 2, 3, 4), keep=2)
    found, steps = restore(tmp_path)
    assert steps == [3, 4] and found.step == 4
    assert found.data == {"global_next_index": 40} and found.meta["config_hash"] == "x"
    jax.tree.map(np.testing.assert_array_equal, found.state, tree(4.0))
    assert jax.tree.structure(found.state) == jax.tree.structure(tree())


def test_nothing_to_restore_gives_none(tmp_path):
    assert restore(tmp_path)[0] is None


def test_restores_onto_another_mesh(tmp_path):
    write(tmp_path, steps=(2,))
    mesh = sharding.make_mesh(4, 2)
    found, _ = restore(tmp_path, abstract(tree(), mesh))
    jax.tree.map(np.testing.assert_array_equal, found.state, tree(2.0))
    assert "fsdp" in tuple(found.state["params"]["a"]["kernel"].sharding.spec)


def test_saves_that_follow_at_once_all_land_and_survive_donation(tmp_path):
    store = checkpoint.Checkpoints(tmp_path, keep=9)
    bump = jax.jit(lambda t: jax.tree.map(lambda x: x + 1, t), donate_argnums=0)
    value = {"w": jnp.zeros((512, 512))}
    for step in range(1, 7):
        value = bump(value)
        store.save(step, value, {}, INFO)
    bump(bump(value))
    store.close()
    store = checkpoint.Checkpoints(tmp_path, keep=9)
    assert store.steps == [1, 2, 3, 4, 5, 6]
    shapes = abstract({"w": jnp.zeros((512, 512))})
    assert float(store.restore(shapes).state["w"].min()) == 6.0
    store.close()


def test_checksums_ignore_the_layout_and_see_single_bits():
    value = {"w": jax.random.normal(jax.random.key(0), (64, 8))}
    mesh = sharding.make_mesh(4, 2)
    spread = jax.device_put(value, sharding.of_state(mesh, value))
    assert checkpoint.digests(spread) == checkpoint.digests(value)
    bits = np.array(value["w"]).view(np.uint32)
    bits[3, 5] ^= 1 << 17
    assert checkpoint.digests({"w": jnp.array(bits.view(np.float32))}) != checkpoint.digests(value)
    swapped = value["w"].at[0].set(value["w"][1]).at[1].set(value["w"][0])
    assert checkpoint.digests({"w": swapped}) != checkpoint.digests(value)


# Orbax's reading tasks that were not awaited say so when they are collected.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("damage", ["truncate", "remove", "flip"])
def test_a_damaged_newest_checkpoint_is_passed_over(tmp_path, damage, caplog):
    write(tmp_path)
    path = data_file(tmp_path, 3)
    content = bytearray(path.read_bytes())
    if damage == "truncate":
        path.write_bytes(content[: len(content) // 2])
    elif damage == "remove":
        path.unlink()
    else:
        content[len(content) // 2] ^= 0x10
        path.write_bytes(content)
    found, steps = restore(tmp_path)
    assert found.step == 2 and steps == [1, 2]
    jax.tree.map(np.testing.assert_array_equal, found.state, tree(2.0))
    assert "checkpoint 3 is damaged and passed over" in caplog.text
    write(tmp_path, steps=(3,))  # the step can be written again
    assert restore(tmp_path)[0].step == 3


def test_a_save_without_room_says_so_and_leaves_the_last_good_one(tmp_path):
    """Room is taken away as a limit on the size of files; a full disk fails in the same write."""
    value = {"w": jax.random.normal(jax.random.key(0), (256, 256))}  # 256 KB that do not shrink
    store = checkpoint.Checkpoints(tmp_path, keep=3)
    store.save(1, value, {}, INFO, wait=True)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        with pytest.raises(checkpoint.NotWritten, match="Those before it are whole"):
            store.save(2, value, {}, INFO, wait=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    store.close()
    store = checkpoint.Checkpoints(tmp_path, keep=3)
    assert store.steps == [1]
    found = store.restore(abstract(value))
    np.testing.assert_array_equal(found.state["w"], value["w"])
    store.save(2, value, {}, INFO, wait=True)
    assert store.steps == [1, 2]
    store.close()


def test_other_numbers_than_were_written_are_noticed(tmp_path):
    """What storage that checks nothing would hand back."""
    store = checkpoint.Checkpoints(tmp_path, keep=3)
    store.save(1, tree(), {}, INFO, wait=True)
    wrong = tree()
    wrong["params"]["b"] = wrong["params"]["b"].at[1].set(1.0000001)
    expected = checkpoint.read_meta(tmp_path / "checkpoints" / "1")["digests"]
    with pytest.raises(checkpoint.DamagedCheckpoint, match="params/b"):
        checkpoint._check_digests(wrong, expected)
    store.close()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_all_damaged_stops_instead_of_starting_over(tmp_path):
    write(tmp_path, steps=(1, 2))
    for step in (1, 2):
        data_file(tmp_path, step).write_bytes(b"")
    with pytest.raises(ValueError, match="all checkpoints are damaged"):
        restore(tmp_path)


def test_another_models_checkpoint_is_refused_and_left_alone(tmp_path):
    write(tmp_path, steps=(1, 2))
    other = tree()
    other["params"]["a"] = {"weight": jnp.zeros((2, 2))}
    with pytest.raises(ValueError, match="another model.*missing: params/a/weight"):
        restore(tmp_path, abstract(other))
    assert restore(tmp_path)[0].step == 2


def test_variables_that_fit_are_loaded_and_the_others_named(tmp_path):
    write(tmp_path, steps=(5,))
    model = {"params": {"a": {"kernel": jnp.zeros((64, 64))}, "b": jnp.zeros(4), "c": jnp.ones(1)}}
    found = checkpoint.load_variables(tmp_path, abstract(model))
    expected = tree(5.0)["params"]["a"]["kernel"]
    np.testing.assert_array_equal(found.arrays["params/a/kernel"], expected)
    assert found.step == 5 and found.missing == ["params/b", "params/c"]
    same = checkpoint.load_variables(tmp_path / "checkpoints" / "5", abstract(model))
    assert list(same.arrays) == list(found.arrays)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_warm_start_passes_over_a_damaged_checkpoint(tmp_path):
    write(tmp_path, steps=(1, 2))
    data_file(tmp_path, 2).write_bytes(b"")
    model = abstract({"params": tree()["params"]})
    assert checkpoint.load_variables(tmp_path, model).step == 1
    with pytest.raises(ValueError, match="all 1 checkpoint.* damaged"):
        checkpoint.load_variables(tmp_path / "checkpoints" / "2", model)


def test_warm_start_refuses_what_is_not_there(tmp_path):
    with pytest.raises(ValueError, match="no checkpoint found"):
        checkpoint.load_variables(tmp_path / "nowhere", abstract(tree()))
    write(tmp_path, steps=(1,))
    with pytest.raises(ValueError, match="none of its arrays fits"):
        checkpoint.load_variables(tmp_path, abstract({"params": {"z": jnp.ones(2)}}))


def test_flat_and_nested_are_inverse():
    value = tree()
    flat = state_lib.flat(value)
    assert "opt_state/1/count" in flat
    assert state_lib.flat(state_lib.nested(flat)).keys() == flat.keys()
    assert jax.tree.structure(state_lib.refill(value, flat)) == jax.tree.structure(value)
