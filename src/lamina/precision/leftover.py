"""Quantize and Dequantize that no contraction absorbed become ordinary arithmetic.

Pointwise operators fuse with their neighbours, so that 8-bit values are read and written where the
arithmetic is done.
"""

from __future__ import annotations

from lamina import ops
from lamina.ir.dims import Dim
from lamina.ir.graph import Array, Node, Value
from lamina.ir.rewrite import Match, Reject, Rewrite, match
from lamina.ir.types import DType
from lamina.ops.kinds import ActivationKind, BinaryKind, UnaryKind
from lamina.passes.constants import array_of, emit_constant
from lamina.precision.scalings import known_array

_INTEGERS = {
    DType.I8: (-128, 127),
    DType.U8: (0, 255),
    DType.I16: (-32768, 32767),
    DType.U16: (0, 65535),
}
_IMAGE_RANK, _IMAGE_CHANNELS = 4, 4


class FoldDequantizedConstants(Rewrite):
    """Weights that only an f32 operator reads are stored as f32.

    Before::

        graph(%x: f32[2,3]) {
          %v = const() type=i8[3] seed=1
          %s = const() type=f32[] value=0.5
          %w = dequantize(%v, %s) dtype=f32
          %y = binary(%x, %w) kind=mul
          return %y
        }

    After::

        graph(%x: f32[2,3]) {
          %w = const() type=f32[3]
          %y = binary(%x, %w) kind=mul
          return %y
        }
    """

    pattern = match(ops.Dequantize)

    def check(self, m: Match) -> bool:
        """Require constant operands."""
        return known_array(m[self.pattern]) is not None

    def replace(self, m: Match) -> Value:
        """Compute the numbers."""
        array = known_array(m[self.pattern])
        assert array is not None
        return m.emit(ops.Const.of(array))


class LowerDequantize(Rewrite):
    """Dequantizing is a cast, a subtraction and a product.

    Before::

        graph(%q: u8[2,3]) {
          %s = const() type=f32[] value=0.5
          %z = const() type=u8[] value=7
          %x = dequantize(%q, %s, %z) dtype=f32
          return %x
        }

    After::

        graph(%q: u8[2,3]) {
          %a = cast(%q) dtype=f32
          %z = const() type=f32[]
          %b = binary(%a, %z) kind=sub
          %s = const() type=f32[]
          %x = binary(%b, %s) kind=mul
          return %x
        }
    """

    pattern = match(ops.Dequantize, dtype=DType.F32, block_size=0)

    def check(self, m: Match) -> bool | Reject:
        """Require constant parameters and integers that f32 holds exactly."""
        node = m.node(self.pattern)
        return has_arithmetic(node, node.inputs[0].tensor.dtype)

    def replace(self, m: Match) -> Value:
        """Emit the arithmetic."""
        scale, zero = parameters(m.node(self.pattern))
        x = m.emit(ops.Cast(dtype=DType.F32), m.node(self.pattern).inputs[0])
        if zero is not None and zero.any():
            x = m.emit(ops.Binary(kind=BinaryKind.SUB), x, emit_constant(m, zero, DType.F32))
        return m.emit(ops.Binary(kind=BinaryKind.MUL), x, emit_constant(m, scale, DType.F32))


class LowerQuantize(Rewrite):
    """Quantizing is a division, a rounding, an addition, a clip and a cast.

    An image that enters the graph stays as it is: nothing before it could take part, and there is a
    kernel that reads it plane by plane.

    Before::

        graph(%x: f32[2,3]) {
          %s = const() type=f32[] value=0.5
          %z = const() type=u8[] value=7
          %q = quantize(%x, %s, %z) dtype=u8
          return %q
        }

    After::

        graph(%x: f32[2,3]) {
          %s = const() type=f32[]
          %a = binary(%x, %s) kind=div
          %b = unary(%a) kind=round
          %z = const() type=f32[]
          %c = binary(%b, %z) kind=add
          %d = activation(%c) kind=clip beta=255.0
          %q = cast(%d) dtype=u8
          return %q
        }
    """

    pattern = match(ops.Quantize, block_size=0)

    def check(self, m: Match) -> bool | Reject:
        """Require constant parameters, an f32 operand and integers that f32 holds exactly."""
        node = m.node(self.pattern)
        x = node.inputs[0]
        if x.tensor.dtype is not DType.F32:
            return Reject("the operand is not f32")
        if x.node is None and x.tensor.rank == _IMAGE_RANK and _is_few(x.tensor.shape[1]):
            return Reject("a kernel of its own quantizes images")
        return has_arithmetic(node, node.output.tensor.dtype)

    def replace(self, m: Match) -> Value:
        """Emit the arithmetic."""
        scale, zero = parameters(m.node(self.pattern))
        x = m.node(self.pattern).inputs[0]
        x = m.emit(ops.Binary(kind=BinaryKind.DIV), x, emit_constant(m, scale, DType.F32))
        return emit_rounded(m, x, zero, m.op(self.pattern, ops.Quantize).dtype)


def emit_rounded(m: Match, x: Value, zero: Array | None, dtype: DType) -> Value:
    """Emit the rounding of an f32 value to integers, the zero point and the saturation."""
    x = m.emit(ops.Unary(kind=UnaryKind.ROUND), x)
    if zero is not None and zero.any():
        x = m.emit(ops.Binary(kind=BinaryKind.ADD), x, emit_constant(m, zero, DType.F32))
    low, high = map(float, _INTEGERS[dtype])
    x = m.emit(ops.Activation(kind=ActivationKind.CLIP, alpha=low, beta=high), x)
    return m.emit(ops.Cast(dtype=dtype), x)


def _is_few(channels: Dim) -> bool:
    return isinstance(channels, int) and 1 < channels <= _IMAGE_CHANNELS


def has_arithmetic(node: Node, integers: DType) -> bool | Reject:
    """Whether a Quantize or Dequantize has constant f32 parameters and integers that f32 holds."""
    if integers not in _INTEGERS:
        return Reject(f"{integers} is not held exactly by f32")
    if any(array_of(p) is None for p in node.inputs[1:]):
        return Reject("the scale is computed at run time")
    return node.inputs[1].tensor.dtype is DType.F32


def parameters(node: Node) -> tuple[Array, Array | None]:
    """Return scale and zero point in shapes that broadcast along the right axis."""
    op = node.op
    assert isinstance(op, ops.Quantize | ops.Dequantize)
    arrays = [array_of(p) for p in node.inputs[1:]]
    if op.axis is not None:
        along = [-1] + [1] * (node.output.tensor.rank - op.axis - 1)
        arrays = [None if a is None else a.reshape(along) for a in arrays]
    scale, *zero = arrays
    assert scale is not None
    return scale, zero[0] if zero else None
