"""The nine ``light_*`` networks of the onnx package with seeded weights instead of constants.

The package ships the real architectures of AlexNet, DenseNet-121, Inception v1 and v2, ResNet-50,
ShuffleNet, SqueezeNet, VGG-19 and ZFNet-512, but every weight is one ``ConstantOfShape`` number:
activations are then constant, and a compiler may fold or cluster what a trained network would
not let it. Here each filter is drawn at random and moved towards a sum of zero, with a variance
that keeps the power of activations the same from layer to layer (He et al., "Delving Deep into
Rectifiers", 2015; Brock, De and Smith, "Characterizing signal propagation to close the performance
gap in unnormalized ResNets", 2021). How far to move is a choice between two faults: without it the
positive mean after each ReLU outgrows the rest and the logits of two images differ by 3 %; with
sums of exactly zero rounding errors grow 1.5 times a layer, and bf16 leaves 18 dB in ResNet-50.
The last Softmax is cut off, so that logits are compared.
"""

from __future__ import annotations

import importlib.resources
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

from benchmarks import network_writer

Array = npt.NDArray[Any]

LIGHT_NAMES = (
    "bvlc_alexnet",
    "densenet121",
    "inception_v1",
    "inception_v2",
    "resnet50",
    "shufflenet",
    "squeezenet",
    "vgg19",
    "zfnet512",
)

# The share of a ReLU's mean, in power, that filters do not pass on: images then differ by 10 % and
# more in every network, and bf16 leaves about 40 dB and more, as in trained ones.
MEAN_POWER_REMOVED = 0.65
CENTRING = 1.0 - float(np.sqrt(1.0 - MEAN_POWER_REMOVED))

# One over the power that such filters pass on of relu(x), x ~ N(0, 1), whose mean square is 1/2 and
# whose squared mean is 1/(2 pi).
RECTIFIED_POWER = 2.0 / (1.0 - MEAN_POWER_REMOVED / np.pi)

# What a batch-norm scale in front of a residual sum is multiplied by: with 16 sums in a row the
# variance would otherwise double 16 times.
RESIDUAL_DAMPING = 0.5

# Operators that pass the sign of their operand on: a ReLU before them still halves the power.
_TRANSPARENT = (
    *("MaxPool", "AveragePool", "GlobalAveragePool", "Reshape", "Transpose", "Concat"),
    *("Dropout", "LRN", "Sum"),
)


