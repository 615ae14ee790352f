"""Kernels that the code generator makes from an operator or a fused region."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from lamina.backends.cpu.target import CpuTarget
from lamina.codegen.kernels import KernelSource, kernel_for
from lamina.codegen.kernels import Reject as Refused
from lamina.codegen.layout import Layout
from lamina.codegen.llvm.builder import Module
from lamina.errors import BuildError
from lamina.ir.dims import sym
from lamina.ir.graph import Graph, Node, emit_node
from lamina.ir.pattern import Reject
from lamina.ir.text import print_graph
from lamina.ir.types import DType, TensorType
from lamina.ops import Concat, Const, HostCall, PluginCall
from lamina.plan.plan import StepKind
from lamina.tactics.candidate import (
    COUNTED,
    Candidate,
    Draft,
    Placement,
    Read,
    Role,
    Scratch,
    Write,
    constant,
)
from lamina.tactics.form import Form, layout

_BYTES_PER_MICROSECOND: Final = 8e3
_START_MICROSECONDS: Final = 1.0

Forms = tuple[tuple[Form | None, ...], tuple[Form, ...]]


class Generated:
    """Everything that is not a contraction."""

    name = "codegen"

    def candidates(self, node: Node, target: CpuTarget) -> list[Candidate] | Reject | None:
        """Offer one kernel for each form that the operands and results can share."""
        if isinstance(node.op, COUNTED):
            return None
        if isinstance(node.op, Const | HostCall | PluginCall) or not _all_tensors(node):
            return Reject("only NumPy can run it")
        found: list[Candidate] = []
        reason = ""
        text = ""
        for reads, writes in dict.fromkeys(_form_choices(node, target)):
            source = _source(node, _layouts(node, reads), _layouts_out(node, writes))
            if isinstance(source, Refused):
                reason = reason or source.reason
                continue
            text = text or _canonical(node)
            found.append(_candidate(node, target, source, reads, writes, text))
        return found or Reject(reason)


def _all_tensors(node: Node) -> bool:
    types = [v.type for v in (*node.inputs, *node.outputs)]
    return all(isinstance(t, TensorType) and t.dtype is not DType.STR for t in types)


def _form_choices(node: Node, target: CpuTarget) -> Iterator[Forms]:
    """Yield forms for all operands and results: each one family everywhere, then mixed ends."""
    plain = Form.PLAIN
    yield (plain,) * len(node.inputs), (plain,) * len(node.outputs)
    for form in (Form.CHANNELS_LAST, Form.BLOCKED):
        reads = tuple(
            form if constant(v) is None and form in target.forms(v.type) else plain
            for v in node.inputs
        )
        writes = tuple(form if form in target.forms(v.type) else plain for v in node.outputs)
        if form not in (*reads, *writes):
            continue
        yield reads, writes
        if not isinstance(node.op, Concat) and form in reads:
            yield reads, (plain,) * len(writes)


def _layouts(node: Node, reads: tuple[Form | None, ...]) -> tuple[Layout, ...]:
    return tuple(layout(v.tensor, f or Form.PLAIN) for v, f in zip(node.inputs, reads, strict=True))


def _layouts_out(node: Node, writes: tuple[Form, ...]) -> tuple[Layout, ...]:
    return tuple(layout(v.tensor, f) for v, f in zip(node.outputs, writes, strict=True))


def _source(
    node: Node, operands: tuple[Layout, ...], results: tuple[Layout, ...]
) -> KernelSource | Refused:
    return kernel_for(node, operands, results)


def _canonical(node: Node) -> str:
    """Return text that is equal for nodes which need the same code."""
    graph = Graph()
    operands = [graph.input(f"i{k}", v.type) for k, v in enumerate(node.inputs)]
    copy = emit_node(node.op, operands, loc=node.loc)
    for k, v in enumerate(copy.outputs):
        graph.output(v, f"o{k}")
    scalars = [
        (k, w.array.tolist())
        for k, v in enumerate(node.inputs)
        if (w := constant(v)) is not None and w.array.size == 1
    ]
    return f"{print_graph(graph)} {scalars}"


def _candidate(
    node: Node,
    target: CpuTarget,
    source: KernelSource,
    reads: tuple[Form | None, ...],
    writes: tuple[Form, ...],
    text: str,
) -> Candidate:
    def draft(p: Placement) -> Draft:
        placed = _source(node, p.operands, p.results)
        if isinstance(placed, Refused):
            raise BuildError(f"the code generator refused the final layout: {placed.reason}")
        return generated_draft(placed, target, p.name, len(node.inputs), len(node.outputs))

    cost = _START_MICROSECONDS + source.estimated_bytes / _BYTES_PER_MICROSECOND
    return Candidate("codegen", reads, writes, cost, draft, key=text)


def generated_draft(
    source: KernelSource, target: CpuTarget, name: str, inputs: int, outputs: int
) -> Draft:
    """Return the step of a generated kernel."""
    module = Module(target.isa)
    symbols = source.emit(module, name)
    threads = max(1, min(target.threads, source.max_threads))
    workspace = source.workspace_bytes(threads)
    roles: list[Role] = [*(Read(i) for i in range(inputs)), *(Write(i) for i in range(outputs))]
    if workspace != 0:
        roles.append(Scratch())
    return Draft(
        kind=StepKind.KERNEL,
        arguments=tuple(roles),
        symbols=tuple(symbols),
        parameters=tuple(sym(p) for p in source.params),
        threads=threads,
        workspace_bytes=workspace,
        module=str(module),
    )
