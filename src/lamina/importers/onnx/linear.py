"""Convolutions and matrix products."""

from __future__ import annotations

from lamina import ops
from lamina.errors import ImportFailed
from lamina.importers.onnx.node import OnnxNode
from lamina.importers.onnx.table import Table
from lamina.importers.onnx.windows import per_axis, read_window
from lamina.ir.dims import Dim, is_static
from lamina.ir.graph import Value
from lamina.ir.types import DType
from lamina.ops.kinds import BinaryKind

table = Table()


@table.op("Conv")
def conv(n: OnnxNode, x: Value, w: Value, bias: Value | None = None) -> Value:
    """Import Conv."""
    return convolution(n, x, w, bias)


def convolution(n: OnnxNode, x: Value, w: Value, bias: Value | None = None) -> Value:
    """Convolve with the geometry that the attributes of the node give."""
    x, window = read_window(n, x, _kernel(n, w))
    op = ops.Convolution(
        strides=window.strides,
        dilations=window.dilations,
        pads_begin=window.pads_begin,
        pads_end=window.pads_end,
        groups=n.integer("group", 1),
    )
    return n.emit(op, *present(x, w, bias))


def _kernel(n: OnnxNode, w: Value) -> tuple[int, ...]:
    spatial = w.tensor.shape[2:]
    given = n.integers("kernel_shape", ())
    if not spatial or not all(is_static(d) for d in spatial):
        raise n.unsupported(f"the weight {w.tensor} has no fixed kernel")
    kernel = tuple(int(d) for d in spatial)  # type: ignore[arg-type]
    if given and given != kernel:
        raise ImportFailed(f"kernel_shape is {list(given)} but the weight is {w.tensor}")
    return kernel


def present(*values: Value | None) -> list[Value]:
    """Return the operands without those that are absent at the end."""
    given = [v for v in values if v is not None]
    if list(values[: len(given)]) != given:
        raise ImportFailed("an optional operand is absent before one that is given")
    return given


@table.op("ConvTranspose")
def conv_transpose(n: OnnxNode, x: Value, w: Value, bias: Value | None = None) -> Value:
    """Import ConvTranspose."""
    kernel = _kernel(n, w)
    rank = len(kernel)
    strides, dilations = per_axis(n, "strides", rank), per_axis(n, "dilations", rank)
    extra = n.integers("output_padding", (0,) * rank)
    spans = tuple((k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True))
    begin, end, extra = _deconvolution_pads(n, x, spans, strides, extra)
    op = ops.Deconvolution(
        strides=strides,
        dilations=dilations,
        pads_begin=begin,
        pads_end=end,
        output_padding=extra,
        groups=n.integer("group", 1),
    )
    return n.emit(op, *present(x, w, bias))


def _deconvolution_pads(
    n: OnnxNode,
    x: Value,
    spans: tuple[int, ...],
    strides: tuple[int, ...],
    extra: tuple[int, ...],
) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
    """Return padding and output padding; a wanted output shape decides the padding."""
    rank = len(spans)
    mode = n.choice("auto_pad", "NOTSET", "SAME_UPPER", "SAME_LOWER", "VALID")
    sizes = x.tensor.shape[2:]
    wanted: tuple[Dim, ...] = n.integers("output_shape", ())[-rank:]
    if not wanted and mode.startswith("SAME"):
        wanted = tuple(size * s for size, s in zip(sizes, strides, strict=True))
    if not wanted:
        pads = n.integers("pads", (0,) * (2 * rank)) if mode == "NOTSET" else (0,) * (2 * rank)
        return pads[:rank], pads[rank:], extra
    begin, end, more = [], [], []
    for size, span, s, e, out in zip(sizes, spans, strides, extra, wanted, strict=True):
        total = s * (size - 1) + e + span - out
        if not isinstance(total, int):
            raise n.unsupported("output_shape together with a symbolic size")
        half = max(total, 0) // 2
        upper = mode == "SAME_UPPER"
        begin.append(half if upper else max(total, 0) - half)
        end.append(max(total, 0) - half if upper else half)
        more.append(e - min(total, 0))
    return tuple(begin), tuple(end), tuple(more)


