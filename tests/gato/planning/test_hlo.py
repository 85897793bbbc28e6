"""Programs as XLA writes them for TPUs: loops, fusions, and the three ways of naming groups of devices."""

from __future__ import annotations

from gato.planning.collectives import by_kind_and_axis, collectives
from gato.planning.hlo import called_by, parse, shape_bytes
from gato.planning.traffic import memory_bytes

MESH = {"data": 2, "fsdp": 4, "tensor": 1}
PROGRAM = """
HloModule jit_train_step, is_scheduled=true

%cond (state: (s32[], bf16[3,64,8])) -> pred[] {
  %limit = s32[]{:T(128)} constant(3)
  %state = (s32[]{:T(128)}, bf16[3,64,8]{2,1,0:T(8,128)}) parameter(0)
  %counter = s32[]{:T(128)} get-tuple-element(%state), index=0
  ROOT %lt = pred[]{:T(512)} compare(%counter, %limit), direction=LT, metadata={op_name="cond/lt"}
}

%all-reduce-scatter.1 (p: f32[8,64]) -> f32[8,16] {
  %p = f32[8,64]{1,0} parameter(0)
  %all-reduce.9 = f32[8,64]{1,0} all-reduce(%p), channel_id=5, replica_groups={{0,1,2,3},{4,5,6,7}}, to_apply=%add
  %zero = s32[] constant(0)
  ROOT %own = f32[8,16]{1,0} dynamic-slice(%all-reduce.9, %zero, %zero), dynamic_slice_sizes={8,16}
}

%layer (stack: bf16[3,64,8], turn: s32[]) -> bf16[1,64,8] {
  %stack = bf16[3,64,8]{2,1,0} parameter(0)
  %turn = s32[] parameter(1)
  ROOT %one = bf16[1,64,8]{2,1,0} dynamic-slice(%stack, %turn, %turn, %turn), dynamic_slice_sizes={1,64,8}
}

%piece.1 (w: bf16[16,8]) -> bf16[64,8] {
  %w = bf16[16,8]{1,0} parameter(0)
  ROOT %all-gather.1 = bf16[64,8]{1,0} all-gather(%w), channel_id=7, replica_groups=mesh['axis_0'=2,'axis_1'=4] \
{'axis_1'}, dimensions={0}, metadata={op_name="jit(train_step)/feed_forward"}
}

%piece.2 (w: bf16[16,8]) -> bf16[64,8] {
  %w = bf16[16,8]{1,0} parameter(0)
  ROOT %all-gather.2 = bf16[64,8]{1,0} all-gather(%w), channel_id=7, replica_groups=mesh['axis_0'=2,'axis_1'=4] \
{'axis_1'}, dimensions={0}, metadata={op_name="jit(train_step)/feed_forward"}
}

%body (state: (s32[], bf16[3,64,8])) -> (s32[], bf16[3,64,8]) {
  %state = (s32[], bf16[3,64,8]{2,1,0}) parameter(0)
  %counter = s32[] get-tuple-element(%state), index=0
  %stack = bf16[3,64,8]{2,1,0} get-tuple-element(%state), index=1
  %fusion.layer = bf16[1,64,8]{2,1,0} fusion(%stack, %counter), kind=kLoop, calls=%layer
  %weights = bf16[16,8]{1,0:T(8,128)S(1)} constant({...})
  %fusion.2 = bf16[64,8]{1,0:T(8,128)S(1)} fusion(%weights), kind=kCustom, calls=%piece.1
  %fusion.3 = bf16[64,8]{1,0:T(8,128)S(1)} fusion(%weights), kind=kCustom, calls=%piece.2
  ROOT %next = (s32[], bf16[3,64,8]{2,1,0}) tuple(%counter, %stack)
}

ENTRY %main (gradient: f32[8,64], start: (s32[], bf16[3,64,8])) -> f32[8,16] {
  %gradient = f32[8,64]{1,0} parameter(0)
  %start = (s32[], bf16[3,64,8]{2,1,0}) parameter(1)
  %while.1 = (s32[], bf16[3,64,8]{2,1,0}) while(%start), condition=%cond, body=%body
  %sum = f32[100]{0:S(1)} all-reduce(%gradient), channel_id=1, replica_groups=[4,2]<=[2,4]T(1,0), to_apply=%add
  %both = f32[10]{0:S(1)} all-reduce(%gradient), channel_id=2, replica_groups=[1,8]<=[8], to_apply=%add
  %turned = f32[4]{0:S(1)} all-reduce(%gradient), channel_id=3, replica_groups=mesh['a'=4,'b'=2], \
device_ids=([2,4]T(1,0)) {'b'}, to_apply=%add
  %alone = f32[7]{0:S(1)} all-reduce(%gradient), channel_id=4, replica_groups=[8,1]<=[8], to_apply=%add
  %neighbour = f32[6]{0:S(1)} collective-permute(%gradient), channel_id=8, source_target_pairs={{0,4},{4,0},{1,5},{5,1}}
  %itself = f32[6]{0:S(1)} collective-permute(%gradient), channel_id=9, source_target_pairs={{0,0},{1,1}}
  ROOT %fusion.1 = f32[8,16]{1,0} fusion(%gradient), kind=kCustom, calls=%all-reduce-scatter.1
}
"""


