"""Matrix products and pointwise convolutions by cuBLASLt, with algorithms that it proposes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from lamina.backends.cuda.library.cublaslt import ACTIVATIONS, NAME, CublasLt, Found
from lamina.backends.cuda.library.steps import sized
from lamina.backends.cuda.request import LibraryDraft
from lamina.backends.cuda.tactics.convolution_case import Case, case_of
from lamina.backends.cuda.tactics.matmul_case import FLOATS, MatmulCase, matmul_case
from lamina.backends.cuda.tactics.product import Matrix, Product
from lamina.backends.cuda.tactics.tiles import Work
from lamina.backends.cuda.target import CudaTarget
from lamina.errors import BuildError, LaminaError
from lamina.ir.dims import Dim, always_le, product
from lamina.ir.graph import Node
from lamina.ir.pattern import Reject
from lamina.ir.types import DType
from lamina.ops import Matmul, QuantizedConvolution, QuantizedMatmul
from lamina.tactics.candidate import Candidate, Placement, Role
from lamina.tactics.form import Form

_MOST_WORKSPACE_BYTES: Final = 32 << 20
_MOST_ALGORITHMS: Final = 12
_MOST_STRIDED_AXES: Final = 3
_RATE_SHARE: Final = 0.8
"""Share of the matrix rate that a large product of the library reaches."""
_LAUNCH_MICROSECONDS: Final = 3.0
_RANK: Final = 0.01
"""Microseconds by which each proposal's estimate exceeds that of the one before."""


class CublasLtMatmul:
    """One call for a product with bias row, residual and activation."""

    name = NAME

    def candidates(self, node: Node, target: CudaTarget) -> list[Candidate] | Reject | None:
        """Offer what the library proposes on this machine's device."""
        case = _case(node, target)
        if not isinstance(case, _Case):
            return case
        p = case.product(case.dense)
        if why := _why_not(p):
            return Reject(why)
        if target.library is None:
            return Reject("algorithms are proposed on the device itself, and there is none here")
        try:
            library: Any = target.library(NAME)
            return _offered(library, case, p, target)
        except LaminaError as e:
            return Reject("; ".join([str(e).splitlines()[0], *([e.hint] if e.hint else [])]))


@dataclass(frozen=True)
class _Case:
    """A node as a product, wherever its operands lie."""

    product: Callable[[Placement], Product]
    dense: Placement
    reads: tuple[Form | None, ...]
    writes: tuple[Form, ...]
    work: Work
    takes_strides: bool
    """Whether it stays one product when results of neighbouring nodes lie in one tensor."""


def _case(node: Node, target: CudaTarget) -> _Case | Reject | None:
    if isinstance(node.op, Matmul | QuantizedMatmul):
        matmul = matmul_case(node, target)
        if not isinstance(matmul, MatmulCase):
            return matmul
        return _Case(
            product=matmul.product,
            dense=matmul.dense,
            reads=matmul.reads,
            writes=matmul.writes,
            work=matmul.work,
            takes_strides=node.output.tensor.rank <= _MOST_STRIDED_AXES,
        )
    conv = case_of(node, target)
    if conv is None:
        return None
    if isinstance(conv, str):
        return Reject(conv)
    if why := _not_pointwise(conv):
        return Reject(why)
    return _Case(
        product=conv.product,
        dense=conv.dense,
        reads=conv.reads,
        writes=conv.writes,
        work=conv.work(),
        takes_strides=True,
    )


def _not_pointwise(case: Case) -> str:
    if isinstance(case.op, QuantizedConvolution):
        return "it does not scale the columns of integer sums"
    if case.node.inputs[0].tensor.dtype not in FLOATS:
        return "it takes f16, bf16 and f32"
    if not case.windows.is_pointwise or case.op.groups != 1 or case.filters is None:
        return "it is no pointwise convolution with constant filters"
    return ""


def _why_not(p: Product) -> str:
    """Return why the library cannot compute a product, "" when it can."""
    if p.fused.factors is not None:
        return "it does not scale the columns of integer sums"
    a = p.fused.activation
    if a is not None and a.kind.value not in ACTIVATIONS:
        return f"it has no {a.kind.value}"
    if p.outer != 1 and p.inner != 1:
        return "matrices of two axes lie apart"
    if p.bias is not None and (p.bias.row, p.bias.outer, p.bias.inner) != (0, 0, 0):
        return "the bias is no row"
    if p.bias is not None and (p.bias.column != 1 or p.bias.dtype is not p.y.dtype):
        return "the bias is no row of the result's type"
    for matrix, width in ((p.y, p.columns), (p.residual, p.columns)):
        if matrix is not None and not _is_plain(matrix, width):
            return "rows of the result or the residual are not contiguous"
    if p.residual is not None and _batch_stride(p, p.residual) == 0 and _batch(p) != 1:
        return "the residual repeats"
    if not all(_lies_in_lines(m, *sizes) for m, *sizes in _factors(p)):
        return "neither rows nor columns of a factor are contiguous"
    return ""


