"""Attention as products and a softmax, for backends without a kernel for it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from lamina import ops
from lamina.ir.dims import floordiv
from lamina.ir.graph import Graph, Node, Op, Value, emit, emit_node
from lamina.ir.loc import Loc
from lamina.ir.rewrite import GraphPass
from lamina.ir.types import DType, TensorType
from lamina.ir.weight import Weight
from lamina.ops.kinds import ActivationKind, BinaryKind, UnaryKind


class DecomposeAttention(GraphPass):
    """Attention becomes two matrix products with a softmax between them.

    ``wanted`` chooses the nodes; by default all of them.

    Before::

        graph(%q: f32[2,4,3,8], %k: f32[2,4,5,8], %v: f32[2,4,5,8]) {
          %y = attention(%q, %k, %v) scale=0.25
          return %y
        }

    After::

        graph(%q: f32[2,4,3,8], %k: f32[2,4,5,8], %v: f32[2,4,5,8]) {
          %s = matmul(%q, %k) transpose_b=true
          %c = const() type=f32[]
          %t = binary(%s, %c) kind=mul
          %p = softmax(%t) axis=3
          %y = matmul(%p, %v)
          return %y
        }
    """

    def __init__(self, wanted: Callable[[Node], bool] = lambda node: True) -> None:
        super().__init__()
        self.wanted = wanted

    def run(self, graph: Graph) -> int:
        """Replace each wanted attention."""
        count = 0
        for node in list(graph.nodes()):
            if isinstance(node.op, ops.Attention) and self.wanted(node):
                result = _Steps(node, self.name).result()
                result.name = node.output.name
                graph.replace(node.output, result)
                count += 1
        return count


class _Steps:
    """Emits the operators that one attention stands for."""

    def __init__(self, node: Node, rule: str) -> None:
        assert isinstance(node.op, ops.Attention)
        self.node, self.op = node, node.op
        self.loc = Loc.fused(rule, node.loc)

    def emit(self, op: Op, *operands: Value) -> Value:
        return emit(op, operands, loc=self.loc)

    def number(self, x: float, dtype: DType) -> Value:
        array = np.asarray(x, dtype.numpy)
        op = ops.Const(type=TensorType(dtype, ()), weight=Weight(array))
        return emit_node(op, (), loc=self.loc).output

    def multiplied(self, x: Value, by: float) -> Value:
        return self.emit(ops.Binary(kind=BinaryKind.MUL), x, self.number(by, x.tensor.dtype))

    def result(self) -> Value:
        """Return the attention's value; heads that share keys are an axis of their own."""
        q, k, v = self.node.inputs[:3]
        b, h, s, d = q.tensor.shape
        shared = k.tensor.shape[1]
        grouped = h != shared
        if grouped:
            each = (b, shared, floordiv(h, shared), s, d)
            q = self.emit(ops.Reshape(shape=each), q)
            k, v = (
                self.emit(ops.Reshape(shape=(*x.tensor.shape[:2], 1, *x.tensor.shape[2:])), x)
                for x in (k, v)
            )
        scores = self.emit(ops.Matmul(transpose_b=True), q, k)
        whole = (b, h, s, self.node.inputs[1].tensor.shape[2])
        if grouped:
            scores = self.emit(ops.Reshape(shape=whole), scores)
        weights = self._softmax(self._masked(self._capped(scores)))
        if grouped:
            split = (b, shared, floordiv(h, shared), *whole[2:])
            weights = self.emit(ops.Reshape(shape=split), weights)
        y = self.emit(ops.Matmul(), weights, v)
        shape = self.node.output.tensor.shape
        return self.emit(ops.Reshape(shape=shape), y) if grouped else y

    def _capped(self, scores: Value) -> Value:
        cap = self.op.softcap
        if cap <= 0:
            return self.multiplied(scores, self.op.scale)
        inner = self.multiplied(scores, self.op.scale / cap)
        return self.multiplied(self.emit(ops.Activation(kind=ActivationKind.TANH), inner), cap)

    def _masked(self, scores: Value) -> Value:
        hidden = self.number(-np.inf, scores.tensor.dtype)
        if len(self.node.inputs) > 3:
            mask = self.node.inputs[3]
            if mask.tensor.dtype is DType.BOOL:
                scores = self.emit(ops.Select(), mask, scores, hidden)
            else:
                scores = self.emit(ops.Binary(kind=BinaryKind.ADD), scores, mask)
        if self.op.causal:
            scores = self.emit(ops.Select(), self._triangle(scores), scores, hidden)
        return scores

    def _triangle(self, scores: Value) -> Value:
        """Return the mask [S, T] of the keys that each query sees."""
        s, t = scores.tensor.shape[2:]
        zero, one = self.number(0, DType.I64), self.number(1, DType.I64)
        first = zero
        offset = self.op.causal_offset
        if offset != 0:
            # A range that ends at the offset tells it at run time.
            ends = self.emit(ops.Range(length=offset + s), zero, one)
            rows = self.emit(ops.Slice(starts=(offset,), sizes=(s,), steps=(1,)), ends)
        else:
            rows = self.emit(ops.Range(length=s), first, one)
        column = self.emit(ops.Reshape(shape=(s, 1)), rows)
        keys = self.emit(ops.Range(length=t), zero, one)
        return self.emit(ops.Binary(kind=BinaryKind.LESS_EQUAL), keys, column)

    def _softmax(self, scores: Value) -> Value:
        """Return the weights; queries that see no key, whose softmax is NaN, get zeros."""
        weights = self.emit(ops.Softmax(axis=3), scores)
        if len(self.node.inputs) < 4 and not self.op.causal:
            return weights
        lost = self.emit(ops.Unary(kind=UnaryKind.ISNAN), weights)
        return self.emit(ops.Select(), lost, self.number(0, weights.tensor.dtype), weights)
