"""Layers made of a graph that something else has imported, such as the ONNX parser."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from lamina import ops
from lamina.errors import GraphError
from lamina.ir.dims import Expr
from lamina.ir.graph import Graph, Node, Op, Value
from lamina.ir.loc import Loc
from lamina.ir.types import TensorType
from lamina.tensorrt.enums import DataType
from lamina.tensorrt.foundation.dtype import from_ir
from lamina.tensorrt.lowering.emitter import LayerEmitter
from lamina.tensorrt.network.additions import Additions
from lamina.tensorrt.network.layer import ILayer
from lamina.tensorrt.network.pointwise import IIdentityLayer
from lamina.tensorrt.network.setting import set_quietly
from lamina.tensorrt.network.shown import settings_of
from lamina.tensorrt.network.tensor import ITensor

if TYPE_CHECKING:
    from lamina.tensorrt.network_definition import INetworkDefinition

_KINDS: dict[type[Op], str] = {
    ops.Activation: "ACTIVATION",
    ops.ArgReduce: "TOPK",
    ops.Attention: "ATTENTION_OUTPUT",
    ops.BatchNorm: "SCALE",
    ops.Binary: "ELEMENTWISE",
    ops.Cast: "CAST",
    ops.Concat: "CONCATENATION",
    ops.Const: "CONSTANT",
    ops.Convolution: "CONVOLUTION",
    ops.Cumulative: "CUMULATIVE",
    ops.Deconvolution: "DECONVOLUTION",
    ops.Dequantize: "DEQUANTIZE",
    ops.Einsum: "EINSUM",
    ops.Expand: "SLICE",
    ops.Gather: "GATHER",
    ops.GatherElements: "GATHER",
    ops.GatherNd: "GATHER",
    ops.GridSample: "GRID_SAMPLE",
    ops.GroupNorm: "NORMALIZATION",
    ops.If: "CONDITIONAL_OUTPUT",
    ops.InstanceNorm: "NORMALIZATION",
    ops.LayerNorm: "NORMALIZATION",
    ops.Loop: "LOOP_OUTPUT",
    ops.Lrn: "LRN",
    ops.Matmul: "MATRIX_MULTIPLY",
    ops.Nms: "NMS",
    ops.NonZero: "NON_ZERO",
    ops.OneHot: "ONE_HOT",
    ops.Pad: "SLICE",
    ops.Pool: "POOLING",
    ops.Quantize: "QUANTIZE",
    ops.Random: "FILL",
    ops.Range: "FILL",
    ops.Recurrent: "LOOP_OUTPUT",
    ops.Reduce: "REDUCE",
    ops.Reshape: "SHUFFLE",
    ops.Resize: "RESIZE",
    ops.ReverseSequence: "REVERSE_SEQUENCE",
    ops.RmsNorm: "NORMALIZATION",
    ops.ScatterElements: "SCATTER",
    ops.ScatterNd: "SCATTER",
    ops.Select: "SELECT",
    ops.Shape: "SHAPE",
    ops.Slice: "SLICE",
    ops.Softmax: "SOFTMAX",
    ops.TopK: "TOPK",
    ops.Transpose: "SHUFFLE",
    ops.Unary: "UNARY",
}
"""The kind of layer that an operator is shown as; others are plugins."""

_ROLES: dict[type[Op], dict[int, str]] = {
    ops.Convolution: {1: "KERNEL", 2: "BIAS"},
    ops.Deconvolution: {1: "KERNEL", 2: "BIAS"},
}
"""What constant operands are to their layer, where TensorRT's layer holds them itself."""


