"""RoiAlign where each region decides how many samples its bins have.

Vectors run across channels: where a sample lies and what its neighbours weigh is equal for all.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from lamina.codegen.layout import Layout
from lamina.codegen.llvm.builder import I64, Kernel, Type, Value
from lamina.codegen.llvm.module import Module
from lamina.codegen.llvm.nest_schedule import static_size
from lamina.codegen.llvm.nest_values import DimValues
from lamina.codegen.llvm.scalar_llvm import MEMORY_TYPES
from lamina.codegen.nest import Refusal
from lamina.ir.dims import Dim, symbols
from lamina.ir.types import DType, TensorType
from lamina.ops.kinds import RoiCoordinateMode, RoiMode
from lamina.ops.sampling import RoiAlign

_SAMPLES_PER_BIN = 4


@dataclass(frozen=True)
class _Samples:
    """The samples of one axis: where the first begins, their step, and their number."""

    start: Value
    step: Value
    count: Value
    size: Value


@dataclass(frozen=True)
class RoiAlignKernel:
    """Arguments: x, rois, batch indices, y; all row-major."""

    op: RoiAlign
    x: TensorType
    rois: TensorType
    batches: TensorType
    count_slots: ClassVar[int] = 0

    @property
    def dims(self) -> list[Dim]:
        """Return the sizes that the kernel reads: those of x, and the number of regions."""
        return [*self.x.shape, self.rois.shape[0]]

    @property
    def params(self) -> tuple[str, ...]:
        """Return the symbols that the kernel reads."""
        return tuple(sorted({s for d in self.dims for s in symbols(d)}))

    @property
    def phases(self) -> int:
        """Return 1."""
        return 1

    @property
    def _results(self) -> int:
        bins = self.op.output_height * self.op.output_width
        return static_size(self.rois.shape[0]) * static_size(self.x.shape[1]) * bins

    @property
    def max_threads(self) -> int:
        """Return how many threads the regions can feed."""
        return max(1, self._results * _SAMPLES_PER_BIN // 4000)

    @property
    def estimated_bytes(self) -> int:
        """Return the bytes read where each bin has a few samples."""
        return 4 * _SAMPLES_PER_BIN * self.x.dtype.itemsize * self._results

    def workspace_bytes(self, nthreads: int) -> Dim:
        """Return 0: no workspace."""
        return 0

    def emit(self, module: Module, name: str) -> tuple[str, ...]:
        """Write the kernel."""
        params = {s: i for i, s in enumerate(self.params)}
        with module.kernel(name) as k:
            _Regions(k, self, DimValues(k, params, self.dims)).write()
        return (name,)


class _Regions:
    """Writes the loops over regions and registers of channels."""

    def __init__(self, k: Kernel, source: RoiAlignKernel, dims: DimValues) -> None:
        self.k, self.source, self.op = k, source, source.op
        self.scalar: Type = MEMORY_TYPES[source.x.dtype]
        self.lanes = k.isa.lanes(self.scalar)
        self.vector = self.scalar.vector(self.lanes)
        sizes = (k.coerce(dims[d], I64) for d in source.dims)
        self.images, self.channels, self.height, self.width, self.regions = sizes
        self.x, self.rois, self.batches, self.y = (k.arg(i) for i in range(4))

    def write(self) -> None:
        """Share (region, register of channels) pairs among the threads."""
        k = self.k
        registers = (self.channels + (self.lanes - 1)) // self.lanes
        first, last = k.my_range(self.regions * registers)
        with k.loop(first, last) as items:
            region, channel = items.index // registers, items.index % registers * self.lanes
            index = k.convert(
                k.load(MEMORY_TYPES[self.source.batches.dtype], self.batches, self._batch(region)),
                I64,
            )
            index = k.select(index < 0, index + self.images, index)
            index = k.max(k.const(I64, 0), k.min(index, self.images - 1))
            plane = self.height * self.width * self.scalar.nbytes
            image = self.x + (index * self.channels + channel) * plane
            rows, columns = self._axis(region, 1), self._axis(region, 0)
            bins = self.op.output_height * self.op.output_width
            target = self.y + (region * self.channels + channel) * (bins * self.scalar.nbytes)
            self._bins(image, plane, (rows, columns), target, self.channels - channel)

    def _batch(self, region: Value) -> Value:
        return region * self.source.batches.dtype.itemsize

    def _axis(self, region: Value, axis: int) -> _Samples:
        """Return the samples of the rows (1) or columns (0) of a region."""
        k, op = self.k, self.op
        half_pixel = op.coordinate_mode is RoiCoordinateMode.HALF_PIXEL
        ends = []
        for end in (axis, axis + 2):
            place = region * (4 * self.scalar.nbytes) + end * self.scalar.nbytes
            value = k.load(self.scalar, self.rois, place) * op.spatial_scale
            ends.append(value - 0.5 if half_pixel else value)
        length = ends[1] - ends[0]
        if not half_pixel:
            length = k.max(length, 1.0)
        step = length / float(op.output_height if axis else op.output_width)
        count = k.convert_saturated(k.unary("ceil", step), I64)
        count = k.max(count, k.const(I64, 0))
        return _Samples(ends[0], step, count, self.height if axis else self.width)

    def _bins(
        self,
        image: Value,
        plane: Value,
        axes: tuple[_Samples, _Samples],
        target: Value,
        remaining: Value,
    ) -> None:
        k, op = self.k, self.op
        mask = k.lane_mask(remaining, self.lanes)
        numbers = k.iota(I64, self.lanes)
        lanes = numbers * plane
        bins = op.output_height * op.output_width
        total = axes[0].count * axes[1].count
        is_mean = op.mode is RoiMode.AVG
        begin = k.const(self.vector, 0.0 if is_mean else -math.inf)
        with k.loop(0, op.output_height) as rows, k.loop(0, op.output_width) as columns:
            with k.loop(0, axes[0].count, carry=[begin]) as y:
                row = self._neighbours(axes[0], rows.index, y.index)
                with k.loop(0, axes[1].count, carry=y.values) as x:
                    column = self._neighbours(axes[1], columns.index, x.index)
                    x.next(self._sample(image, lanes, mask, (row, column), x.values[0]))
                y.next(*x.results)
            value = y.results[0]
            if is_mean:
                value = value / k.broadcast(k.convert(total, self.scalar), self.lanes)
            value = k.select(total > 0, value, k.const(self.vector, 0.0))
            at = (rows.index * op.output_width + columns.index) * self.scalar.nbytes
            k.scatter(value, target + at, numbers * (bins * self.scalar.nbytes), mask=mask)

    def _neighbours(self, axis: _Samples, bin_: Value, sample: Value) -> list[tuple[Value, Value]]:
        """Return (element, weight) of both neighbours of a sample."""
        k = self.k
        number, position = (k.convert(i, self.scalar) for i in (bin_, sample))
        count = k.convert(axis.count, self.scalar)
        place = axis.start + number * axis.step + (position + 0.5) * axis.step / count
        size = k.convert(axis.size, self.scalar)
        inside = (place >= -1.0) & (place <= size)
        clipped = k.min(k.max(place, 0.0), size - 1.0)
        low = k.max(k.const(I64, 0), k.min(k.convert_saturated(clipped, I64), axis.size - 1))
        high = k.min(low + 1, axis.size - 1)
        upper = clipped - k.convert(low, self.scalar)
        none = k.const(self.scalar, 0.0)
        return [
            (low, k.select(inside, 1.0 - upper, none)),
            (high, k.select(inside, upper, none)),
        ]

    def _sample(
        self,
        image: Value,
        lanes: Value,
        mask: Value,
        axes: tuple[list[tuple[Value, Value]], list[tuple[Value, Value]]],
        value: Value,
    ) -> Value:
        """Join the four neighbours of a sample with what the bin holds."""
        k = self.k
        for row, a in axes[0]:
            for column, b in axes[1]:
                place = image + (row * self.width + column) * self.scalar.nbytes
                pixels = k.gather(self.scalar, place, lanes, mask=mask)
                weight = k.broadcast(a * b, self.lanes)
                if self.op.mode is RoiMode.MAX:
                    # The largest weighted neighbour counts, not the largest interpolated value.
                    value = k.maximum(pixels * weight, value)
                else:
                    value = k.fma(pixels, weight, value)
        return value


def roi_align_kernel(
    op: RoiAlign, operands: list[TensorType], layouts: list[Layout]
) -> RoiAlignKernel:
    """Return the kernel; Refusal for operands that are not row-major f32 or f64."""
    x, rois, batches = operands
    if x.dtype not in (DType.F32, DType.F64):
        raise Refusal(f"regions that decide their samples need f32 or f64, got {x.dtype}")
    types = [
        *operands,
        x.with_shape((rois.shape[0], x.shape[1], op.output_height, op.output_width)),
    ]
    for type_, layout in zip(types, layouts, strict=True):
        if layout != Layout.dense(type_.shape):
            raise Refusal("regions that decide their samples need row-major operands")
    return RoiAlignKernel(op, x, rois, batches)
