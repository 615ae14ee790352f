"""Values that have no memory of their own, from graph to result."""

from __future__ import annotations

import numpy as np

import lamina
from lamina import ops
from lamina.ir.graph import Graph, Value, emit, emit_node
from lamina.ir.interpret import interpret
from lamina.ir.loc import Loc
from lamina.ir.types import DType, TensorType

HERE = Loc("test")


def _convolution(x: Value, channels: int, rng: np.random.Generator) -> Value:
    depth = int(x.tensor.shape[1])
    filters = rng.standard_normal((channels, depth, 3, 3)) / np.sqrt(9 * depth)
    w = emit(ops.Const.of(filters.astype(np.float32)), [], loc=HERE)
    window = dict(strides=(1, 1), dilations=(1, 1), pads_begin=(1, 1), pads_end=(1, 1))
    return emit(ops.Convolution(**window), [x, w], loc=HERE)


def test_part_of_a_concatenation_made_in_another_form_than_the_whole():
    """Top-k only makes row-major values; convolutions around the concatenation want blocks.

    The part is reordered after its step, which therefore must not write into the whole.
    """
    rng = np.random.default_rng(0)
    graph = Graph()
    x = graph.input("x", TensorType(DType.F32, (1, 32, 14, 14)))
    largest = emit_node(ops.TopK(k=14, axis=3, largest=True), [x], loc=HERE).outputs[0]
    whole = emit(ops.Concat(axis=1), [_convolution(x, 32, rng), largest], loc=HERE)
    graph.output(_convolution(_convolution(whole, 64, rng), 64, rng))
    array = rng.standard_normal((1, 32, 14, 14)).astype(np.float32)
    (wanted,) = interpret(graph, [array])
    engine = lamina.build(graph, threads=2, optimization_level=0)
    np.testing.assert_allclose(engine(array), wanted, rtol=0, atol=2e-5)


def test_part_that_the_library_makes_is_copied_into_the_concatenation():
    """Pointwise parts are written in place with gaps between pixels, in nested concatenations too.

    The library's integer convolution writes dense results only.
    """
    rng = np.random.default_rng(1)
    graph = Graph()
    x = graph.input("x", TensorType(DType.U8, (2, 32, 6, 6)))
    filters = rng.integers(-128, 128, (16, 32, 3, 3)).astype(np.int8)
    scales = np.full(16, 2e-4, np.float32)
    constants = [emit(ops.Const.of(a), [], loc=HERE) for a in (filters, scales)]
    convolution = ops.QuantizedConvolution(
        strides=(1, 1), dilations=(1, 1), pads_begin=(1, 1), pads_end=(1, 1),
        x_scaling=ops.Scaling(0.5), dtype=DType.U8, y_scaling=ops.Scaling(0.25, 100),
    )  # fmt: skip
    made = emit(convolution, [x, *constants], loc=HERE)
    pointwise = emit(ops.Binary(kind=ops.BinaryKind.MAX), [x, x], loc=HERE)
    inner = emit(ops.Concat(axis=1), [pointwise, made], loc=HERE)
    again = emit(convolution, [x, *constants], loc=HERE)
    outer = emit(ops.Concat(axis=1), [inner, again], loc=HERE)
    three = emit(ops.Const.of(np.full((), 3, np.uint8)), [], loc=HERE)
    for v in (inner, outer):
        graph.output(emit(ops.Binary(kind=ops.BinaryKind.MIN), [v, three], loc=HERE))
    array = rng.integers(0, 256, (2, 32, 6, 6)).astype(np.uint8)
    engine = lamina.build(graph, threads=2, optimization_level=0)
    copies = [s for s in engine.inspect().layers if s.name == "reorder"]
    assert copies, "nothing was copied"
    assert not [s for s in engine.inspect().layers if s.name == "concat"]
    for got, wanted in zip(engine(array), interpret(graph, [array]), strict=True):
        np.testing.assert_array_equal(got, wanted)


def test_part_with_gaps_of_which_there_is_a_view():
    """A reshape of a part is a view of dense memory, so that the part cannot lie in the whole.

    The part of the inner concatenation would have gaps only because the outer one has them.
    """
    graph = Graph()
    x = graph.input("x", TensorType(DType.F32, (2, 4)))
    parts = [emit(ops.Softmax(axis=axis), [x], loc=HERE) for axis in (1, 0)]
    inner = emit(ops.Concat(axis=0), parts, loc=HERE)
    other = emit(ops.Unary(kind=ops.UnaryKind.EXP), [inner], loc=HERE)
    graph.output(emit(ops.Concat(axis=1), parts, loc=HERE))
    graph.output(emit(ops.Concat(axis=1), [inner, other], loc=HERE))
    graph.output(emit(ops.Reshape(shape=(8,)), [parts[0]], loc=HERE))
    array = np.random.default_rng(0).standard_normal((2, 4)).astype(np.float32)
    engine = lamina.build(graph, threads=2, optimization_level=0)
    for got, wanted in zip(engine(array), interpret(graph, [array]), strict=True):
        np.testing.assert_allclose(got, wanted, rtol=0, atol=1e-6)
