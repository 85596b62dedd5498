"""Counting what a compiled program costs: by hand on small HLO texts as XLA writes them for TPU, and on CPU."""

import jax
import jax.numpy as jnp
import pytest

from benchmarks.tpu import largest_arrays
from qr_jax.lab.planning import hlo

pytestmark = pytest.mark.usefixtures("optimised")

TILED = "{1,0:T(8,128)(2,1)}"  # bf16 in HBM
NEAR = "{1,0:T(8,128)(2,1)S(1)}"  # the same in VMEM


SHORT = {"STACK": "bf16[4,128,128]{2,1,0:T(8,128)(2,1)}", "STREAM": "bf16[8,128]{1,0:T(8,128)(2,1)S(1)}"}
SHORT |= {"KERNEL": '"tpu_custom_call"', "COUNTER": "s32[]{:T(128)}"}


def module(entry: str, others: str = "") -> str:
    text = f"HloModule jit_f, is_scheduled=true\n\n{others}\nENTRY %main (p: f32[]) -> f32[] {{\n{entry}\n}}\n"
    for word, array in SHORT.items():
        text = text.replace(word, array)
    return text


def test_a_tile_pads_the_last_two_dimensions_and_another_memory_is_not_hbm():
    near = f"""
      %a = bf16[3,130]{TILED} parameter(0)
      ROOT %b = bf16[3,130]{NEAR} copy(%a)"""
    # read: 3 rows stand in 8, 130 columns in 256, 2 bytes each; the copy lies in VMEM
    assert hlo.cost(module(near)).bytes_accessed == 8 * 256 * 2
    assert hlo.cost(module(near.replace("S(1)", ""))).bytes_accessed == 2 * 8 * 256 * 2


def test_a_prefetch_is_one_read_and_its_use_none():
    text = module(f"""
      %w = bf16[128,256]{TILED} parameter(0)
      %x = bf16[8,128]{NEAR} parameter(1)
      %start = (bf16[128,256]{NEAR}, bf16[128,256]{TILED}, u32[]{{:S(2)}}) copy-start(%w)
      %done = bf16[128,256]{NEAR} copy-done(%start)
      ROOT %y = bf16[8,256]{TILED} dot(%x, %done), lhs_contracting_dims={{1}}, rhs_contracting_dims={{0}}""")
    cost = hlo.cost(text)
    assert cost.bytes_accessed == 128 * 256 * 2 + 8 * 256 * 2
    assert cost.flops == 2 * 8 * 128 * 256


def test_what_a_run_fetches_at_its_end_for_the_next_is_counted_where_that_starts():
    """As XLA writes it for TPU: `w` is there from the last run, its place is used for others, and `w` comes again."""
    pair = f"(bf16[128,256]{NEAR}, bf16[128,256]{TILED}, u32[]{{:S(2)}})"
    text = module(f"""
      %w = bf16[128,256]{TILED} parameter(0)
      %x = bf16[8,128]{NEAR} parameter(1)
      %start = {pair} copy-start(%w), cross_program_prefetch_index=0
      %done = bf16[128,256]{NEAR} copy-done(%start)
      %again = {pair} copy-start(%w)
      %y = bf16[8,256]{NEAR} dot(%x, %done), lhs_contracting_dims={{1}}, rhs_contracting_dims={{0}}
      %next = bf16[128,256]{NEAR} copy-done(%again)
      ROOT %out = bf16[8,256]{TILED} copy(%y)""")
    assert hlo.cost(text).bytes_accessed == 128 * 256 * 2 + 8 * 256 * 2


LOOP = """
%read (p0: bf16[4,128,128], p1: s32[]) -> bf16[128,128] {
  %p0 = STACK parameter(0)
  %p1 = COUNTER parameter(1)
  %zero = COUNTER constant(0)
  %one = bf16[1,128,128]{2,1,0:T(8,128)(2,1)} dynamic-slice(%p0, %p1, %zero, %zero), dynamic_slice_sizes={1,128,128}
  ROOT %flat = bf16[128,128]{1,0:T(8,128)(2,1)} bitcast(%one)
}

%product (p2: bf16[4,128,128], p3: s32[], p4: bf16[8,128]) -> bf16[8,128] {
  %p2 = STACK parameter(0)
  %p3 = COUNTER parameter(1)
  %p4 = STREAM parameter(2)
  %w = bf16[128,128]{1,0:T(8,128)(2,1)} fusion(%p2, %p3), kind=kLoop, calls=%read
  ROOT %c = STREAM convolution(%p4, %w), dim_labels=bf_io->bf
}

%body (s: (s32[], bf16[8,128], bf16[4,128,128])) -> (s32[], bf16[8,128], bf16[4,128,128]) {
  %s = (COUNTER, STREAM, /*index=2*/STACK) parameter(0)
  %i = COUNTER get-tuple-element(%s), index=0
  %step = s32[]{:T(128)S(6)} constant(STEP)
  %next = s32[]{:T(128)S(6)} add(%i, %step)
  %x = STREAM get-tuple-element(%s), index=1
  %ws = STACK get-tuple-element(%s), index=2
  %y = STREAM fusion(%ws, %i, %x), kind=kOutput, calls=%product
  ROOT %t = (COUNTER, STREAM, STACK) tuple(%next, %y, %ws)
}

%more (r: (s32[], bf16[8,128], bf16[4,128,128])) -> pred[] {
  %r = (COUNTER, STREAM, STACK) parameter(0)
  %j = COUNTER get-tuple-element(%r), index=0
  %n = COUNTER constant(4)
  %first = pred[]{:T(512)S(6)} compare(%j, %n), direction=LT
  %other = pred[]{:T(512)S(6)} custom-call(%r), custom_call_target="SomethingElse"
  ROOT %both = pred[]{:T(512)S(6)} and(%first, %other)
}
"""
RUN = """
  %i0 = s32[]{:T(128)S(6)} constant(0)
  %x0 = STREAM parameter(0)
  %w0 = STACK parameter(1)
  %t0 = (COUNTER, STREAM, STACK) tuple(%i0, %x0, %w0)
  ROOT %run = (COUNTER, STREAM, STACK) while(%t0), condition=%more, body=%body
"""