def found() -> dict[tuple[str, str], tuple[int, int]]:
    summed = by_kind_and_axis(collectives(parse(PROGRAM), MESH))
    return {(one.kind, one.axis): (one.bytes, one.runs) for one in summed}


def test_a_loop_body_counts_as_often_as_it_runs() -> None:
    program = parse(PROGRAM)
    assert program.entry == "main"
    assert program.runs["body"] == 3
    assert program.unknown_loops == 0
    # Gathered once a turn, though in two pieces with one channel: 64 x 8 bfloat16, of which 3/4 come from elsewhere.
    assert found()["all-gather", "fsdp"] == (3 * 64 * 8 * 2 * 3 // 4, 3)


def test_a_loop_without_a_limit_is_reported() -> None:
    unlimited = parse(PROGRAM.replace("constant(3)", "parameter(1)"))
    assert unlimited.unknown_loops == 1
    assert unlimited.runs["body"] == 1
    known = PROGRAM.replace("body=%body", 'body=%body, backend_config={"known_trip_count":{"n":"5"}}')
    assert parse(known).runs["body"] == 5


def test_a_loop_up_to_the_turn_of_the_one_around_it_is_half_a_square() -> None:
    triangle = """
HloModule step

%limit (p: s32[]) -> pred[] {
  %p = s32[] parameter(0)
  %bound = s32[] get-tuple-element(%p), index=1
  ROOT %less = pred[] compare(%p, %bound), direction=LT
}

%tile (p: s32[]) -> s32[] {
  %p = s32[] parameter(0)
  ROOT %next = s32[] add(%p, %p)
}

%row (p: s32[]) -> s32[] {
  %p = s32[] parameter(0)
  ROOT %tiles = s32[] while(%p), condition=%limit, body=%tile
}

%layer (p: s32[]) -> s32[] {
  %p = s32[] parameter(0)
  ROOT %rows = s32[] while(%p), condition=%limit, body=%row, backend_config={"known_trip_count":{"n":"8"}}
}

ENTRY %main (p: s32[]) -> s32[] {
  %p = s32[] parameter(0)
  ROOT %layers = s32[] while(%p), condition=%limit, body=%layer, backend_config={"known_trip_count":{"n":"3"}}
}
"""
    program = parse(triangle)
    assert program.runs["row"] == 3 * 8
    assert program.runs["tile"] == 3 * (1 + 2 + 3 + 4 + 5 + 6 + 7 + 8)
    assert (program.triangular_loops, program.unknown_loops) == (1, 0)


def test_groups_become_axes_of_the_mesh() -> None:
    got = found()
    assert got["all-reduce", "data"] == ((400 + 16) * 2 // 2, 2), "an iota, and a mesh of the compiler's own"
    assert got["all-reduce", "data+fsdp"] == (40 * 2 * 7 // 8, 1)
    assert got["collective-permute", "data"] == (24, 1)
    assert {axis for _, axis in got} == {"data", "data+fsdp", "fsdp"}, "devices that keep their own send nothing"


def test_an_all_reduce_whose_parts_are_taken_is_a_reduce_scatter() -> None:
    assert found()["reduce-scatter", "fsdp"] == (8 * 64 * 4 * 3 // 4, 1)


def test_memory_traffic_counts_the_layer_that_a_fusion_reads_and_nothing_on_the_chip() -> None:
    turn = (2 * 64 * 8 * 2 + 4) + (4 + 4 + 1)  # a layer read and written, the counter; the condition's comparison
    gradient, own = 8 * 64 * 4, 8 * 16 * 4
    assert memory_bytes(parse(PROGRAM)) == 3 * turn + 7 * gradient + own, "seven read the gradient, one writes its part"


def test_shapes() -> None:
    assert shape_bytes("(bf16[2,3]{1,0:T(8,128)(2,1)}, /*index=5*/f32[4]{0}, s4[3]{0}, pred[])") == 12 + 16 + 2 + 1
    loop = parse(PROGRAM).computations["main"]["while.1"]
    assert called_by(loop) == ["cond", "body"]
    assert loop.operands == ("start",)
