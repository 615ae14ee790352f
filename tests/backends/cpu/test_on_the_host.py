"""What the CPU backend leaves to NumPy, with the reason; everything else has a native kernel."""

from __future__ import annotations

import numpy as np
import pytest
from tests.samples import all_samples

import lamina
from lamina import ops
from lamina.backends.cpu.driver import CpuDriver
from lamina.backends.cpu.lowering import lower
from lamina.backends.cpu.selection import enumerate_candidates
from lamina.backends.cpu.target import CpuTarget
from lamina.codegen.llvm import target as llvm_target
from lamina.codegen.scalar import SCALAR_DTYPES
from lamina.errors import LaminaError
from lamina.ir.dims import sym
from lamina.ir.graph import Graph, Node, emit_node
from lamina.ir.loc import Loc
from lamina.ir.types import DType, TensorType
from lamina.ir.weight import Weight
from lamina.ops.kinds import CoordinateMode
from lamina.tactics.views import view_offset

ON_HOST = {
    ops.HostCall: "an operator that only ONNX's evaluator knows: images, text, rare mathematics",
    ops.BindDims: "a size that data decides has to reach the host, where shapes are known",
    ops.Assertion: "what raises an error is Python",
    ops.PluginCall: "a function that the user wrote",
}
"""Operators that never have a kernel, and why."""


def _why_on_host(node: Node) -> str | None:
    """Return the reason why this node may run on the host, or None when it must not."""
    op, types = node.op, [v.type for v in (*node.inputs, *node.outputs)]
    if type(op) in ON_HOST:
        return ON_HOST[type(op)]
    if any(not isinstance(t, TensorType) or t.dtype is DType.STR for t in types):
        return "sequences, optionals and strings are Python objects"
    if any(t.dtype not in SCALAR_DTYPES for t in types):
        return "types of four or eight bits are stored; weights of them are widened when built"
    if isinstance(op, ops.Convolution) and not types[0].dtype.is_float:
        return "ConvInteger without a scale: quantized networks have QuantizedConvolution"
    if isinstance(op, ops.Resize) and op.coordinate_mode is CoordinateMode.TF_CROP_AND_RESIZE:
        return "the region is data"
    if isinstance(op, ops.Einsum):
        return "a label that is repeated in one operand takes its diagonal"
    return None


def _graph(op, arrays, constants):
    """Return the graph of one operator; its operands from the second on may be constants."""
    graph, values = Graph(), []
    for i, x in enumerate(arrays):
        type = TensorType(DType.of(x.dtype), x.shape)
        if i and constants and x.dtype != object:
            const = ops.Const(type=type, weight=Weight(x))
            values.append(emit_node(const, (), loc=Loc("constant")).output)
        else:
            values.append(graph.input(f"x{i}", type))
    for value in emit_node(op, values, loc=Loc("sample")).outputs:
        graph.output(value)
    return graph


def _is_refused(node: Node, target: CpuTarget) -> bool:
    if isinstance(node.op, ops.Const | ops.If | ops.Loop) or view_offset(node) is not None:
        return False
    return not enumerate_candidates(node, target).candidates


@pytest.mark.parametrize("kind", all_samples(), ids=lambda kind: kind.__name__)
def test_operators_have_kernels(kind):
    driver = CpuDriver(2)
    target = CpuTarget(driver.library, llvm_target.host_isa(), 2)
    for sample in all_samples()[kind]:
        try:
            graph = _graph(sample.op, sample.inputs, constants=True)
        except LaminaError:
            continue  # an operand that may not be a constant
        lower(graph, target)
        refused = [n for n in graph.nodes() if _is_refused(n, target)]
        assert not [str(n) for n in refused if _why_on_host(n) is None], sample


@pytest.mark.parametrize(
    ("kind", "shapes", "fields"),
    [
        (ops.NonZero, [(7, 9)], {"count": "n"}),
        (
            ops.RoiAlign,
            [(1, 20, 12, 12), (5, 4)],
            {"output_height": 2, "output_width": 3},
        ),
    ],
)
def test_sizes_that_data_decides_run_natively(kind, shapes, fields):
    fields = {k: sym(v) if isinstance(v, str) else v for k, v in fields.items()}
    rng = np.random.default_rng(0)
    arrays = [(rng.uniform(-1, 9, s) * rng.integers(0, 2, s)).astype(np.float32) for s in shapes]
    if kind is ops.RoiAlign:
        arrays.append(np.zeros(5, np.int64))
    graph = _graph(kind(**fields), arrays, constants=False)
    (result,) = graph.outputs
    if kind is ops.NonZero:
        graph.definers["n"] = result
    engine = lamina.build(graph, timing_cache="", optimization_level=0)
    assert engine.plan.fallbacks == ()
    names = [p.name for p in engine.inputs]
    (found,) = engine.run(dict(zip(names, arrays, strict=True))).values()
    np.testing.assert_allclose(found, kind(**fields).reference(*arrays), rtol=1e-5, atol=1e-5)
