"""Rows that nothing reads are not computed."""

from __future__ import annotations

from typing import Final

from lamina import ops
from lamina.ir.dims import Dim, is_static
from lamina.ir.graph import Graph, Node, Value, emit
from lamina.ir.rewrite import GraphPass
from lamina.ir.types import TensorType
from lamina.passes.epilogue import FuseActivation, FuseResidual

_POINTWISE: Final = (ops.Unary, ops.Activation, ops.Cast, ops.Binary, ops.Select)
_ROW_NORMS: Final = (ops.LayerNorm, ops.RmsNorm)
_FEWER: Final = 2
"""How many times fewer rows must be kept."""


class DropUnreadRows(GraphPass):
    """A slice of rows moves in front of what computes each row by itself.

    So that a classifier that reads the first token alone has no other tokens go through the last
    layers.  It moves only where at least one matrix product gets fewer rows.

    Before::

        graph(%x: f32[1,6,8], %r: f32[1,6,4]) {
          %w = const() type=f32[8,4] seed=1
          %b = const() type=f32[4] seed=2
          %a = matmul(%x, %w, %b, %r)
          %n = layer_norm(%a) axis=2 epsilon=1e-05
          %s = binary(%n, %a) kind=add
          %y = slice(%s) starts=(0,2,0) sizes=(1,1,4) steps=(1,1,1)
          return %y
        }

    After::

        graph(%x: f32[1,6,8], %r: f32[1,6,4]) {
          %x_0 = slice(%x) starts=(0,2,0) sizes=(1,1,8) steps=(1,1,1)
          %w = const() type=f32[8,4]
          %b = const() type=f32[4]
          %r_0 = slice(%r) starts=(0,2,0) sizes=(1,1,4) steps=(1,1,1)
          %a = matmul(%x_0, %w, %b, %r_0)
          %n = layer_norm(%a) axis=2 epsilon=1e-05
          %y = binary(%n, %a) kind=add
          return %y
        }
    """

    after = (FuseActivation, FuseResidual)

    def run(self, graph: Graph) -> int:
        """Move slices; return how many."""
        return sum(self._move(graph, n) for n in list(graph.nodes()) if isinstance(n.op, ops.Slice))

    def _move(self, graph: Graph, cut: Node) -> bool:
        from_end = _axis_from_end(cut)
        if not from_end:
            return False
        inside = _narrowed(graph, cut, from_end)
        if not any(isinstance(n.op, ops.Matmul) for n in inside):
            return False
        narrow = _Narrow(cut, from_end)
        for node in reversed(inside):
            narrow.emit(node)
        graph.replace(cut.output, narrow.made[cut.inputs[0]])
        return True


def _axis_from_end(cut: Node) -> int:
    """Return the one axis, counted from the end, of which a slice keeps few entries; 0 for none."""
    assert isinstance(cut.op, ops.Slice)
    x, sizes = cut.inputs[0].tensor, cut.op.sizes
    axes = [i for i, (d, n) in enumerate(zip(x.shape, sizes, strict=True)) if d != n]
    if len(axes) != 1 or axes[0] == x.rank - 1:
        return 0
    kept, whole = sizes[axes[0]], x.shape[axes[0]]
    return x.rank - axes[0] if is_static(kept) and _is_fewer(kept, whole) else 0


def _is_fewer(kept: Dim, whole: Dim) -> bool:
    return is_static(whole) and _FEWER * int(kept) <= int(whole)  # type: ignore[arg-type]


def _narrowed(graph: Graph, cut: Node, from_end: int) -> list[Node]:
    """Return the nodes that need compute no other rows than the slice keeps, the last one first."""
    inside: dict[Node, None] = {}
    for node in reversed(list(graph.nodes())):
        if len(node.outputs) != 1 or not node.output.users:
            continue
        only = all(
            user is cut or (user in inside and _is_cut_for(user, node.output, from_end))
            for user in node.output.users
        )
        if only and node.output not in graph.outputs and _keeps_rows(node, from_end):
            inside[node] = None
    return [*inside]


def _is_cut_for(user: Node, v: Value, from_end: int) -> bool:
    """Whether a node that computes fewer rows reads fewer of an operand, wherever it reads it."""
    return all(_has_rows(user, i, from_end) for i, x in enumerate(user.inputs) if x is v)


def _has_rows(node: Node, index: int, from_end: int) -> bool:
    """Whether rows of the result are computed of the same rows of an operand."""
    if isinstance(node.op, ops.Matmul) and index == 1:
        return False
    if isinstance(node.op, _ROW_NORMS) and index > 0:
        return False
    x, y = node.inputs[index].tensor, node.output.tensor
    if x.rank < from_end:
        return False
    return bool(x.shape[-from_end] == y.shape[-from_end])


def _keeps_rows(node: Node, from_end: int) -> bool:
    """Whether a node computes each entry of an axis by itself."""
    op, y = node.op, node.output.tensor
    if not all(isinstance(v.type, TensorType) for v in node.inputs) or y.rank < from_end:
        return False
    if isinstance(op, _POINTWISE):
        return True
    if isinstance(op, _ROW_NORMS):
        return y.rank - from_end < op.axis
    if isinstance(op, ops.Matmul):
        return not op.transpose_a and node.inputs[1].tensor.rank == 2 and from_end > 1
    return False


class _Narrow:
    """Emits operators again, on fewer rows."""

    def __init__(self, cut: Node, from_end: int) -> None:
        assert isinstance(cut.op, ops.Slice)
        self._loc, self._from_end = cut.loc, from_end
        axis = cut.inputs[0].tensor.rank - from_end
        self._start, self._size = cut.op.starts[axis], cut.op.sizes[axis]
        self._step = cut.op.steps[axis]
        self.made: dict[Value, Value] = {}
        """By value the one of fewer rows."""

    def emit(self, node: Node) -> None:
        """Compute the result of a node whose operands are narrow already or never will be."""
        operands = [
            self._cut(v) if _has_rows(node, i, self._from_end) else v
            for i, v in enumerate(node.inputs)
        ]
        y = emit(node.op, operands, loc=node.loc)
        y.name = node.output.name
        self.made[node.output] = y

    def _cut(self, v: Value) -> Value:
        if v not in self.made:
            shape = v.tensor.shape
            axis = len(shape) - self._from_end
            starts, steps = [0] * len(shape), [1] * len(shape)
            sizes, begins = list(shape), list[Dim](starts)
            begins[axis], sizes[axis], steps[axis] = self._start, self._size, self._step
            op = ops.Slice(starts=tuple(begins), sizes=tuple(sizes), steps=tuple(steps))
            self.made[v] = emit(op, [v], loc=self._loc)
        return self.made[v]
