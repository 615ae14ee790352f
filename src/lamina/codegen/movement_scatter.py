"""Kernels that scatter updates into a copy of a tensor.

The copy is a phase of its own.  Updates of one place are applied in order by one thread, so results
do not depend on the number of threads.  Indices outside the axis are clamped.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from lamina.codegen.kernel_source import NestKernel, moved_bytes
from lamina.codegen.layout import Layout
from lamina.codegen.llvm.builder import I64, Kernel, Value
from lamina.codegen.llvm.module import Module
from lamina.codegen.llvm.nest_values import DimValues, Number
from lamina.codegen.llvm.scalar_llvm import (
    MEMORY_TYPES,
    LlvmEmitter,
    load_as,
    register_type,
    store_as,
)
from lamina.codegen.nest import Refusal
from lamina.codegen.scalar import SCALAR_DTYPES
from lamina.ir.dims import Dim, symbols
from lamina.ir.types import DType, TensorType
from lamina.ops.kinds import ScatterReduction

_PRIMITIVES = {
    ScatterReduction.ADD: "add",
    ScatterReduction.MUL: "mul",
    ScatterReduction.MAX: "max",
    ScatterReduction.MIN: "min",
}
_SAME_SIZE = {1: DType.U8, 2: DType.U16, 4: DType.U32, 8: DType.U64}


@dataclass(frozen=True)
class ScatterKernel:
    """Copy x, then write updates: along ``axis``, or as slices (``axis`` None)."""

    copy: NestKernel
    x: TensorType
    indices: TensorType
    updates: TensorType
    axis: int | None
    reduction: ScatterReduction
    count_slots: ClassVar[int] = 0

    @property
    def _dims(self) -> list[Dim]:
        dims: list[Dim] = []
        for t in (self.x, self.indices, self.updates):
            dims += [*t.shape, *Layout.dense(t.shape).strides]
        return dims

    @property
    def params(self) -> tuple[str, ...]:
        """Return the symbols that the kernel reads."""
        own = {s for d in self._dims for s in symbols(d)}
        return tuple(sorted(own | set(self.copy.params)))

    @property
    def phases(self) -> int:
        """Return 2: the copy, then the updates."""
        return 2

    @property
    def max_threads(self) -> int:
        """Return how many threads the copy can feed."""
        return self.copy.max_threads

    @property
    def estimated_bytes(self) -> int:
        """Return the bytes of the copy, about what there is to move."""
        return sum(moved_bytes(n) for phase in self.copy.nests for n in phase)

    def workspace_bytes(self, nthreads: int) -> Dim:
        """Return 0: no workspace."""
        return 0

    def emit(self, module: Module, name: str) -> tuple[str, ...]:
        """Write both phases."""
        params = {s: i for i, s in enumerate(self.params)}
        renumbered = NestKernel(self.copy.nests, symbol_order=self.params)
        (first,) = renumbered.emit(module, f"{name}_0")
        with module.kernel(f"{name}_1") as k:
            writer = _Writer(k, self, DimValues(k, params, self._dims))
            if self.axis is None:
                writer.slices()
            else:
                writer.elements(self.axis)
        return (first, f"{name}_1")


class _Writer:
    """Writes the second phase: arguments are x, indices, updates, y."""

    def __init__(self, k: Kernel, source: ScatterKernel, dims: DimValues) -> None:
        self.k, self.source, self.dims = k, source, dims
        self.indices, self.updates, self.y = (k.arg(i) for i in (1, 2, 3))
        self.dtype = source.x.dtype
        if source.reduction is ScatterReduction.NONE:
            self.dtype = _SAME_SIZE[self.dtype.itemsize]
        self.nbytes = MEMORY_TYPES[self.dtype].nbytes

    def index(self, element: Number, size: Dim) -> Value:
        """Load an index and make it lie on the axis."""
        k = self.k
        type_ = MEMORY_TYPES[self.source.indices.dtype]
        raw = k.convert(k.load(type_, self.indices, element * type_.nbytes), I64)
        count = k.coerce(self.dims[size], I64)
        wrapped = k.select(raw < 0, raw + count, raw)
        return k.max(k.min(wrapped, count - 1), k.const(I64, 0))

    def put(self, target: Number, update: Number, lanes: int, mask: Value | None) -> None:
        """Join updates with what is there, from two element counts."""
        k, dtype = self.k, self.dtype
        type_ = MEMORY_TYPES[dtype].vector(lanes)
        value = k.load(type_, self.updates, update * self.nbytes, mask=mask)
        if self.source.reduction is not ScatterReduction.NONE:
            old = k.load(type_, self.y, target * self.nbytes, mask=mask)
            name = _PRIMITIVES[self.source.reduction]
            joined = LlvmEmitter(k).binary(
                name, dtype, load_as(k, old, dtype), load_as(k, value, dtype)
            )
            value = store_as(k, joined, dtype)
        k.store(value, self.y, target * self.nbytes, mask=mask)

    def elements(self, axis: int) -> None:
        """Share lines along the axis among the threads; a line's updates come in order."""
        k, source, dims = self.k, self.source, self.dims
        others = [a for a in range(source.x.rank) if a != axis]
        shape = source.indices.shape
        strides = Layout.dense(shape).strides
        targets = Layout.dense(source.x.shape).strides
        lines: Number = 1
        for a in others:
            lines = (
                lines * dims[shape[a]] if not isinstance(lines, int) else (dims[shape[a]] * lines)
            )
        start, stop = k.my_range(lines)
        with k.loop(start, stop) as line:
            rest: Value = line.index
            place: Number = 0
            target: Number = 0
            for a in reversed(others):
                size = dims[shape[a]]
                coordinate = rest % size
                rest = rest // size
                place = coordinate * dims[strides[a]] + place
                target = coordinate * dims[targets[a]] + target
            with k.loop(0, dims[shape[axis]]) as j:
                element = j.index * dims[strides[axis]] + place
                index = self.index(element, source.x.shape[axis])
                self.put(index * dims[targets[axis]] + target, element, 1, None)

    def slices(self) -> None:
        """Share the elements of slices among the threads; every thread takes all updates."""
        k, source, dims = self.k, self.source, self.dims
        depth = source.indices.shape[-1]
        assert isinstance(depth, int)
        count: Number = 1
        for d in source.indices.shape[:-1]:
            count = dims[d] * count
        size: Number = 1
        for d in source.x.shape[depth:]:
            size = dims[d] * size
        targets = Layout.dense(source.x.shape).strides
        lanes = k.isa.vector_bytes * 8 // register_type(self.dtype).bits
        start, stop = k.my_range(size, grain=lanes)
        with k.loop(0, count) as row:
            base: Number = 0
            for j in range(depth):
                index = self.index(row.index * depth + j, source.x.shape[j])
                base = index * dims[targets[j]] + base
            update = row.index * size

            def body(i: Value, mask: Value | None) -> None:
                self.put(i + base, i + update, lanes, mask)

            k.vectorized(start, stop, lanes, body)


def scatter_kernel(
    copy: NestKernel,
    types: Sequence[TensorType],
    axis: int | None,
    reduction: ScatterReduction,
    layouts: Sequence[Layout],
) -> ScatterKernel:
    """Return the kernel; Refusal for layouts that are not row-major."""
    x, indices, updates = types
    for t, layout in zip((x, indices, updates, x), layouts, strict=True):
        if layout != Layout.dense(t.shape):
            raise Refusal("scatter needs row-major operands")
    if reduction is not ScatterReduction.NONE and x.dtype not in SCALAR_DTYPES:
        raise Refusal(f"{x.dtype} is only stored, never computed with")
    if x.dtype.itemsize not in _SAME_SIZE:
        raise Refusal(f"{x.dtype} has {x.dtype.itemsize} bytes")
    if axis is None and not isinstance(indices.shape[-1], int):
        raise Refusal("the depth of the indices is symbolic")
    return ScatterKernel(copy, x, indices, updates, axis, reduction)
