"""Writes ONNX graphs node by node, with seeded weights, through the ``onnx`` helper API."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

Array = npt.NDArray[Any]

OPSET = 17
IR_VERSION = 8


class NetworkWriter:
    """Collects nodes and weights and finishes as a checked ``onnx.ModelProto``.

    Values are named after the operator that makes them and their number, weights after their
    role, so that two writers given the same calls and seed write the same bytes.
    """

    def __init__(self, name: str, seed: int = 0) -> None:
        self.name = name
        self.rng = np.random.default_rng(seed)
        self._nodes: list[onnx.NodeProto] = []
        self._weights: dict[str, onnx.TensorProto] = {}
        self._inputs: list[onnx.ValueInfoProto] = []
        self._counts: dict[str, int] = {}

    def input(self, name: str, shape: Sequence[int | str], dtype: int = TensorProto.FLOAT) -> str:
        """Declare a graph input and return its name."""
        self._inputs.append(helper.make_tensor_value_info(name, dtype, list(shape)))
        return name

    def const(self, value: Array, role: str = "constant") -> str:
        """Store an array as an initializer and return its name."""
        name = self._fresh(role)
        self._weights[name] = numpy_helper.from_array(np.asarray(value, order="C"), name)
        return name

    def ints(self, *values: int) -> str:
        """Store a vector of int64, as shapes, axes and starts are given."""
        return self.const(np.array(values, np.int64), "ints")

    def scalar(self, value: float) -> str:
        """Store one f32 number of rank 0."""
        return self.const(np.array(value, np.float32), "scalar")

    def normal(self, *shape: int, std: float, mean: float = 0.0, role: str = "weight") -> str:
        """Store an f32 array drawn from a normal distribution."""
        drawn = self.rng.standard_normal(shape, dtype=np.float32)
        return self.const(drawn * np.float32(std) + np.float32(mean), role)

    def uniform(self, *shape: int, low: float, high: float, role: str = "weight") -> str:
        """Store an f32 array drawn uniformly from ``[low, high)``."""
        return self.const(self.rng.uniform(low, high, shape).astype(np.float32), role)

    def emit(self, op_type: str, *inputs: str, **attributes: Any) -> str:
        """Append a node with one output and return the output's name."""
        return self.emit_many(op_type, 1, *inputs, **attributes)[0]

    def emit_many(self, op_type: str, count: int, *inputs: str, **attributes: Any) -> list[str]:
        """Append a node with ``count`` outputs and return their names."""
        outputs = [self._fresh(op_type.lower()) for _ in range(count)]
        self._nodes.append(helper.make_node(op_type, inputs, outputs, outputs[0], **attributes))
        return outputs

    def finish(self, outputs: dict[str, str], opset: int = OPSET) -> onnx.ModelProto:
        """Return the model; ``outputs`` maps the names shown to callers to values written.

        Output types are inferred; a model that ``onnx.checker`` refuses raises its error.
        """
        shown = {value: name for name, value in outputs.items()}
        for node in self._nodes:
            node.input[:] = [shown.get(value, value) for value in node.input]
            node.output[:] = [shown.get(value, value) for value in node.output]
        graph = helper.make_graph(
            self._nodes,
            self.name,
            self._inputs,
            [helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in outputs],
            list(self._weights.values()),
        )
        return finish_model(graph, opset)

    def _fresh(self, role: str) -> str:
        number = self._counts.get(role, 0)
        self._counts[role] = number + 1
        return f"{role}_{number}"


def finish_model(network: onnx.GraphProto, opset: int) -> onnx.ModelProto:
    """Wrap a graph as a model with inferred output types, checked by ``onnx.checker``."""
    model = helper.make_model(
        network,
        opset_imports=[helper.make_opsetid("", opset)],
        ir_version=IR_VERSION,
        producer_name="lamina-benchmarks",
    )
    weights = list(model.graph.initializer)
    small = [w for w in weights if w.data_type != TensorProto.FLOAT]
    # Inference copies the model several times: it sees the shapes of large weights as inputs.
    skeleton = onnx.ModelProto()
    skeleton.CopyFrom(model)
    del skeleton.graph.initializer[:]
    skeleton.graph.initializer.extend(small)
    skeleton.graph.input.extend(
        helper.make_tensor_value_info(w.name, w.data_type, list(w.dims))
        for w in weights
        if w.data_type == TensorProto.FLOAT
    )
    inferred = onnx.shape_inference.infer_shapes(skeleton, strict_mode=True).graph
    for graph in (model.graph, skeleton.graph):
        del graph.output[:]
        graph.output.extend(inferred.output)
    onnx.checker.check_model(skeleton)
    return model
