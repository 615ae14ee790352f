"""Which values need no memory of their own: reshapes, whole slices, parts of a concatenation."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from lamina.codegen.layout import Layout
from lamina.ir.dims import Dim, divides, is_static, product
from lamina.ir.graph import Graph, Node, Value
from lamina.ir.types import TensorType
from lamina.ops import (
    Bitcast,
    Concat,
    Convolution,
    Deconvolution,
    Matmul,
    Pool,
    QuantizedConvolution,
    QuantizedMatmul,
    Reshape,
    Slice,
    Transpose,
)
from lamina.tactics.candidate import COUNTED, Candidate, constant
from lamina.tactics.form import BLOCK, Form, layout

_LEAST_SHARE = 0.5
_DENSE = (Convolution, Deconvolution, QuantizedConvolution, Matmul, QuantizedMatmul, Pool)
"""Operators that may run in the library, which wants their operands and results dense."""


STRIDED_VIEW = "view"
"""The tactic of a candidate that moves nothing: its result keeps the operand's strides."""


@dataclass
class ViewPlan:
    """``inside`` says of a value that it is written into a larger one, from which index on.

    ``copied`` lists the parts of a concatenation that are copied into it, likewise; ``gapped`` are
    the values inside that have gaps between their rows.
    """

    inside: dict[Value, tuple[Value, int]] = field(default_factory=dict)
    concats: set[Node] = field(default_factory=set)
    copied: dict[Node, list[tuple[Value, int]]] = field(default_factory=dict)
    axis: dict[Value, int] = field(default_factory=dict)
    gapped: set[Value] = field(default_factory=set)

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
    graph: Graph,
    forms: Mapping[Value, str],
    chosen: Mapping[Node, Candidate],
    alignment: int = 1,
    may_copy: bool = False,
) -> ViewPlan:
    """Let parts of a concatenation be written in place where all parts can be.

    With ``may_copy`` half of the elements suffices, and the other parts are listed as copied.

    A part must be made by a step of its own, in the form of the whole, and belong to one
    concatenation alone; with channel blocks it must begin at a whole block.  A part with gaps
    between its rows must only be touched by kernels that take strides: oneDNN has nothing but
    reference code for these.  Each part begins at a multiple of ``alignment`` bytes.
    """
    plan = ViewPlan()
    results = set(graph.outputs)
    for node in reversed(list(graph.nodes())):
        if not isinstance(node.op, Concat) or not _is_aligned(node, node.op, forms, alignment):
            continue
        parts = _in_place(node, node.op, plan, forms, results, chosen)
        share = _share(node, node.op, parts)
        if share < 1.0 and not (may_copy and share >= _LEAST_SHARE):
            continue
        begin = 0
        if _has_gaps(node, plan, forms):
            plan.gapped |= parts
        plan.concats.add(node)
        plan.axis[node.output] = node.op.axis
        for v in node.inputs:
            if v in parts:
                plan.inside[v] = (node.output, begin)
            else:
                plan.copied.setdefault(node, []).append((v, begin))
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


def likely_share(node: Node, form: str) -> float:
    """Return which share of a concatenation its parts' makers will write in place.

    Kernels are not chosen yet: parts with gaps count where generated kernels alone touch them.
    """
    op = node.op
    assert isinstance(op, Concat)
    if joins_without_gaps(node, form):
        return 1.0
    parts = {
        v
        for v in node.inputs
        if not any(n is None or isinstance(n.op, _DENSE) for n in (v.node, *v.users))
    }
    known = all(is_static(v.tensor.shape[op.axis]) for v in node.inputs)
    share = _share(node, op, parts) if known else 0.0
    return share if share >= _LEAST_SHARE else 0.0


def _share(node: Node, op: Concat, parts: Collection[Value]) -> float:
    """Return how much of a concatenation some of its parts are."""
    if len(parts) == len(node.inputs):
        return 1.0
    sizes = {v: v.tensor.shape[op.axis] for v in node.inputs}
    known = {v: n for v, n in sizes.items() if isinstance(n, int)}
    if len(known) < len(sizes):
        return 0.0
    return sum(known[v] for v in parts) / max(1, sum(known.values()))


def _in_place(
    node: Node,
    op: Concat,
    plan: ViewPlan,
    forms: Mapping[Value, str],
    results: set[Value],
    chosen: Mapping[Node, Candidate],
) -> set[Value]:
    """Return the parts that can be written in place."""
    whole = node.output
    form = forms.get(whole, Form.PLAIN)
    sizes = [v.tensor.shape[op.axis] for v in node.inputs]
    if whole.tensor.rank < 1 or len(set(node.inputs)) != len(node.inputs):
        return set()
    if not all(map(is_static, sizes)) or (form != Form.PLAIN and op.axis != 1):
        return set()
    if form == Form.BLOCKED and any(n % BLOCK for n in sizes[:-1]):
        return set()
    gaps = _has_gaps(node, plan, forms)
    found = set()
    for v in node.inputs:
        if v in plan.inside or v in results or forms.get(v, Form.PLAIN) != form:
            continue
        if v.node is None or constant(v) is not None or not _owns_memory(v.node):
            continue
        others = [n for n in (v.node, *v.users) if n is not node]
        fits = not gaps or all(_takes_strides(n, chosen) for n in others)
        if fits and _writes(v, form, chosen):
            found.add(v)
    return found


def _has_gaps(node: Node, plan: ViewPlan, forms: Mapping[Value, str]) -> bool:
    """Whether parts of a concatenation in place have gaps, its own or those of a larger whole."""
    whole = node.output
    return whole in plan.gapped or not joins_without_gaps(node, forms.get(whole, Form.PLAIN))


def _is_aligned(node: Node, op: Concat, forms: Mapping[Value, str], alignment: int) -> bool:
    """Whether every part begins at a multiple of ``alignment`` bytes."""
    whole = node.output
    step = layout(whole.tensor, forms.get(whole, Form.PLAIN)).strides[op.axis]
    sizes = [v.tensor.shape[op.axis] for v in node.inputs[:-1]]
    return all(divides(alignment, n * step * whole.tensor.dtype.itemsize) for n in sizes)


def _writes(v: Value, form: str, chosen: Mapping[Node, Candidate]) -> bool:
    """Whether the step that makes ``v`` writes this form, so that no reorder follows it."""
    candidate = chosen.get(v.node) if v.node is not None else None
    if candidate is None or candidate.tactic == STRIDED_VIEW:
        return False
    return candidate.writes[v.index] == form


def _takes_strides(node: Node, chosen: Mapping[Node, Candidate]) -> bool:
    """Whether the step of a node may read and write with gaps; a view takes its operand dense."""
    candidate = chosen.get(node)
    if candidate is None or not candidate.takes_strides or view_offset(node) is not None:
        return False
    return not candidate.tactic.startswith("onednn")


def _owns_memory(node: Node) -> bool:
    if isinstance(node.op, QuantizedConvolution):
        return False  # the library's integer kernels write dense results only
    if isinstance(node.op, COUNTED):
        return False  # its size is known too late
    if isinstance(node.op, Concat):
        return True
    return view_offset(node) is None
