"""16-bit floats between contractions, f32 inside everything else.

Which of the two, bf16 or f16, is a parameter of each rule; below it is bf16.  What becomes bf16:
operands, weights, residuals and results of convolutions, deconvolutions and matrix products, which
accumulate in f32 and add an f32 bias; and whatever only moves elements or takes maxima and averages
between them.

Recurrent layers read and write f32; :mod:`.factors` rounds what they multiply.

What stays f32: everything pointwise, softmax and the logits under it, the statistics of norms,
reductions and cumulative sums and, unless the device multiplies 16-bit queries
and keys itself (``attention``), attention's operands.  Their casts are fused into them, so that
they read and write bf16 and compute in f32; a sum that several of them read (the residual stream of
a transformer) is stored as f32.  Inputs and outputs of the graph keep their types, and so does
everything that is not f32.
"""

from __future__ import annotations

from collections.abc import Collection

from lamina import ops
from lamina.ir.graph import Value
from lamina.ir.rewrite import Match, Reject, Rewrite, match
from lamina.ir.types import DType
from lamina.ops.kinds import PoolKind
from lamina.passes.constants import array_of, emit_constant
from lamina.passes.contractions import CONTRACTIONS

_MOVERS = (ops.Reshape, ops.Transpose, ops.Slice, ops.Expand, ops.Tile, ops.Gather)


class _HalfRewrite(Rewrite):
    """A rule for one 16-bit type; with ``attention``, attention works on it too."""

    def __init__(
        self,
        half: DType = DType.BF16,
        *,
        attention: bool = False,
        kept: Collection[str] = (),
    ) -> None:
        """``kept`` names source nodes whose contractions stay f32."""
        super().__init__()
        self.half, self.attention, self.kept = half, attention, kept

    def narrowed(self, m: Match, v: Value) -> Value:
        """Return an f32 value as a half; a value that was widened before is taken from there."""
        array = array_of(v)
        if array is not None:
            return emit_constant(m, array, self.half)
        if self.is_widened(v) and v.node is not None:
            return v.node.inputs[0]
        return m.emit(ops.Cast(dtype=self.half), v)

    def is_widened(self, v: Value) -> bool:
        """Whether the value is a half cast to f32."""
        if not isinstance(v.op, ops.Cast) or v.node is None or v.op.dtype is not DType.F32:
            return False
        return v.node.inputs[0].tensor.dtype is self.half

    def is_narrowing(self, m: Match) -> bool:
        """Whether the node matched is a cast to a half."""
        return m.op(self.pattern, ops.Cast).dtype is self.half


def _feeds_attention(v: Value) -> bool:
    """Whether all that reads a value, moved or not, is attention."""
    return bool(v.users) and all(
        isinstance(u.op, ops.Attention)
        or (isinstance(u.op, _MOVERS) and _feeds_attention(u.output))
        for u in v.users
    )


def _comes_from_attention(v: Value) -> bool:
    """Whether a value is a moved result of attention."""
    while isinstance(v.op, _MOVERS) and v.node is not None:
        v = v.node.inputs[0]
    return isinstance(v.op, ops.Attention)


class NarrowContraction(_HalfRewrite):
    """A contraction multiplies bf16, accumulates in f32 and gives bf16.

    Before::

        graph(%x: f32[2,8]) {
          %w = const() type=f32[8,4] seed=1
          %b = const() type=f32[4] seed=2
          %y = matmul(%x, %w, %b)
          return %y
        }

    After::

        graph(%x: f32[2,8]) {
          %a = cast(%x) dtype=bf16
          %w = const() type=bf16[8,4]
          %b = const() type=f32[4]
          %c = matmul(%a, %w, %b)
          %y = cast(%c) dtype=f32
          return %y
        }
    """

    pattern = match((*CONTRACTIONS, ops.Attention))

    def check(self, m: Match) -> bool | Reject:
        """Require an f32 contraction."""
        if m.node(self.pattern).loc.comes_from(self.kept):
            return Reject("it is to stay f32")
        if isinstance(m.node(self.pattern).op, ops.Attention) and not self.attention:
            return False
        return m[self.pattern].tensor.dtype is DType.F32

    def replace(self, m: Match) -> Value:
        """Cast everything but the bias."""
        node = m.node(self.pattern)
        bias = -1 if isinstance(node.op, ops.Attention) else 2
        operands = [
            v if i == bias or v.tensor.dtype is not DType.F32 else self.narrowed(m, v)
            for i, v in enumerate(node.inputs)
        ]
        return m.emit(ops.Cast(dtype=DType.F32), m.emit(node.op, *operands))


