"""Convolutions whose windows do not overlap, as matrix products."""

from __future__ import annotations

from lamina import ops
from lamina.ir.dims import Dim, floordiv, is_static, product
from lamina.ir.graph import Value
from lamina.ir.rewrite import Match, Reject, Rewrite, match
from lamina.passes.constants import array_of, emit_constant


class PatchesToMatmul(Rewrite):
    """A convolution that cuts an image of few channels into patches multiplies rows of pixels.

    So begins a vision transformer.  Matrix units want long rows; the few channels of one pixel are
    a short one, all pixels of a patch together are not.

    Before::

        graph(%x: f32[2,3,8,12]) {
          %w = const() type=f32[5,3,4,4] seed=1
          %b = const() type=f32[5] seed=2
          %y = convolution(%x, %w, %b) strides=(4,4) dilations=(1,1) pads_begin=(0,0) pads_end=(0,0)
          return %y
        }

    After::

        graph(%x: f32[2,3,8,12]) {
          %w = const() type=f32[5,48]
          %b = const() type=f32[5]
          %r = reshape(%x) shape=(2,3,2,4,3,4)
          %t = transpose(%r) perm=(0,2,4,1,3,5)
          %p = reshape(%t) shape=(2,6,48)
          %m = matmul(%p, %w, %b) transpose_b=true
          %n = transpose(%m) perm=(0,2,1)
          %y = reshape(%n) shape=(2,5,2,3)
          return %y
        }
    """

    pattern = match(ops.Convolution)
    LONGEST_CHANNELS = 8
    SHORTEST_ROW = 32

    def check(self, m: Match) -> bool | Reject:
        """Require patches that tile the image, and constant filters."""
        node, op = m.node(self.pattern), m.op(self.pattern, ops.Convolution)
        x, w, *rest = node.inputs
        filters = array_of(w)
        if filters is None or op.groups != 1 or len(rest) > 1:
            return False
        kernel = filters.shape[2:]
        if op.strides != kernel or any(d != 1 for d in op.dilations):
            return Reject("the windows overlap, or have gaps")
        if any((*op.pads_begin, *op.pads_end)):
            return Reject("windows reach outside the image")
        if filters.shape[1] > self.LONGEST_CHANNELS or filters[0].size < self.SHORTEST_ROW:
            return Reject("one pixel alone makes a row that is long enough, or the patch does not")
        sizes = x.tensor.shape[2:]
        return all(
            is_static(d) and int(d) % k == 0  # type: ignore[arg-type]
            for d, k in zip(sizes, kernel, strict=True)
        )

    def replace(self, m: Match) -> Value:
        """Gather the pixels of each patch, multiply, and put channels first again."""
        node, op = m.node(self.pattern), m.op(self.pattern, ops.Convolution)
        x, w, *bias = node.inputs
        filters = array_of(w)
        assert filters is not None
        count, kernel = len(op.strides), filters.shape[2:]
        batch, channels, *sizes = x.tensor.shape
        cut: list[Dim] = [batch, channels]
        for size, k in zip(sizes, kernel, strict=True):
            cut += [floordiv(size, k), k]
        patches = [2 + 2 * i for i in range(count)]
        pixels = [3 + 2 * i for i in range(count)]
        grid = tuple(cut[i] for i in patches)
        apart = m.emit(ops.Reshape(shape=tuple(cut)), x)
        rows = m.emit(ops.Transpose(perm=(0, *patches, 1, *pixels)), apart)
        rows = m.emit(ops.Reshape(shape=(batch, product(grid), filters[0].size)), rows)
        matrix = emit_constant(m, filters.reshape(filters.shape[0], -1), w.tensor.dtype)
        product_op = ops.Matmul(transpose_b=True, activation=op.activation)
        y = m.emit(ops.Transpose(perm=(0, 2, 1)), m.emit(product_op, rows, matrix, *bias))
        return m.emit(ops.Reshape(shape=(batch, filters.shape[0], *grid)), y)
