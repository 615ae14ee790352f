"""A matrix product node as the tactics see it: which axes its operands have and how they lie."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

from lamina.backends.cuda.tactics.fused import Fused, quantized
from lamina.backends.cuda.tactics.product import Matrix, Product, padded_depth
from lamina.backends.cuda.tactics.tf32 import packed_factors
from lamina.backends.cuda.tactics.tiles import Work, why_not_multiplied
from lamina.backends.cuda.target import CudaTarget
from lamina.codegen.layout import Layout
from lamina.errors import BuildError
from lamina.ir.blocks import blocked
from lamina.ir.dims import Dim, evaluate, product
from lamina.ir.graph import Array, Node
from lamina.ir.pattern import Reject
from lamina.ir.types import DType, TensorType
from lamina.ir.weight import Weight
from lamina.ops import Matmul, QuantizedMatmul
from lamina.tactics.candidate import Packed, Placement, Read, Role, Write, constant, sizes_known
from lamina.tactics.form import Form

FLOATS: Final = (DType.F16, DType.BF16, DType.F32)
_MOST_BATCH_AXES: Final = 2

Op = Matmul | QuantizedMatmul


@dataclass(frozen=True, kw_only=True)
class MatmulCase:
    """A node as a product: ``product`` says how it lies at a placement, ``work`` its sizes."""

    product: Callable[[Placement], Product]
    dense: Placement
    reads: tuple[Form | None, ...]
    writes: tuple[Form, ...]
    work: Work


def matmul_case(node: Node, target: CudaTarget) -> MatmulCase | Reject | None:
    """Return a node as a case, or why it is none, or None for foreign operators."""
    op = node.op
    if not isinstance(op, Matmul | QuantizedMatmul):
        return None
    if why := _refusal(node, op, target):
        return Reject(why)
    packed = _is_packed(node)
    dense = Placement(
        tuple(Layout.dense(v.tensor.shape) for v in node.inputs),
        (Layout.dense(node.output.tensor.shape),),
        "",
    )
    axes = _axes(node, op, dense)
    if isinstance(axes, Reject):
        return axes
    reads: list[Form | None] = [Form.PLAIN] * len(node.inputs)
    if packed:
        reads[1] = None
    if isinstance(op, QuantizedMatmul):
        reads[2] = None
    pack = _packer(node, op, target) if packed else None
    fused = _fused(node, op)

    def place(at: Placement) -> Product:
        return _product(node, op, at, pack, fused)

    return MatmulCase(
        product=place,
        dense=dense,
        reads=tuple(reads),
        writes=(Form.PLAIN,),
        work=_work(place(dense), node, target),
    )


def _refusal(node: Node, op: Op, target: CudaTarget) -> str:
    a = node.inputs[0].tensor
    if isinstance(op, Matmul) and a.dtype not in FLOATS:
        return f"the matrix units take f16, bf16 and f32, not {a.dtype}"
    if isinstance(op, QuantizedMatmul) and any(constant(v) is None for v in node.inputs[1:3]):
        return "weights and their scales must be constant"
    if why := why_not_multiplied(a.dtype, target):
        return why
    if not sizes_known(node, target.env):
        return "data decides a size"
    if any(0 in v.tensor.shape for v in (*node.inputs, node.output)):
        return "an operand is empty"
    return ""


def _is_packed(node: Node) -> bool:
    return constant(node.inputs[1]) is not None and node.inputs[1].tensor.rank == 2


def _fused(node: Node, op: Op) -> Fused:
    if isinstance(op, Matmul):
        return Fused(activation=op.activation)
    weights, scale = constant(node.inputs[1]), constant(node.inputs[2])
    assert weights is not None and scale is not None
    x = node.inputs[0].tensor.dtype
    return quantized(op, weights.array.T, scale.array, x, matrix=True)


def _packer(node: Node, op: Op, target: CudaTarget) -> Packed:
    weight = constant(node.inputs[1])
    assert weight is not None
    array, dtype = weight.array, node.inputs[1].tensor.dtype
    transposed = isinstance(op, Matmul) and op.transpose_b
    columns, depth = array.shape if transposed else array.shape[::-1]
    stride = padded_depth(depth, dtype)

    def pack() -> Weight:
        factors = packed_factors(array if transposed else array.T, dtype, target)
        return Weight(pack_columns(factors, stride))

    return Packed(dtype, columns * stride * dtype.itemsize, pack)


def pack_columns(columns: Array, stride: int) -> Array:
    """Return [columns, depth] with zeros up to ``stride`` after each column."""
    return blocked(columns, ((), ()), (0, 1), (columns.shape[0], stride))


def _work(p: Product, node: Node, target: CudaTarget) -> Work:
    env = target.env
    rows, columns, depth = (evaluate(d, env) for d in (p.rows, p.columns, p.depth))
    values = (*node.inputs, node.output)
    moved = sum(evaluate(v.tensor.size, env) * v.tensor.dtype.itemsize for v in values)
    return Work(
        rows=rows,
        columns=columns,
        depth=depth,
        matrices=evaluate(product((p.outer, p.inner)), env),
        dtype=p.a.dtype,
        moved_bytes=float(moved),
    )


@dataclass(frozen=True)
class _Axis:
    """An axis of matrices: its size and the strides of a, b, bias, residual and result there."""

    size: Dim
    strides: tuple[Dim, ...]


def _product(node: Node, op: Op, at: Placement, pack: Packed | None, fused: Fused) -> Product:
    axes = _axes(node, op, at)
    if isinstance(axes, Reject):
        raise BuildError(f"cannot place a matrix product: {axes.reason}")
    rows, batch = axes[-1], axes[:-1]
    batch = [_Axis(1, (0,) * 5)] * (_MOST_BATCH_AXES - len(batch)) + batch
    y = node.output.tensor
    operands = _operands(node, op)
    depth = _depth(node, op)
    columns = [_column_stride(i, t, node, op, at) for i, (t, _, _) in enumerate(operands)]

    def matrix(i: int) -> Matrix | None:
        type_, role, _ = operands[i]
        if role is None or type_ is None:
            return None
        strides = (rows.strides[i], columns[i], batch[0].strides[i], batch[1].strides[i])
        return Matrix(role, type_.dtype, *strides)

    a, b, result = matrix(0), matrix(1), matrix(4)
    assert a is not None and b is not None and result is not None
    if pack is not None:
        dtype = node.inputs[1].tensor.dtype
        stride = pack.size_bytes // dtype.itemsize // int(y.shape[-1])  # type: ignore[arg-type]
        b = Matrix(pack, dtype, 1, stride)
    else:
        b = replace(b, row=_depth_stride(node, op, at))
    return Product(
        rows=rows.size,
        columns=y.shape[-1],
        depth=depth,
        outer=batch[0].size,
        inner=batch[1].size,
        a=a,
        b=b,
        bias=matrix(2),
        residual=matrix(3),
        y=result,
        fused=fused,
        packed=pack is not None,
    )


def _operands(node: Node, op: Op) -> list[tuple[TensorType | None, Role | None, int]]:
    """Return type, role and number of a, b, bias, residual and result; None for absent ones."""
    numbers = [0, 1, 2, 3] if isinstance(op, Matmul) else [0, 1, 3, 4]
    found: list[tuple[TensorType | None, Role | None, int]] = []
    for i in numbers:
        present = i < len(node.inputs)
        found.append((node.inputs[i].tensor if present else None, Read(i) if present else None, i))
    return [*found, (node.output.tensor, Write(0), 0)]


def _layout(i: int, number: int, at: Placement) -> Layout:
    return at.results[0] if i == 4 else at.operands[number]


def _depth(node: Node, op: Op) -> Dim:
    b = node.inputs[1].tensor
    return b.shape[-1 if isinstance(op, Matmul) and op.transpose_b else -2]


def _depth_stride(node: Node, op: Op, at: Placement) -> Dim:
    transposed = isinstance(op, Matmul) and op.transpose_b
    return at.operands[1].strides[-1 if transposed else -2]


def _column_stride(i: int, type_: TensorType | None, node: Node, op: Op, at: Placement) -> Dim:
    """Return the stride along columns of the operand (of a: along the depth)."""
    if type_ is None:
        return 0
    strides = _layout(i, _operands(node, op)[i][2], at).strides
    if i == 0:
        return strides[-2 if isinstance(op, Matmul) and op.transpose_a else -1]
    if i == 1:
        return strides[-2 if isinstance(op, Matmul) and op.transpose_b else -1]
    if not type_.rank or (type_.shape[-1] == 1 and node.output.tensor.shape[-1] != 1):
        return 0
    return strides[-1]


def _axes(node: Node, op: Op, at: Placement) -> list[_Axis] | Reject:
    """Return axes of matrices, at most two, and of rows; neighbours that lie alike are merged."""
    y = node.output.tensor
    operands = _operands(node, op)
    axes: list[_Axis] = []
    for axis in range(y.rank - 1):
        from_end = y.rank - axis
        strides: list[Dim] = []
        for i, (type_, _, number) in enumerate(operands):
            if type_ is None or (i == 1 and from_end == 2):
                strides.append(0)
                continue
            place = _layout(i, number, at)
            index = type_.rank - from_end
            if i == 0 and from_end == 2 and isinstance(op, Matmul) and op.transpose_a:
                index += 1
            if index < 0 or (type_.shape[index] == 1 and y.shape[axis] != 1):
                strides.append(0)
                continue
            if type_.shape[index] != y.shape[axis]:
                return Reject(f"{type_.shape[index]} may or may not repeat to {y.shape[axis]}")
            strides.append(place.strides[index])
        if y.shape[axis] != 1 or axis == y.rank - 2:
            axes.append(_Axis(y.shape[axis], tuple(strides)))
    merged = _merged(axes)
    if len(merged) - 1 > _MOST_BATCH_AXES:
        return Reject(f"{len(merged) - 1} axes of matrices lie apart")
    return merged


def _merged(axes: list[_Axis]) -> list[_Axis]:
    kept = axes[:1]
    for axis in axes[1:]:
        before = kept[-1]
        if axis.size == 1 and before.strides[1] == 0:
            continue  # a single row lies anywhere
        if all(o == i * axis.size for o, i in zip(before.strides, axis.strides, strict=True)):
            kept[-1] = _Axis(before.size * axis.size, axis.strides)
        else:
            kept.append(axis)
    return kept
