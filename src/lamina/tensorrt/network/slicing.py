"""Slices, also beyond the ends of a tensor."""

from __future__ import annotations

from collections.abc import Sequence

from lamina import ops
from lamina.ir.dims import Dim, is_static
from lamina.ir.graph import Value
from lamina.ir.types import DType
from lamina.ops.kinds import BinaryKind, PadMode, UnaryKind
from lamina.tensorrt.check import checked
from lamina.tensorrt.enums import SampleMode
from lamina.tensorrt.foundation.dims import Dims
from lamina.tensorrt.lowering.axes import at
from lamina.tensorrt.lowering.emitter import LayerEmitter
from lamina.tensorrt.network.additions import Additions
from lamina.tensorrt.network.layer import ILayer
from lamina.tensorrt.network.setting import OptionalSetting, Setting, set_quietly
from lamina.tensorrt.network.tensor import ITensor

Part = tuple[Dim, Dim, int]
"""First index, number of elements and step on one axis."""


class ISliceLayer(ILayer):
    """``shape`` elements from ``start`` in steps of ``stride``, along each axis or ``axes``.

    Inputs 1 to 3 give start, shape and stride as tensors, input 4 what FILL puts outside, input 5
    the axes.
    """

    _kind = "SLICE"
    _shape_operands = frozenset({1, 2, 3})
    start = OptionalSetting(Dims, None, "First index along each axis.")
    shape = OptionalSetting(Dims, None, "Sizes of the result.")
    stride = OptionalSetting(Dims, None, "Steps along each axis.")
    mode = Setting(SampleMode, "STRICT_BOUNDS", "What lies outside of the operand.")
    axes = OptionalSetting(Dims, None, "Axes that are sliced, all when not given.")
    _axes_set = axes

    def _lower(self, e: LayerEmitter, *inputs: Value | None) -> Sequence[Value]:
        x, start, shape, stride, fill, axes = (*inputs, *[None] * 5)[:6]
        assert x is not None
        starts = self._given(e, start, self.start, "start")
        sizes = self._given(e, shape, self.shape, "shape")
        steps = self._steps(e, stride, len(starts))
        chosen = self._axes(e, x, axes, len(starts))
        parts = {
            a: (s, n, step) for a, s, n, step in zip(chosen, starts, sizes, steps, strict=True)
        }
        mode = self.mode.name
        if mode == "STRICT_BOUNDS":
            return (_inside(e, x, parts),)
        if mode in _PAD_MODES and all(step == 1 for _, _, step in parts.values()):
            if mode in ("FILL", "CLAMP") or not _crops(x, parts):
                return (_around(e, x, parts, mode, fill),)
        for axis, part in parts.items():
            x = _by_index(e, x, axis, part, mode, fill)
        return (x,)

    def _given(
        self, e: LayerEmitter, tensor: Value | None, dims: Dims | None, what: str
    ) -> tuple[Dim, ...]:
        if tensor is not None:
            return e.dims(tensor)
        if dims is None:
            raise self._fail(f"{what} is not given")
        return tuple(dims)

    def _steps(self, e: LayerEmitter, tensor: Value | None, count: int) -> tuple[int, ...]:
        steps = (1,) * count
        if tensor is not None:
            steps = tuple(int(s) for s in e.required(tensor, "the stride").reshape(-1))
        elif self.stride is not None:
            steps = tuple(self.stride)
        return steps

    def _axes(self, e: LayerEmitter, x: Value, tensor: Value | None, count: int) -> tuple[int, ...]:
        offset = 1 if e.implicit_batch else 0
        if tensor is not None:
            listed = [int(a) for a in e.required(tensor, "axes").reshape(-1)]
        else:
            listed = list(self._axes_set) if self._axes_set is not None else list(range(count))
        if self._axes_set is None and tensor is None and count != x.tensor.rank - offset:
            raise self._fail(f"{count} axes are sliced, {x.tensor} has {x.tensor.rank - offset}")
        return tuple(at(e, a, x) for a in listed)


_PAD_MODES = {
    "FILL": PadMode.CONSTANT,
    "CLAMP": PadMode.EDGE,
    "REFLECT": PadMode.REFLECT,
    "WRAP": PadMode.WRAP,
}


