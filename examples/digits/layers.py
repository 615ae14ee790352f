"""The layers of a small convolutional network in NumPy: forward, backward, and as ONNX nodes.

Images are ``f32[batch, height, width, channels]`` while training, which makes a convolution one
matrix product over gathered windows; the ONNX nodes take the usual ``[batch, channels, ...]``.
"""

from __future__ import annotations

import dataclasses
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

Array = npt.NDArray[Any]


@dataclasses.dataclass
class Parameter:
    """A trained array with the gradient of the last backward pass."""

    value: Array
    gradient: Array = dataclasses.field(init=False)

    def __post_init__(self) -> None:
        self.value = self.value.astype(np.float32)
        self.gradient = np.zeros_like(self.value)


@dataclasses.dataclass
class OnnxNodes:
    """The nodes and weights written so far; ``last`` is the newest value."""

    last: str
    nodes: list[onnx.NodeProto] = dataclasses.field(default_factory=list)
    weights: list[onnx.TensorProto] = dataclasses.field(default_factory=list)

    def emit(self, op_type: str, *weights: tuple[str, Array], **attributes: Any) -> None:
        """Append a node that reads the newest value and the given ``(role, array)`` weights."""
        name = f"{op_type.lower()}_{len(self.nodes)}"
        names = [f"{name}.{role}" for role, _ in weights]
        self.weights += [
            numpy_helper.from_array(a, n) for n, (_, a) in zip(names, weights, strict=True)
        ]
        self.nodes.append(
            helper.make_node(op_type, [self.last, *names], [name], name, **attributes)
        )
        self.last = name


class Layer(Protocol):
    """What training needs of a layer."""

    def parameters(self) -> list[Parameter]:
        """Return what the optimizer changes."""

    def forward(self, x: Array, *, training: bool) -> Array:
        """Return the layer's output, keeping what ``backward`` needs."""

    def backward(self, gradient: Array) -> Array:
        """Store the parameters' gradients and return the input's."""

    def write(self, onnx_nodes: OnnxNodes) -> None:
        """Append the layer as ONNX nodes."""


class Convolution:
    """A 3x3 convolution with zero padding and without bias (a batch norm follows)."""

    def __init__(self, rng: np.random.Generator, channels: int, out: int) -> None:
        scale = np.sqrt(2 / (9 * channels))
        self.weight = Parameter(rng.standard_normal((9 * channels, out)) * scale)
        self.channels = channels

    def parameters(self) -> list[Parameter]:
        """Return the filters, ``[9 * channels, out]``."""
        return [self.weight]

    def forward(self, x: Array, *, training: bool) -> Array:
        """Multiply each 3x3 window by the filters."""
        padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
        windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), (1, 2))
        # [batch, height, width, channels, 3, 3] -> rows of (3, 3, channels)
        self._rows = windows.transpose(0, 1, 2, 4, 5, 3).reshape(*x.shape[:3], -1)
        return self._rows @ self.weight.value

    def backward(self, gradient: Array) -> Array:
        """Add each window's gradient back to the pixels it was read from."""
        flat = gradient.reshape(-1, gradient.shape[-1])
        self.weight.gradient = self._rows.reshape(flat.shape[0], -1).T @ flat
        batch, height, width, _ = gradient.shape
        windows = (gradient @ self.weight.value.T).reshape(batch, height, width, 3, 3, -1)
        padded = np.zeros((batch, height + 2, width + 2, self.channels), np.float32)
        for row in range(3):
            for column in range(3):
                place = padded[:, row : row + height, column : column + width]
                place += windows[:, :, :, row, column]
        inside: Array = padded[:, 1:-1, 1:-1]
        return inside

    def write(self, onnx_nodes: OnnxNodes) -> None:
        """Append a Conv with filters ``[out, channels, 3, 3]``."""
        filters = self.weight.value.reshape(3, 3, self.channels, -1).transpose(3, 2, 0, 1)
        onnx_nodes.emit(
            "Conv", ("weight", np.ascontiguousarray(filters)), kernel_shape=[3, 3], pads=[1] * 4
        )


