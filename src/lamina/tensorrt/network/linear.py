"""Convolutions and matrix products."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

import numpy as np

from lamina import ops
from lamina.ir.dims import is_static
from lamina.ir.graph import Value
from lamina.tensorrt.check import checked
from lamina.tensorrt.enums import MatrixOperation, PaddingMode
from lamina.tensorrt.foundation.dims import Dims
from lamina.tensorrt.foundation.weights import Weights
from lamina.tensorrt.lowering.axes import per_axis
from lamina.tensorrt.lowering.emitter import LayerEmitter
from lamina.tensorrt.network.additions import Additions
from lamina.tensorrt.network.layer import ILayer
from lamina.tensorrt.network.setting import OptionalSetting, Setting, set_quietly
from lamina.tensorrt.network.tensor import ITensor
from lamina.tensorrt.network.windows import Window, image, padded, pads


class WeightsSetting(OptionalSetting[Weights]):
    """Weights, which are read as an array."""

    def __get__(self, layer: Any, owner: type) -> Any:
        if layer is None:
            return self
        weights: Weights | None = layer.__dict__.get(self._name)
        return np.empty(0, np.float32) if weights is None else weights.numpy()


class SymmetricPadding:
    """Padding that is the same before and after each axis."""

    __doc__ = "Padding before and after each spatial axis."

    def __get__(self, layer: Any, owner: type) -> Any:
        return self if layer is None else layer.pre_padding

    def __set__(self, layer: Any, value: Any) -> None:
        layer.pre_padding = value
        layer.post_padding = value


class Synonym:
    """Another name for a setting."""

    def __init__(self, name: str, doc: str) -> None:
        self._other = name
        self.__doc__ = doc

    def __get__(self, layer: Any, owner: type) -> Any:
        return self if layer is None else getattr(layer, self._other)

    def __set__(self, layer: Any, value: Any) -> None:
        setattr(layer, self._other, value)


class WindowLayer(ILayer):
    """What convolutions and pooling have in common."""

    stride_nd = OptionalSetting(Dims, None, "Steps of the window, 1 when not given.")
    pre_padding = OptionalSetting(Dims, None, "Padding before each spatial axis.")
    post_padding = OptionalSetting(Dims, None, "Padding after each spatial axis.")
    padding_mode = Setting(PaddingMode, "EXPLICIT_ROUND_DOWN", "What decides padding.")
    padding_nd = SymmetricPadding()
    stride = Synonym("stride_nd", "Steps of the window (2-D form).")
    padding = SymmetricPadding()

    def _window(self, kernel: Dims, dilations: Dims | None) -> Window:
        count = len(kernel)
        return Window(
            kernel=tuple(kernel),
            strides=per_axis(self.stride_nd or (1,) * count, count, "stride_nd"),
            dilations=per_axis(dilations or (1,) * count, count, "dilation_nd"),
            pre=per_axis(self.pre_padding or (0,) * count, count, "pre_padding"),
            post=per_axis(self.post_padding or (0,) * count, count, "post_padding"),
            mode=self.padding_mode.name,
        )


class KernelLayer(WindowLayer):
    """What convolution and deconvolution have in common."""

    num_output_maps = Setting(int, 0, "Channels of the result.")
    kernel_size_nd = Setting(Dims, Dims(), "Sizes of the kernel.")
    num_groups = Setting(int, 1, "Number of groups of channels.")
    dilation_nd = OptionalSetting(Dims, None, "Distance between taps, 1 when not given.")
    kernel = WeightsSetting(Weights, None, "Weights of the kernel.")
    bias = WeightsSetting(Weights, None, "One bias per channel of the result, or none.")
    kernel_size = Synonym("kernel_size_nd", "Sizes of the kernel (2-D form).")
    dilation = Synonym("dilation_nd", "Distance between taps (2-D form).")

    def _weights(self, e: LayerEmitter, shape: tuple[int, ...], tensor: Value | None) -> Value:
        if tensor is not None:
            return tensor
        given: Weights | None = self.__dict__.get("kernel")
        if given is None or not given.size:
            raise self._fail("the kernel is missing", "give weights, or a tensor by set_input(1)")
        return e.weights(given, "KERNEL", shape)

    def _bias(self, e: LayerEmitter, tensor: Value | None) -> list[Value]:
        given: Weights | None = self.__dict__.get("bias")
        if tensor is not None:
            return [tensor]
        if given is None or not given.size:
            return []
        return [e.weights(given, "BIAS", (self.num_output_maps,))]

    def _channels(self, x: Value) -> int:
        channels = x.tensor.shape[1]
        if not isinstance(channels, int) or channels % self.num_groups:
            raise self._fail(
                f"{x.tensor} has {channels} channels, which {self.num_groups} groups do not divide"
            )
        return channels


K = TypeVar("K", bound=KernelLayer)


class IConvolutionLayer(KernelLayer):
    """A convolution; weights are [output maps, channels / groups, *kernel]."""

    _kind = "CONVOLUTION"

    def _lower(self, e: LayerEmitter, *inputs: Value | None) -> Sequence[Value]:
        x, kernel, bias = (*inputs, None, None)[:3]
        assert x is not None
        window = self._window(self.kernel_size_nd, self.dilation_nd)
        x = image(e, x, len(window.kernel))
        inner = self._channels(x) // self.num_groups
        w = self._weights(e, (self.num_output_maps, inner, *window.kernel), kernel)
        x, begin, end = padded(e, x, window, 0.0)
        op = ops.Convolution(
            strides=window.strides,
            dilations=window.dilations,
            pads_begin=begin,
            pads_end=end,
            groups=self.num_groups,
        )
        return (e.emit(op, x, w, *self._bias(e, bias)),)


class IDeconvolutionLayer(KernelLayer):
    """A transposed convolution; weights are [channels, output maps / groups, *kernel]."""

    _kind = "DECONVOLUTION"

    def _lower(self, e: LayerEmitter, *inputs: Value | None) -> Sequence[Value]:
        x, kernel, bias = (*inputs, None, None)[:3]
        assert x is not None
        window = self._window(self.kernel_size_nd, self.dilation_nd)
        x = image(e, x, len(window.kernel))
        outer = self.num_output_maps // self.num_groups
        w = self._weights(e, (self._channels(x), outer, *window.kernel), kernel)
        begin, end = self._cropped(x, window)
        op = ops.Deconvolution(
            strides=window.strides,
            dilations=window.dilations,
            pads_begin=begin,
            pads_end=end,
            output_padding=(0,) * len(begin),
            groups=self.num_groups,
        )
        return (e.emit(op, x, w, *self._bias(e, bias)),)

    def _cropped(self, x: Value, window: Window) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Return what is cut off: for SAME modes, what the convolution back would have padded."""
        if not window.mode.startswith("SAME"):
            return window.pre, window.post
        grown = [d * s for d, s in zip(x.tensor.shape[2:], window.strides, strict=True)]
        if not all(is_static(d) for d in grown):
            raise self._fail(f"{window.mode} needs known sizes, got {x.tensor}")
        begin, end = pads(window, grown)
        return tuple(int(d) for d in begin), tuple(int(d) for d in end)  # type: ignore[arg-type]


