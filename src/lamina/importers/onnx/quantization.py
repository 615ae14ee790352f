"""Quantization and its inverse."""

from __future__ import annotations

from lamina import ops
from lamina.importers.onnx.linear import convolution, present, product
from lamina.importers.onnx.node import OnnxNode
from lamina.importers.onnx.table import Table
from lamina.importers.onnx.tensors import dtype_of
from lamina.ir.graph import Value
from lamina.ir.types import DType

table = Table()


@table.op("QuantizeLinear")
def quantize_linear(n: OnnxNode, x: Value, scale: Value, zero: Value | None = None) -> Value:
    """Import QuantizeLinear."""
    dtype = DType.U8 if zero is None else zero.tensor.dtype
    if n.integer("output_dtype", 0):
        dtype = dtype_of(n.integer("output_dtype"))
    wide = dtype_of(n.integer("precision")) if n.integer("precision", 0) else None
    if wide is not None:
        x, scale = n.cast(x, wide), n.cast(scale, wide)
    axis, block = _axis(n, x, scale)
    op = ops.Quantize(dtype=dtype, axis=axis, block_size=block, saturate=n.flag("saturate", True))
    return n.emit(op, x, *present(*_shaped(n, axis, block, scale, zero)))


@table.op("DequantizeLinear")
def dequantize_linear(n: OnnxNode, x: Value, scale: Value, zero: Value | None = None) -> Value:
    """Import DequantizeLinear."""
    dtype = scale.tensor.dtype
    if n.integer("output_dtype", 0):
        dtype = dtype_of(n.integer("output_dtype"))
    axis, block = _axis(n, x, scale)
    op = ops.Dequantize(dtype=dtype, axis=axis, block_size=block)
    return n.emit(op, x, *present(*_shaped(n, axis, block, scale, zero)))


def _axis(n: OnnxNode, x: Value, scale: Value) -> tuple[int | None, int]:
    """Return axis and block size; no axis for one scale."""
    block = n.integer("block_size", 0)
    single = scale.tensor.size == 1 and not block
    if scale.tensor.rank == 0 or (single and x.tensor.rank != 1):
        axis = n.integer("axis", 1)
        if not -x.tensor.rank <= axis < x.tensor.rank or x.tensor.shape[axis] != 1:
            return None, 0
    if scale.tensor.rank == 0:
        return None, 0
    return n.wrap(n.integer("axis", 1 if x.tensor.rank > 1 else 0), x.tensor.rank), block


def _shaped(
    n: OnnxNode, axis: int | None, block: int, scale: Value, zero: Value | None
) -> tuple[Value, Value | None]:
    """Return scale and zero point as scalars for one scale, unchanged otherwise."""
    if axis is not None or block:
        return scale, zero
    return n.reshape(scale, ()), None if zero is None else n.reshape(zero, ())


def _dequantized(n: OnnxNode, x: Value, scale: Value, zero: Value, axis: int) -> Value:
    if scale.tensor.rank == 0 or scale.tensor.size == 1:
        op = ops.Dequantize(dtype=scale.tensor.dtype)
        return n.emit(op, x, n.reshape(scale, ()), n.reshape(zero, ()))
    return n.emit(ops.Dequantize(dtype=scale.tensor.dtype, axis=axis), x, scale, zero)


def _quantized(n: OnnxNode, y: Value, scale: Value, zero: Value) -> Value:
    if scale.tensor.rank and scale.tensor.size != 1:
        raise n.unsupported("a result with several scales")
    op = ops.Quantize(dtype=zero.tensor.dtype)
    return n.emit(op, y, n.reshape(scale, ()), n.reshape(zero, ()))


@table.op("QLinearConv")
def qlinear_conv(
    n: OnnxNode,
    x: Value,
    x_scale: Value,
    x_zero: Value,
    w: Value,
    w_scale: Value,
    w_zero: Value,
    y_scale: Value,
    y_zero: Value,
    bias: Value | None = None,
) -> Value:
    """Import QLinearConv as a convolution between Dequantize and Quantize."""
    wide = _dequantized(n, x, x_scale, x_zero, 1)
    weight = _dequantized(n, w, w_scale, w_zero, 0)
    if bias is not None:
        unit = n.multiply(n.reshape(x_scale, ()), w_scale)
        bias = n.multiply(n.cast(bias, x_scale.tensor.dtype), unit)
    return _quantized(n, convolution(n, wide, weight, bias), y_scale, y_zero)


@table.op("QLinearMatMul")
def qlinear_matmul(
    n: OnnxNode,
    a: Value,
    a_scale: Value,
    a_zero: Value,
    b: Value,
    b_scale: Value,
    b_zero: Value,
    y_scale: Value,
    y_zero: Value,
) -> Value:
    """Import QLinearMatMul as a product between Dequantize and Quantize."""
    left = _dequantized(n, a, a_scale, a_zero, max(a.tensor.rank - 2, 0))
    right = _dequantized(n, b, b_scale, b_zero, b.tensor.rank - 1)
    return _quantized(n, product(n, left, right), y_scale, y_zero)