@pytest.mark.parametrize(("step", "trips"), [(1, 4), (2, 2), (3, 2)])
def test_a_loop_costs_its_trips_and_a_fusion_the_slice_that_it_reads(step, trips):
    cost = hlo.cost(module(RUN, LOOP.replace("STEP", str(step)).replace("custom-call(%r)", "parameter(9)")))
    assert cost.flops == trips * 2 * 8 * 128 * 128
    # the slice, the counter in the comparison, the sum and the fusion, and the number it is compared with
    assert cost.bytes_accessed == trips * (128 * 128 * 2 + 4 * 4)
    assert cost.unbounded == ()


def test_a_known_trip_count_is_taken_and_a_loop_without_a_bound_is_listed():
    known = RUN.replace("body=%body", 'body=%body, backend_config={"known_trip_count":{"n":"7"}}')
    assert hlo.cost(module(known, LOOP.replace("STEP", "1"))).flops == 7 * 2 * 8 * 128 * 128
    cost = hlo.cost(module(RUN, LOOP.replace("STEP", "1").replace("direction=LT", "direction=NE")))
    assert cost.flops == 2 * 8 * 128 * 128
    assert cost.unbounded == ("run",)


def test_what_is_updated_in_place_costs_the_update():
    others = """
%write (p0: bf16[64,128], p1: bf16[1,128], p2: s32[]) -> bf16[64,128] {
  %p0 = bf16[64,128]{1,0:T(8,128)(2,1)} parameter(0)
  %p1 = bf16[1,128]{1,0:T(8,128)(2,1)} parameter(1)
  %p2 = s32[]{:S(6)} parameter(2)
  ROOT %u = bf16[64,128]{1,0:T(8,128)(2,1)} dynamic-update-slice(%p0, %p1, %p2, %p2)
}
"""
    entry = """
      %all = bf16[64,128]{1,0:T(8,128)(2,1)} parameter(0)
      %row = bf16[1,128]{1,0:T(8,128)(2,1)} parameter(1)
      %at = s32[]{:S(6)} parameter(2)
      ROOT %f = bf16[64,128]{1,0:T(8,128)(2,1)} fusion(%all, %row, %at), kind=kLoop, calls=%write"""
    assert hlo.cost(module(entry, others)).bytes_accessed == 2 * (8 * 128 * 2)  # a row's tile read and written
    # of an array that is made inside, all is written
    inside = others.replace("dynamic-update-slice(%p0,", "dynamic-update-slice(%made,")
    inside = inside.replace("  ROOT", "  %made = bf16[64,128]{1,0:T(8,128)(2,1)} negate(%p0)\n  ROOT")
    assert hlo.cost(module(entry, inside)).bytes_accessed == 8 * 128 * 2 + 2 * 64 * 128 * 2


def test_a_conditional_costs_its_larger_branch():
    others = """
%small (p: f32[8,128]) -> f32[8,128] {
  ROOT %p = f32[8,128]{1,0} parameter(0)
}

%large (q: f32[8,128]) -> f32[8,128] {
  %q = f32[8,128]{1,0} parameter(0)
  ROOT %e = f32[8,128]{1,0} exponential(%q)
}
"""
    entry = """
      %which = s32[] parameter(0)
      %x = f32[8,128]{1,0} parameter(1)
      ROOT %c = f32[8,128]{1,0} conditional(%which, %x, %x), branch_computations={%small, %large}"""
    assert hlo.cost(module(entry, others)).bytes_accessed == 2 * 8 * 128 * 4


