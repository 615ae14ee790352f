"""Reshapes moved towards the outputs, so that what they separate comes together.

Exporters flatten the leading axes around a matrix product and restore them afterwards; once the
first reshape has moved below the product the two cancel.
"""

from __future__ import annotations

from lamina import ops
from lamina.ir.dims import Dim, product
from lamina.ir.graph import Value
from lamina.ir.rewrite import Match, Reject, Rewrite, anything, match
from lamina.passes.constants import array_of, is_constant


class SinkReshapeThroughPointwise(Rewrite):
    """A function of reshaped elements is the reshaped function of the elements.

    Before::

        graph(%x: f32[2,3,4]) {
          %a = reshape(%x) shape=(6,4)
          %y = activation(%a) kind=relu
          return %y
        }

    After::

        graph(%x: f32[2,3,4]) {
          %a = activation(%x) kind=relu
          %y = reshape(%a) shape=(6,4)
          return %y
        }
    """

    x = anything()
    shaped = match(ops.Reshape, x, one_use=True)
    pattern = match((ops.Unary, ops.Activation, ops.Cast), shaped)

    def replace(self, m: Match) -> Value:
        """Exchange the two."""
        y = m.emit(m.node(self.pattern).op, m[self.x])
        return m.emit(m.op(self.shaped, ops.Reshape), y)


class SinkReshapeThroughBinary(Rewrite):
    """Operands reshaped alike, or constant rows and numbers, are combined before the reshape.

    Before::

        graph(%x: f32[2,3,4], %y: f32[2,3,4]) {
          %c = const() type=f32[4] seed=1
          %a = reshape(%x) shape=(6,4)
          %b = reshape(%y) shape=(6,4)
          %d = binary(%a, %c) kind=add
          %z = binary(%d, %b) kind=mul
          return %z
        }

    After::

        graph(%x: f32[2,3,4], %y: f32[2,3,4]) {
          %c = const() type=f32[4]
          %d = binary(%x, %c) kind=add
          %e = binary(%d, %y) kind=mul
          %z = reshape(%e) shape=(6,4)
          return %z
        }
    """

    a, b = anything(), anything()
    pattern = match(ops.Binary, a, b)

    def check(self, m: Match) -> bool | Reject:
        """Require operands that mean the same in the shape before the reshape."""
        node = m.node(self.pattern)
        shaped = [v for v in node.inputs if isinstance(v.op, ops.Reshape)]
        if not shaped or any(
            v.type != node.output.tensor.with_dtype(v.tensor.dtype) for v in shaped
        ):
            return False
        sources = {_source(v).tensor.shape for v in shaped}
        if len(sources) != 1:
            return False
        if len(shaped) == 2:
            return True
        (rest,) = (v for v in node.inputs if v is not shaped[0])
        if m.graph.uses(shaped[0]) > 1:
            return Reject("something else reads the reshaped operand")
        return _same_in_rows(rest, _source(shaped[0]), node.output)

    def replace(self, m: Match) -> Value:
        """Combine the sources and reshape the result."""
        node = m.node(self.pattern)
        shape = node.output.tensor.shape
        operands = [_source(v) if isinstance(v.op, ops.Reshape) else v for v in node.inputs]
        return m.emit(ops.Reshape(shape=shape), m.emit(node.op, *operands))


def _source(v: Value) -> Value:
    assert v.node is not None
    return v.node.inputs[0]


def _same_in_rows(c: Value, source: Value, result: Value) -> bool:
    """Whether a constant broadcasts alike in both shapes: a number, or a row of the last axis."""
    if not is_constant(c) or c.tensor.rank > min(1, source.tensor.rank):
        return False
    if c.tensor.size == 1:
        return True
    before, after = source.tensor.shape, result.tensor.shape
    return bool(before and after) and before[-1] == after[-1] == c.tensor.shape[0]


class SinkReshapeThroughMatmul(Rewrite):
    """A matmul with one weight matrix takes its rows from any number of leading axes.

    Before::

        graph(%x: f32[2,3,4]) {
          %w = const() type=f32[4,5] seed=1
          %a = reshape(%x) shape=(6,4)
          %y = matmul(%a, %w)
          return %y
        }

    After::

        graph(%x: f32[2,3,4]) {
          %w = const() type=f32[4,5]
          %a = matmul(%x, %w)
          %y = reshape(%a) shape=(6,5)
          return %y
        }
    """

    pattern = match(ops.Matmul)

    def check(self, m: Match) -> bool | Reject:
        """Require that the reshape keeps the last axis and only rows are regrouped."""
        node, op = m.node(self.pattern), m.op(self.pattern, ops.Matmul)
        shaped, w, *bias = node.inputs
        if not isinstance(shaped.op, ops.Reshape) or not is_constant(w) or w.tensor.rank != 2:
            return False
        rows = _rows(_source(shaped).tensor.shape, shaped.tensor.shape[-1])
        if op.transpose_a or rows is None or rows == shaped.tensor.shape:
            return Reject("the reshape only changes the last axis")
        return len(bias) < 2 and all(b.tensor.rank <= 1 for b in bias)

    def replace(self, m: Match) -> Value:
        """Multiply first; axes that make up a row are merged before."""
        node = m.node(self.pattern)
        shaped, *rest = node.inputs
        x = _source(shaped)
        rows = _rows(x.tensor.shape, shaped.tensor.shape[-1])
        assert rows is not None
        if rows != x.tensor.shape:
            x = m.emit(ops.Reshape(shape=rows), x)
        y = m.emit(node.op, x, *rest)
        return m.emit(ops.Reshape(shape=node.output.tensor.shape), y)


