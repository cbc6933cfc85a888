"""The file of rows, and what a compiled program says of memory."""

import jax
import jax.numpy as jnp
import ml_collections
import pytest

from gsjax.train.scaling import rows


def row(devices, status="compiled", **changes):
    about = dict(config="c.py", config_hash="1", target="h100", devices=devices, fsdp=1, batch=8)
    return about | dict(status=status) | changes


def test_a_later_row_of_the_same_program_takes_the_place_of_the_earlier(tmp_path):
    path = tmp_path / "results" / "scaling.jsonl"
    assert rows.read(path) == []
    rows.append(path, row(1, "not done in 5 s"))
    rows.append(path, row(8, hlo_hash="b", seconds=1))
    rows.append(path, row(1, hlo_hash="a"))  # the try that failed is forgotten
    rows.append(path, row(8, hlo_hash="b", seconds=2))
    rows.append(path, row(8, hlo_hash="c"))  # the step changed; what was measured stays
    found = [
        (r["devices"], r["status"], r.get("hlo_hash"), r.get("seconds")) for r in rows.read(path)
    ]
    assert found == [
        (1, "compiled", "a", None), (8, "compiled", "b", 2), (8, "compiled", "c", None)
    ]  # fmt: skip


def test_only_what_was_compiled_is_known():
    found = [row(1, hlo_hash="a"), row(8, "failed with code 1", hlo_hash="b")]
    assert rows.known(found, "a")["devices"] == 1
    assert rows.known(found, "b") is None


def test_the_hash_is_of_program_target_and_flags():
    def lowered(n):
        return jax.jit(lambda x: x * n).lower(jnp.ones(3))

    same = rows.hash_of(lowered(2), "h100", ())
    assert same == rows.hash_of(lowered(2), "h100", ())
    others = {
        rows.hash_of(lowered(3), "h100", ()),
        rows.hash_of(lowered(2), "b200", ()),
        rows.hash_of(lowered(2), "h100", ("--flag",)),
    }
    assert len(others) == 3 and same not in others


def test_donated_arguments_take_no_second_place():
    def step(state, x):
        return state + x @ x.T, jnp.sum(x)

    shapes = jax.ShapeDtypeStruct((32, 32), jnp.float32), jax.ShapeDtypeStruct((32, 8), jnp.float32)
    kept, given = (
        rows.facts(jax.jit(step, donate_argnums=n).lower(*shapes).compile(), 1)["memory"]
        for n in ((), (0,))
    )
    assert kept["argument"] == given["argument"] == 4 * (32 * 32 + 32 * 8)
    assert kept["output"] - given["output"] == 4 * 32 * 32


@pytest.mark.parametrize("devices", [1, 8])
def test_rows_name_config_and_layout(devices):
    config = ml_collections.ConfigDict(dict(system="s", train=dict(batch_size=3 * devices)))
    found = rows.identity(
        config, "s.py:quick", target="h100", devices=devices, fsdp=1, per_device=3
    )
    assert (found["batch"], found["per_device"], found["config"]) == (3 * devices, 3, "s.py:quick")