def test_collectives_count_once_whether_they_start_and_end_or_are_carried_through_fusions():
    config = 'backend_config={"async_collective_fusion_config":{"flag_start":"FLAG","flag_end":"8"}}'
    others = "\n".join(f"""
%part{flag.strip("-")} (p: f32[8,128]) -> f32[32,128] {{
  %p = f32[8,128]{{1,0}} parameter(0)
  ROOT %g = f32[32,128]{{1,0}} all-gather(%p), dimensions={{0}}, {config.replace("FLAG", flag)}
}}""" for flag in ("-1", "2"))  # fmt: skip
    entry = """
      %x = f32[8,128]{1,0} parameter(0)
      %start = (f32[8,128]{1,0}, f32[8,128]{1,0}) collective-permute-start(%x), source_target_pairs={{0,1}}
      %done = f32[8,128]{1,0} collective-permute-done(%start)
      %begins = f32[32,128]{1,0} fusion(%done), kind=kCustom, calls=%part1
      ROOT %goes_on = f32[32,128]{1,0} fusion(%done), kind=kCustom, calls=%part2"""
    cost = hlo.cost(module(entry, others))
    assert cost.collectives == {"collective-permute": 8 * 128 * 4, "all-gather": 32 * 128 * 4}
    assert cost.bytes_accessed == (8 + 8 + 8 + 32) * 128 * 4


def test_a_convolution_costs_what_meets_an_element():
    def flops(line, left, right):
        return hlo.cost(module(f"  %a = {left} parameter(0)\n  %b = {right} parameter(1)\n  ROOT %c = {line}")).flops

    # a batch of 6 x 8 matrix products [1024, 128] [128, 2] as XLA writes it for TPU: dimensions that are dilated apart
    batch = (
        "f32[6,8,1024,2] convolution(%a, %b), window={size=6x8 stride=5x7 lhs_dilate=6x8}, dim_labels=01bf_01io->01bf"
    )
    assert flops(batch, "bf16[6,8,1024,128]", "bf16[6,8,128,2]") == 2 * 6 * 8 * 1024 * 128 * 2
    # three taps over five positions, padded by one: the ends meet two
    three = "f32[1,5,1] convolution(%a, %b), window={size=3 pad=1_1}, dim_labels=b0f_0io->b0f"
    assert flops(three, "f32[1,5,1]", "f32[3,1,1]") == 2 * (3 * 5 - 2)


def test_a_kernel_costs_its_operands_and_results_and_its_calls_are_counted():
    cost = hlo.cost(module("""
      %x = f32[8,128]{1,0} parameter(0)
      ROOT %k.12 = f32[8,128]{1,0} custom-call(%x), custom_call_target=KERNEL, frontend_attributes={kernel_metadata={
"block":"{128}"
}}, backend_config={}"""))  # fmt: skip
    assert (cost.flops, cost.bytes_accessed, cost.kernels) == (0, 2 * 8 * 128 * 4, {"k": 1})


def test_a_scan_compiled_on_cpu_counts_every_layer_where_xla_counts_one():
    def f(x, weights):
        return jax.lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, weights)[0]

    shapes = (jax.ShapeDtypeStruct((64, 128), jnp.float32), jax.ShapeDtypeStruct((10, 128, 128), jnp.float32))
    compiled = jax.jit(f).lower(*shapes).compile()
    cost = hlo.cost(compiled.as_text())
    assert cost.flops == 10 * 2 * 64 * 128 * 128
    assert compiled.cost_analysis()["flops"] < 2 * 2 * 64 * 128 * 128 * 1.1
    weights, stream = 128 * 128 * 4, 64 * 128 * 4
    # at least each weight once and the stream in and out of each product; at most each slice copied out and read again
    assert 10 * (weights + 2 * stream) <= cost.bytes_accessed <= 10 * (3 * weights + 8 * stream)
    assert cost.unbounded == ()


def test_a_loop_that_may_end_early_costs_its_bound():
    def f(x):
        return jax.lax.while_loop(lambda s: (s[0] < 6) & (s[1].sum() < 1e9), lambda s: (s[0] + 1, s[1] @ s[1]), (0, x))[
            1
        ]

    compiled = jax.jit(f).lower(jax.ShapeDtypeStruct((16, 16), jnp.float32)).compile()
    assert hlo.cost(compiled.as_text()).flops == 6 * 2 * 16**3


def test_the_largest_arrays_are_those_that_are_laid_out():
    def f(x, w):
        return jnp.exp(x @ w)

    shapes = (jax.ShapeDtypeStruct((32, 64), jnp.float32), jax.ShapeDtypeStruct((64, 4096), jnp.float32))
    largest = largest_arrays(jax.jit(f).lower(*shapes).compile().as_text())
    assert [array.shape for array, _ in largest[:2]] == [(64, 4096), (32, 4096)]
    assert largest[0][0].nbytes == 64 * 4096 * 4


def test_a_text_that_is_no_module_is_refused():
    with pytest.raises(ValueError, match=r"no ENTRY computation.*as_text"):
        hlo.cost("hello")
