"""Dynamic ranges as Quantize and Dequantize in the graph.

TensorRT's implicit INT8 gives each tensor a range; a tensor with the range ``amax`` becomes the
integers ``x / (amax / 127)``.  Here the data operand of each contraction whose range is known is
quantized, and its constant weights with one scale per output channel.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from lamina import ops
from lamina.ir.graph import Array, Graph, Node, Value, emit, emit_node
from lamina.ir.types import DType
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
            _replace(graph, node, known[data], weights.op.weight.array)
            found.add(node.loc.text)
    return found


_CONTRACTIONS = (ops.Convolution, ops.Matmul)


def _replace(graph: Graph, node: Node, amax: float, weights: Array) -> None:
    loc = node.loc
    scale = emit(ops.Const.of(np.array(amax / _LARGEST, np.float32)), (), loc=loc)
    q = emit(ops.Quantize(dtype=DType.I8), (node.inputs[0], scale), loc=loc)
    data = emit(ops.Dequantize(dtype=DType.F32), (q, scale), loc=loc)
    axis = _channel_axis(node.op, weights)
    others = tuple(a for a in range(weights.ndim) if a != axis)
    factors = np.abs(weights).max(axis=others) / np.float32(_LARGEST)
    factors = np.where(factors == 0, 1, factors).astype(np.float32)
    shape = [-1 if a == axis else 1 for a in range(weights.ndim)]
    integers = np.rint(weights / factors.reshape(shape)).clip(-127, 127).astype(np.int8)
    name = node.inputs[1].op.weight.name if isinstance(node.inputs[1].op, ops.Const) else ""
    stored = emit(ops.Const.of(integers, name), (), loc=loc)
    row = emit(ops.Const.of(factors), (), loc=loc)
    real = emit(ops.Dequantize(dtype=DType.F32, axis=axis), (stored, row), loc=loc)
    new = emit_node(node.op, (data, real, *node.inputs[2:]), loc=loc, name=node.output.name)
    graph.replace(node.output, new.output)


def _channel_axis(op: object, weights: Array) -> int:
    if isinstance(op, ops.Matmul):
        return weights.ndim - (2 if op.transpose_b else 1)
    return 0
