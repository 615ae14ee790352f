"""Generated kernels whose data decides the size of their result."""

from __future__ import annotations

from typing import Final

from lamina.backends.cpu.target import CpuTarget
from lamina.codegen.kernels import kernel_for
from lamina.codegen.llvm.builder import Module
from lamina.codegen.movement_nms import NmsKernel
from lamina.codegen.movement_nonzero import NonZeroKernel
from lamina.ir.dims import sym, symbols
from lamina.ir.graph import Node
from lamina.ir.pattern import Reject
from lamina.ops import Nms, NonZero
from lamina.plan.plan import StepKind
from lamina.tactics.candidate import Candidate, Count, Draft, Placement, Read, Scratch, Write
from lamina.tactics.form import Form

_BYTES_PER_MICROSECOND: Final = 2e3


class Counted:
    """Kernels that write into memory for the largest result and say how much they wrote."""

    name = "codegen"

    def candidates(self, node: Node, target: CpuTarget) -> list[Candidate] | Reject | None:
        """Offer the one kernel that there is for row-major operands."""
        op = node.op
        if not isinstance(op, NonZero | Nms):
            return None
        names = tuple(symbols(op.count))
        if len(names) != 1 or op.count != sym(names[0]):
            return Reject(f"the number of results is {op.count}, not a symbol of its own")
        source = kernel_for(node)
        if not isinstance(source, NonZeroKernel | NmsKernel):
            return Reject(getattr(source, "reason", "it has no kernel that counts"))
        reads = (Form.PLAIN,) * len(node.inputs)
        cost = source.estimated_bytes / _BYTES_PER_MICROSECOND

        def draft(p: Placement) -> Draft:
            return _draft(source, op, target, p.name, len(node.inputs))

        return [Candidate("codegen", reads, (Form.PLAIN,), cost, draft)]


def _draft(
    source: NonZeroKernel | NmsKernel, op: NonZero | Nms, target: CpuTarget, name: str, inputs: int
) -> Draft:
    module = Module(target.isa)
    stems = source.emit(module, name)
    threads = max(1, min(target.threads, source.max_threads))
    return Draft(
        kind=StepKind.COUNTED,
        arguments=(*(Read(i) for i in range(inputs)), Write(0), Count(), Scratch()),
        symbols=tuple(stems),
        parameters=(*(sym(p) for p in source.params), source.largest_count),
        threads=threads,
        workspace_bytes=source.workspace_bytes(threads),
        defines=tuple(symbols(op.count)),
        module=str(module),
    )
