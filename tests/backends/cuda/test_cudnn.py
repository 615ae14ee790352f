"""Convolutions and attention by cuDNN, whose stand-in runs them in NumPy."""

from __future__ import annotations

from dataclasses import replace

import ml_dtypes
import numpy as np
import pytest
from tests.backends.cuda.contractions import check, node_of, run_candidate
from tests.backends.cuda.libraries import stand_in
from tests.samples.sample import integers, normal

from lamina import ops
from lamina.backends.cuda.tactics.cudnn import CudnnAttention, CudnnConvolution
from lamina.backends.cuda.target import TARGETS
from lamina.errors import DeviceError, PlanError
from lamina.ir.dims import sym
from lamina.ir.interpret import interpret
from lamina.ir.pattern import Reject
from lamina.ir.text import parse_graph
from lamina.ops import ActivationKind, Attention, Convolution, Epilogue
from lamina.passes.in_place import AttentionInPlace
from lamina.tactics.candidate import Placement
from lamina.tactics.form import Form, layout

H200 = replace(TARGETS[90], library=stand_in)
RELU = Epilogue(ActivationKind.RELU)


def conv(rank=2, stride=1, dilation=1, before=0, after=None, **rest):
    after = before if after is None else after
    return Convolution(
        strides=(stride,) * rank,
        dilations=(dilation,) * rank,
        pads_begin=(before,) * rank,
        pads_end=(after,) * rank,
        **rest,
    )


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float32])
@pytest.mark.parametrize("operands", [2, 3, 4])
def test_bias_residual_activation(dtype, operands):
    shapes = [(2, 8, 7, 5), (16, 8, 3, 3), (16,), (2, 16, 7, 5)]
    given = [normal(*s, seed=i, dtype=dtype) for i, s in enumerate(shapes)][:operands]
    check(CudnnConvolution(), conv(before=1, activation=RELU), given, H200, pick="eng0", most=1)
    check(CudnnConvolution(), conv(before=1), given, H200, pick="eng2", most=1, gap=8)


@pytest.mark.parametrize(
    "kind, alpha, beta",
    [("leaky_relu", 0.1, 0.0), ("clip", -1.0, 3.0), ("tanh", 0.0, 0.0), ("silu", 1.5, 0.0)],
)
def test_activations_with_their_parameters(kind, alpha, beta):
    given = [normal(1, 8, 4, 4), normal(8, 8, 1, 1, seed=1)]
    op = conv(activation=Epilogue(ActivationKind(kind), alpha, beta))
    check(CudnnConvolution(), op, given, H200, pick="eng0", most=1)


def test_gelu_is_not_left_to_the_engine_that_approximates_it():
    given = [normal(1, 8, 4, 4), normal(8, 8, 1, 1, seed=1)]
    op = conv(activation=Epilogue(ActivationKind.GELU))
    found = CudnnConvolution().candidates(node_of(op, given), H200)
    assert found and not any("eng0" in c.tactic for c in found)
    check(CudnnConvolution(), op, given, H200, pick="eng2", most=1)


