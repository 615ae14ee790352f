"""Runs operators on constants."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Final

from lamina import ops
from lamina.ir.blocks import blocked
from lamina.ir.graph import Array, Graph, Op, emit_node
from lamina.ir.loc import Loc
from lamina.ir.recipe import recipe_function
from lamina.ir.text import parse_graph, print_graph
from lamina.ir.traced import Traced, plain, record
from lamina.ir.types import DType, TensorType
from lamina.ops import Cast, Transpose

_LARGE_BYTES: Final = 1 << 20


def fold(op: Op, *operands: Array) -> tuple[Array, ...]:
    """Return the results of an operator; they record how they came about if operands do."""
    if isinstance(op, Transpose) and _is_large_matrix(operands[0]):
        return (blocked(operands[0], ((), ()), op.perm),)
    results = _tuple(op.reference(*(plain(a) for a in operands)))
    if not any(isinstance(a, Traced) for a in operands):
        return results
    if isinstance(op, Cast) and _is_plain(op.dtype, DType.of(operands[0].dtype)):
        return (record("astype", lambda *_: results[0], operands[0], op.dtype.numpy),)
    text = _text(op, operands)

    def result(number: int) -> Any:
        return record("operator", lambda *_: results[number], text, number, *operands)

    return tuple(result(number) for number in range(len(results)))


def _is_large_matrix(a: Array) -> bool:
    """Whether exchanging the axes takes long enough for several threads."""
    return a.ndim == 2 and a.nbytes >= _LARGE_BYTES


def _is_plain(to: DType, source: DType) -> bool:
    """Whether a cast is NumPy's ``astype``."""
    return DType.F32 in (to, source) and {to, source} <= {DType.F16, DType.BF16, DType.F32}


def _text(op: Op, operands: tuple[Array, ...]) -> str:
    """Return the text of a graph with the operator alone."""
    graph = Graph()
    types = [TensorType(DType.of(a.dtype), a.shape) for a in operands]
    inputs = [graph.input(f"i{k}", t) for k, t in enumerate(types)]
    for k, v in enumerate(emit_node(op, inputs, loc=Loc("")).outputs):
        graph.output(v, f"o{k}")
    return print_graph(graph)


@recipe_function("operator")
def _run(text: str, number: int, *operands: Array) -> Array:
    return _tuple(_operator(text).reference(*operands))[number]


@lru_cache(maxsize=64)
def _operator(text: str) -> Op:
    (node,) = parse_graph(text, ops.BY_NAME).nodes()
    return node.op


def _tuple(result: Any) -> tuple[Array, ...]:
    return result if isinstance(result, tuple) else (result,)
