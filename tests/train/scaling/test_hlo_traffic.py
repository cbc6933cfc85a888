"""Loops, collectives and bytes read from HLO text, against what one counts by hand."""

import functools

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from gsjax.losses import contrastive
from gsjax.train import sharding
from gsjax.train.scaling import hlo, traffic

NESTED = """HloModule nested, entry_computation_layout={(f32[4]{0})->f32[4]{0}}

%sum (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %c = f32[] add(%a, %b)
}

%inner_body (p: (s32[], f32[4])) -> (s32[], f32[4]) {
  %p = (s32[], f32[4]{0}) parameter(0)
  %i = s32[] get-tuple-element(%p), index=0
  %one = s32[] constant(1)
  %next = s32[] add(%i, %one)
  %x = f32[4]{0} get-tuple-element(%p), index=1
  %ar = f32[4]{0} all-reduce(%x), channel_id=1, replica_groups=[2,4]<=[4,2]T(1,0), to_apply=%sum
  ROOT %t = (s32[], f32[4]{0}) tuple(%next, %ar)
}

%inner_condition (p: (s32[], f32[4])) -> pred[] {
  %p = (s32[], f32[4]{0}) parameter(0)
  %i = s32[] get-tuple-element(%p), index=0
  %n = s32[] constant(5)
  ROOT %less = pred[] compare(%i, %n), direction=LT
}

%outer_body (p: (s32[], f32[4])) -> (s32[], f32[4]) {
  %p = (s32[], f32[4]{0}) parameter(0)
  %i = s32[] get-tuple-element(%p), index=0
  %x = f32[4]{0} get-tuple-element(%p), index=1
  %two = s32[] constant(2)
  %start = (s32[], f32[4]{0}) tuple(%two, %x)
  %loop = (s32[], f32[4]{0}) while(%start), condition=%inner_condition, body=%inner_body
  %y = f32[4]{0} get-tuple-element(%loop), index=1
  ROOT %t = (s32[], f32[4]{0}) tuple(%i, %y)
}

%compared (a: s32[], b: s32[]) -> pred[] {
  %a = s32[] parameter(0)
  %b = s32[] parameter(1)
  ROOT %less = pred[] compare(%a, %b), direction=LT
}

%outer_condition (p: (s32[], f32[4])) -> pred[] {
  %p = (s32[], f32[4]{0}) parameter(0)
  %i = s32[] get-tuple-element(%p), index=0
  %n = s32[] constant(7)
  ROOT %f = pred[] fusion(%i, %n), kind=kLoop, calls=%compared
}

%waiting (p: (s32[], f32[4])) -> (s32[], f32[4]) {
  %p = (s32[], f32[4]{0}) parameter(0)
  %i = s32[] get-tuple-element(%p), index=0
  %x = f32[4]{0} get-tuple-element(%p), index=1
  %go = f32[4]{0} collective-permute(%x), channel_id=2, source_target_pairs={{0,1},{1,0}}
  ROOT %t = (s32[], f32[4]{0}) tuple(%i, %go)
}

%until (p: (s32[], f32[4])) -> pred[] {
  %p = (s32[], f32[4]{0}) parameter(0)
  %x = f32[4]{0} get-tuple-element(%p), index=1
  ROOT %f = pred[] custom-call(%x), custom_call_target="enough"
}

ENTRY %main (x: f32[4]) -> f32[4] {
  %x = f32[4]{0} parameter(0)
  %zero = s32[] constant(0)
  %zero2 = s32[] copy(%zero)
  %first = (s32[], /*index=1*/f32[4]{0}) tuple(%zero2, %x)
  %w = (s32[], f32[4]{0}) while(%first), condition=%outer_condition, body=%outer_body
  %v = (s32[], f32[4]{0}) while(%w), condition=%until, body=%waiting
  %u = (s32[], f32[4]{0}) while(%v), condition=%until, body=%waiting, backend_config={"known_trip_count":{"n":"11"}}
  ROOT %y = f32[4]{0} get-tuple-element(%u), index=1
}
"""

STARTED = """HloModule started

%wrapped (p: bf16[16,4]) -> bf16[2,4] {
  %p = bf16[16,4]{1,0} parameter(0)
  ROOT %rs = bf16[2,4]{1,0} reduce-scatter(%p), channel_id=3, replica_groups={{0,1,2,3,4,5,6,7}}, dimensions={0}, to_apply=%sum
}

ENTRY %main (x: bf16[2,4], y: bf16[16,4]) -> bf16[2,4] {
  %x = bf16[2,4]{1,0:T(8,128)(2,1)} parameter(0)
  %y = bf16[16,4]{1,0} parameter(1)
  %ag = (bf16[2,4]{1,0}, bf16[16,4]{1,0}) all-gather-start(%x), channel_id=1, replica_groups=[1,8]<=[8], dimensions={0}
  %agd = bf16[16,4]{1,0} all-gather-done(%ag)
  %cp = (bf16[2,4]{1,0}, bf16[2,4]{1,0}) collective-permute-start(%x), channel_id=2, source_target_pairs={{0,0},{1,1}}
  %cpd = bf16[2,4]{1,0} collective-permute-done(%cp)
  %as = ((bf16[16,4]{1,0}), bf16[2,4]{1,0}) async-start(%y), calls=%wrapped
  %asd = bf16[2,4]{1,0} async-done(%as)
  %a2a = (bf16[2,4]{1,0}, bf16[2,4]{1,0}) all-to-all(%x, %cpd), channel_id=4, replica_groups={{0,1},{2,3},{4,5},{6,7}}
  ROOT %ars = bf16[2,4]{1,0} all-reduce-start(%x), channel_id=5, replica_groups={}, to_apply=%sum
}
"""


