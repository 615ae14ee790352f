"""Deformable convolution as sampling and a matrix product."""

from __future__ import annotations

import numpy as np

from lamina import ops
from lamina.ir.dims import is_static
from lamina.ir.graph import Graph, Node, Op, Value, emit, emit_node
from lamina.ir.loc import Loc
from lamina.ir.rewrite import GraphPass
from lamina.ir.types import TensorType
from lamina.ir.weight import Weight
from lamina.ops.kinds import BinaryKind, GridPadding, InterpolationMode


class DecomposeDeformConvolution(GraphPass):
    """A deformable convolution samples its taps, which a matrix product then weighs.

    The sampled taps take KH * KW times the memory of the image.  Only the batch may be symbolic.

    Before::

        graph(%x: f32[1,3,8,9], %w: f32[4,3,2,2], %o: f32[1,8,7,8]) {
          %y = deform_convolution(%x, %w, %o) strides=(1,1) dilations=(1,1) pads_begin=(0,0) pads_end=(0,0)
          return %y
        }

    After::

        graph(%x: f32[1,3,8,9], %w: f32[4,3,2,2], %o: f32[1,8,7,8]) {
          %f = reshape(%w) shape=(1,1,4,12)
          %i = reshape(%x) shape=(1,3,8,9)
          %a = reshape(%o) shape=(1,4,2,7,8)
          %c = const() type=f32[2,1,1]
          %b = binary(%a, %c) kind=mul
          %d = const() type=f32[4,2,7,8]
          %e = binary(%b, %d) kind=add
          %g = slice(%e) starts=(0,0,1,0,0) sizes=(1,4,2,7,8) steps=(1,1,-1,1,1)
          %h = transpose(%g) perm=(0,1,3,4,2)
          %j = reshape(%h) shape=(1,28,8,2)
          %k = grid_sample(%i, %j)
          %l = reshape(%k) shape=(1,1,12,56)
          %m = matmul(%f, %l)
          %y = reshape(%m) shape=(1,4,7,8)
          return %y
        }
    """  # noqa: E501

    def run(self, graph: Graph) -> int:
        """Replace each deformable convolution of known sizes."""
        count = 0
        for node in list(graph.nodes()):
            if isinstance(node.op, ops.DeformConvolution) and _sizes_known(node):
                result = _Steps(node, node.op, self.name).result()
                result.name = node.output.name
                graph.replace(node.output, result)
                count += 1
        return count


def _sizes_known(node: Node) -> bool:
    sizes = [d for v in (*node.inputs, node.output) for d in v.tensor.shape[1:]]
    return all(is_static(d) for d in (node.inputs[1].tensor.shape[0], *sizes))


class _Steps:
    """Emits the operators that one deformable convolution stands for."""

    def __init__(self, node: Node, op: ops.DeformConvolution, rule: str) -> None:
        self.node, self.op = node, op
        self.loc = Loc.fused(rule, node.loc)
        x, w, y = (v.tensor for v in (*node.inputs[:2], node.output))
        self.batch, self.dtype = x.shape[0], x.dtype
        self.channels, self.height, self.width = (int(d) for d in x.shape[1:])  # type: ignore[arg-type]
        self.results, _, *kernel = (int(d) for d in w.shape)  # type: ignore[arg-type]
        self.kernel = (kernel[0], kernel[1])
        self.taps = kernel[0] * kernel[1]
        self.rows, self.columns = (int(d) for d in y.shape[2:])  # type: ignore[arg-type]
        self.images = self.batch * op.offset_groups

    def emit(self, op: Op, *operands: Value) -> Value:
        return emit(op, operands, loc=self.loc)

    def reshaped(self, x: Value, *shape: object) -> Value:
        return self.emit(ops.Reshape(shape=shape), x)  # type: ignore[arg-type]

    def constant(self, array: np.ndarray) -> Value:
        typed = array.astype(self.dtype.numpy)
        op = ops.Const(type=TensorType(self.dtype, typed.shape), weight=Weight(typed))
        return emit_node(op, (), loc=self.loc).output

    def result(self) -> Value:
        """Return the value of the convolution."""
        op = self.op
        inner = self.channels // op.groups * self.taps
        pixels = self.rows * self.columns
        taken = self.reshaped(self._sampled(), self.batch, op.groups, inner, pixels)
        weights = self.reshaped(self.node.inputs[1], 1, op.groups, self.results // op.groups, inner)
        y = self.emit(ops.Matmul(), weights, taken)
        y = self.reshaped(y, self.batch, self.results, self.rows, self.columns)
        if len(self.node.inputs) > 3:
            bias = self.reshaped(self.node.inputs[3], self.results, 1, 1)
            y = self.emit(ops.Binary(kind=BinaryKind.ADD), y, bias)
        return y

    def _sampled(self) -> Value:
        """Return the taps [images, channels of each, taps * rows, columns]."""
        groups = self.op.offset_groups
        shape = (self.images, self.channels // groups, self.height, self.width)
        grid = ops.GridSample(
            mode=InterpolationMode.LINEAR, padding_mode=GridPadding.ZEROS, align_corners=False
        )
        taken = self.emit(grid, self.reshaped(self.node.inputs[0], *shape), self._grid())
        if len(self.node.inputs) > 4:
            shape = (self.images, 1, self.taps * self.rows, self.columns)
            mask = self.reshaped(self.node.inputs[4], *shape)
            taken = self.emit(ops.Binary(kind=BinaryKind.MUL), taken, mask)
        return taken

    def _grid(self) -> Value:
        """Return the positions of all taps, (column, row), between the edges -1 and 1.

        Position p of an axis of s elements is (2 p + 1) / s - 1.
        """
        op = self.op
        out = (self.rows, self.columns)
        sizes = np.array([self.height, self.width], np.float64)
        first = np.zeros((self.taps, 2, *out))
        for tap, place in enumerate(np.ndindex(*self.kernel)):
            for axis in (0, 1):
                steps = np.arange(out[axis]) * op.strides[axis]
                steps = steps - op.pads_begin[axis] + place[axis] * op.dilations[axis]
                first[tap, axis] = steps[:, None] if axis == 0 else steps
        first = (2 * first + 1) / sizes[:, None, None] - 1
        moved = self.reshaped(self.node.inputs[2], self.images, self.taps, 2, *out)
        moved = self.emit(
            ops.Binary(kind=BinaryKind.MUL), moved, self.constant((2 / sizes)[:, None, None])
        )
        moved = self.emit(ops.Binary(kind=BinaryKind.ADD), moved, self.constant(first))
        swapped = ops.Slice(
            starts=(0, 0, 1, 0, 0),
            sizes=(self.images, self.taps, 2, *out),
            steps=(1, 1, -1, 1, 1),
        )
        last = self.emit(ops.Transpose(perm=(0, 1, 3, 4, 2)), self.emit(swapped, moved))
        return self.reshaped(last, self.images, self.taps * self.rows, self.columns, 2)
