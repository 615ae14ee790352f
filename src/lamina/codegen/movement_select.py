"""TopK: a sorted list of the best elements so far, or a merge sort of whole rows.

The order is total: NaN counts as larger than every number, equal elements come by index.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from lamina.codegen.layout import Layout
from lamina.codegen.llvm.builder import I1, I32, I64, Kernel, Value
from lamina.codegen.llvm.module import Module
from lamina.codegen.llvm.nest_schedule import static_size
from lamina.codegen.llvm.nest_values import DimValues, Number
from lamina.codegen.llvm.scalar_llvm import (
    MEMORY_TYPES,
    LlvmEmitter,
    load_as,
    register_type,
)
from lamina.codegen.nest import Refusal
from lamina.codegen.scalar import SCALAR_DTYPES
from lamina.ir.dims import Dim, is_static, symbols
from lamina.ir.types import TensorType

_MOST_INSERTED = 64
"""The largest k for which a sorted list beats sorting the row."""


@dataclass(frozen=True)
class TopKKernel:
    """Arguments: x, values, indices, workspace (two index arrays of a row for each thread)."""

    x: TensorType
    k: Dim
    axis: int
    largest: bool
    layouts: tuple[Layout, Layout, Layout]
    count_slots: ClassVar[int] = 0

    @property
    def _dims(self) -> list[Dim]:
        strides = [d for layout in self.layouts for d in (*layout.strides, layout.offset)]
        return [*self.x.shape, self.k, *strides]

    @property
    def params(self) -> tuple[str, ...]:
        """Return the symbols that the kernel reads."""
        return tuple(sorted({s for d in self._dims for s in symbols(d)}))

    @property
    def phases(self) -> int:
        """Return 1."""
        return 1

    @property
    def max_threads(self) -> int:
        """Return how many threads the rows can feed."""
        size, rows = static_size(self.x.shape[self.axis]), 1
        for axis, d in enumerate(self.x.shape):
            rows *= static_size(d) if axis != self.axis else 1
        return max(1, min(rows, rows * size // 4000))

    @property
    def estimated_bytes(self) -> int:
        """Return the bytes read."""
        total = self.x.dtype.itemsize
        for d in self.x.shape:
            total *= static_size(d)
        return total

    @property
    def _inserts(self) -> bool:
        return is_static(self.k) and int(self.k) <= _MOST_INSERTED  # type: ignore[arg-type]

    def workspace_bytes(self, nthreads: int) -> Dim:
        """Return room for two index arrays of a row per thread; 0 for small k."""
        return 0 if self._inserts else self.x.shape[self.axis] * (8 * nthreads)

    def emit(self, module: Module, name: str) -> tuple[str, ...]:
        """Write the kernel."""
        params = {s: i for i, s in enumerate(self.params)}
        with module.kernel(name) as k:
            _Selector(k, self, DimValues(k, params, self._dims)).emit()
        return (name,)


class _Selector:
    """Writes the loops over rows."""

    def __init__(self, k: Kernel, source: TopKKernel, dims: DimValues) -> None:
        self.k, self.source, self.dims = k, source, dims
        self.x, self.values, self.indices = (k.arg(i) for i in range(3))
        self.dtype = source.x.dtype
        self.type = MEMORY_TYPES[self.dtype]
        self.emitter = LlvmEmitter(k)
        self.size = dims[source.x.shape[source.axis]]
        self.count = dims[source.k]

    def emit(self) -> None:
        """Share the rows among the threads."""
        k, source = self.k, self.source
        if source.k == 0 or any(d == 0 for d in source.x.shape):
            return
        others = [a for a in range(source.x.rank) if a != source.axis]
        rows: Number = 1
        for a in others:
            rows = self.dims[source.x.shape[a]] * rows
        start, stop = k.my_range(rows)
        with k.loop(start, stop) as row:
            rest: Value = row.index
            bases: list[Number] = [self.dims[layout.offset] for layout in source.layouts]
            for a in reversed(others):
                size = self.dims[source.x.shape[a]]
                coordinate = rest % size
                rest = rest // size
                for i, layout in enumerate(source.layouts):
                    bases[i] = coordinate * self.dims[layout.strides[a]] + bases[i]
            self._row(bases)

    def _row(self, bases: list[Number]) -> None:
        if self.source._inserts:
            found = self._insertion(bases[0])
        else:
            found = self._merge_sort(bases[0])
        k, source = self.k, self.source
        steps = [self.dims[layout.strides[source.axis]] for layout in source.layouts]
        with k.loop(0, self.count) as rank:
            index = k.load(I32, found, rank.index * 4)
            wide = k.convert(index, I64)
            raw = k.load(self.type, self.x, (wide * steps[0] + bases[0]) * self.type.nbytes)
            target = (rank.index * steps[1] + bases[1]) * self.type.nbytes
            k.store(raw, self.values, target)
            k.store(wide, self.indices, (rank.index * steps[2] + bases[2]) * 8)

    def _key(self, base: Number, index: Value) -> Value:
        """Load element number ``index`` (i64) of the row."""
        step = self.dims[self.source.layouts[0].strides[self.source.axis]]
        raw = self.k.load(self.type, self.x, (index * step + base) * self.type.nbytes)
        return load_as(self.k, raw, self.dtype)

    def _precedes(self, a: Value, b: Value) -> Value:
        """Tell whether key ``a`` comes strictly before key ``b``."""
        k, largest = self.k, self.source.largest
        better = self.emitter.compare("gt" if largest else "lt", self.dtype, a, b)
        if not self.dtype.is_float:
            return better
        nan_a, nan_b = k.is_nan(a), k.is_nan(b)
        if largest:
            return better | (nan_a & (nan_b ^ 1))
        return better | ((nan_a ^ 1) & nan_b)

    def _insertion(self, base: Number) -> Value:
        """Keep a sorted list of k keys and indices; return the address of the indices."""
        k, count = self.k, self.count
        assert isinstance(count, int)
        register = register_type(self.dtype)
        keys, found = k.alloca(count * register.nbytes), k.alloca(count * 4)
        with k.loop(0, count) as i:
            k.store(k.const(I32, -1), found, i.index * 4)
            k.store(k.const(register, 0), keys, i.index * register.nbytes)

        def beats(key: Value, place: Number) -> Value:
            empty = k.load(I32, found, place * 4) < 0
            return empty | self._precedes(key, k.load(register, keys, place * register.nbytes))

        with k.loop(0, self.size) as element:
            key = self._key(base, element.index)
            with k.if_(beats(key, count - 1)):
                with k.loop(0, count, carry=[k.const(I64, 0)]) as i:
                    worse = beats(key, i.index)
                    i.next(i.values[0] + k.convert(worse ^ 1, I64, signed=False))
                place = i.results[0]
                with k.loop(0, (count - 1) - place) as i:
                    last = (count - 1) - i.index
                    nbytes = register.nbytes
                    k.store(k.load(register, keys, (last - 1) * nbytes), keys, last * nbytes)
                    k.store(k.load(I32, found, (last - 1) * 4), found, last * 4)
                k.store(key, keys, place * register.nbytes)
                k.store(k.convert(element.index, I32), found, place * 4)
        return found

    def _merge_sort(self, base: Number) -> Value:
        """Sort the indices of the row bottom-up; return their address."""
        k, size = self.k, k_size(self.k, self.size)
        first = k.arg(3) + k.tid * size * 8
        second = first + size * 4
        with k.loop(0, size) as i:
            k.store(k.convert(i.index, I32), first, i.index * 4)
        # ceil(log2(size)) passes double the sorted runs.
        passes = k.const(I64, 64) - k.unary("ctlz", size - 1)
        swap = k.const(I1, 0)
        with k.loop(0, passes, carry=[swap]) as level:
            source = k.select(level.values[0], second, first)
            target = k.select(level.values[0], first, second)
            width = k.const(I64, 1) << level.index
            with k.loop(0, size, width * 2) as run:
                middle = k.min(run.index + width, size)
                end = k.min(run.index + width * 2, size)
                self._merge(base, source, target, (run.index, middle, end))
            level.next(level.values[0] ^ 1)
        return k.select(level.results[0], second, first)

    def _merge(
        self, base: Number, source: Value, target: Value, run: tuple[Value, Value, Value]
    ) -> None:
        """Merge two neighbouring sorted runs; equal keys take the left one first."""
        k = self.k
        start, middle, end = run
        with k.loop(start, end, carry=[start, middle]) as out:
            left, right = out.values
            a = k.load(I32, source, k.min(left, middle - 1) * 4)
            b = k.load(I32, source, k.min(right, end - 1) * 4)
            key_a, key_b = (self._key(base, k.convert(i, I64)) for i in (a, b))
            right_first = self._precedes(key_b, key_a) | (left >= middle)
            take_right = right_first & (right < end)
            k.store(k.select(take_right, b, a), target, out.index * 4)
            step = k.convert(take_right, I64, signed=False)
            out.next(left + (1 - step), right + step)


def k_size(k: Kernel, size: Number) -> Value:
    """Return a size as an i64 value."""
    return k.coerce(size, I64)


def top_k_kernel(
    x: TensorType, k: Dim, axis: int, largest: bool, layouts: list[Layout]
) -> TopKKernel:
    """Return the kernel; Refusal for types without an order and for blocked layouts."""
    if x.dtype not in SCALAR_DTYPES:
        raise Refusal(f"{x.dtype} has no order")
    if any(layout.is_blocked for layout in layouts):
        raise Refusal("top-k of a blocked layout")
    return TopKKernel(x, k, axis, largest, (layouts[0], layouts[1], layouts[2]))
