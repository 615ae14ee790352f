"""Matrix products that no other tactic takes: integers, f64, and everything without oneDNN."""

from __future__ import annotations

from lamina.backends.cpu.kernels import plain_matmul
from lamina.backends.cpu.kernels.convolution import Epilogue
from lamina.backends.cpu.kernels.plain_matmul import PlainMatmulProblem
from lamina.backends.cpu.tactics.library_matmul import LibraryMatmul
from lamina.backends.cpu.target import CpuTarget
from lamina.codegen.llvm.builder import Module
from lamina.ir.dims import Dim, dim_min, evaluate, product, symbols
from lamina.ir.graph import Node
from lamina.ir.pattern import Reject
from lamina.ir.strided import StridedView
from lamina.ir.types import TensorType
from lamina.ops import Matmul
from lamina.plan.plan import StepKind
from lamina.tactics.candidate import Candidate, Draft, Placement, Read, Write
from lamina.tactics.form import Form

_FLOPS_PER_MICROSECOND = 2e3


class PlainMatmul:
    """The kernel of :mod:`lamina.backends.cpu.kernels.plain_matmul`."""

    name = "plain"

    def candidates(self, node: Node, target: CpuTarget) -> list[Candidate] | Reject | None:
        """Offer one candidate where the library offers none."""
        op = node.op
        if not isinstance(op, Matmul):
            return None
        if isinstance(LibraryMatmul().candidates(node, target), list):
            return Reject("oneDNN is faster")
        problem = _problem(node, op)
        if why := plain_matmul.why_not(problem):
            return Reject(why)

        def draft(p: Placement) -> Draft:
            module = Module(target.isa)
            symbols = plain_matmul.build(module, p.name, problem)
            return Draft(
                kind=StepKind.KERNEL,
                arguments=(*(Read(i) for i in range(len(node.inputs))), Write(0)),
                symbols=symbols,
                parameters=problem.parameters,
                threads=target.threads,
                module=str(module),
            )

        work = product((*node.output.tensor.shape, problem.depth))
        known = all(s in target.env for s in symbols(work))
        cost = 2 * (evaluate(work, target.env) if known else 1) / _FLOPS_PER_MICROSECOND
        return [Candidate("loops", (Form.PLAIN,) * len(node.inputs), (Form.PLAIN,), cost, draft)]


def _problem(node: Node, op: Matmul) -> PlainMatmulProblem:
    a, b, *addends = (v.tensor for v in node.inputs)
    y = node.output.tensor
    rank = y.rank
    depth = b.shape[-1 if op.transpose_b else -2]
    places = [_strides(t, _whole(t, y), rank) for t in (a, b)]
    places += [_strides(t, y.shape, rank) for t in addends]
    left, right = (
        (*s[:-2], s[-1], s[-2]) if swap else s
        for s, swap in zip(places, (op.transpose_a, op.transpose_b), strict=False)
    )
    fused = op.activation
    return PlainMatmulProblem(
        dtype=a.dtype.value,
        batch=y.shape[:-2],
        rows=y.shape[-2],
        depth=depth,
        columns=y.shape[-1],
        a=left,
        b=right,
        addends=tuple((t.dtype.value, s) for t, s in zip(addends, places[2:], strict=True)),
        activation=Epilogue(fused.kind.value, fused.alpha, fused.beta) if fused else None,
    )


def _whole(operand: TensorType, y: TensorType) -> tuple[Dim, ...]:
    """Return the shape that an operand broadcasts to."""
    return (*y.shape[:-2], *operand.shape[-2:])


def _strides(type: TensorType, whole: tuple[Dim, ...], rank: int) -> tuple[Dim, ...]:
    """Return an operand's strides, 0 along axes of 1 that repeat, also if only run time tells."""
    shape = (*(1 for _ in range(rank - type.rank)), *type.shape)
    dense = StridedView.dense(shape).strides
    return tuple(
        s if d == w else dim_min(d - 1, 1) * s for d, w, s in zip(shape, whole, dense, strict=True)
    )