class IMatrixMultiplyLayer(ILayer):
    """A matrix product over the last two axes; sizes of one in front are repeated."""

    _kind = "MATRIX_MULTIPLY"
    op0 = Setting(MatrixOperation, "NONE", "How the first operand is read.")
    op1 = Setting(MatrixOperation, "NONE", "How the second operand is read.")

    def _lower(self, e: LayerEmitter, *inputs: Value | None) -> Sequence[Value]:
        a, b = inputs
        assert a is not None and b is not None
        vectors = (self.op0.name == "VECTOR", self.op1.name == "VECTOR")
        if a.tensor.rank + vectors[0] != b.tensor.rank + vectors[1]:
            raise self._fail(
                f"the operands {a.tensor} and {b.tensor} have different numbers of dimensions"
            )
        rows = e.unsqueeze(a, (a.tensor.rank - 1,)) if vectors[0] else a
        columns = e.unsqueeze(b, (b.tensor.rank,)) if vectors[1] else b
        op = ops.Matmul(
            transpose_a=self.op0.name == "TRANSPOSE", transpose_b=self.op1.name == "TRANSPOSE"
        )
        y = e.emit(op, rows, columns)
        shape = y.tensor.shape
        if vectors[1]:
            shape = shape[:-1]
        if vectors[0]:
            shape = (*shape[:-2], *shape[-1:]) if not vectors[1] else shape[:-1]
        return (e.reshape(y, shape),)


class LinearAdditions(Additions):
    """``add_*`` of the layers of this module."""

    @checked
    def add_convolution_nd(
        self,
        input: ITensor,
        num_output_maps: int,
        kernel_shape: Dims,
        kernel: Weights,
        bias: Weights | None = None,
    ) -> IConvolutionLayer:
        """Add a convolution over all axes after the second."""
        layer = self._add(IConvolutionLayer(self._state, [input]))
        return _with_kernel(layer, num_output_maps, kernel_shape, kernel, bias)

    @checked
    def add_convolution(
        self,
        input: ITensor,
        num_output_maps: int,
        kernel_shape: Dims,
        kernel: Weights,
        bias: Weights | None = None,
    ) -> IConvolutionLayer:
        """Add a convolution over the last two axes."""
        layer = self._add(IConvolutionLayer(self._state, [input]))
        return _with_kernel(layer, num_output_maps, kernel_shape, kernel, bias)

    @checked
    def add_deconvolution_nd(
        self,
        input: ITensor,
        num_output_maps: int,
        kernel_shape: Dims,
        kernel: Weights,
        bias: Weights | None = None,
    ) -> IDeconvolutionLayer:
        """Add a transposed convolution over all axes after the second."""
        layer = self._add(IDeconvolutionLayer(self._state, [input]))
        return _with_kernel(layer, num_output_maps, kernel_shape, kernel, bias)

    @checked
    def add_deconvolution(
        self,
        input: ITensor,
        num_output_maps: int,
        kernel_shape: Dims,
        kernel: Weights,
        bias: Weights | None = None,
    ) -> IDeconvolutionLayer:
        """Add a transposed convolution over the last two axes."""
        layer = self._add(IDeconvolutionLayer(self._state, [input]))
        return _with_kernel(layer, num_output_maps, kernel_shape, kernel, bias)

    @checked
    def add_matrix_multiply(
        self, input0: ITensor, op0: MatrixOperation, input1: ITensor, op1: MatrixOperation
    ) -> IMatrixMultiplyLayer:
        """Add a matrix product."""
        layer = self._add(IMatrixMultiplyLayer(self._state, [input0, input1]))
        set_quietly(layer, op0=op0, op1=op1)
        return layer


def _with_kernel(layer: K, maps: int, size: Dims, kernel: Weights, bias: Weights | None) -> K:
    set_quietly(layer, num_output_maps=maps, kernel_size_nd=size, kernel=kernel, bias=bias)
    return layer


__all__ = ["IConvolutionLayer", "IDeconvolutionLayer", "IMatrixMultiplyLayer"]
