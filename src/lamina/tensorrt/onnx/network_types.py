"""Element types that ONNX has and networks do not."""

from __future__ import annotations

from lamina import ops
from lamina.ir.graph import Graph, Value, emit
from lamina.ir.types import DType, TensorType


def narrow_doubles(graph: Graph) -> bool:
    """Make inputs and outputs of f64 ones of f32; returns whether there were any.

    What lies between them computes in f64 as the model says.
    """
    changed = False
    for i, v in enumerate(graph.inputs):
        if _is_double(v.type):
            graph.inputs[i] = Value(v.type.with_dtype(DType.F32), v.name, v.loc)
            graph.replace(v, emit(ops.Cast(dtype=DType.F64), (graph.inputs[i],), loc=v.loc))
            changed = True
    for i, v in enumerate(graph.outputs):
        if _is_double(v.type):
            graph.outputs[i] = emit(ops.Cast(dtype=DType.F32), (v,), loc=v.loc)
            changed = True
    return changed


def _is_double(type: object) -> bool:
    return isinstance(type, TensorType) and type.dtype is DType.F64
