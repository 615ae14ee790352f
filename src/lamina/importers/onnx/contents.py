"""Evaluates shape arithmetic while a model is imported.

The elements of a value are *known* when they are numbers or expressions over the sizes of inputs.
Known values never become work at run time: the importer turns numbers into constants, and shapes
made of expressions into attributes of the operators that use them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from lamina import ops
from lamina.errors import GraphError
from lamina.ir.dims import Dim
from lamina.ir.graph import Array, Node, Op, Value
from lamina.ir.types import DType, TensorType
from lamina.ops.symbolic import has_symbols

FOLD_LIMIT_BYTES = 1 << 16
"""Larger results are left to the constant-folding pass."""

FORCE_LIMIT_BYTES = 1 << 30
"""A parameter that must be a number is computed up to this size."""

SYMBOLIC_LIMIT = 4096
"""Most elements of a value whose elements are expressions."""

Known = Sequence[Array | None]

_OPAQUE: tuple[type[Op], ...] = (
    ops.Random,
    ops.RandomKey,
    ops.BindDims,
    ops.HostCall,
    ops.PluginCall,
    ops.If,
    ops.Loop,
)
_SYMBOLIC: tuple[type[Op], ...] = (
    ops.Activation,
    ops.Binary,
    ops.Cast,
    ops.Concat,
    ops.Expand,
    ops.Gather,
    ops.GatherElements,
    ops.GatherNd,
    ops.Reduce,
    ops.Reshape,
    ops.ScatterElements,
    ops.ScatterNd,
    ops.Select,
    ops.Slice,
    ops.Tile,
    ops.Transpose,
    ops.Unary,
)
"""Operators whose reference also works on expressions."""


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
        if isinstance(node.op, (*_OPAQUE, ops.Const, ops.Dequantize)):
            return unknown  # dequantized weights are for the precision stage
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
    if not isinstance(node.op, _SYMBOLIC) or node.op.symbols():
        return None
    if not out.is_static or out.size > SYMBOLIC_LIMIT:
        return None
    try:
        result = np.asarray(node.op.reference(*operands))
    except (GraphError, TypeError, ValueError):
        return None  # the result is not an expression; it is computed at run time
    if result.dtype != object or has_symbols(result):
        return result
    return result.astype(out.dtype.numpy)


def symbolic(elements: Iterable[Dim], shape: tuple[int, ...] | None = None) -> Array:
    """Return dimensions as an object array, one-dimensional unless ``shape`` says otherwise."""
    listed = list(elements)
    result = np.empty(len(listed), object)
    result[:] = listed
    assert shape is None or math.prod(shape) == len(listed)
    return result if shape is None else result.reshape(shape)
