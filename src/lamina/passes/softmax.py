"""Softmax found in its decomposed forms."""

from __future__ import annotations

from lamina import ops
from lamina.ir.graph import Value
from lamina.ir.rewrite import Match, Pat, Reject, Rewrite, anything, either, match
from lamina.ops.kinds import BinaryKind, ReduceKind, UnaryKind
from lamina.passes.activations import times, unary
from lamina.passes.constants import is_float


def reduced(kind: ReduceKind, x: Pat) -> Pat:
    """Match a reduction that keeps its axes."""
    return match(ops.Reduce, x, kind=kind, keepdims=True)


class RecognizeSoftmax(Rewrite):
    """Exponentials divided by their sum are a softmax, with or without the maximum subtracted.

    Before::

        graph(%x: f32[2,5]) {
          %m = reduce(%x) kind=max axes=(1,)
          %s = binary(%x, %m) kind=sub
          %e = unary(%s) kind=exp
          %t = reduce(%e) kind=sum axes=(1,)
          %y = binary(%e, %t) kind=div
          return %y
        }

    After::

        graph(%x: f32[2,5]) {
          %y = softmax(%x) axis=1
          return %y
        }
    """

    x = anything(is_float)
    top = reduced(ReduceKind.MAX, x)
    shifted = match(ops.Binary, x, top, kind=BinaryKind.SUB)
    power = either(unary(UnaryKind.EXP, shifted), unary(UnaryKind.EXP, x))
    total = reduced(ReduceKind.SUM, power)
    pattern = either(
        match(ops.Binary, power, total, kind=BinaryKind.DIV),
        times(power, unary(UnaryKind.RECIPROCAL, total)),
    )

    def check(self, m: Match) -> bool | Reject:
        """Require one axis, along which the subtracted maximum does not vary."""
        axes = m.op(self.total, ops.Reduce).axes
        if len(axes) != 1:
            return Reject("the sum is over several axes")
        return self.top not in m or axes[0] in m.op(self.top, ops.Reduce).axes

    def replace(self, m: Match) -> Value:
        """Emit the softmax along the axis of the sum."""
        return m.emit(ops.Softmax(axis=m.op(self.total, ops.Reduce).axes[0]), m[self.x])


class RecognizeLogSoftmax(Rewrite):
    """The logarithm of a softmax has an operator of its own, which does not underflow.

    Before::

        graph(%x: f32[2,5]) {
          %s = softmax(%x) axis=1
          %y = unary(%s) kind=log
          return %y
        }

    After::

        graph(%x: f32[2,5]) {
          %y = softmax(%x) axis=1 log=true
          return %y
        }
    """

    x = anything()
    inner = match(ops.Softmax, x, log=False)
    pattern = unary(UnaryKind.LOG, inner)

    def replace(self, m: Match) -> Value:
        """Emit the logarithmic softmax."""
        return m.emit(ops.Softmax(axis=m.op(self.inner, ops.Softmax).axis, log=True), m[self.x])


class RecognizeLogSumExp(Rewrite):
    """Subtracting the logarithm of the sum of exponentials is a logarithmic softmax.

    Before::

        graph(%x: f32[2,5]) {
          %m = reduce(%x) kind=max axes=(1,)
          %s = binary(%x, %m) kind=sub
          %e = unary(%s) kind=exp
          %t = reduce(%e) kind=sum axes=(1,)
          %l = unary(%t) kind=log
          %y = binary(%s, %l) kind=sub
          return %y
        }

    After::

        graph(%x: f32[2,5]) {
          %y = softmax(%x) axis=1 log=true
          return %y
        }
    """

    x = anything(is_float)
    top = reduced(ReduceKind.MAX, x)
    shifted = either(match(ops.Binary, x, top, kind=BinaryKind.SUB), x)
    power = unary(UnaryKind.EXP, shifted)
    logarithm = either(
        unary(UnaryKind.LOG, reduced(ReduceKind.SUM, power)),
        reduced(ReduceKind.LOG_SUM, power),
        reduced(ReduceKind.LOG_SUM_EXP, shifted),
    )
    pattern = match(ops.Binary, shifted, logarithm, kind=BinaryKind.SUB)

    def check(self, m: Match) -> bool | Reject:
        """Require one axis, along which the subtracted maximum does not vary."""
        axes = self._axes(m)
        if len(axes) != 1:
            return Reject("the sum is over several axes")
        return self.top not in m or axes[0] in m.op(self.top, ops.Reduce).axes

    def replace(self, m: Match) -> Value:
        """Emit the logarithmic softmax."""
        return m.emit(ops.Softmax(axis=self._axes(m)[0], log=True), m[self.x])

    def _axes(self, m: Match) -> tuple[int, ...]:
        v = m[self.logarithm]
        while not isinstance(v.op, ops.Reduce):
            assert v.node is not None
            v = v.node.inputs[0]
        return v.op.axes
