"""Nests that prepare a scatter: which slice each update goes to, and numbers to start from."""

from __future__ import annotations

from lamina.codegen.indexing import AxisIndex
from lamina.codegen.layout import Layout
from lamina.codegen.lowering import Lowering
from lamina.codegen.nest import Access, Constant, LoopDim, LoopNest, Refusal, Store
from lamina.codegen.placement import RawStore
from lamina.codegen.rules import RULES
from lamina.codegen.rules_gather import size_of, wrapped
from lamina.ir.dims import Dim
from lamina.ir.graph import Graph
from lamina.ir.types import DType, TensorType
from lamina.ops.kinds import BinaryKind


def place_nest(
    x: TensorType, indices: TensorType, axis: int | None, operand: int, target: int
) -> LoopNest:
    """Return the nest that writes the number of each update's slice, i32.

    Along ``axis`` a slice is one element; without an axis it is what one entry of ``indices``
    addresses.  ``operand`` and ``target`` are the numbers of the indices and of the result.
    """
    value = Graph().input("indices", indices)
    low = Lowering(RULES, {value: (operand, Layout.dense(indices.shape))})
    strides = Layout.dense(x.shape).strides
    if axis is not None:
        position = low.output_loops(indices.shape, frozenset())
        rest = AxisIndex()
        for a, index in enumerate(position):
            rest = rest + (index * strides[a] if a != axis else AxisIndex())
        places = [(low.evaluate(value, position), x.shape[axis], strides[axis])]
    else:
        position, rest = low.output_loops(indices.shape[:-1], frozenset()), AxisIndex()
        depth = indices.shape[-1]
        if not isinstance(depth, int):
            raise Refusal("the depth of the indices is symbolic")
        steps = Layout.dense(x.shape[:depth]).strides
        places = [
            (low.evaluate(value, (*position, AxisIndex(j))), x.shape[j], steps[j])
            for j in range(depth)
        ]
    total = low.index(rest)
    for number, size, step in places:
        ((inside, _),) = wrapped(low, number, size).dynamic
        factor = size_of(low, step, DType.I32)
        part = low.binary(BinaryKind.MUL, low.cast(inside, DType.I32), factor)
        total = low.binary(BinaryKind.ADD, total, part)
    shape = indices.shape if axis is not None else indices.shape[:-1]
    store = RawStore(target, DType.I32, Layout.dense(shape), position, total)
    return low.finish([store])


def fill_nest(count: Dim, start: Dim, number: int, target: int) -> LoopNest:
    """Return the nest that writes ``number`` (i32) ``count`` times from element ``start`` on."""
    access = Access(target, DType.I32, (1,), start)
    return LoopNest((LoopDim(count),), (Constant(DType.I32, number),), (Store(access, 0),))
