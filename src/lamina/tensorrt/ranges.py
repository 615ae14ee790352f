"""Dynamic ranges as Quantize and Dequantize in the graph.

TensorRT's implicit INT8 gives each tensor a range; a tensor with the range ``amax`` becomes the
integers ``x / (amax / 127)``.  Here the data operand of each contraction whose range is known is
quantized, and its constant weights with one scale per output channel.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from lamina import ops
from lamina.ir.graph import Graph, Node, Value, emit, emit_node
from lamina.ir.loc import Loc
from lamina.ir.types import DType
from lamina.ops.kinds import BinaryKind, ReduceKind, UnaryKind
from lamina.tensorrt.network.state import NetworkState

_LARGEST = 127.0


def given_ranges(state: NetworkState) -> dict[str, float]:
    """Return the largest magnitude of each tensor that the user gave a dynamic range."""
    tensors = [*state.inputs, *(t for layer in state.layers for t in layer._outputs)]
    return {t._name: max(map(abs, t._range)) for t in tensors if t._range is not None}


def quantize(
    graph: Graph, values: Mapping[str, Value], ranges: Mapping[str, float], skipped: Iterable[str]
) -> set[str]:
    """Quantize contractions in place; returns the layers that they came from.

    ``ranges`` are largest magnitudes by the names in ``values``; ``skipped`` are names of layers
    that stay float.
    """
    known = {values[name]: amax for name, amax in ranges.items() if name in values and amax > 0}
    for name, amax in ranges.items():
        for v in graph.inputs:
            if v.name == name and amax > 0:
                known[v] = amax
    excluded = set(skipped)
    found: set[str] = set()
    for node in list(graph.nodes()):
        if node.loc.text in excluded or not isinstance(node.op, _CONTRACTIONS):
            continue
        data, weights = node.inputs[:2]
        if (
            data in known
            and isinstance(weights.op, ops.Const)
            and weights.tensor.dtype is DType.F32
        ):
            _replace(graph, node, known[data])
            found.add(node.loc.text)
    return found


_CONTRACTIONS = (ops.Convolution, ops.Matmul)


def _replace(graph: Graph, node: Node, amax: float) -> None:
    loc, weights = node.loc, node.inputs[1]
    scale = emit(ops.Const.of(np.array(amax / _LARGEST, np.float32)), (), loc=loc)
    q = emit(ops.Quantize(dtype=DType.I8), (node.inputs[0], scale), loc=loc)
    data = emit(ops.Dequantize(dtype=DType.F32), (q, scale), loc=loc)
    axis = _channel_axis(node.op, weights.tensor.rank)
    row = _factors(weights, axis, loc)
    integers = emit(ops.Quantize(dtype=DType.I8, axis=axis), (weights, row), loc=loc)
    real = emit(ops.Dequantize(dtype=DType.F32, axis=axis), (integers, row), loc=loc)
    new = emit_node(node.op, (data, real, *node.inputs[2:]), loc=loc, name=node.output.name)
    graph.replace(node.output, new.output)


def _factors(weights: Value, axis: int, loc: Loc) -> Value:
    """Return the scale of each channel of weights: operators, which a refit can run again."""
    others = tuple(a for a in range(weights.tensor.rank) if a != axis)
    size = emit(ops.Unary(kind=UnaryKind.ABS), (weights,), loc=loc)
    largest = emit(ops.Reduce(kind=ReduceKind.MAX, axes=others, keepdims=False), (size,), loc=loc)
    limit = emit(ops.Const.of(np.array(_LARGEST, np.float32)), (), loc=loc)
    factor = emit(ops.Binary(kind=BinaryKind.DIV), (largest, limit), loc=loc)
    # Channels of zeros alone have a scale too.
    least = emit(ops.Const.of(np.array(np.finfo(np.float32).tiny)), (), loc=loc)
    return emit(ops.Binary(kind=BinaryKind.MAX), (factor, least), loc=loc)


def _channel_axis(op: object, rank: int) -> int:
    if isinstance(op, ops.Matmul):
        return rank - (2 if op.transpose_b else 1)
    return 0
