"""Products in TF32: factors are rounded to 11 bits, not cut off."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from tests.backends.cuda.contractions import node_of, run_candidate
from tests.samples.sample import normal

import lamina
from lamina import ops
from lamina.backends.cuda import bindings
from lamina.backends.cuda import compiler as compiler_of_cuda
from lamina.backends.cuda.compile import Compiler, MachineCode
from lamina.backends.cuda.request import Boxes
from lamina.backends.cuda.tactics.boxed import TritonMatmulBoxed
from lamina.backends.cuda.tactics.convolution import TritonConvolution, TritonConvolutionBoxes
from lamina.backends.cuda.tactics.few_channels import TritonFewChannels
from lamina.backends.cuda.tactics.generated import Generated
from lamina.backends.cuda.tactics.matmul import TritonMatmul, TritonMatmulBoxes
from lamina.backends.cuda.tactics.tf32 import packed_factors, packed_precision
from lamina.backends.cuda.target import TARGETS
from lamina.errors import DeviceError
from lamina.ir.interpret import interpret
from lamina.ir.text import parse_graph
from lamina.ir.types import DType
from lamina.ops import Convolution, Matmul
from lamina.tactics.candidate import Placement
from lamina.tactics.form import Form, layout

TF32 = replace(TARGETS[90], tf32=True)
MATMUL = """graph(%x: f32[512,768]) {
  %w = const() type=f32[768,256] seed=1
  %y = matmul(%x, %w)
  return %y
}"""
CONVOLUTION = """graph(%x: f32[4,64,32,32]) {
  %w = const() type=f32[64,64,3,3] seed=1
  %y = convolution(%x, %w) strides=(1,1) dilations=(1,1) pads_begin=(1,1) pads_end=(1,1)
  return %y
}"""
IMAGE = CONVOLUTION.replace("[4,64,32,32]", "[4,3,32,32]").replace("[64,64,3,3]", "[64,3,3,3]")


def rounded(x):
    """Return f32 numbers with 11 bits, in f64."""
    bits = x.view(np.int32).astype(np.int64)
    return ((bits + 0x1000) & ~0x1FFF).astype(np.int32).view(np.float32).astype(np.float64)


def test_both_factors_are_rounded():
    x, w = normal(24, 96, seed=0), normal(96, 32, seed=1)
    wanted = rounded(x) @ rounded(w)
    for constants in ((1,), ()):  # packed, and as it lies
        node = node_of(Matmul(), [x, w], constants)
        for candidate in TritonMatmul().candidates(node, TF32)[:3]:
            got = run_candidate(node, candidate, [x, w])
            assert np.abs(got - wanted).max() < 1e-5, candidate.tactic
            assert np.abs(got - x.astype(np.float64) @ w).max() > 1e-4  # they are rounded at all


@pytest.mark.parametrize("channels", [3, 32])
def test_both_factors_of_a_convolution(channels):
    x, w = normal(1, channels, 9, 9, seed=0), normal(16, channels, 3, 3, seed=1)
    op = Convolution(strides=(1, 1), dilations=(1, 1), pads_begin=(1, 1), pads_end=(1, 1))
    wanted = op.reference(rounded(x), rounded(w))
    node = node_of(op, [x, w])
    tactic = TritonFewChannels() if channels == 3 else TritonConvolution()
    for candidate in tactic.candidates(node, TF32)[:2]:
        got = run_candidate(node, candidate, [x, w])
        assert np.abs(got - wanted).max() < 1e-5, candidate.tactic


def test_weights_are_rounded_to_the_nearest():
    w = normal(1000, seed=3) * np.float32(8) ** np.arange(-5, 5, 0.01, np.float32)
    got = packed_factors(w, DType.F32, TF32)
    assert got.dtype == np.float32
    np.testing.assert_array_equal(got, rounded(w).astype(np.float32))
    assert packed_factors(w, DType.F32, TARGETS[90]) is w
    half = np.float16([0.1, 3])
    assert packed_factors(half, DType.F16, TF32) is half


def test_what_is_packed_is_not_rounded_again():
    assert packed_precision("tf32", packed=True) == "tf32 left"
    assert packed_precision("tf32", packed=False) == "tf32"
    assert packed_precision("ieee", packed=True) == "ieee"


@pytest.mark.parametrize("tf32, element", [(True, "tf32"), (False, "f16")])
def test_the_copy_engine_rounds_both_factors(tf32, element):
    dtype = np.dtype(np.float32 if tf32 else np.float16)
    target = replace(TARGETS[90], tf32=tf32)
    node = node_of(Matmul(), [normal(64, 96, dtype=dtype), normal(96, 64, dtype=dtype)], (1,))
    dense = tuple(layout(v.tensor, Form.PLAIN) for v in (*node.inputs, node.output))
    (launch,) = (
        TritonMatmulBoxed()
        .candidates(node, target)[0]
        .draft(Placement(dense[:2], dense[2:], ""))
        .launches
    )
    a, b, y = (x for x in launch.arguments if isinstance(x, Boxes))
    assert (a.element, b.element, y.element) == (element, element, DType.of(dtype).value)
    assert (a.sizes, b.sizes, y.sizes) == ((64, 96), (64, 96), (64, 64))


@pytest.mark.parametrize("arch", [80, 90, 100])
@pytest.mark.parametrize("constants", [(1,), ()])
def test_compiles(arch, constants):
    target = replace(TARGETS[arch], tf32=True)
    x = normal(4, 32, 9, 9), normal(32, 32, 3, 3)
    op = Convolution(strides=(1, 1), dilations=(1, 1), pads_begin=(1, 1), pads_end=(1, 1))
    nodes = [
        node_of(Matmul(), [normal(64, 96), normal(96, 64)], constants),
        node_of(op, list(x), constants),
    ]
    tactics = [TritonMatmul(), TritonConvolution()]
    if arch >= 90 and constants:
        tactics += [TritonMatmulBoxed(), TritonConvolutionBoxes()]
        nodes += nodes
    requests = []
    for tactic, node in zip(tactics, nodes, strict=True):
        candidate = tactic.candidates(node, target)[0]
        forms = [form or Form.PLAIN for form in candidate.reads]
        operands = tuple(layout(v.tensor, f) for v, f in zip(node.inputs, forms, strict=True))
        result = layout(node.output.tensor, candidate.writes[0])
        draft = candidate.draft(Placement(operands, (result,), ""))
        requests += [launch.kernel for launch in draft.launches]
    with Compiler(arch, 2) as compiler:
        for made in compiler.compile(requests).values():
            assert isinstance(made, MachineCode), made


@pytest.mark.gpu
@pytest.mark.parametrize(
    "text, tactic",
    [
        (MATMUL, TritonMatmul()),
        (MATMUL, TritonMatmulBoxes()),
        (MATMUL, TritonMatmulBoxed()),
        (CONVOLUTION, TritonConvolution()),
        (CONVOLUTION, TritonConvolutionBoxes()),
        (IMAGE, TritonFewChannels()),
    ],
    ids=lambda v: getattr(v, "name", ""),
)
def test_a_gpu_rounds(monkeypatch, text, tactic):
    try:
        bindings.open_device(0)
    except DeviceError as e:
        pytest.skip(str(e))
    monkeypatch.setattr(compiler_of_cuda, "TACTICS", (tactic, Generated()))
    graph = parse_graph(text, ops.BY_NAME)
    x = normal(*graph.inputs[0].tensor.static_shape, seed=5)
    (exact,) = interpret(parse_graph(text, ops.BY_NAME), [x])
    engine = lamina.build(
        graph, target="cuda", precision="tf32", optimization_level=1, timing_cache=""
    )
    assert tactic.name in {s.tactic.split(" ")[0] for s in engine.plan.sections[0].program.steps}
    error = np.linalg.norm(engine(x) - exact) / np.linalg.norm(exact)
    # Of rounding both factors 2.9e-4; of cutting one of them off 4.6e-4, both 7.7e-4.
    assert 2e-4 < error < 3.5e-4
