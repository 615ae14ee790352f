"""What a layer sees while it is lowered."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import onnx

from lamina import ops
from lamina.errors import GraphError
from lamina.importers.onnx.node import OnnxNode
from lamina.importers.onnx.scope import Scope
from lamina.ir.dims import Dim
from lamina.ir.graph import Array, Op, Value
from lamina.ir.loc import Loc
from lamina.ir.types import DType, TensorType
from lamina.tensorrt.foundation.weights import Weights

if TYPE_CHECKING:
    from lamina.tensorrt.lowering.walk import Walk
    from lamina.tensorrt.network.layer import ILayer

_OPSET = 21
_FLOATS = (DType.F32, DType.F16, DType.BF16)
_TYPED = (
    ops.Quantize,
    ops.Dequantize,
    ops.If,
    ops.Loop,
    ops.Region,
    ops.HostCall,
    ops.PluginCall,
)
"""Operators whose operands may have different types, or the types that somebody wrote down."""


def _is_float(v: Value) -> bool:
    return isinstance(v.type, TensorType) and v.type.dtype in _FLOATS


class LayerEmitter(OnnxNode):
    """Emits operators for one layer: constants, casts, reshapes, and elements of shape tensors.

    Known elements of shape tensors are numbers or expressions over the sizes of inputs, as in the
    ONNX importer, whose machinery this is.
    """

    def __init__(self, layer: ILayer, walk: Walk, scope: Scope) -> None:
        proto = onnx.NodeProto(op_type=layer._kind, name=layer._name)
        super().__init__(proto, {}, _OPSET, Loc(layer._name), scope, [])
        self.layer = layer
        self.walk = walk
        self.state = walk.state

    @property
    def implicit_batch(self) -> bool:
        """Whether axis 0 of every value is a batch that the layers do not see."""
        return self.state.implicit_batch

    @property
    def strongly_typed(self) -> bool:
        """Whether the network's types are what the user wrote and nothing else."""
        return self.state.strongly_typed

    def emit_all(self, op: Op, *inputs: Value) -> tuple[Value, ...]:
        """Apply an operator; where types are weak, floats of different widths meet as f32."""
        if not self.strongly_typed and not isinstance(op, _TYPED):
            floats = {v.tensor.dtype for v in inputs if _is_float(v)}
            if len(floats) > 1:
                inputs = tuple(self.cast(v, DType.F32) if _is_float(v) else v for v in inputs)
        return super().emit_all(op, *inputs)

    def array(self, weights: Weights, count: int, shape: Sequence[int], what: str) -> Array:
        """Return weights in a shape; raises GraphError when their number differs."""
        if weights.size != count:
            raise GraphError(f"{what} has {weights.size} weights, expected {count}")
        return np.asarray(weights._array).reshape(tuple(shape))

    def weights(self, weights: Weights, role: str, shape: Sequence[int]) -> Value:
        """Return weights as a constant that a refit finds by (layer, role) or by its name."""
        count = int(np.prod(shape, dtype=np.int64))
        array = self.array(weights, count, shape, role.lower())
        name = self.state.weights_name(self.layer, role, weights)
        self.walk.record_weights(self.layer, role, name, array)
        return self.constant(array, name=name)

    def shape_value(self, dims: Sequence[Dim]) -> Value:
        """Return static sizes as an i64 vector."""
        return self.constant(np.array(list(dims), np.int64))

    def slice(self, x: Value, axis: int, start: Dim, size: Dim, step: int = 1) -> Value:
        """Return part of one axis of ``x``."""
        shape = x.tensor.shape
        return self.emit(
            ops.Slice(
                starts=tuple(start if a == axis else 0 for a in range(len(shape))),
                sizes=tuple(size if a == axis else d for a, d in enumerate(shape)),
                steps=tuple(step if a == axis else 1 for a in range(len(shape))),
            ),
            x,
        )

    def gather(self, x: Value, indices: Value, axis: int) -> Value:
        """Return slices of ``x`` along an axis."""
        return self.emit(ops.Gather(axis=axis), x, indices)

    def unsqueeze(self, x: Value, axes: Sequence[int]) -> Value:
        """Return ``x`` with axes of size one at these places of the result."""
        rank = x.tensor.rank + len(axes)
        sizes = iter(x.tensor.shape)
        return self.reshape(x, tuple(1 if a in axes else next(sizes) for a in range(rank)))