def test_loops_multiply_and_an_unknown_one_is_marked():
    found = traffic.collectives(hlo.parse(NESTED), 8)
    assert [(c.kind, c.times, c.unknown) for c in found] == [
        (
            "all-reduce",
            7 * (5 - 2),
            False,
        ),  # two compares with constants, one in a fusion; from 2 on
        ("collective-permute", 1, True),
        ("collective-permute", 11, False),  # as XLA wrote it down
    ]
    assert found[0].groups == ((0, 2, 4, 6), (1, 3, 5, 7))
    assert found[0].wire == 21 * 2 * 3 / 4 * 16
    assert found[0].crosses(4) and not found[0].crosses(8)
    assert traffic.by_kind(found, 8)["collective-permute"] == dict(
        count=12, bytes=12 * 16, wire=12 * 16, wire_between_hosts=0.0, unknown=1
    )


def test_wire_bytes_of_asynchronous_forms():
    found = {c.kind: c for c in traffic.collectives(hlo.parse(STARTED), 8)}
    small, large = 2 * 4 * 2, 16 * 4 * 2
    assert found["all-gather"].wire == 7 * small == 7 / 8 * large
    assert found["reduce-scatter"].wire == 7 / 8 * large
    assert found["collective-permute"].wire == 0  # everyone to itself
    assert found["all-to-all"].wire == 1 / 2 * (2 * small)
    assert found["all-reduce"].wire == 2 * 7 / 8 * small
    assert found["all-reduce"].groups == (tuple(range(8)),)


def test_sizes_of_types():
    assert hlo.size("f32[2,3]{1,0}") == 24
    assert hlo.size("(bf16[8]{0}, /*index=1*/pred[3], s4[3], token[])") == 16 + 3 + 2
    assert hlo.size("c64[]") == 8 and hlo.size("f8e4m3fn[5]") == 5


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{{0,1},{2,3}}", [[0, 1], [2, 3]]),
        ("[2,2]<=[4]", [[0, 1], [2, 3]]),
        ("[2,4]<=[2,2,2]T(1,0,2)", [[0, 1, 4, 5], [2, 3, 6, 7]]),
        ("mesh['a'=4,'b'=2] {'a'}", [[0, 2, 4, 6], [1, 3, 5, 7]]),
        ("mesh['a'=4,'b'=2] {'b','a'}", [[0, 2, 4, 6, 1, 3, 5, 7]]),
        ("mesh['a'=4,'c'=1,'b'=2], device_ids=([2,4]T(1,0)) {'a'}", [[0, 1, 2, 3], [4, 5, 6, 7]]),
        ("mesh['a'=4] {'a':(2)2}", [[0, 1], [2, 3]]),
        ("mesh['a'=4] {'a':(1)2}", [[0, 2], [1, 3]]),
        ("mesh['a'=4], device_ids=(3,2,1,0) {'a':(2)2}", [[3, 2], [1, 0]]),
    ],
)
def test_notations_of_groups(text, expected):
    found = traffic.groups_of(
        f", channel_id=1, replica_groups={text}, to_apply=%sum", "all-reduce", 8
    )
    assert [list(group) for group in found] == expected


def test_text_without_a_program_is_refused():
    with pytest.raises(ValueError, match="as_text"):
        hlo.parse("module @jit_f {}")
    with pytest.raises(ValueError, match="replica groups of an unknown form"):
        traffic.groups_of("replica_groups=@elsewhere", "all-reduce", 8)


def _compiled(function, *arguments):
    return hlo.parse(jax.jit(function).lower(*arguments).compile().as_text())


