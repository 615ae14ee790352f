"""Sizes as values: a kernel that stores what it is told."""

from __future__ import annotations

from lamina.backends.cpu.target import CpuTarget
from lamina.codegen.llvm.builder import I64, Module
from lamina.ir.dims import Expr
from lamina.ir.graph import Node
from lamina.ir.pattern import Reject
from lamina.ir.types import TensorType
from lamina.ops import Shape
from lamina.plan.plan import StepKind
from lamina.tactics.candidate import Candidate, Draft, Placement, Read, Write
from lamina.tactics.form import Form


class ShapeValues:
    """Writes the sizes of an operand, which arrive as parameters."""

    name = "shapes"

    def candidates(self, node: Node, target: CpuTarget) -> list[Candidate] | Reject | None:
        """Offer the kernel for tensors."""
        op = node.op
        if not isinstance(op, Shape):
            return None
        x = node.inputs[0].type
        if not isinstance(x, TensorType):
            return Reject(f"needs a tensor, got {x}")
        sizes = x.shape[op.start : op.end]
        unknown = tuple(dict.fromkeys(d for d in sizes if isinstance(d, Expr)))

        def draft(p: Placement) -> Draft:
            module = Module(target.isa)
            with module.kernel(p.name) as k:
                numbers = {d: k.param(i) for i, d in enumerate(unknown)}
                for i, d in enumerate(sizes):
                    value = numbers[d] if isinstance(d, Expr) else k.const(I64, d)
                    k.store(value, k.arg(1), 8 * i)
            return Draft(
                kind=StepKind.KERNEL,
                arguments=(Read(0), Write(0)),
                symbols=(p.name,),
                parameters=unknown,
                module=str(module),
            )

        return [Candidate("sizes", (Form.PLAIN,), (Form.PLAIN,), 0.1, draft)]
