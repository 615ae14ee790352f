"""NonZero: every chunk counts its elements, then writes them after those of the chunks before."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from lamina.codegen.layout import Layout
from lamina.codegen.llvm.builder import I64, Kernel, Value
from lamina.codegen.llvm.module import Module
from lamina.codegen.llvm.nest_schedule import static_size
from lamina.codegen.llvm.nest_values import DimValues, Number
from lamina.codegen.llvm.scalar_llvm import MEMORY_TYPES, load_as
from lamina.codegen.nest import Refusal
from lamina.codegen.scalar import SCALAR_DTYPES
from lamina.ir.dims import Dim, symbols
from lamina.ir.types import TensorType

_CHUNKS = 32


@dataclass(frozen=True)
class NonZeroKernel:
    """Arguments: x, y, the slot for the count (one i64), workspace.

    y must have room for ``rank * size`` numbers; it is written as [rank, count], dense.
    """

    x: TensorType
    count_slots: ClassVar[int] = 1

    @property
    def largest_count(self) -> Dim:
        """Return the number of elements."""
        return self.x.size

    @property
    def _dims(self) -> list[Dim]:
        return [*self.x.shape, self.x.size]

    @property
    def params(self) -> tuple[str, ...]:
        """Return the symbols that the kernel reads."""
        return tuple(sorted({s for d in self._dims for s in symbols(d)}))

    @property
    def phases(self) -> int:
        """Return 2: counting, then writing."""
        return 2

    @property
    def max_threads(self) -> int:
        """Return how many threads the elements can feed."""
        return max(1, min(_CHUNKS, static_size(self.x.size) // 8000))

    @property
    def estimated_bytes(self) -> int:
        """Return the bytes of two readings of x."""
        return 2 * self.x.dtype.itemsize * static_size(self.x.size)

    def workspace_bytes(self, nthreads: int) -> Dim:
        """Return room for one count per chunk."""
        return 8 * _CHUNKS

    def emit(self, module: Module, name: str) -> tuple[str, ...]:
        """Write both phases."""
        params = {s: i for i, s in enumerate(self.params)}
        names = (f"{name}_0", f"{name}_1")
        with module.kernel(names[0]) as k:
            _Chunks(k, self.x, DimValues(k, params, self._dims)).count()
        with module.kernel(names[1]) as k:
            _Chunks(k, self.x, DimValues(k, params, self._dims)).write()
        return names


class _Chunks:
    """Writes loops over the chunks of this thread."""

    def __init__(self, k: Kernel, x: TensorType, dims: DimValues) -> None:
        self.k, self.type, self.dims = k, x, dims
        self.x, self.y, self.slot, self.counts = (k.arg(i) for i in range(4))
        self.size = dims[x.size]

    def _bounds(self, chunk: Value) -> tuple[Value, Value]:
        return self.k.partition(self.size, chunk, _CHUNKS)

    def _is_set(self, element: Value) -> Value:
        k, dtype = self.k, self.type.dtype
        memory = MEMORY_TYPES[dtype]
        value = load_as(k, k.load(memory, self.x, element * memory.nbytes), dtype)
        return k.compare("ne", value, 0)

    def count(self) -> None:
        """Store how many elements of each chunk are not zero."""
        k = self.k
        start, stop = k.my_range(_CHUNKS)
        with k.loop(start, stop) as chunk:
            first, last = self._bounds(chunk.index)
            with k.loop(first, last, carry=[k.const(I64, 0)]) as element:
                one = k.convert(self._is_set(element.index), I64, signed=False)
                element.next(element.values[0] + one)
            k.store(element.results[0], self.counts, chunk.index * 8)

    def write(self) -> None:
        """Store the coordinates of this thread's chunks, and the count."""
        k = self.k
        zero = k.const(I64, 0)
        with k.loop(0, _CHUNKS, carry=[zero]) as chunk:
            chunk.next(chunk.values[0] + k.load(I64, self.counts, chunk.index * 8))
        total = chunk.results[0]
        with k.if_(k.eq(k.tid, 0)):
            k.store(total, self.slot)
        start, stop = k.my_range(_CHUNKS)
        with k.loop(start, stop) as own:
            with k.loop(0, own.index, carry=[zero]) as before:
                before.next(before.values[0] + k.load(I64, self.counts, before.index * 8))
            self._write_chunk(own.index, before.results[0], total)

    def _write_chunk(self, chunk: Value, place: Value, total: Value) -> None:
        k = self.k
        first, last = self._bounds(chunk)
        with k.loop(first, last, carry=[place]) as element:
            found = self._is_set(element.index)
            with k.if_(found):
                rest: Value = element.index
                for axis in reversed(range(self.type.rank)):
                    size: Number = self.dims[self.type.shape[axis]]
                    coordinate = rest % size if axis else rest
                    rest = rest // size
                    k.store(coordinate, self.y, (total * axis + element.values[0]) * 8)
            element.next(element.values[0] + k.convert(found, I64, signed=False))


def nonzero_kernel(x: TensorType, layouts: list[Layout]) -> NonZeroKernel:
    """Return the kernel; Refusal for operands that are not row-major numbers."""
    if x.dtype not in SCALAR_DTYPES:
        raise Refusal(f"{x.dtype} is only stored, never computed with")
    if layouts[0] != Layout.dense(x.shape):
        raise Refusal("nonzero needs a row-major operand")
    return NonZeroKernel(x)
