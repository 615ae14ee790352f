"""Gradient: reverse-mode differentiation of the graph imported so far."""

from __future__ import annotations

from collections.abc import Callable

from lamina import ops
from lamina.errors import ImportFailed
from lamina.importers.onnx.node import OnnxNode
from lamina.importers.onnx.table import Table
from lamina.ir.graph import Node, Value
from lamina.ops.kinds import ActivationKind, BinaryKind, ReduceKind, UnaryKind

table = Table()

Rule = Callable[[OnnxNode, Node, Value], tuple[Value | None, ...]]
"""Returns the gradient of each operand from that of the result (before broadcasting is undone)."""


@table.op("ai.onnx.preview.training::Gradient")
def gradient(n: OnnxNode, *inputs: Value) -> tuple[Value, ...]:
    """Import Gradient: the derivatives of the sum of ``y`` with respect to each of ``xs``."""
    names = (*n.texts("xs"), *n.texts("zs", ()))
    if len(names) != len(inputs):
        raise ImportFailed(f"{len(names)} tensors are named, {len(inputs)} are given")
    for name, given in zip(names, inputs, strict=True):
        if n.scope.lookup(name) is not given:
            raise n.unsupported(f"the gradient at another value of {name!r}")
    y = n.scope.lookup(n.text("y"))
    wanted = inputs[: len(n.texts("xs"))]
    totals = {y: n.fill(1, y.tensor.dtype, y.tensor.shape)}
    for node in reversed(_path(y, set(wanted))):
        if node.output in totals:
            _spread(n, node, totals)
    return tuple(
        totals[x] if x in totals else n.fill(0, x.tensor.dtype, x.tensor.shape) for x in wanted
    )


def _path(y: Value, stops: set[Value]) -> list[Node]:
    """Return the nodes that compute ``y`` from ``stops``, operands first."""
    order: list[Node] = []
    seen: set[Node] = set()
    stack = [(y, False)]
    while stack:
        v, done = stack.pop()
        if v.node is None or v in stops:
            continue
        if done:
            order.append(v.node)
        elif v.node not in seen:
            seen.add(v.node)
            stack.append((v, True))
            stack.extend((operand, False) for operand in v.node.inputs)
    return order


def _spread(n: OnnxNode, node: Node, totals: dict[Value, Value]) -> None:
    """Add the gradient of a node's result to those of its operands."""
    if isinstance(node.op, ops.Const):
        return
    kind = getattr(node.op, "kind", None)
    rule = _RULES.get((type(node.op), kind))
    if rule is None:
        raise n.unsupported(f"the derivative of {node.op.name} {kind or ''}".rstrip())
    for operand, part in zip(node.inputs, rule(n, node, totals[node.output]), strict=True):
        if part is not None:
            part = _summed(n, part, operand)
            before = totals.get(operand)
            totals[operand] = part if before is None else n.binary(BinaryKind.ADD, before, part)


def _summed(n: OnnxNode, part: Value, operand: Value) -> Value:
    """Undo broadcasting: sum over the axes along which the operand was repeated."""
    shape, wanted = part.tensor.shape, operand.tensor.shape
    offset = len(shape) - len(wanted)
    axes = tuple(
        a for a in range(len(shape)) if a < offset or (wanted[a - offset] == 1 and shape[a] != 1)
    )
    if axes:
        part = n.reduce(ReduceKind.SUM, part, axes, keepdims=True)
    return n.reshape(part, wanted)


def _add(n: OnnxNode, node: Node, g: Value) -> tuple[Value | None, ...]:
    return g, g


def _sub(n: OnnxNode, node: Node, g: Value) -> tuple[Value | None, ...]:
    return g, n.emit(ops.Unary(kind=UnaryKind.NEG), g)


def _mul(n: OnnxNode, node: Node, g: Value) -> tuple[Value | None, ...]:
    a, b = node.inputs
    return n.multiply(g, b), n.multiply(g, a)


def _div(n: OnnxNode, node: Node, g: Value) -> tuple[Value | None, ...]:
    _, b = node.inputs
    left = n.binary(BinaryKind.DIV, g, b)
    return left, n.emit(ops.Unary(kind=UnaryKind.NEG), n.multiply(left, node.output))


def _neg(n: OnnxNode, node: Node, g: Value) -> tuple[Value | None, ...]:
    return (n.emit(ops.Unary(kind=UnaryKind.NEG), g),)


def _exp(n: OnnxNode, node: Node, g: Value) -> tuple[Value | None, ...]:
    return (n.multiply(g, node.output),)


def _log(n: OnnxNode, node: Node, g: Value) -> tuple[Value | None, ...]:
    return (n.binary(BinaryKind.DIV, g, node.inputs[0]),)


def _tanh(n: OnnxNode, node: Node, g: Value) -> tuple[Value | None, ...]:
    square = n.multiply(node.output, node.output)
    return (n.multiply(g, n.binary(BinaryKind.SUB, n.like(1, square), square)),)


def _relu(n: OnnxNode, node: Node, g: Value) -> tuple[Value | None, ...]:
    (x,) = node.inputs
    positive = n.binary(BinaryKind.GREATER, x, n.like(0, x))
    return (n.emit(ops.Select(), positive, g, n.like(0, g)),)


def _matmul(n: OnnxNode, node: Node, g: Value) -> tuple[Value | None, ...]:
    if len(node.inputs) != 2 or node.op != ops.Matmul():
        raise n.unsupported("the derivative of a product with a bias or transposed operands")
    a, b = node.inputs
    return (
        n.emit(ops.Matmul(transpose_b=True), g, b),
        n.emit(ops.Matmul(transpose_a=True), a, g),
    )


_RULES: dict[tuple[type, object], Rule] = {
    (ops.Binary, BinaryKind.ADD): _add,
    (ops.Binary, BinaryKind.SUB): _sub,
    (ops.Binary, BinaryKind.MUL): _mul,
    (ops.Binary, BinaryKind.DIV): _div,
    (ops.Unary, UnaryKind.NEG): _neg,
    (ops.Unary, UnaryKind.EXP): _exp,
    (ops.Unary, UnaryKind.LOG): _log,
    (ops.Activation, ActivationKind.TANH): _tanh,
    (ops.Activation, ActivationKind.RELU): _relu,
    (ops.Matmul, None): _matmul,
}
