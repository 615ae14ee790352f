"""Evaluates shape arithmetic while a model is imported.

The elements of a value are *known* when they are numbers or expressions over the sizes of inputs.
Known values never become work at run time: the importer turns numbers into constants, and shapes
made of expressions into attributes of the operators that use them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from functools import reduce
from typing import Any

import numpy as np

from lamina import ops
from lamina.ir import dims
from lamina.ir.dims import Dim, Expr
from lamina.ir.graph import Array, Node, Op, Value
from lamina.ir.types import DType, TensorType
from lamina.ops.kinds import BinaryKind, ReduceKind, UnaryKind

FOLD_LIMIT_BYTES = 1 << 16
"""Larger results are left to the constant-folding pass."""

FORCE_LIMIT_BYTES = 1 << 30
"""A parameter that must be a number is computed up to this size."""

SYMBOLIC_LIMIT = 4096
"""Most elements of a value whose elements are expressions."""

Known = Sequence[Array | None]

_MOVES: tuple[type[Op], ...] = (
    ops.Reshape,
    ops.Transpose,
    ops.Expand,
    ops.Slice,
    ops.Concat,
    ops.Gather,
    ops.GatherElements,
    ops.GatherNd,
    ops.Tile,
    ops.ScatterElements,
    ops.ScatterNd,
)
_OPAQUE: tuple[type[Op], ...] = (ops.Random, ops.BindDims, ops.HostCall, ops.If, ops.Loop)


class _Unknown(Exception):
    """An expression has no value that a dimension can express."""


class Contents:
    """The known elements of the values of one import."""

    def __init__(self) -> None:
        self._known: dict[Value, Array] = {}
        self._forced: dict[Value, Array | None] = {}

    def set(self, v: Value, elements: Array) -> None:
        """Record the elements of ``v`` (an object array of dimensions)."""
        self._known[v] = elements

    def get(self, v: Value) -> Array | None:
        """Return the elements of ``v``: numbers, or an object array of dimensions."""
        if isinstance(v.op, ops.Const):
            return v.op.weight.array
        return self._known.get(v)

    def evaluate(self, node: Node, free: frozenset[str] = frozenset()) -> Known:
        """Return what is known about each result of ``node``.

        ``free`` are symbols for sizes that the contents of the operands decide.
        """
        unknown = [None] * len(node.outputs)
        if isinstance(node.op, (*_OPAQUE, ops.Const)):
            return unknown
        operands = [self.get(v) for v in node.inputs]
        known = [x for x in operands if x is not None]
        if len(known) < len(operands) or not _small(node, known):
            return unknown
        if any(is_symbolic(v, x) for v, x in zip(node.inputs, known, strict=True)):
            return [_evaluate_dims(node, known)]
        if node.op.symbols() - free:
            return unknown
        return _tuple(node.op.reference(*known))

    def force(self, v: Value) -> Array | None:
        """Return the elements of ``v`` when they are numbers, however large; None otherwise."""
        known = self.get(v)
        if known is not None and not is_symbolic(v, known):
            return known
        if v in self._forced or v.node is None or isinstance(v.op, _OPAQUE):
            return self._forced.get(v)
        self._forced[v] = None
        operands = [self.force(x) for x in v.node.inputs]
        fits = isinstance(v.type, TensorType) and v.type.is_static and v.node.inputs
        if fits and not v.node.op.symbols() and all(x is not None for x in operands):
            if v.type.size * v.type.dtype.itemsize <= FORCE_LIMIT_BYTES:
                self._forced[v] = _tuple(v.node.op.reference(*operands))[v.index]
        return self._forced[v]


def is_symbolic(v: Value, elements: Array) -> bool:
    """Whether the known elements of ``v`` are dimensions and not numbers (or strings)."""
    return elements.dtype == object and v.tensor.dtype is not DType.STR


def _tuple(result: Any) -> tuple[Array, ...]:
    return result if isinstance(result, tuple) else (result,)


def _small(node: Node, operands: Iterable[Array]) -> bool:
    bytes_read = sum(x.nbytes for x in operands)
    written = 0
    for v in node.outputs:
        if not isinstance(v.type, TensorType):
            return False
        size = v.type.size
        written += size * v.type.dtype.itemsize if isinstance(size, int) else 0
    return bytes_read <= FOLD_LIMIT_BYTES and written <= FOLD_LIMIT_BYTES


def _evaluate_dims(node: Node, operands: Sequence[Array]) -> Array | None:
    """Evaluate an operator on arrays of which at least one holds expressions."""
    out = node.outputs[0].type
    if len(node.outputs) != 1 or not out.is_static or out.size > SYMBOLIC_LIMIT:
        return None
    try:
        result = _apply(node, operands)
    except _Unknown:
        return None
    if result is None or any(isinstance(d, Expr) for d in result.reshape(-1)):
        return result
    return result.astype(out.dtype.numpy)


def _apply(node: Node, operands: Sequence[Array]) -> Array | None:
    op = node.op
    match op:
        case ops.Binary() if op.kind in _BINARY:
            return _elementwise(_BINARY[op.kind], *operands)
        case ops.Unary() if op.kind in _UNARY:
            return _elementwise(_UNARY[op.kind], *operands)
        case ops.Reduce() if op.kind in _REDUCE:
            return _reduce(op, operands[0])
        case ops.Select() if operands[0].dtype != object:
            return np.asarray(np.where(operands[0], *(_objects(x) for x in operands[1:])))
        case ops.Cast() if op.dtype.is_integer and node.inputs[0].tensor.dtype.is_integer:
            return operands[0]
    if not isinstance(op, _MOVES) or op.symbols():
        return None
    return _move(op, operands)


def _move(op: Op, operands: Sequence[Array]) -> Array | None:
    """Move expressions as the operator moves numbers; its indices must be numbers."""
    first = isinstance(op, ops.Concat)
    data = [i for i in range(len(operands)) if first or i in (0, 2)]
    if any(x.dtype == object for i, x in enumerate(operands) if i not in data):
        return None
    given = [_objects(x) if i in data else x for i, x in enumerate(operands)]
    return np.asarray(op.reference(*given), object)


def _objects(x: Array) -> Array:
    """Return the elements as Python integers and expressions."""
    if x.dtype == object:
        return x
    result = np.empty(x.size, object)
    result[:] = [int(v) for v in x.reshape(-1)]
    return result.reshape(x.shape)


def _elementwise(f: Callable[..., Any], *operands: Array) -> Array:
    result = np.frompyfunc(f, len(operands), 1)(*(_objects(x) for x in operands))
    return np.asarray(result, object)


def _reduce(op: ops.Reduce, x: Array) -> Array:
    for axis in sorted(op.axes, reverse=True):
        rows = np.moveaxis(_objects(x), axis, 0)
        total = reduce(lambda a, b: _elementwise(_REDUCE[op.kind], a, b), list(rows))
        x = np.expand_dims(np.asarray(total, object), axis) if op.keepdims else total
    return np.asarray(x, object)


def _number(a: Dim) -> float:
    if isinstance(a, Expr):
        raise _Unknown
    return a


def _divide(a: Dim, b: Dim) -> Dim:
    """Divide as ONNX divides integers, towards zero, where that is the floor."""
    if b == 0 or dims.bounds(b, {})[0] < 0:
        raise _Unknown
    if dims.bounds(a, {})[0] < 0:
        exact = dims.floordiv(a, b)
        if exact * b != a:
            raise _Unknown
        return exact
    return dims.floordiv(a, b)


def _mod(a: Dim, b: Dim) -> Dim:
    if isinstance(b, Expr) or b <= 0:
        raise _Unknown
    return a - dims.floordiv(a, b) * b


def _equal(a: Dim, b: Dim) -> bool:
    if dims.always_equal(a, b):
        return True
    if dims.never_equal(a, b):
        return False
    raise _Unknown


def _less(a: Dim, b: Dim) -> bool:
    low, high = dims.bounds(b - a, {})
    if low > 0:
        return True
    if high <= 0:
        return False
    raise _Unknown


def _power(a: Dim, b: Dim) -> Dim:
    exponent = _number(b)
    if not 0 <= exponent <= 8:
        raise _Unknown
    return dims.product([a] * int(exponent))


def _abs(a: Dim) -> Dim:
    return a if not _less(a, 0) else -1 * a


def _sign(a: Dim) -> int:
    return int(_less(0, a)) - int(_less(a, 0))


_BINARY: dict[BinaryKind, Callable[[Any, Any], Any]] = {
    BinaryKind.ADD: lambda a, b: a + b,
    BinaryKind.SUB: lambda a, b: a - b,
    BinaryKind.MUL: lambda a, b: a * b,
    BinaryKind.DIV: _divide,
    BinaryKind.MIN: dims.dim_min,
    BinaryKind.MAX: dims.dim_max,
    BinaryKind.MOD: _mod,
    BinaryKind.POW: _power,
    BinaryKind.EQUAL: _equal,
    BinaryKind.LESS: _less,
    BinaryKind.LESS_EQUAL: lambda a, b: not _less(b, a),
    BinaryKind.GREATER: lambda a, b: _less(b, a),
    BinaryKind.GREATER_EQUAL: lambda a, b: not _less(a, b),
}
_UNARY: dict[UnaryKind, Callable[[Any], Any]] = {
    UnaryKind.NEG: lambda a: -1 * a,
    UnaryKind.ABS: _abs,
    UnaryKind.SIGN: _sign,
}
_REDUCE: dict[ReduceKind, Callable[[Any, Any], Any]] = {
    ReduceKind.SUM: lambda a, b: a + b,
    ReduceKind.PROD: lambda a, b: a * b,
    ReduceKind.MAX: dims.dim_max,
    ReduceKind.MIN: dims.dim_min,
}


def symbolic(elements: Iterable[Dim], shape: tuple[int, ...] | None = None) -> Array:
    """Return dimensions as an object array, one-dimensional unless ``shape`` says otherwise."""
    listed = list(elements)
    result = np.empty(len(listed), object)
    result[:] = listed
    assert shape is None or math.prod(shape) == len(listed)
    return result if shape is None else result.reshape(shape)
