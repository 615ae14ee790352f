"""Loop-nest rule of RoiAlign with a fixed number of samples per bin."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product as every

from lamina.codegen.indexing import AxisIndex, Position
from lamina.codegen.lowering import Lowering, Rule
from lamina.codegen.nest import Refusal
from lamina.codegen.rules_gather import wrapped
from lamina.codegen.rules_reduce import wide
from lamina.codegen.rules_sampling import Arithmetic
from lamina.ir.dims import is_static
from lamina.ir.graph import Node, Op
from lamina.ir.types import DType
from lamina.ops.kinds import BinaryKind, RoiCoordinateMode, RoiMode
from lamina.ops.sampling import RoiAlign


@dataclass(frozen=True)
class _Axis:
    """Both neighbours of a sample along one axis, and their weights."""

    elements: tuple[int, int]
    weights: tuple[int, int]


def roi_align(low: Lowering, node: Node, result: int, position: Position) -> int:
    """Fold the samples of a bin; each joins four weighted neighbours."""
    op = node.op
    assert isinstance(op, RoiAlign)
    if op.sampling_ratio <= 0:
        raise Refusal("the number of samples per bin depends on data")
    x, rois, batches = node.inputs
    height, width = x.tensor.shape[2:]
    if not (is_static(height) and is_static(width)):
        raise Refusal("pooling regions of a symbolic size")
    region, channel, row, column = position
    count = op.sampling_ratio
    loops = low.reduction_loops((count, count), frozenset(range(len(low.sizes))))
    axes = []
    for start, bins, index, sample, size in (
        (1, op.output_height, row, loops[0], height),
        (0, op.output_width, column, loops[1], width),
    ):
        ends = [wide(low, low.evaluate(rois, (region, AxisIndex(start + e)))) for e in (0, 2)]
        axes.append(_axis(low, op, (ends[0], ends[1]), bins, (index, sample), int(size)))  # type: ignore[arg-type]
    image = wrapped(low, low.evaluate(batches, (region,)), x.tensor.shape[0])
    kind = BinaryKind.ADD if op.mode is RoiMode.AVG else BinaryKind.MAX
    total = None
    for i, j in every(range(2), range(2)):
        place = (
            image,
            channel,
            AxisIndex.value(axes[0].elements[i]),
            AxisIndex.value(axes[1].elements[j]),
        )
        value = wide(low, low.evaluate(x, place))
        weight = low.binary(BinaryKind.MUL, axes[0].weights[i], axes[1].weights[j])
        value = low.binary(BinaryKind.MUL, value, low.cast(weight, low.dtype(value)))
        total = value if total is None else low.binary(kind, total, value)
    assert total is not None
    if op.mode is RoiMode.MAX:
        return low.cast(low.fold("max", total), x.tensor.dtype)
    summed = low.fold("sum", total)
    mean = low.binary(BinaryKind.MUL, summed, low.number(summed, 1 / count**2))
    return low.cast(mean, x.tensor.dtype)


def _axis(
    low: Lowering,
    op: RoiAlign,
    ends: tuple[int, int],
    bins: int,
    at: tuple[AxisIndex, AxisIndex],
    size: int,
) -> _Axis:
    """Return the neighbours of sample ``at[1]`` of bin ``at[0]`` between two ends."""
    e = Arithmetic(low)
    half_pixel = op.coordinate_mode is RoiCoordinateMode.HALF_PIXEL
    start, stop = (e.sub(e.mul(c, op.spatial_scale), 0.5 if half_pixel else 0.0) for c in ends)
    length = e.sub(stop, start)
    if not half_pixel:
        length = low.binary(BinaryKind.MAX, length, low.number(length, 1.0))
    step = e.mul(length, 1 / bins)
    dtype = low.dtype(step)
    bin_number, sample = (low.cast(low.index(i), dtype) for i in at)
    within = e.mul(e.mul(e.add(sample, 0.5), step), 1 / op.sampling_ratio)
    place = e.add(e.add(start, e.mul(bin_number, step)), within)
    out = e.outside(place, -1.0, float(size))
    clipped = e.clip(place, 0.0, size - 1.0)
    index = low.cast(clipped, DType.I32)
    index = low.binary(BinaryKind.MAX, index, low.number(index, 0))
    first = low.binary(BinaryKind.MIN, index, low.number(index, size - 1))
    one = low.binary(BinaryKind.ADD, first, low.number(first, 1))
    second = low.binary(BinaryKind.MIN, one, low.number(one, size - 1))
    upper = e.sub(clipped, low.cast(first, dtype))
    lower = low.binary(BinaryKind.SUB, low.number(upper, 1.0), upper)
    zero = low.number(upper, 0.0)
    weights = (low.select(out, zero, lower), low.select(out, zero, upper))
    return _Axis((first, second), weights)


RULES: dict[type[Op], Rule] = {RoiAlign: roi_align}
"""Rules of this file."""
