"""How many operations a node asks for, whichever kernel runs it."""

from __future__ import annotations

from lamina.ir.dims import Dim, product
from lamina.ir.graph import Graph, Node
from lamina.ir.types import TensorType
from lamina.ops import (
    Attention,
    Convolution,
    Deconvolution,
    Matmul,
    QuantizedConvolution,
    QuantizedMatmul,
    Recurrent,
)


def operations(node: Node) -> Dim:
    """Return additions and multiplications of a node; others count one for each result.

    A causal attention counts the pairs that it looks at.  What data decides, such as the trips of
    a loop, is not counted: 0.
    """
    if not all(isinstance(v.type, TensorType) for v in (*node.inputs, *node.outputs)):
        return 0
    bodies = [v for v in vars(node.op).values() if isinstance(v, Graph)]
    if bodies:
        known = len(bodies) == 1 and node.op.name == "region"
        return _sum(operations(n) for n in bodies[0].nodes()) if known else 0
    return _of_operator(node)


def _of_operator(node: Node) -> Dim:
    op, shapes = node.op, [v.tensor.shape for v in node.inputs]
    results = node.outputs[0].tensor.size
    match op:
        case Convolution() | QuantizedConvolution():
            return 2 * results * product(shapes[1][1:])
        case Deconvolution():
            return 2 * product(shapes[0]) * product(shapes[1][1:])
        case Matmul():
            a = shapes[0]
            return 2 * results * (a[-2] if op.transpose_a and len(a) > 1 else a[-1])
        case QuantizedMatmul():
            return 2 * results * shapes[0][-1]
        case Attention():
            (batch, heads, rows, width), keys, values = shapes[0], shapes[1][2], shapes[2][3]
            pairs = batch * heads * rows * keys
            return (pairs if op.causal else 2 * pairs) * (width + values)
        case Recurrent():
            time, batch, _ = shapes[0]
            return 2 * time * batch * (product(shapes[1]) + product(shapes[2]))
    return _sum(v.tensor.size for v in node.outputs) if node.inputs else 0


def _sum(numbers: object) -> Dim:
    total: Dim = 0
    for n in numbers:  # type: ignore[attr-defined]
        total = total + n
    return total
