"""Lets the named weights of a graph record what becomes of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from lamina.ir.graph import Graph, Node
from lamina.ir.recipe import Recording
from lamina.ir.types import DType
from lamina.ir.weight import Weight
from lamina.ops import Const

_STORED_INTEGERS = frozenset({DType.I8, DType.U8, DType.I4, DType.U4, DType.I2, DType.U2})
"""Integer types of quantized weights; other integers are sizes and indices."""


def record_weights(
    graph: Graph, *, keeps_open: bool = False
) -> tuple[Recording, dict[str, Weight]]:
    """Give named weights of a graph recipes, in place; return them by name with the recording.

    Numbers are recorded, quantized ones included.  Sizes, indices and flags are not: the shape of
    a graph follows from them.  ``keeps_open`` as in :class:`lamina.ir.recipe.Recording`.
    """
    recording = Recording(keeps_open=keeps_open)
    sources: dict[str, Weight] = {}
    for node in _constants(graph):
        assert isinstance(node.op, Const)
        weight, dtype = node.op.weight, node.op.type.dtype
        if not weight.name or not (dtype.is_float or dtype in _STORED_INTEGERS):
            continue
        known = sources.setdefault(weight.name, weight)
        if known is weight or known == weight:
            traced = Weight(weight.contents, weight.name, recording.source(weight.name))
            node.op = dataclasses.replace(node.op, weight=traced)
    return recording, sources


def _constants(graph: Graph) -> Iterator[Node]:
    for node in graph.nodes():
        if isinstance(node.op, Const):
            yield node
        for value in vars(node.op).values():
            if isinstance(value, Graph):
                yield from _constants(value)