def _factors(p: Product) -> tuple[tuple[Matrix, Dim, Dim], ...]:
    """Return the factors with their numbers of rows and columns."""
    return ((p.a, p.rows, p.depth), (p.b, p.depth, p.columns))


def _is_plain(m: Matrix, columns: Dim) -> bool:
    return (m.column == 1 or columns == 1) and always_le(columns, m.row)


def _lies_in_lines(m: Matrix, rows: Dim, columns: Dim) -> bool:
    return _is_plain(m, columns) or _is_plain(Matrix(m.role, m.dtype, m.column, m.row), rows)


def _batch(p: Product) -> Dim:
    return product((p.outer, p.inner))


def _batch_stride(p: Product, m: Matrix) -> Dim:
    return m.outer if p.outer != 1 else m.inner


def _offered(
    library: CublasLt, case: _Case, p: Product, target: CudaTarget
) -> list[Candidate] | Reject:
    problem, operands = _problem(p, target)
    names = [name for name, _ in operands]
    found = library.algorithms(
        sized(problem, target.env), names, _MOST_WORKSPACE_BYTES, _MOST_ALGORITHMS
    )
    w = case.work
    operations = 2.0 * w.rows * w.columns * w.depth * w.matrices
    compute = operations / (target.rate(w.dtype) * _RATE_SHARE)
    cost = _LAUNCH_MICROSECONDS + max(compute, w.moved_bytes / target.bytes_per_microsecond)
    offered = []
    for rank, algorithm in enumerate(found):
        draft: Any = _Draft(case, algorithm, library.version, target)
        name = f"{NAME} {algorithm.name}"
        offered.append(
            Candidate(
                name,
                case.reads,
                case.writes,
                cost + _RANK * rank,
                draft,
                takes_strides=case.takes_strides,
            )
        )
    return offered or Reject("the library has no algorithm for these sizes")


@dataclass(frozen=True)
class _Draft:
    """Makes the step when it is known where operands and result lie."""

    case: _Case
    algorithm: Found
    version: str
    target: CudaTarget

    def __call__(self, at: Placement) -> LibraryDraft:
        p = self.case.product(at)
        if why := _why_not(p):
            raise BuildError(f"cuBLASLt does not take operands that lie like this: {why}")
        problem, operands = _problem(p, self.target)
        chosen = {
            "algorithm": self.algorithm.algorithm,
            "version": self.version,
            "workspace_bytes": self.algorithm.workspace_bytes,
        }
        return LibraryDraft(
            library=NAME,
            problem=problem | chosen,
            operands=operands,
            workspace_bytes=self.algorithm.workspace_bytes,
        )


def _problem(p: Product, target: CudaTarget) -> tuple[dict[str, Any], tuple[tuple[str, Role], ...]]:
    """Return a product as the library's problem (less the algorithm), and its operands."""
    activation = p.fused.activation
    problem: dict[str, Any] = {
        "dtype": p.y.dtype.value,
        "compute": "tf32" if p.y.dtype is DType.F32 and target.tf32 else "f32",
        "rows": p.rows,
        "columns": p.columns,
        "depth": p.depth,
        "batch": _batch(p),
        "activation": activation.kind.value if activation else None,
        "y_stride": p.y.row,
        "y_batch": _batch_stride(p, p.y),
    }
    for name, (m, _, columns) in zip("ab", _factors(p), strict=True):
        turned = not _is_plain(m, columns)
        problem[f"{name}_turned"] = turned
        problem[f"{name}_stride"] = m.column if turned else m.row
        problem[f"{name}_batch"] = _batch_stride(p, m)
    operands = [("a", p.a.role), ("b", p.b.role)]
    if p.bias is not None:
        operands.append(("bias", p.bias.role))
    if p.residual is not None:
        problem |= {"c_stride": p.residual.row, "c_batch": _batch_stride(p, p.residual)}
        operands.append(("c", p.residual.role))
    return problem, (*operands, ("y", p.y.role))
