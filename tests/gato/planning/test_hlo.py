"""Programs as XLA writes them for TPUs and GPUs: loops, fusions, and the three ways of naming groups of devices."""

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

# Of the 1.18B step on 4 x 8 H200s (data 4, fsdp 8), as jaxlib 0.10.2 writes it; shortened between and behind the
# instructions.
GPU_PROGRAM = """
HloModule jit_train_step, is_scheduled=true

%region_82.90_spmd (state: (s32[])) -> pred[] {
  %state = (s32[]) parameter(0)
  %turn = s32[] get-tuple-element(%state), index=0
  ROOT %compare.62 = pred[] custom-call(%turn), custom_call_target="any"
}

%region_56.89_spmd (state: (s32[])) -> (s32[]) {
  %state = (s32[]) parameter(0)
  %weights = bf16[256,2048]{1,0} constant({...})
  %more = bf16[256,4096]{1,0} constant({...})
  %all-gather-start.7 = ((bf16[256,2048]{1,0}, bf16[256,4096]{1,0}), (bf16[2048,2048]{1,0}, bf16[2048,4096]{1,0})) \
all-gather-start(%weights, %more), channel_id=23, replica_groups=mesh['axis_0'=1,'axis_1'=8,'axis_2'=4], \
device_ids=([4,8]T(1,0)) {'axis_1'}, dimensions={0}, use_global_device_ids=true
  %all-gather-done.7 = (bf16[2048,2048]{1,0}, bf16[2048,4096]{1,0}) all-gather-done(%all-gather-start.7)
  %all-reduce-start.3 = bf16[2101248]{0} all-reduce-start(%wrapped_concatenate.1), channel_id=1, replica_groups={{0,1,\
2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31}}, use_global_device_ids=true, \
to_apply=%region_76.82
  %all-reduce-done.3 = bf16[2101248]{0} all-reduce-done(%all-reduce-start.3)
  ROOT %next = (s32[]) tuple(%turn)
}

ENTRY %main (start: (s32[]), gradients: f32[128,2048]) -> f32[] {
  %start = (s32[]) parameter(0)
  %gradients = f32[128,2048]{0,1} parameter(1)
  %while.345 = (s32[]) while(%start), condition=%region_82.90_spmd, body=%region_56.89_spmd, backend_config={\
"known_trip_count":{"n":"23"},"known_init_step":{"init":"0","step":"1"},"dynamic_variable_tuple_indices":[]}
  %reduce-scatter-start.2 = ((f32[128,2048]{0,1}, f32[128,2048]{0,1}), (f32[128,256]{0,1}, f32[128,256]{0,1})) \
reduce-scatter-start(%gradients, %gradients), channel_id=186, replica_groups={{0,1,2,3,4,5,6,7},{8,9,10,11,12,13,14,\
15},{16,17,18,19,20,21,22,23},{24,25,26,27,28,29,30,31}}, use_global_device_ids=true, dimensions={1}, to_apply=%add
  %all-to-all-start.2 = ((bf16[128,8,256]{2,0,1}), bf16[128,8,256]{2,0,1}) all-to-all-start(%bitcast.2745.0), \
channel_id=21, replica_groups=mesh['axis_0'=1,'axis_1'=8,'axis_2'=4], device_ids=([4,8]T(1,0)) {'axis_1'}, \
dimensions={1}
  %all-reduce-start.9 = bf16[5373952]{0} all-reduce-start(%wrapped_concatenate.4), channel_id=137, replica_groups=mesh\
['axis_0'=8,'axis_1'=1,'axis_2'=4], device_ids=([4,8]T(1,0)) {'axis_2'}, use_global_device_ids=true, to_apply=%add.43
  %all-reduce-start.11 = bf16[2400000]{0} all-reduce-start(%wrapped_concatenate.5), channel_id=1, replica_groups={{0,1,\
2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31}}, use_global_device_ids=true, \
to_apply=%region_54.59
  %cudnn-conv-bw-filter.5 = (bf16[128,3,3,3]{3,2,1,0}, u8[0]{0}) custom-call(%gradients), window={size=3x3 \
pad=1_1x1_1}, dim_labels=b01f_o01i->b01f, custom_call_target="__cudnn$convBackwardFilter"
  ROOT %norm = f32[] constant(0)
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


def test_what_gpus_start_and_await() -> None:
    """Of several arrays at once, with shapes of operands and results, and one channel for two that are unlike."""
    program = parse(GPU_PROGRAM)
    assert program.unknown_loops == 0
    summed = by_kind_and_axis(collectives(program, {"data": 4, "fsdp": 8, "tensor": 1}))
    assert {(one.kind, one.axis): (one.bytes, one.runs) for one in summed} == {
        ("all-gather", "fsdp"): (23 * 2048 * (2048 + 4096) * 2 * 7 // 8, 23),
        ("all-reduce", "data+fsdp"): ((23 * 2101248 + 2400000) * 2 * 2 * 31 // 32, 24),
        ("reduce-scatter", "fsdp"): (2 * 128 * 2048 * 4 * 7 // 8, 1),
        ("all-to-all", "fsdp"): (128 * 8 * 256 * 2 * 7 // 8, 1),
        ("all-reduce", "data"): (5373952 * 2 * 2 * 3 // 4, 1),
    }


def test_memory_traffic_counts_the_layer_that_a_fusion_reads_and_nothing_on_the_chip() -> None:
    turn = (2 * 64 * 8 * 2 + 4) + (4 + 4 + 1)  # a layer read and written, the counter; the condition's comparison
    gradient, own = 8 * 64 * 4, 8 * 16 * 4
    assert memory_bytes(parse(PROGRAM)) == 3 * turn + 7 * gradient + own, "seven read the gradient, one writes its part"


def test_shapes() -> None:
    assert shape_bytes("(bf16[2,3]{1,0:T(8,128)(2,1)}, /*index=5*/f32[4]{0}, s4[3]{0}, pred[])") == 12 + 16 + 2 + 1
    loop = parse(PROGRAM).computations["main"]["while.1"]
    assert called_by(loop) == ["cond", "body"]
    assert loop.operands == ("start",)