class BatchNorm:
    """Normalizes each channel by the batch's statistics, or by their running mean at the end."""

    epsilon = 1e-5
    momentum = 0.9

    def __init__(self, channels: int) -> None:
        self.scale = Parameter(np.ones(channels))
        self.bias = Parameter(np.zeros(channels))
        self.mean = np.zeros(channels, np.float32)
        self.variance = np.ones(channels, np.float32)

    def parameters(self) -> list[Parameter]:
        """Return scale and bias, each ``[channels]``."""
        return [self.scale, self.bias]

    def forward(self, x: Array, *, training: bool) -> Array:
        """Normalize, scale and shift."""
        mean, variance = self.mean, self.variance
        if training:
            mean, variance = x.mean((0, 1, 2)), x.var((0, 1, 2))
            self.mean += (1 - self.momentum) * (mean - self.mean)
            self.variance += (1 - self.momentum) * (variance - self.variance)
        self._inverse = 1 / np.sqrt(variance + self.epsilon)
        self._normed = (x - mean) * self._inverse
        scaled: Array = self._normed * self.scale.value + self.bias.value
        return scaled

    def backward(self, gradient: Array) -> Array:
        """Return the gradient through the batch's own mean and variance."""
        self.bias.gradient = gradient.sum((0, 1, 2))
        self.scale.gradient = (gradient * self._normed).sum((0, 1, 2))
        count = gradient[..., 0].size
        means = self.bias.gradient / count + self._normed * (self.scale.gradient / count)
        passed: Array = (gradient - means) * (self.scale.value * self._inverse)
        return passed

    def write(self, onnx_nodes: OnnxNodes) -> None:
        """Append a BatchNormalization with the running statistics."""
        onnx_nodes.emit(
            "BatchNormalization",
            ("scale", self.scale.value),
            ("bias", self.bias.value),
            ("mean", self.mean),
            ("variance", self.variance),
            epsilon=self.epsilon,
        )


class Relu:
    """Sets negative values to zero."""

    def parameters(self) -> list[Parameter]:
        """Return nothing."""
        return []

    def forward(self, x: Array, *, training: bool) -> Array:
        """Return ``max(x, 0)``."""
        self._positive = x > 0
        rectified: Array = x * self._positive
        return rectified

    def backward(self, gradient: Array) -> Array:
        """Pass the gradient where the input was positive."""
        passed: Array = gradient * self._positive
        return passed

    def write(self, onnx_nodes: OnnxNodes) -> None:
        """Append a Relu."""
        onnx_nodes.emit("Relu")


class MaxPool:
    """Keeps the largest value of each 2x2 square."""

    def parameters(self) -> list[Parameter]:
        """Return nothing."""
        return []

    def forward(self, x: Array, *, training: bool) -> Array:
        """Halve height and width."""
        batch, height, width, channels = x.shape
        squares = x.reshape(batch, height // 2, 2, width // 2, 2, channels)
        largest = squares.max((2, 4), keepdims=True)
        equal = squares == largest
        self._share = equal / equal.sum((2, 4), keepdims=True, dtype=np.float32)
        pooled: Array = largest[:, :, 0, :, 0]
        return pooled

    def backward(self, gradient: Array) -> Array:
        """Pass the gradient to the largest, shared among equals."""
        squares = self._share * gradient[:, :, None, :, None]
        batch, rows, _, columns, _, channels = squares.shape
        images: Array = squares.reshape(batch, 2 * rows, 2 * columns, channels)
        return images

    def write(self, onnx_nodes: OnnxNodes) -> None:
        """Append a MaxPool."""
        onnx_nodes.emit("MaxPool", kernel_shape=[2, 2], strides=[2, 2])


class Dense:
    """A matrix product over all of the image, plus a bias."""

    def __init__(self, rng: np.random.Generator, shape: tuple[int, int, int], out: int) -> None:
        self.shape = shape
        count = int(np.prod(shape))
        self.weight = Parameter(rng.standard_normal((count, out)) / np.sqrt(count))
        self.bias = Parameter(np.zeros(out))

    def parameters(self) -> list[Parameter]:
        """Return the matrix ``[height * width * channels, out]`` and the bias ``[out]``."""
        return [self.weight, self.bias]

    def forward(self, x: Array, *, training: bool) -> Array:
        """Return ``f32[batch, out]``."""
        self._flat = x.reshape(x.shape[0], -1)
        logits: Array = self._flat @ self.weight.value + self.bias.value
        return logits

    def backward(self, gradient: Array) -> Array:
        """Return the gradient in the image's shape."""
        self.weight.gradient = self._flat.T @ gradient
        self.bias.gradient = gradient.sum(0)
        images: Array = (gradient @ self.weight.value.T).reshape(-1, *self.shape)
        return images

    def write(self, onnx_nodes: OnnxNodes) -> None:
        """Append Flatten and Gemm; the rows change from pixel-major to channel-major order."""
        weight = self.weight.value.reshape(*self.shape, -1).transpose(3, 2, 0, 1)
        rows = np.ascontiguousarray(weight).reshape(weight.shape[0], -1)
        onnx_nodes.emit("Flatten", axis=1)
        onnx_nodes.emit("Gemm", ("weight", rows), ("bias", self.bias.value), transB=1)