def test_ring_of_eight_devices_is_as_counted_by_hand():
    mesh = sharding.make_mesh()
    objects, slots, width, devices = 64, 2, 16, 8
    rows = NamedSharding(mesh, P(sharding.BATCH_AXES))

    def array(*shape, dtype=jnp.float32):
        return jax.ShapeDtypeStruct((objects, *shape), dtype, sharding=rows)

    def loss(a, b, scale, valid_a, valid_b, ids):
        row, col = contrastive.pair_log_probs(
            a, b, scale, valid_a=valid_a, valid_b=valid_b, ids=ids, sharding="ring"
        )
        return jnp.sum(jnp.sin(row) * col)

    arguments = (
        array(width), array(slots, width), jax.ShapeDtypeStruct((), jnp.float32),
        array(dtype=jnp.bool_), array(slots, dtype=jnp.bool_), array(dtype=jnp.uint32),
    )  # fmt: skip
    with jax.set_mesh(mesh):
        module = _compiled(jax.value_and_grad(loss, (0, 1)), *arguments)
    table = traffic.by_kind(traffic.collectives(module, devices), 8)
    own = objects // devices
    chunk = own * (2 * 4 * width + 1 + 1 + 4)  # a, b, two masks, group
    gradients = own * 2 * 4 * width  # of a and b, on the way back only
    hops = devices * slots
    assert table["collective-permute"]["bytes"] == hops * (chunk + chunk + gradients)
    assert table["collective-permute"]["wire"] == table["collective-permute"]["bytes"]
    assert table["collective-permute"]["unknown"] == 0


def test_sums_in_nested_scans_count_as_often_as_they_run():
    mesh = sharding.make_mesh(4, 2)
    spec = P(sharding.BATCH_AXES)

    @functools.partial(jax.shard_map, mesh=mesh, in_specs=spec, out_specs=spec)
    def program(x):
        def inner(c, _):
            summed = jax.lax.psum(jnp.sin(c), "fsdp")
            return jax.lax.pcast(summed, "fsdp", to="varying"), None

        def outer(c, _):
            return jax.lax.scan(inner, jnp.cos(c), length=5)[0], None

        return jax.lax.scan(outer, x, length=3)[0]

    x = jax.ShapeDtypeStruct((64,), jnp.float32, sharding=NamedSharding(mesh, spec))
    (sums,) = traffic.by_kind(traffic.collectives(_compiled(program, x), 8), 8).values()
    assert sums["count"] == 15 and sums["bytes"] == 15 * 8 * 4
    assert sums["wire"] == 15 * 8 * 4  # 2 (n - 1) / n of two devices


PRODUCT = """HloModule product

ENTRY %main (x: f32[8,4], y: f32[4,2]) -> f32[8,2] {
  %x = f32[8,4]{1,0} parameter(0)
  %y = f32[4,2]{1,0} parameter(1)
  %p = (f32[8,2]{1,0}, s8[33554432]{0}) custom-call(%x, %y), custom_call_target="__cublas$lt$matmul"
  ROOT %r = f32[8,2]{1,0} get-tuple-element(%p), index=0
}
"""


def test_scratch_space_of_a_library_is_no_traffic():
    assert traffic.memory_bytes(hlo.parse(PRODUCT)) == (4 * (32 + 8 + 16), 0)


ON_CHIP = """HloModule on_chip

%scaled (a: f32[8,128]) -> f32[8,128] {
  %a = f32[8,128]{1,0:T(8,128)} parameter(0)
  ROOT %b = f32[8,128]{1,0:T(8,128)} add(%a, %a)
}

ENTRY %main (x: f32[8,128], y: f32[64,128]) -> f32[8,128] {
  %x = f32[8,128]{1,0:T(8,128)} parameter(0)
  %y = f32[64,128]{1,0:T(8,128)} parameter(1)
  %start = (f32[8,128]{1,0:T(8,128)S(1)}, f32[8,128]{1,0:T(8,128)}, u32[]{:S(2)}) copy-start(%x)
  %done = f32[8,128]{1,0:T(8,128)S(1)} copy-done(%start)
  %part = f32[8,128]{1,0:T(8,128)S(1)} slice(%y), slice={[0:8], [0:128]}
  %sum = f32[8,128]{1,0:T(8,128)S(1)} add(%done, %part)
  ROOT %r = f32[8,128]{1,0:T(8,128)} fusion(%sum), kind=kLoop, calls=%scaled
}
"""


def test_what_a_tpu_keeps_on_the_chip_is_no_traffic():
    one = 8 * 128 * 4
    flag = 4  # the word that says a copy is done
    # From memory: x, part of y. To memory: the result.
    assert traffic.memory_bytes(hlo.parse(ON_CHIP), on_chip=True) == (3 * one + flag, 0)
    # copy 2, slice 2, sum 3, fusion 2
    assert traffic.memory_bytes(hlo.parse(ON_CHIP)) == (9 * one + flag, 0)


def test_memory_traffic_of_a_loop_is_that_of_all_its_passes():
    def program(x, n):
        return jax.lax.scan(lambda c, _: (jnp.sin(c @ c), None), x, length=n)[0]

    x = jax.ShapeDtypeStruct((64, 64), jnp.float32)
    once, many = (
        traffic.memory_bytes(_compiled(functools.partial(program, n=n), x)) for n in (10, 30)
    )
    assert once[1] == many[1] == 0
    assert 10 * 64 * 64 * 4 * 3 < once[0] < 20 * 64 * 64 * 4 * 4
    assert 2.5 < many[0] / once[0] < 3.01