def light_model(name: str, batch: int = 1, seed: int = 0) -> onnx.ModelProto:
    """Return one of ``LIGHT_NAMES`` for images ``f32[batch, 3, 224, 224]``, giving logits.

    The same name, batch and seed always give the same weights; the batch does not change them.
    """
    graph = _shipped_graph(name)
    nodes = _cut_softmax(list(graph.node))
    constants = _constants(graph, nodes)
    nodes = [n for n in nodes if n.op_type != "ConstantOfShape"]
    weights = _WeightDrawer(nodes, seed).draw(constants)
    _free_batch(nodes, weights)
    image = next(
        i for i in graph.input if len(i.type.tensor_type.shape.dim) == 4 and i.name not in weights
    )
    shape = [batch, *(d.dim_value for d in image.type.tensor_type.shape.dim[1:])]
    used = {i for n in nodes for i in n.input}
    written = helper.make_graph(
        nodes,
        f"light_{name}",
        [helper.make_tensor_value_info(image.name, onnx.TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(nodes[-1].output[0], onnx.TensorProto.FLOAT, None)],
        [numpy_helper.from_array(v, k) for k, v in weights.items() if k in used],
    )
    return network_writer.finish_model(written, opset=9)


def _shipped_graph(name: str) -> onnx.GraphProto:
    folder = importlib.resources.files("onnx.backend.test.data") / "light"
    return onnx.load_from_string((folder / f"light_{name}.onnx").read_bytes()).graph


def _cut_softmax(nodes: list[onnx.NodeProto]) -> list[onnx.NodeProto]:
    return nodes[:-1] if nodes[-1].op_type == "Softmax" else nodes


def _constants(graph: onnx.GraphProto, nodes: list[onnx.NodeProto]) -> dict[str, Array]:
    """Return every constant of the shipped file, those made by ``ConstantOfShape`` included."""
    constants = {w.name: numpy_helper.to_array(w) for w in graph.initializer}
    for node in nodes:
        if node.op_type == "ConstantOfShape":
            shape = tuple(int(d) for d in constants[node.input[0]])
            constants[node.output[0]] = np.broadcast_to(np.float32(0), shape)
    return constants


def _free_batch(nodes: list[onnx.NodeProto], weights: dict[str, Array]) -> None:
    """Let reshapes of activations copy the batch dimension instead of stating 1."""
    for node in nodes:
        if node.op_type == "Reshape" and node.input[0] not in weights:
            target = weights[node.input[1]].copy()
            target[0] = 0
            weights[node.input[1]] = target


def centred_filters(rng: np.random.Generator, shape: tuple[int, ...], variance: float) -> Array:
    """Draw f32 filters ``[out, ...]`` of that variance, each moved towards a sum of zero."""
    filters = rng.standard_normal(shape, dtype=np.float32)
    filters *= np.float32(np.sqrt(variance))
    if filters[0].size > 1:
        filters -= CENTRING * filters.mean(axis=tuple(range(1, len(shape))), keepdims=True)
    return filters


class _WeightDrawer:
    """Draws each weight by the role it has in the node that reads it."""

    def __init__(self, nodes: list[onnx.NodeProto], seed: int) -> None:
        self._nodes = nodes
        self._rng = np.random.default_rng(seed)
        self._producer = {o: n for n in nodes for o in n.output}
        self._readers: dict[str, list[onnx.NodeProto]] = {}
        for node in nodes:
            for value in node.input:
                self._readers.setdefault(value, []).append(node)

    def draw(self, constants: dict[str, Array]) -> dict[str, Array]:
        """Return the constants with every float one replaced."""
        drawn = {k: v for k, v in constants.items() if v.dtype != np.float32}
        for node in self._nodes:
            for position, name in enumerate(node.input):
                if name in constants and name not in drawn:
                    drawn[name] = self._weight(node, position, constants[name].shape)
        return drawn

    def _weight(self, node: onnx.NodeProto, position: int, shape: tuple[int, ...]) -> Array:
        if node.op_type == "BatchNormalization":
            return self._batch_norm(node, position, shape)
        if node.op_type == "Unsqueeze":
            # A Caffe scale layer: a factor near one, or a bias near zero.
            reader = self._readers[node.output[0]][0]
            return self._near(1.0 if reader.op_type == "Mul" else 0.0, shape)
        if position == 2 or len(shape) == 1:
            return self._near(0.0, shape)
        fan_in = int(np.prod(shape[1:])) if node.op_type == "Conv" else shape[-1]
        power = RECTIFIED_POWER if self._is_rectified(node.input[0]) else 1.0
        return centred_filters(self._rng, shape, power / fan_in)

    def _batch_norm(self, node: onnx.NodeProto, position: int, shape: tuple[int, ...]) -> Array:
        if position == 4:
            return self._rng.uniform(0.8, 1.25, shape).astype(np.float32)
        if position != 1:
            return self._near(0.0, shape)
        in_sum = any(r.op_type == "Sum" for r in self._readers[node.output[0]])
        return self._near(1.0, shape) * np.float32(RESIDUAL_DAMPING if in_sum else 1.0)

    def _near(self, centre: float, shape: tuple[int, ...]) -> Array:
        return (centre + 0.1 * self._rng.standard_normal(shape)).astype(np.float32)

    def _is_rectified(self, value: str) -> bool:
        producer = self._producer.get(value)
        while producer is not None and producer.op_type in _TRANSPARENT:
            producer = self._producer.get(producer.input[0])
        return producer is not None and producer.op_type == "Relu"
