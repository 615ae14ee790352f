"""Contractions that read the same value, done as one."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import ClassVar

import numpy as np

from lamina import ops
from lamina.ir.dims import Dim, product
from lamina.ir.graph import Array, Graph, Node, Value, emit
from lamina.ir.loc import Loc
from lamina.ir.rewrite import GraphPass
from lamina.passes.constants import array_of
from lamina.passes.contractions import channels, has_constant_weight, output_axis
from lamina.passes.epilogue import FuseActivation, FuseResidual


class _MergeParallel(GraphPass):
    """Groups nodes by a key and replaces each group by one node and slices of its result."""

    operator: ClassVar[type[ops.Convolution | ops.Matmul]]

    def run(self, graph: Graph) -> int:
        """Merge every group of at least two."""
        groups: dict[Hashable, list[Node]] = {}
        for node in graph.nodes():
            if isinstance(node.op, self.operator) and self._admits(node):
                groups.setdefault((node.inputs[0], *self._key(node)), []).append(node)
        count = 0
        for nodes in groups.values():
            chosen = self._choose(nodes)
            if len(chosen) > 1:
                self._merge(graph, chosen)
                count += len(chosen) - 1
        return count

    def _admits(self, node: Node) -> bool:
        raise NotImplementedError

    def _key(self, node: Node) -> tuple[Hashable, ...]:
        raise NotImplementedError

    def _choose(self, nodes: list[Node]) -> list[Node]:
        raise NotImplementedError

    def _merge(self, graph: Graph, nodes: Sequence[Node]) -> None:
        loc = Loc.fused(self.name, *(n.loc for n in nodes))
        axis = self._weight_axis(nodes[0])
        weights = [_array(n.inputs[1]) for n in nodes]
        operands = [nodes[0].inputs[0], _constant(np.concatenate(weights, axis), loc)]
        if any(len(n.inputs) > 2 for n in nodes):
            operands.append(_constant(np.concatenate([_bias(n) for n in nodes]), loc))
        joined = emit(nodes[0].op, operands, loc=loc)
        along, begin = output_axis(joined), 0
        for n in nodes:
            size = channels(n.output)
            graph.replace(n.output, _part(joined, along, begin, size, n))
            begin += size

    def _weight_axis(self, node: Node) -> int:
        raise NotImplementedError


def _part(joined: Value, axis: int, begin: int, size: int, node: Node) -> Value:
    shape = joined.tensor.shape
    op = ops.Slice(
        starts=tuple(begin if i == axis else 0 for i in range(len(shape))),
        sizes=tuple(size if i == axis else d for i, d in enumerate(shape)),
        steps=(1,) * len(shape),
    )
    return emit(op, (joined,), loc=node.loc, name=node.output.name)


def _array(v: Value) -> Array:
    a = array_of(v)
    assert a is not None
    return a


def _constant(array: Array, loc: Loc) -> Value:
    return emit(ops.Const.of(array), (), loc=loc)


def _bias(node: Node) -> Array:
    size = channels(node.output)
    if len(node.inputs) < 3:
        return np.zeros(size, node.output.tensor.dtype.numpy)
    return np.broadcast_to(_array(node.inputs[2]).reshape(-1), (size,))


def _mergeable(node: Node) -> bool:
    """Whether weight and bias are constants, the bias is a vector, and there is no residual."""
    if len(node.inputs) > 3 or not has_constant_weight(node.output):
        return False
    return all(v.tensor.rank <= 1 for v in node.inputs[2:])


class MergeParallelConvolutions(_MergeParallel):
    """Convolutions with the same operand and geometry are one with more output channels.

    Only small ones, which leave the processor idle one by one; every part but the last has a
    multiple of 16 channels, so that the parts are views in layouts that block the channels.
    ``wanted`` leaves nodes out.

    Before::

        graph(%x: f32[1,8,5,5]) {
          %v = const() type=f32[16,8,1,1] seed=1
          %w = const() type=f32[24,8,1,1] seed=2
          %b = const() type=f32[24] seed=3
          %y = convolution(%x, %v) strides=(1,1) dilations=(1,1) pads_begin=(0,0) pads_end=(0,0)
          %z = convolution(%x, %w, %b) strides=(1,1) dilations=(1,1) pads_begin=(0,0) pads_end=(0,0)
          return %y, %z
        }

    After::

        graph(%x: f32[1,8,5,5]) {
          %w = const() type=f32[40,8,1,1]
          %b = const() type=f32[40]
          %j = convolution(%x, %w, %b) strides=(1,1) dilations=(1,1) pads_begin=(0,0) pads_end=(0,0)
          %y = slice(%j) starts=(0,0,0,0) sizes=(1,16,5,5) steps=(1,1,1,1)
          %z = slice(%j) starts=(0,16,0,0) sizes=(1,24,5,5) steps=(1,1,1,1)
          return %y, %z
        }
    """

    after = (FuseActivation, FuseResidual)
    LANES: ClassVar[int] = 16
    MACS: ClassVar[int] = 1 << 27
    operator = ops.Convolution

    def __init__(self, wanted: Callable[[Node], bool] = lambda node: True) -> None:
        super().__init__()
        self.wanted = wanted

    def _admits(self, node: Node) -> bool:
        op = node.op
        if not isinstance(op, ops.Convolution) or op.groups != 1 or not _mergeable(node):
            return False
        if not self.wanted(node):
            return False
        macs: Dim = product(node.output.tensor.shape) * product(node.inputs[1].tensor.shape[1:])
        return not isinstance(macs, int) or macs <= self.MACS

    def _key(self, node: Node) -> tuple[Hashable, ...]:
        return node.op, node.inputs[1].tensor.shape[2:], node.output.tensor.dtype

    def _choose(self, nodes: list[Node]) -> list[Node]:
        whole = [n for n in nodes if channels(n.output) % self.LANES == 0]
        rest = [n for n in nodes if channels(n.output) % self.LANES]
        return whole + rest[:1]

    def _weight_axis(self, node: Node) -> int:
        return 0


class MergeParallelMatmuls(_MergeParallel):
    """Matrix products of the same rows are one with more columns.

    ``wanted`` chooses them; by default those of few rows, where reading the weights costs most and
    each product alone is too small to share among threads.

    Before::

        graph(%x: f32[2,8]) {
          %v = const() type=f32[8,4] seed=1
          %w = const() type=f32[8,6] seed=2
          %y = matmul(%x, %v)
          %z = matmul(%x, %w)
          return %y, %z
        }

    After::

        graph(%x: f32[2,8]) {
          %w = const() type=f32[8,10]
          %j = matmul(%x, %w)
          %y = slice(%j) starts=(0,0) sizes=(2,4) steps=(1,1)
          %z = slice(%j) starts=(0,4) sizes=(2,6) steps=(1,1)
          return %y, %z
        }
    """

    after = (FuseActivation, FuseResidual)
    ROWS: ClassVar[int] = 32
    operator = ops.Matmul

    def __init__(self, wanted: Callable[[Node], bool] | None = None) -> None:
        super().__init__()
        self.wanted = wanted or self._has_few_rows

    def _admits(self, node: Node) -> bool:
        op = node.op
        if not isinstance(op, ops.Matmul) or op.transpose_a or not _mergeable(node):
            return False
        return self.wanted(node)

    def _has_few_rows(self, node: Node) -> bool:
        rows = product(node.output.tensor.shape[:-1])
        return isinstance(rows, int) and rows <= self.ROWS

    def _key(self, node: Node) -> tuple[Hashable, ...]:
        return node.op, node.output.tensor.dtype

    def _choose(self, nodes: list[Node]) -> list[Node]:
        return nodes

    def _weight_axis(self, node: Node) -> int:
        return 0 if isinstance(node.op, ops.Matmul) and node.op.transpose_b else 1
