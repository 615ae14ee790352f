"""Matrix products of any type and order of axes, a row at a time.

What the library and the packed kernels do not take: integers, f64, operands that are not constant
without a library.  Halves accumulate in f32.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from lamina.backends.cpu.kernels import epilogue
from lamina.backends.cpu.kernels.convolution import Epilogue
from lamina.codegen.llvm.builder import (
    BF16,
    F16,
    F32,
    F64,
    I8,
    I16,
    I32,
    I64,
    Kernel,
    Module,
    Value,
)
from lamina.ir.dims import Dim, Expr

TYPES = {
    "f64": F64, "f32": F32, "bf16": BF16, "f16": F16,
    "i8": I8, "u8": I8, "i16": I16, "u16": I16, "i32": I32, "u32": I32, "i64": I64, "u64": I64,
}  # fmt: skip
_NARROW = ("bf16", "f16")


@dataclass(frozen=True)
class PlainMatmulProblem:
    """``y = activation(a @ b + addends)`` with strides in elements, 0 where an operand repeats.

    ``batch`` are the sizes of the leading axes; each operand's strides are those of the leading
    axes, then of its rows, then of its columns.  y is row-major.
    """

    dtype: str
    batch: tuple[Dim, ...]
    rows: Dim
    depth: Dim
    columns: Dim
    a: tuple[Dim, ...]
    b: tuple[Dim, ...]
    addends: tuple[tuple[str, tuple[Dim, ...]], ...] = ()
    activation: Epilogue | None = None

    @property
    def parameters(self) -> tuple[Expr, ...]:
        """Return the sizes and strides that the kernel takes at run time."""
        return tuple(dict.fromkeys(d for d in self._dims() if isinstance(d, Expr)))

    def _dims(self) -> Iterator[Dim]:
        yield from (*self.batch, self.rows, self.depth, self.columns, *self.a, *self.b)
        for _, strides in self.addends:
            yield from strides


def why_not(problem: PlainMatmulProblem) -> str | None:
    """Return why the kernel cannot compute the problem, or None when it can."""
    for name in (problem.dtype, *(dtype for dtype, _ in problem.addends)):
        if name not in TYPES:
            return f"has no type {name}"
    if problem.activation is None:
        return None
    if problem.dtype not in ("f32", *_NARROW):
        return f"has no activation for {problem.dtype}"
    if problem.activation.kind not in epilogue.SUPPORTED:
        return f"has no activation {problem.activation.kind}"
    return None


def build(module: Module, name: str, problem: PlainMatmulProblem) -> tuple[str, ...]:
    """Write the kernel and return its name.  Operands: a, b, addends, y."""
    with module.kernel(name) as k:
        _Writer(k, problem).write()
    return (name,)


class _Writer:
    """Writes the loops over rows, columns and depth."""

    def __init__(self, k: Kernel, p: PlainMatmulProblem) -> None:
        self.k, self.p = k, p
        self.args = [k.arg(i) for i in range(3 + len(p.addends))]
        self.numbers = {d: k.param(i) for i, d in enumerate(p.parameters)}
        self.sum_type = F32 if p.dtype in _NARROW else TYPES[p.dtype]
        self.lanes = k.isa.lanes(F32) * 4 // max(4, self.sum_type.nbytes)

    def dim(self, d: Dim) -> Value:
        """Return a size as an i64."""
        return self.numbers[d] if isinstance(d, Expr) else self.k.const(I64, d)

    def write(self) -> None:
        """Write the loop over this thread's rows of all matrices."""
        k, p = self.k, self.p
        rows, columns = self.dim(p.rows), self.dim(p.columns)
        total = rows
        for d in p.batch:
            total = total * self.dim(d)
        first, last = k.my_range(total)
        with k.loop(first, last) as loop:
            row = loop.index % rows
            places = self._places(loop.index // rows, row)
            y = self.args[-1] + loop.index * columns * TYPES[p.dtype].nbytes
            with k.loop(0, columns, self.lanes) as blocks:
                mask = k.lane_mask(columns - blocks.index, self.lanes)
                self._block(places, y, blocks.index, mask)

    def _places(self, matrix: Value, row: Value) -> list[Value]:
        """Return where the row's operands begin: a's row, b's matrix, the addends' rows."""
        p = self.p
        operands = [(p.dtype, p.a), (p.dtype, p.b), *p.addends]
        offsets = [self.k.const(I64, 0)] * len(operands)
        for axis in reversed(range(len(p.batch))):
            size = self.dim(p.batch[axis])
            index, matrix = matrix % size, matrix // size
            offsets = [
                at + index * self.dim(s[axis]) for at, (_, s) in zip(offsets, operands, strict=True)
            ]
        for i, (_, strides) in enumerate(operands):
            if i != 1:
                offsets[i] = offsets[i] + row * self.dim(strides[-2])
        return [
            arg + at * TYPES[dtype].nbytes
            for arg, at, (dtype, _) in zip(self.args, offsets, operands, strict=False)
        ]

    def _block(self, places: list[Value], y: Value, column: Value, mask: Value) -> None:
        """Compute one register of the result."""
        k, p = self.k, self.p
        type_, wide = TYPES[p.dtype], self.sum_type.vector(self.lanes)
        depth_stride = self.dim(p.b[-2]) * type_.nbytes
        a, b = places[:2]
        zero = k.const(wide, 0)
        with k.loop(0, self.dim(p.depth), carry=[zero]) as depths:
            left = self._widened(
                k.load(type_, a, depths.index * self.dim(p.a[-1]) * type_.nbytes), p.dtype
            )
            right = self._columns(b + depths.index * depth_stride, p.dtype, p.b[-1], column, mask)
            x = k.broadcast(left, self.lanes)
            total = depths.values[0]
            floats = p.dtype in ("f64", "f32", *_NARROW)
            depths.next(k.fma(x, right, total) if floats else total + x * right)
        result = depths.results[0]
        for place, (dtype, strides) in zip(places[2:], p.addends, strict=True):
            result = result + self._columns(place, dtype, strides[-1], column, mask)
        result = epilogue.apply(k, result, p.activation)
        if type_ is not self.sum_type:
            result = k.convert(result, type_)
        k.store(result, y, column * type_.nbytes, mask=mask)

    def _columns(self, row: Value, dtype: str, stride: Dim, column: Value, mask: Value) -> Value:
        """Load the columns of a row that a register of the result needs."""
        k, type_ = self.k, TYPES[dtype]
        vector = type_.vector(self.lanes)
        if stride == 1:
            x = k.load(vector, row, column * type_.nbytes, mask=mask)
        elif stride == 0:
            x = k.load_broadcast(vector, row)
        else:
            step = self.dim(stride) * type_.nbytes
            offsets = k.iota(I64, self.lanes) * k.broadcast(step, self.lanes)
            x = k.gather(type_, row + column * step, offsets, mask=mask)
        return self._widened(x, dtype)

    def _widened(self, x: Value, dtype: str) -> Value:
        return x if TYPES[dtype] is self.sum_type else self.k.convert(x, self.sum_type)
