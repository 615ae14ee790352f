"""Convolution layers as oneDNN specifications, for measuring them."""

from __future__ import annotations

from dataclasses import dataclass

from lamina.backends.cpu.onednn.attributes import Attributes, EltwisePostOp, Scale
from lamina.backends.cpu.onednn.convolution import Convolution
from lamina.backends.cpu.onednn.memory import Layout

RELU = EltwisePostOp("relu")


@dataclass(frozen=True)
class Layer:
    """One square convolution: input channels and size, output channels, kernel, stride, groups."""

    channels: int
    size: int
    outputs: int
    kernel: int
    stride: int = 1
    groups: int = 1

    @property
    def padding(self) -> int:
        return self.kernel // 2

    @property
    def output_size(self) -> int:
        return (self.size + 2 * self.padding - self.kernel) // self.stride + 1

    def __str__(self) -> str:
        groups = f" g{self.groups}" if self.groups > 1 else ""
        shape = f"{self.channels}x{self.size} -> {self.outputs}"
        return f"{shape} k{self.kernel} s{self.stride}{groups}"


def resnet50() -> list[Layer]:
    """Return the 53 convolutions in order of execution."""
    layers = [Layer(3, 224, 64, 7, 2)]
    channels, size = 64, 56
    for width, blocks, first_stride in ((64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2)):
        for block in range(blocks):
            stride = first_stride if block == 0 else 1
            layers.append(Layer(channels, size, width, 1))
            layers.append(Layer(width, size, width, 3, stride))
            layers.append(Layer(width, size // stride, 4 * width, 1))
            if block == 0:
                layers.append(Layer(channels, size, 4 * width, 1, stride))
            channels, size = 4 * width, size // stride
    return layers


def activation(layout: str, dims: tuple[int, ...], dtype: str = "f32") -> Layout:
    """Return the layout of an activation by its short name."""
    if layout == "nhwc":
        return Layout.channels_last(dims, dtype)
    if layout == "nChw16c" and dims[1] >= 16:
        return Layout.blocked(dims, 16, dtype)
    return Layout.dense(dims, dtype)


def convolution(layer: Layer, layout: str, dtype: str = "f32", batch: int = 1) -> Convolution:
    """Return the layer with bias and ReLU, weights as the library likes them."""
    src_dims = (batch, layer.channels, layer.size, layer.size)
    dst_dims = (batch, layer.outputs, layer.output_size, layer.output_size)
    per_group = layer.channels // layer.groups
    weights = (layer.outputs, per_group, layer.kernel, layer.kernel)
    if layer.groups > 1:
        weights = (layer.groups, layer.outputs // layer.groups, *weights[1:])
    scales: tuple[Scale, ...] = ()
    if dtype == "u8":
        mask = 1 if layer.groups == 1 else 3
        scales = (Scale("src"), Scale("weights", mask, layer.outputs), Scale("dst"))
    return Convolution(
        activation(layout, src_dims, dtype),
        Layout.any(weights, "i8" if dtype == "u8" else dtype),
        activation(layout, dst_dims, dtype),
        Layout.dense((layer.outputs,)),
        (layer.stride,) * 2,
        (),
        (layer.padding,) * 2,
        (layer.padding,) * 2,
        attributes=Attributes((RELU,), scales),
    )