def _crops(x: Value, parts: dict[int, Part]) -> bool:
    """Whether an axis may lose elements, so that padding would not see all of them."""
    for axis, (start, size, _) in parts.items():
        end = start + size - x.tensor.shape[axis]
        if not (is_static(start) and is_static(end)):
            return True
        if int(start) > 0 or int(end) < 0:  # type: ignore[arg-type]
            return True
    return False


def _inside(e: LayerEmitter, x: Value, parts: dict[int, Part]) -> Value:
    shape = x.tensor.shape
    whole = [parts.get(a, (0, d, 1)) for a, d in enumerate(shape)]
    op = ops.Slice(
        starts=tuple(p[0] for p in whole),
        sizes=tuple(p[1] for p in whole),
        steps=tuple(p[2] for p in whole),
    )
    if op.sizes == shape and all(s == 0 for s in op.starts) and set(op.steps) <= {1}:
        return x
    return e.emit(op, x)


def _around(
    e: LayerEmitter, x: Value, parts: dict[int, Part], mode: str, fill: Value | None
) -> Value:
    begin: list[Dim] = [0] * x.tensor.rank
    end: list[Dim] = [0] * x.tensor.rank
    for axis, (start, size, _) in parts.items():
        begin[axis] = -start
        end[axis] = start + size - x.tensor.shape[axis]
    op = ops.Pad(mode=_PAD_MODES[mode], pads_begin=tuple(begin), pads_end=tuple(end))
    return e.emit(op, x, *([fill] if fill is not None and mode == "FILL" else []))


def _by_index(
    e: LayerEmitter, x: Value, axis: int, part: Part, mode: str, fill: Value | None
) -> Value:
    """Gather along one axis at positions brought inside, or replaced, as the mode says."""
    start, size, step = part
    first = _scalar(e, start)
    position = e.emit(ops.Range(length=size), first, e.constant(step, DType.I64))
    length = e.reshape(e.shape_of(x, axis, axis + 1), ())
    last = e.binary(BinaryKind.SUB, length, e.like(1, length))
    zero = e.like(0, length)
    if mode == "WRAP":
        index = e.binary(BinaryKind.MOD, position, length)
    elif mode == "REFLECT":
        index = _reflected(e, position, last)
    else:
        index = e.binary(BinaryKind.MIN, e.binary(BinaryKind.MAX, position, zero), last)
    y = e.gather(x, index, axis)
    if mode != "FILL":
        return y
    inside = e.binary(BinaryKind.EQUAL, index, position)
    row = e.reshape(inside, tuple(size if a == axis else 1 for a in range(x.tensor.rank)))
    value = e.like(0, x) if fill is None else e.reshape(fill, ())
    return e.emit(ops.Select(), row, y, value)


def _reflected(e: LayerEmitter, position: Value, last: Value) -> Value:
    """Fold positions back at both ends: period ``2 * last``, the ends are not repeated."""
    one = e.like(1, last)
    twice = e.binary(BinaryKind.MUL, last, e.like(2, last))
    period = e.binary(BinaryKind.MAX, twice, one)
    shifted = e.binary(BinaryKind.MOD, e.binary(BinaryKind.ADD, position, last), period)
    size = e.emit(ops.Unary(kind=UnaryKind.ABS), e.binary(BinaryKind.SUB, shifted, last))
    return e.binary(BinaryKind.MIN, size, last)


def _scalar(e: LayerEmitter, d: Dim) -> Value:
    if isinstance(d, int):
        return e.constant(d, DType.I64)
    # The one element of a range of that length's end: a dimension as a value.
    ends = e.emit(ops.Range(length=d + 1), e.constant(0, DType.I64), e.constant(1, DType.I64))
    return e.reshape(e.slice(ends, 0, d, 1), ())


class SlicingAdditions(Additions):
    """``add_*`` of the layers of this module."""

    @checked
    def add_slice(self, input: ITensor, start: Dims, shape: Dims, stride: Dims) -> ISliceLayer:
        """Add a slice."""
        layer = self._add(ISliceLayer(self._state, [input]))
        set_quietly(layer, start=start, shape=shape, stride=stride)
        return layer


__all__ = ["ISliceLayer"]
