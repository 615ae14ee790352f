"""Matrix products with an activation by cuDNN, which joins more of them to a product than cuBLASLt.

Plain products are left to cuBLASLt, whose kernels the engines for them are.
"""

from __future__ import annotations

from typing import Any

from lamina.backends.cuda.library.cublaslt import ACTIVATIONS as LIBRARY_ACTIVATIONS
from lamina.backends.cuda.library.cudnn import NAME
from lamina.backends.cuda.library.cudnn_graphs import ACTIVATIONS
from lamina.backends.cuda.tactics.cublaslt import why_not_lines
from lamina.backends.cuda.tactics.cudnn import (
    LAUNCH_MICROSECONDS,
    RATE_SHARE,
    Description,
    Offer,
    offered,
)
from lamina.backends.cuda.tactics.matmul_case import MatmulCase, matmul_case
from lamina.backends.cuda.tactics.product import Matrix, Product
from lamina.backends.cuda.target import CudaTarget
from lamina.errors import BuildError
from lamina.ir.dims import Dim, divides, is_static, product
from lamina.ir.graph import Node
from lamina.ir.pattern import Reject
from lamina.tactics.candidate import Candidate, Role

_ALIGNMENT_BYTES = 16


class CudnnMatmul:
    """Product, residual, bias and activation as one graph."""

    name = f"{NAME}-matmul"

    def candidates(self, node: Node, target: CudaTarget) -> list[Candidate] | Reject | None:
        """Offer the engines that the library proposes on this machine's device."""
        case = matmul_case(node, target)
        if not isinstance(case, MatmulCase):
            return case
        if why := _why_not(case.product(case.dense)):
            return Reject(why)
        w = case.work
        compute = 2.0 * w.rows * w.columns * w.depth / (target.rate(w.dtype) * RATE_SHARE)
        cost = LAUNCH_MICROSECONDS + max(compute, w.moved_bytes / target.bytes_per_microsecond)
        offer = Offer(self.name, case.reads, case.writes, cost)
        return offered(offer, lambda at: _description(case.product(at), target), case.dense, target)


def _why_not(p: Product) -> str:
    """Return why the library is not asked for a product; "" when it is."""
    activation = p.fused.activation
    if p.fused.factors is not None:
        return "it does not scale the columns of integer sums"
    if activation is None or activation.kind.value in LIBRARY_ACTIVATIONS:
        return "cuBLASLt has kernels for it"
    if activation.kind.value not in ACTIVATIONS:
        return f"it has no {activation.kind.value}"
    if p.outer != 1 or p.inner != 1:
        return "there are several matrices"
    if why := why_not_lines(p):
        return why
    used = [p.a, p.b, p.y, *(m for m in (p.residual,) if m is not None)]
    sizes = (p.rows, p.columns, p.depth, *(d for m in used for d in (m.row, m.column)))
    if not all(is_static(d) for d in sizes):
        return "a size is known at the run only"
    if not all(_is_aligned(m) for m in used):
        return "rows do not begin at multiples of 16 bytes"
    return ""


def _is_aligned(m: Matrix) -> bool:
    unit = _ALIGNMENT_BYTES // m.dtype.itemsize
    return all(step == 1 or divides(unit, step) for step in (m.row, m.column))


def _description(p: Product, target: CudaTarget) -> Description:
    """Return a product as the library's problem, and its operands."""
    if why := _why_not(p):
        raise BuildError(f"cuDNN does not take operands that lie like this: {why}")
    activation = p.fused.activation
    assert activation is not None
    problem: dict[str, Any] = {
        "kind": "matmul",
        "dtype": p.y.dtype.value,
        "compute": "tf32" if target.tf32 else "f32",
        "activation": activation.kind.value,
        "alpha": activation.alpha,
        "beta": activation.beta,
    }
    operands: list[tuple[str, Role]] = []
    matrices = (("a", p.a, p.rows, p.depth), ("b", p.b, p.depth, p.columns))
    for name, m, rows, columns in (*matrices, ("y", p.y, p.rows, p.columns)):
        problem[f"{name}_shape"] = [1, _number(rows), _number(columns)]
        problem[f"{name}_strides"] = _strides(m, rows, columns)
    operands += [("a", p.a.role), ("b", p.b.role)]
    if p.bias is not None:
        problem["bias_dtype"] = p.bias.dtype.value
        operands.append(("bias", p.bias.role))
    if p.residual is not None:
        problem["z_strides"] = _strides(p.residual, p.rows, p.columns)
        operands.append(("z", p.residual.role))
    return problem, (*operands, ("y", p.y.role))


def _strides(m: Matrix, rows: Dim, columns: Dim) -> list[int]:
    """Return the strides of a batch of one matrix; those of an axis of size 1 must not be 0."""
    row, column = _number(m.row), _number(m.column)
    row = row or _number(columns) * column
    return [
        max(_number(product((rows, m.row))), _number(product((columns, m.column)))),
        row,
        column,
    ]


def _number(d: Dim) -> int:
    return int(d)  # type: ignore[arg-type]