def _rows(shape: tuple[Dim, ...], size: Dim) -> tuple[Dim, ...] | None:
    """Return a shape with its last axes merged to rows of a size, None where they do not."""
    for axis in range(len(shape) - 1, 0, -1):
        if product(shape[axis:]) == size:
            return (*shape[:axis], size)
    return None


class SinkReshapeThroughRows(Rewrite):
    """Normalizing rows does not depend on how the leading axes are grouped.

    Before::

        graph(%x: f32[2,3,4]) {
          %a = reshape(%x) shape=(6,4)
          %y = softmax(%a) axis=1
          return %y
        }

    After::

        graph(%x: f32[2,3,4]) {
          %a = softmax(%x) axis=2
          %y = reshape(%a) shape=(6,4)
          return %y
        }
    """

    pattern = match((ops.Softmax, ops.LayerNorm, ops.RmsNorm))

    def check(self, m: Match) -> bool | Reject:
        """Require the last axis alone, unchanged, and rows of scales at most."""
        node = m.node(self.pattern)
        shaped, *affine = node.inputs
        if not isinstance(shaped.op, ops.Reshape) or m.graph.uses(shaped) > 1:
            return False
        before: tuple[Dim, ...] = _source(shaped).tensor.shape
        after = shaped.tensor.shape
        axis = node.op.axis  # type: ignore[attr-defined]
        if axis != len(after) - 1 or not before or before[-1] != after[-1]:
            return False
        return all(v.tensor.rank <= 1 for v in affine)

    def replace(self, m: Match) -> Value:
        """Normalize the source along its last axis."""
        node = m.node(self.pattern)
        shaped, *affine = node.inputs
        x, op = _source(shaped), node.op
        axis = x.tensor.rank - 1
        if isinstance(op, ops.Softmax):
            y = m.emit(ops.Softmax(axis=axis, log=op.log), x)
        elif isinstance(op, ops.LayerNorm):
            y = m.emit(ops.LayerNorm(axis=axis, epsilon=op.epsilon), x, *affine)
        else:
            assert isinstance(op, ops.RmsNorm)
            y = m.emit(ops.RmsNorm(axis=axis, epsilon=op.epsilon), x, *affine)
        return m.emit(ops.Reshape(shape=node.output.tensor.shape), y)


class NarrowConstantOperand(Rewrite):
    """Leading axes of size one of a constant operand say nothing and are dropped.

    Before::

        graph(%x: f32[2,3,4]) {
          %c = const() type=f32[1,1,4] seed=1
          %y = binary(%x, %c) kind=add
          return %y
        }

    After::

        graph(%x: f32[2,3,4]) {
          %c = const() type=f32[4]
          %y = binary(%x, %c) kind=add
          return %y
        }
    """

    pattern = match((ops.Binary, ops.Matmul))

    def check(self, m: Match) -> bool | Reject:
        """Look for a constant with leading ones next to an operand of the full rank."""
        node = m.node(self.pattern)
        rank = node.output.tensor.rank
        if isinstance(node.op, ops.Matmul):
            return any(self._leading(v) for v in node.inputs[2:3])
        if not any(v.tensor.rank == rank and not is_constant(v) for v in node.inputs):
            return False
        return any(self._leading(v) for v in node.inputs)

    def replace(self, m: Match) -> Value:
        """Reshape the constants."""
        node = m.node(self.pattern)
        operands = []
        for i, v in enumerate(node.inputs):
            if (n := self._leading(v)) and not (isinstance(node.op, ops.Matmul) and i != 2):
                a = array_of(v)
                assert a is not None
                v = m.emit(ops.Const.of(a.reshape(a.shape[n:])))
            operands.append(v)
        return m.emit(node.op, *operands)

    def _leading(self, v: Value) -> int:
        a = array_of(v)
        if a is None:
            return 0
        return next((i for i, n in enumerate(a.shape) if n != 1), a.ndim)
