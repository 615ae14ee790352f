"""NonMaxSuppression: every class of every image keeps its boxes, then all are listed in order.

The candidates of a class lie in arrays by coordinate. One pass over them drops those that overlap
the box just kept and finds the best of the rest, a whole register of boxes at a time.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from lamina.codegen.layout import Layout
from lamina.codegen.llvm.builder import F16, F32, F64, I32, I64, Kernel, Type, Value
from lamina.codegen.llvm.module import Module
from lamina.codegen.llvm.nest_schedule import static_size
from lamina.codegen.llvm.nest_values import DimValues
from lamina.codegen.llvm.scalar_llvm import MEMORY_TYPES, load_as
from lamina.codegen.nest import Refusal
from lamina.ir.dims import Dim, symbols
from lamina.ir.types import DType, TensorType
from lamina.ops.detection import Nms

_ARRAYS = ("low0", "low1", "high0", "high1", "area", "score", "index")
_SLACK = 16
_NANOSECONDS_PER_BOX, _NANOSECONDS_PER_THREAD = 4, 5000


@dataclass(frozen=True)
class NmsKernel:
    """Arguments: boxes, scores, the three limits, y, the slot for the count (one i64), workspace.

    y must have room for all boxes of all classes; it is written as [count, 3], dense.
    """

    center_point_box: bool
    operands: tuple[TensorType, ...]
    count_slots: ClassVar[int] = 1

    @property
    def _classes(self) -> Dim:
        """Return how many classes all images have together."""
        return self.operands[1].shape[0] * self.operands[1].shape[1]

    @property
    def largest_count(self) -> Dim:
        """Return the largest number of boxes that can be kept."""
        return self.operands[1].size

    @property
    def dims(self) -> list[Dim]:
        """Return the sizes that the kernel reads."""
        return [*self.operands[1].shape, self._classes]

    @property
    def params(self) -> tuple[str, ...]:
        """Return the symbols that the kernel reads."""
        return tuple(sorted({s for d in self.dims for s in symbols(d)}))

    @property
    def phases(self) -> int:
        """Return 2: keeping, then listing."""
        return 2

    @property
    def max_threads(self) -> int:
        """Return how many threads the classes can feed."""
        work = static_size(self.operands[1].size) * _NANOSECONDS_PER_BOX
        return max(1, min(static_size(self._classes), work // _NANOSECONDS_PER_THREAD))

    @property
    def estimated_bytes(self) -> int:
        """Return the bytes of boxes and scores."""
        return sum(t.dtype.itemsize * static_size(t.size) for t in self.operands[:2])

    def workspace_bytes(self, nthreads: int) -> Dim:
        """Return room for a count per class, the candidates of each thread, and all kept boxes."""
        own = (self.operands[1].shape[2] + _SLACK) * (8 * len(_ARRAYS))
        return self._classes * 8 + own * nthreads + self.operands[1].size * 8

    def emit(self, module: Module, name: str) -> tuple[str, ...]:
        """Write both phases."""
        params = {s: i for i, s in enumerate(self.params)}
        names = (f"{name}_0", f"{name}_1")
        with module.kernel(names[0]) as k:
            _Boxes(k, self, DimValues(k, params, self.dims)).keep()
        with module.kernel(names[1]) as k:
            _Boxes(k, self, DimValues(k, params, self.dims)).list()
        return names


class _Boxes:
    """Writes the loops over the classes of this thread."""

    def __init__(self, k: Kernel, source: NmsKernel, dims: DimValues) -> None:
        self.k, self.source = k, source
        self.dtype = source.operands[1].dtype
        self.scalar: Type = F64 if self.dtype is DType.F64 else F32
        self.whole: Type = I64 if self.dtype is DType.F64 else I32
        self.lanes = k.isa.lanes(self.scalar)
        self.boxes, self.scores, *self.limits, self.y, self.slot, self.counts = (
            k.arg(i) for i in range(8)
        )
        _, per_image, count = (k.coerce(dims[d], I64) for d in source.operands[1].shape)
        self.per_image, self.count = per_image, count
        self.classes = k.coerce(dims[source.dims[-1]], I64)
        own = (count + _SLACK) * 8
        candidates = self.counts + self.classes * 8
        self.kept = candidates + own * (k.nthreads * len(_ARRAYS))
        candidates = candidates + own * (k.tid * len(_ARRAYS))
        self.arrays = {name: candidates + own * i for i, name in enumerate(_ARRAYS)}

    def keep(self) -> None:
        """Write the first phase: kept boxes and their number, for each class."""
        k = self.k
        most = load_as(k, k.load(MEMORY_TYPES[self._limit(0)], self.limits[0]), self._limit(0))
        most = k.convert(most, I64)
        overlap = self._threshold(1, self.scalar)
        least = self._threshold(2, F16 if self.dtype is DType.F16 else self.scalar)
        best, length = k.alloca(8), k.alloca(8)
        first, last = k.my_range(self.classes)
        with k.loop(first, last) as classes:
            image = classes.index // self.per_image
            found = self._collect(classes.index, image, least)
            kept = self.kept + classes.index * self.count * 8
            k.store(k.const(I64, 0), length)
            self._scan(found, best, None)
            with k.loop(0, k.min(most, found)) as loop:
                place = k.load(I64, best)
                with k.if_(place >= 0):
                    k.store(k.load(I64, self.arrays["index"] + place * 8), kept, loop.index * 8)
                    k.store(loop.index + 1, length)
                    size = self.scalar.nbytes
                    k.store(k.const(self.scalar, -math.inf), self.arrays["score"], place * size)
                    self._scan(found, best, (place, overlap))
            k.store(k.load(I64, length), self.counts, classes.index * 8)

    def _limit(self, number: int) -> DType:
        return self.source.operands[2 + number].dtype

    def _threshold(self, number: int, rounded: Type) -> Value:
        """Load a limit; it is compared in the type of what it limits."""
        k, dtype = self.k, self._limit(number)
        value = load_as(k, k.load(MEMORY_TYPES[dtype], self.limits[number]), dtype)
        return k.convert(k.convert(value, rounded), self.scalar)

    def _collect(self, label: Value, image: Value, least: Value) -> Value:
        """Copy the boxes of a class above the score limit and return how many there are."""
        k, memory = self.k, MEMORY_TYPES[self.dtype]
        scores = self.scores + label * self.count * memory.nbytes
        boxes = self.boxes + image * self.count * (4 * memory.nbytes)
        size = self.scalar.nbytes
        with k.loop(0, self.count, carry=[k.const(I64, 0)]) as loop:
            number = loop.values[0]
            raw = k.load(memory, scores, loop.index * memory.nbytes)
            score = load_as(k, raw, self.dtype)
            enough = score > least
            with k.if_(enough):
                at = loop.index * (4 * memory.nbytes)
                four = [
                    load_as(k, k.load(memory, boxes, at + i * memory.nbytes), self.dtype)
                    for i in range(4)
                ]
                low, high = zip(*(self._ends(four[i], four[i + 2]) for i in (0, 1)), strict=True)
                area = (high[0] - low[0]) * (high[1] - low[1])
                values = (*low, *high, area, score)
                for name, value in zip(_ARRAYS, values, strict=False):
                    k.store(value, self.arrays[name], number * size)
                k.store(loop.index, self.arrays["index"], number * 8)
            loop.next(number + k.convert(enough, I64, signed=False))
        found = loop.results[0]
        rest = k.const(self.scalar.vector(self.lanes), -math.inf)
        k.store(rest, self.arrays["score"], found * size)
        return found

    def _ends(self, first: Value, second: Value) -> tuple[Value, Value]:
        """Return the low and the high end of a box along one axis."""
        k = self.k
        if self.source.center_point_box:
            half = second * 0.5
            return first - half, first + half
        return k.min(first, second), k.max(first, second)

    def _scan(self, found: Value, best: Value, kept: tuple[Value, Value] | None) -> None:
        """Store the place of the best candidate, or -1; with ``kept`` drop what overlaps it.

        Boxes with NaN have no area, and so overlap nothing.
        """
        k, size = self.k, self.scalar.nbytes
        type_ = self.scalar.vector(self.lanes)
        one = {}
        if kept is not None:
            place, limit = kept
            one = {n: k.load_broadcast(type_, self.arrays[n], place * size) for n in _ARRAYS[:5]}
            limit = k.broadcast(limit, self.lanes)
        lowest = k.const(type_, -math.inf)
        places = k.iota(self.whole, self.lanes)
        start = k.const(self.whole.vector(self.lanes), 0)
        with k.loop(0, found, self.lanes, carry=[lowest, start]) as loop:
            at = loop.index * size
            score = k.load(type_, self.arrays["score"], at)
            if kept is not None:
                dropped = self._overlap(one, at) > limit
                score = k.select(dropped, lowest, score)
                k.store(score, self.arrays["score"], at)
            base = k.convert(loop.index, self.whole)
            better = score > loop.values[0]
            loop.next(
                k.select(better, score, loop.values[0]),
                k.select(better, places + base, loop.values[1]),
            )
        scores, numbers = loop.results
        top = k.reduce("max", scores)
        largest = k.const(numbers.type, 2**31 - 1)
        first = k.reduce(
            "min", k.select(k.eq(scores, k.broadcast(top, self.lanes)), numbers, largest)
        )
        k.store(k.select(top > -math.inf, k.convert(first, I64), k.const(I64, -1)), best)

    def _overlap(self, one: dict[str, Value], at: Value) -> Value:
        """Return intersection over union of a box with a register of others."""
        k = self.k
        type_ = self.scalar.vector(self.lanes)
        other = {name: k.load(type_, self.arrays[name], at) for name in _ARRAYS[:5]}
        sides = [
            k.max(
                k.min(one[f"high{i}"], other[f"high{i}"]) - k.max(one[f"low{i}"], other[f"low{i}"]),
                0.0,
            )
            for i in (0, 1)
        ]
        shared = sides[0] * sides[1]
        union = one["area"] + other["area"] - shared
        valid = (shared > 0.0) & (one["area"] > 0.0) & (other["area"] > 0.0) & (union > 0.0)
        return k.select(valid, shared / union, k.const(type_, 0.0))

    def list(self) -> None:
        """Write the second phase: rows of (image, class, box), and their number."""
        k = self.k
        zero = k.const(I64, 0)
        with k.if_(k.eq(k.tid, 0)):
            k.store(self._kept_before(self.classes), self.slot)
        first, last = k.my_range(self.classes)
        before = self._kept_before(k.select(first < last, first, zero))
        with k.loop(first, last, carry=[before]) as classes:
            index = classes.index
            number = k.load(I64, self.counts, index * 8)
            with k.loop(0, number) as loop:
                row = self.y + (classes.values[0] + loop.index) * 24
                box = k.load(I64, self.kept, (index * self.count + loop.index) * 8)
                for i, value in enumerate((index // self.per_image, index % self.per_image, box)):
                    k.store(value, row, 8 * i)
            classes.next(classes.values[0] + number)

    def _kept_before(self, label: Value) -> Value:
        k = self.k
        with k.loop(0, label, carry=[k.const(I64, 0)]) as loop:
            loop.next(loop.values[0] + k.load(I64, self.counts, loop.index * 8))
        return loop.results[0]


def nms_kernel(op: Nms, operands: list[TensorType], layouts: list[Layout]) -> NmsKernel:
    """Return the kernel; Refusal for operands that are not row-major floats."""
    for type_, layout in zip(operands, layouts, strict=False):
        if layout != Layout.dense(type_.shape):
            raise Refusal("non-maximum suppression needs row-major operands")
    if operands[1].dtype not in (DType.F16, DType.F32, DType.F64):
        raise Refusal(f"non-maximum suppression compares f16, f32 or f64, not {operands[1].dtype}")
    for limit in operands[3:5]:
        if not limit.dtype.is_float or limit.dtype not in MEMORY_TYPES:
            raise Refusal(f"a limit is {limit.dtype}, not a float")
    return NmsKernel(op.center_point_box, tuple(operands))