class SinkWidening(_HalfRewrite):
    """bf16 values are moved, and their maxima and averages taken, before they become f32.

    Before::

        graph(%x: bf16[2,4,4]) {
          %a = cast(%x) dtype=f32
          %y = transpose(%a) perm=(0,2,1)
          return %y
        }

    After::

        graph(%x: bf16[2,4,4]) {
          %a = transpose(%x) perm=(0,2,1)
          %y = cast(%a) dtype=f32
          return %y
        }
    """

    pattern = match((*_MOVERS, ops.Pool, ops.Concat))

    def check(self, m: Match) -> bool | Reject:
        """Require a widened operand (for a concatenation: all of them)."""
        node = m.node(self.pattern)
        if not self.attention and _feeds_attention(node.output):
            return Reject("attention reads f32, in whatever order it is")
        if isinstance(node.op, ops.Concat):
            return all(self.is_widened(v) for v in node.inputs)
        if isinstance(node.op, ops.Pool) and node.op.kind is PoolKind.LP:
            return False
        return self.is_widened(node.inputs[0])

    def replace(self, m: Match) -> Value:
        """Exchange the two."""
        node = m.node(self.pattern)
        moved = len(node.inputs) if isinstance(node.op, ops.Concat) else 1
        operands = [self.narrowed(m, v) if i < moved else v for i, v in enumerate(node.inputs)]
        return m.emit(ops.Cast(dtype=DType.F32), m.emit(node.op, *operands))


class HoistNarrowing(_HalfRewrite):
    """f32 values become bf16 before they are moved.

    Before::

        graph(%x: f32[2,4,4]) {
          %a = transpose(%x) perm=(0,2,1)
          %y = cast(%a) dtype=bf16
          return %y
        }

    After::

        graph(%x: f32[2,4,4]) {
          %a = cast(%x) dtype=bf16
          %y = transpose(%a) perm=(0,2,1)
          return %y
        }
    """

    pattern = match(ops.Cast)

    def check(self, m: Match) -> bool | Reject:
        """Require a moved f32 value that nothing else reads."""
        x = m.node(self.pattern).inputs[0]
        if not self.is_narrowing(m):
            return False
        if not self.attention and _comes_from_attention(x):
            return Reject("attention writes f32, in whatever order is wanted")
        movable = isinstance(x.op, ops.Reshape | ops.Transpose | ops.Slice | ops.Concat)
        return movable and x.tensor.dtype is DType.F32 and m.graph.uses(x) == 1

    def replace(self, m: Match) -> Value:
        """Exchange the two."""
        moved = m.node(self.pattern).inputs[0].node
        assert moved is not None
        return m.emit(moved.op, *(self.narrowed(m, v) for v in moved.inputs))


class CancelNarrowing(_HalfRewrite):
    """A bf16 value that was widened is itself again.

    Before::

        graph(%x: bf16[4], %y: bf16[4]) {
          %a = cast(%x) dtype=f32
          %b = cast(%a) dtype=bf16
          %c = binary(%b, %y) kind=max
          return %c
        }

    After::

        graph(%x: bf16[4], %y: bf16[4]) {
          %c = binary(%x, %y) kind=max
          return %c
        }
    """

    pattern = match(ops.Cast)

    def check(self, m: Match) -> bool:
        """Require a widened operand."""
        return self.is_narrowing(m) and self.is_widened(m.node(self.pattern).inputs[0])

    def replace(self, m: Match) -> Value:
        """Return the bf16 value."""
        return self.narrowed(m, m.node(self.pattern).inputs[0])