@table.op("DeformConv")
def deform_conv(
    n: OnnxNode,
    x: Value,
    w: Value,
    offset: Value,
    bias: Value | None = None,
    mask: Value | None = None,
) -> Value:
    """Import DeformConv; a mask without a bias gets a bias of zeros."""
    x, window = read_window(n, x, _kernel(n, w))
    if mask is not None and bias is None:
        bias = n.fill(0, x.tensor.dtype, w.tensor.shape[:1])
    op = ops.DeformConvolution(
        strides=window.strides,
        dilations=window.dilations,
        pads_begin=window.pads_begin,
        pads_end=window.pads_end,
        groups=n.integer("group", 1),
        offset_groups=n.integer("offset_group", 1),
    )
    return n.emit(op, *present(x, w, offset, bias, mask))


@table.op("Gemm")
def gemm(n: OnnxNode, a: Value, b: Value, c: Value | None = None) -> Value:
    """Import Gemm, ``alpha * a @ b + beta * c``."""
    alpha, beta = n.number("alpha", 1.0), n.number("beta", 1.0)
    op = ops.Matmul(transpose_a=n.flag("transA"), transpose_b=n.flag("transB"))
    if c is not None and beta != 1.0:
        c = n.binary(BinaryKind.MUL, c, n.like(beta, c))
    if alpha == 1.0:
        return n.emit(op, *present(a, b, c))
    y = n.emit(op, a, b)
    y = n.binary(BinaryKind.MUL, y, n.like(alpha, y))
    return y if c is None else n.binary(BinaryKind.ADD, y, c)


@table.op("MatMul")
def matmul(n: OnnxNode, a: Value, b: Value) -> Value:
    """Import MatMul; vectors become matrices with one row or column."""
    return product(n, a, b)


def product(n: OnnxNode, a: Value, b: Value) -> Value:
    """Multiply as numpy.matmul does, vectors included."""
    left, right = a.tensor.rank == 1, b.tensor.rank == 1
    if not a.tensor.rank or not b.tensor.rank:
        raise ImportFailed(
            f"a matrix product needs vectors or matrices, got {a.tensor}, {b.tensor}"
        )
    y = n.emit(
        ops.Matmul(),
        n.reshape(a, (1, *a.tensor.shape)) if left else a,
        n.reshape(b, (*b.tensor.shape, 1)) if right else b,
    )
    shape = y.tensor.shape
    if left:
        shape = (*shape[:-2], shape[-1])
    return n.reshape(y, shape[:-1] if right else shape)


@table.op("Einsum")
def einsum(n: OnnxNode, *operands: Value) -> Value:
    """Import Einsum."""
    return n.emit(ops.Einsum(equation=n.text("equation")), *operands)


@table.op("MatMulInteger")
def matmul_integer(
    n: OnnxNode, a: Value, b: Value, a_zero: Value | None = None, b_zero: Value | None = None
) -> Value:
    """Import MatMulInteger as a product of i32 matrices."""
    if a_zero is not None and a_zero.tensor.rank == 1 and a.tensor.rank > 1:
        a_zero = n.reshape(a_zero, (*a_zero.tensor.shape, 1))
    return product(n, _centered(n, a, a_zero), _centered(n, b, b_zero))


@table.op("ConvInteger")
def conv_integer(
    n: OnnxNode, x: Value, w: Value, x_zero: Value | None = None, w_zero: Value | None = None
) -> Value:
    """Import ConvInteger as a convolution of i32 tensors."""
    if w_zero is not None and w_zero.tensor.rank == 1:
        w_zero = n.reshape(w_zero, (*w_zero.tensor.shape, *(1 for _ in w.tensor.shape[1:])))
    if x_zero is not None and x_zero.tensor.rank == 1:
        x_zero = n.reshape(x_zero, ())
    return convolution(n, _centered(n, x, x_zero), _centered(n, w, w_zero))


def _centered(n: OnnxNode, x: Value, zero: Value | None) -> Value:
    wide = n.cast(x, DType.I32)
    return wide if zero is None else n.binary(BinaryKind.SUB, wide, n.cast(zero, DType.I32))