class ImportedLayer(ILayer):
    """One node of an imported graph; it is lowered to the same operator again.

    Its settings can be read as those of the layer that it is shown as.  Those that all layers have
    (name, precision, types of results, device, metadata) count when they are set; the others are
    the operator's.
    """

    _kind = "PLUGIN_V2"

    def __init__(self, network: Additions, node: Node, inputs: Sequence[ITensor | None]) -> None:
        super().__init__(network._state, inputs)
        self._kind = _KINDS.get(type(node.op), "PLUGIN_V2")
        self._op = node.op
        self._loc = node.loc
        self._first_name = ""
        self._defines: dict[str, int] = {}
        self._sizes: list[ITensor] = []
        set_quietly(self, **settings_of(node))

    def _lower(self, e: LayerEmitter, *inputs: Value | None) -> Sequence[Value]:
        e.loc = Loc(self._name) if self._is_renamed else self._loc
        if isinstance(self._op, ops.Const):
            name = self._op.weight.name
            if name:
                e.walk.record_weights(self, "CONSTANT", name, self._op.weight.array)
            return (e.scope.constant(self._op.weight.array, self._loc, name),)
        present = [v for v in inputs if v is not None]
        self._record_operands(e, present)
        e.defines(self._defines)
        results = e.emit_all(self._op.substitute(e.walk.imported_symbols()), *present)
        for symbol, index in self._defines.items():
            e.scope.graph.definers.setdefault(symbol, results[index])
        return results

    def _record_operands(self, e: LayerEmitter, operands: Sequence[Value]) -> None:
        """Let refits find named constants by this layer and their role, beside their own layer."""
        for index, role in _ROLES.get(type(self._op), {}).items():
            op = operands[index].op if index < len(operands) else None
            if isinstance(op, ops.Const) and op.weight.name:
                e.walk.record_weights(self, role, op.weight.name, op.weight.array)

    @property
    def _is_renamed(self) -> bool:
        return self._name != self._first_name

    @property
    def _origin(self) -> str:
        return self._name if self._is_renamed else self._loc.text

    def _before(self) -> list[ITensor]:
        return self._sizes


def adopt(network: INetworkDefinition, graph: Graph) -> dict[str, ITensor]:
    """Add a graph to a network, a layer for each node; returns the network's tensors by name.

    Inputs become inputs of the network and outputs are marked.  Raises GraphError for types that
    TensorRT's API does not have.
    """
    tensors: dict[Value, ITensor] = {}
    for v in graph.inputs:
        tensors[v] = _input(network, v)
    for number, node in enumerate(graph.nodes()):
        layer = ImportedLayer(network, node, [tensors[v] for v in node.inputs])
        network._add(layer, len(node.outputs))
        layer._name = _node_name(node.loc.text) or f"{node.op.name}_{number}"
        layer._first_name = layer._name
        layer._defines = {s: v.index for s, v in graph.definers.items() if v.node is node}
        needed = (graph.definers[s] for s in sorted(node.op.symbols()) if s in graph.definers)
        layer._sizes = [tensors[v] for v in needed if v.node is not node]
        network._state.reserved |= layer._defines.keys()
        for tensor, v in zip(layer._outputs, node.outputs, strict=True):
            if not isinstance(v.type, TensorType):
                raise GraphError(f"{layer._name!r} gives {v.type}: a network has tensors only")
            tensor._name = v.name or tensor._name
            tensors[v] = tensor
    for v, name in zip(graph.outputs, graph.output_names, strict=True):
        tensor = tensors[v]
        if tensor._producer is None or tensor in network._state.outputs:
            same = network._add(IIdentityLayer(network._state, [tensor]))
            tensor = same._outputs[0]
        tensor._name = name
        network._state.outputs.append(tensor)
    return {t._name: t for t in tensors.values()}


def _node_name(text: str) -> str:
    """Return the name in a location of the ONNX importer, ``name (Operator)``."""
    name, _, rest = text.rpartition(" (")
    return name if rest.endswith(")") else text


def _input(network: INetworkDefinition, v: Value) -> ITensor:
    if not isinstance(v.type, TensorType):
        raise GraphError(f"input {v.name!r} is {v.type}: a network takes tensors only")
    try:
        dtype: DataType = from_ir(v.type.dtype)
    except KeyError as e:
        raise GraphError(f"input {v.name!r} is {v.type}: TensorRT has no such type") from e
    shape = [-1 if isinstance(d, Expr) else int(d) for d in v.type.shape]
    tensor = network.add_input(v.name, dtype, shape)  # type: ignore[arg-type]
    if tensor is None:
        raise GraphError(f"the network already has an input {v.name!r}")
    for axis, d in enumerate(v.type.shape):
        if isinstance(d, Expr):
            tensor._dimension_names[axis] = str(d)
            network._state.symbols.setdefault(str(d), (tensor, axis))
    return tensor
