"""Which values need no memory of their own: reshapes, whole slices, parts of a concatenation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from lamina.backends.cpu.form import BLOCK, Form
from lamina.backends.cpu.tactics.candidate import Candidate, constant
from lamina.codegen.layout import Layout
from lamina.ir.dims import Dim, is_static, product
from lamina.ir.graph import Graph, Node, Value
from lamina.ir.types import TensorType
from lamina.ops import Bitcast, Concat, QuantizedConvolution, Reshape, Slice, Transpose


@dataclass
class ViewPlan:
    """``inside`` says of a value that it is written into a larger one, from which index on."""

    inside: dict[Value, tuple[Value, int]] = field(default_factory=dict)
    concats: set[Node] = field(default_factory=set)
    axis: dict[Value, int] = field(default_factory=dict)

    def parent(self, v: Value) -> tuple[Value, int] | None:
        """Return the value that ``v`` is a part of and where it begins on the axis."""
        return self.inside.get(v)

    def offset_bytes(self, whole: Value, form: str, first: int, where: Layout) -> Dim:
        """Return where the part that begins at index ``first`` lies in ``whole``."""
        axis = self.axis[whole]
        step = where.strides[axis]
        position: Dim = first * step
        if where.is_blocked and axis == where.block_axis:
            position = first // BLOCK * step
        return position * whole.tensor.dtype.itemsize


def view_offset(node: Node) -> Dim | None:
    """Return the byte offset when a row-major result lies whole inside the first operand."""
    op = node.op
    if isinstance(op, Reshape | Bitcast):
        return 0
    if isinstance(op, Transpose):
        shape = node.inputs[0].tensor.shape
        moved = [a for a in op.perm if shape[a] != 1]
        return 0 if moved == sorted(moved) else None
    if isinstance(op, Slice):
        return _slice_offset(op, node.inputs[0].tensor)
    return None


def _slice_offset(op: Slice, x: TensorType) -> Dim | None:
    """Return where a slice begins when one axis is cut and all axes before it have size 1."""
    if any(s != 1 for s in op.steps):
        return None
    cut = [a for a, d in enumerate(x.shape) if op.sizes[a] != d]
    if not cut:
        return 0
    first = cut[0]
    if len(cut) > 1 and any(op.sizes[a] != 1 for a in range(first, cut[-1])):
        return None
    if any(op.sizes[a] != 1 for a in range(first)):
        return None
    offset: Dim = 0
    for a in cut:
        offset = offset + op.starts[a] * product(x.shape[a + 1 :])
    return offset * x.dtype.itemsize


def plan_concats(
    graph: Graph, forms: Mapping[Value, str], chosen: Mapping[Node, Candidate]
) -> ViewPlan:
    """Let parts of a concatenation be written in place where all parts can be.

    A part must be made by a step of its own, in the form of the whole, and belong to one
    concatenation alone; with channel blocks it must begin at a whole block.  A part with gaps
    between its rows must only be touched by kernels that take strides: oneDNN has nothing but
    reference code for these.
    """
    plan = ViewPlan()
    results = set(graph.outputs)
    for node in reversed(list(graph.nodes())):
        if isinstance(node.op, Concat) and _fits(node, node.op, plan, forms, results, chosen):
            begin = 0
            plan.concats.add(node)
            plan.axis[node.output] = node.op.axis
            for v in node.inputs:
                plan.inside[v] = (node.output, begin)
                begin += int(v.tensor.shape[node.op.axis])  # type: ignore[arg-type]
    return plan


def joins_without_gaps(node: Node, form: str) -> bool:
    """Whether each part of a concatenation is contiguous inside the whole."""
    op = node.op
    assert isinstance(op, Concat)
    whole = node.output.tensor
    if form == Form.CHANNELS_LAST or any(d != 1 for d in whole.shape[: op.axis]):
        return False
    if form == Form.PLAIN:
        return True
    sizes = [v.tensor.shape[op.axis] for v in node.inputs[:-1]]
    return op.axis == 1 and all(isinstance(n, int) and n % BLOCK == 0 for n in sizes)


def _fits(
    node: Node,
    op: Concat,
    plan: ViewPlan,
    forms: Mapping[Value, str],
    results: set[Value],
    chosen: Mapping[Node, Candidate],
) -> bool:
    whole = node.output
    form = forms.get(whole, Form.PLAIN)
    if whole.tensor.rank < 1 or len(set(node.inputs)) != len(node.inputs):
        return False
    if form != Form.PLAIN and op.axis != 1:
        return False
    gaps = not joins_without_gaps(node, form)
    begin = 0
    for v in node.inputs:
        if not is_static(v.tensor.shape[op.axis]) or v in plan.inside or v in results:
            return False
        if v.node is None or constant(v) is not None or not _owns_memory(v.node):
            return False
        if forms.get(v, Form.PLAIN) != form or not _writes(v, form, chosen):
            return False
        if form == Form.BLOCKED and begin % BLOCK:
            return False
        if gaps and not all(_takes_strides(n, chosen) for n in (v.node, *v.users) if n is not node):
            return False
        begin += int(v.tensor.shape[op.axis])  # type: ignore[arg-type]
    return True


def _writes(v: Value, form: str, chosen: Mapping[Node, Candidate]) -> bool:
    """Whether the step that makes ``v`` writes this form, so that no reorder follows it."""
    candidate = chosen.get(v.node) if v.node is not None else None
    return candidate is not None and candidate.writes[v.index] == form


def _takes_strides(node: Node, chosen: Mapping[Node, Candidate]) -> bool:
    candidate = chosen.get(node)
    return candidate is not None and not candidate.tactic.startswith("onednn")


def _owns_memory(node: Node) -> bool:
    if isinstance(node.op, QuantizedConvolution):
        return False  # the library's integer kernels write dense results only
    if isinstance(node.op, Concat):
        return True
    return view_offset(node) is None