@pytest.mark.parametrize(
    "size, taps, options",
    [
        ((9,), (3,), {"stride": 2, "before": 1}),
        ((9, 8), (3, 3), {"stride": 2, "before": 1}),
        ((9, 8), (3, 3), {"stride": 2, "before": 0, "after": 1}),
        ((8, 8), (1, 1), {"stride": 2}),
        ((11, 9), (3, 2), {"dilation": 2}),
        ((5, 6, 7), (3, 3, 3), {"before": 1}),
        ((5, 6), (3, 3), {"before": 1, "groups": 4}),
        ((1, 7), (1, 7), {}),
    ],
)
def test_windows(size, taps, options):
    groups = options.get("groups", 1)
    given = [normal(2, 16, *size), normal(8, 16 // groups, *taps, seed=1), normal(8, seed=2)]
    op = conv(len(size), **options)
    check(CudnnConvolution(), op, given, H200, pick="eng0", most=1)


@pytest.mark.parametrize("causal, keys", [(False, 9), (True, 6), (True, 9)])
def test_attention(causal, keys):
    q = normal(2, 4, 6, 16, dtype=np.float16)
    k, v = (normal(2, 2, keys, 16, seed=i, dtype=np.float16) for i in (1, 2))
    for offset in {0, keys - 6} if causal else {0}:
        op = Attention(scale=0.25, causal=causal, causal_offset=offset)
        check(CudnnAttention(), op, [q, k, v], H200, pick="eng0", most=1, constants=())


PACKED = """graph(%x: f16[2,7,96]) {
  %a = slice(%x) starts=(0,0,0) sizes=(2,7,32) steps=(1,1,1)
  %c = slice(%x) starts=(0,0,32) sizes=(2,7,32) steps=(1,1,1)
  %d = slice(%x) starts=(0,0,64) sizes=(2,7,32) steps=(1,1,1)
  %e = reshape(%a) shape=(2,7,2,16)
  %f = reshape(%c) shape=(2,7,2,16)
  %g = reshape(%d) shape=(2,7,2,16)
  %q = transpose(%e) perm=(0,2,1,3)
  %k = transpose(%f) perm=(0,2,1,3)
  %v = transpose(%g) perm=(0,2,1,3)
  %s = attention(%q, %k, %v) scale=0.25
  %t = transpose(%s) perm=(0,2,1,3)
  %y = reshape(%t) shape=(2,7,32)
  return %y
}"""


def test_heads_where_they_are():
    graph = parse_graph(PACKED, ops.BY_NAME)
    x = normal(2, 7, 96, dtype=np.float16)
    (wanted,) = interpret(graph, [x])
    AttentionInPlace()(graph)
    node = graph.outputs[0].node
    offered = CudnnAttention().candidates(node, H200)
    got = run_candidate(node, offered[0], [x])
    np.testing.assert_allclose(got.astype(np.float32), wanted, rtol=2e-3, atol=2e-3)


def reason(tactic, op, given, target=H200, **how):
    offered = tactic.candidates(node_of(op, given, **how), target)
    assert isinstance(offered, Reject)
    return offered.reason


def test_what_it_does_not_do():
    pair = [normal(1, 8, 5, 5), normal(16, 8, 3, 3)]
    tactic = CudnnConvolution()
    odd = conv(activation=Epilogue(ActivationKind.MISH))
    assert "no mish" in reason(tactic, odd, pair)
    eight = [integers(1, 8, 5, 5, dtype=np.int8), integers(16, 8, 3, 3, dtype=np.int8)]
    assert "not i8" in reason(tactic, conv(), eight)
    assert "no constant" in reason(tactic, conv(), pair, constants=())
    shapes = {0: (sym("b"), 8, 5, 5)}
    known = replace(H200, env={"b": 1})
    assert "at the run only" in reason(tactic, conv(), pair, known, shapes=shapes)
    assert "there is none here" in reason(tactic, conv(), pair, replace(H200, library=None))
    unsupported = [pair[0], normal(13, 8, 3, 3)]
    assert "No valid engine configs" in reason(tactic, conv(), unsupported)
    qkv = [normal(1, 2, 4, 16, dtype=np.float16, seed=i) for i in range(3)]
    heads = CudnnAttention()
    wide = [a.astype(np.float32) for a in qkv]
    assert "not f32" in reason(heads, Attention(scale=1.0), wide, constants=())
    masked = [*qkv, normal(4, 4, dtype=np.float16)]
    assert "mask" in reason(heads, Attention(scale=1.0), masked, constants=())
    before = Attention(scale=1.0, causal=True, causal_offset=-1)
    assert "sees none" in reason(heads, before, qkv, constants=())


def first_draft(engine="eng2"):
    node = node_of(conv(), [normal(1, 8, 5, 5), normal(16, 8, 3, 3)])
    offered = CudnnConvolution().candidates(node, H200)
    assert isinstance(offered, list)
    candidate = next(c for c in offered if engine in c.tactic)
    operands = tuple(
        layout(v.tensor, f or Form.PLAIN) for v, f in zip(node.inputs, candidate.reads, strict=True)
    )
    result = layout(node.output.tensor, candidate.writes[0])
    return candidate.draft(Placement(operands, (result,), ""))


def test_a_plan_is_stored_with_its_workspace():
    draft = first_draft()
    assert draft.plan and draft.workspace_bytes == 2 * 512
    names = [name for name, _ in draft.operands]
    assert stand_in("cudnn").operation(draft.problem, names, draft.plan).workspace_bytes == 1024


def test_a_plan_of_another_version_is_made_anew():
    draft = first_draft()
    names = [name for name, _ in draft.operands]
    other = draft.problem | {"version": "90000"}
    assert stand_in("cudnn").operation(other, names, draft.plan).workspace_bytes == 0


def test_engines_that_results_must_not_depend_on_are_left_out():
    with pytest.raises(DeviceError, match="does not build a plan for eng1"):
        first_draft("eng1")


def test_damaged_plans_and_problems_are_refused():
    draft = first_draft()
    names, library = [name for name, _ in draft.operands], stand_in("cudnn")
    for wrong in ({"kind": "x"}, {"dtype": "f64"}, {"x_shape": None}):
        with pytest.raises(PlanError, match="lacks or misstates"):
            library.operation(draft.problem | wrong, names, b"")
    with pytest.raises(DeviceError, match="does not load a plan"):
        library.operation(draft.problem, names, b"xyz")
    with pytest.raises(DeviceError, match="cuDNN failed: Uid 99"):
        library.operation(draft.problem, names[1:], draft.plan).run((16, 16), 16, 0)
