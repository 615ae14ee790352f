"""Matrix products with packed weights: y = activation(x @ w * scales + bias + residual).

x, residual and y are f32 or bf16 with any distance between rows, and the number of rows may be
known only at run time. The weights are f32, bf16, or signed bytes with one f32 scale per column;
they are packed at build time so that they stream through the caches once, in the order that the
kernel reads them. With one to eight rows (a fully connected layer at small batch) the time is that
of reading the weights.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from lamina.backends.cpu.kernels import epilogue
from lamina.backends.cpu.kernels.convolution import ITEM_BYTES, ActivationLayout, Epilogue
from lamina.backends.cpu.kernels.microkernel import (
    WEIGHT_BYTES,
    RowAccess,
    Tile,
    multiply_accumulate,
)
from lamina.backends.cpu.kernels.output import OutputRegister, is_cheap
from lamina.codegen.llvm.builder import F32, I64, Kernel, Module, Value
from lamina.codegen.llvm.target import Isa
from lamina.ir.blocks import blocked

_STORED = {"f32": np.float32, "bf16": ml_dtypes.bfloat16, "s8": np.int8, "bf16x2": np.uint32}
_BLOCK = 16
_FEW_ROWS = 8


@dataclass(frozen=True)
class GemmProblem:
    """x[rows, depth] @ w[depth, columns]; strides are bytes between rows.

    ``rows`` is None when it is the run-time value ``params[row_param]``; ``expected_rows`` then
    says what to tune for. A residual stride of None means no residual. With ``bf16x2`` as both
    ``dtype`` and ``weights``, depth counts pairs and results are f32.
    """

    rows: int | None
    depth: int
    columns: int
    src_stride: int
    dst_stride: int
    weights: str = "f32"
    bias: bool = True
    residual_stride: int | None = None
    activation: Epilogue | None = None
    row_param: int = 0
    dtype: str = "f32"
    expected_rows: int = 64

    @property
    def likely_rows(self) -> int:
        """Return the number of rows to tune for."""
        return self.expected_rows if self.rows is None else self.rows

    @property
    def operands(self) -> tuple[str, ...]:
        """Return the names of the kernel's operands, in the order of its ``args``."""
        optional = (
            ("scales", self.weights == "s8"),
            ("bias", self.bias),
            ("residual", self.residual_stride is not None),
        )
        chosen = tuple(name for name, present in optional if present)
        return ("src", "weights", *chosen, "dst", "workspace")


@dataclass(frozen=True)
class GemmConfig:
    """The register tile, and whether threads divide columns before rows."""

    rows: int
    vectors: int
    by_columns: bool


def why_not(problem: GemmProblem) -> str | None:
    """Return why the kernel cannot compute the problem, or None when it can."""
    if problem.weights not in WEIGHT_BYTES:
        return f"needs f32, bf16 or s8 weights, got {problem.weights}"
    if problem.dtype not in ITEM_BYTES:
        return f"needs f32 or bf16 operands, got {problem.dtype}"
    if problem.activation is not None and problem.activation.kind not in epilogue.SUPPORTED:
        return f"has no activation {problem.activation.kind}"
    return None


def configs(problem: GemmProblem, isa: Isa, threads: int = 2) -> Iterator[GemmConfig]:
    """Yield configurations worth timing, best guess first."""
    lanes = isa.lanes(F32)
    likely = problem.likely_rows
    registers = -(-problem.columns // lanes)
    if likely <= _FEW_ROWS:
        share = max(1, registers // threads)
        budgets = (isa.registers // 2, isa.registers // 4)
        for vectors in dict.fromkeys(min(max(1, b // likely), share, 8) for b in budgets):
            yield GemmConfig(likely, vectors, True)
        return
    for vectors in (2, 4) if lanes == _BLOCK else (2,):
        most = (isa.registers - 1 - vectors) // vectors
        rows = -(-likely // -(-likely // most))
        yield GemmConfig(rows, vectors, likely < 256)
    yield GemmConfig(min(likely, 14 if lanes == _BLOCK else 6), 2, likely >= 256)


def packed_shape(problem: GemmProblem, config: GemmConfig, isa: Isa) -> tuple[int, ...]:
    """Return the shape of what ``pack_weights`` returns."""
    width = config.vectors * isa.lanes(F32)
    return -(-problem.columns // width), problem.depth, width


def pack_weights(
    w: NDArray[np.float32] | NDArray[np.uint32], problem: GemmProblem, config: GemmConfig, isa: Isa
) -> NDArray[np.generic]:
    """Return w[depth, columns] as [column block][depth][column of the block], padded with zeros.

    For ``s8`` the values must be whole numbers from -128 to 127; the scales are an operand.  For
    ``bf16x2`` each value is a pair of bf16, the earlier depth in its lower half.
    """
    width = packed_shape(problem, config, isa)[2]
    return blocked(w, ((), (width,)), (1, 0, 2), dtype=_STORED[problem.weights])


def workspace_bytes(problem: GemmProblem, config: GemmConfig, isa: Isa, threads: int) -> int:
    """Return the workspace that ``threads`` threads need: room for one tile's rows each."""
    if problem.rows is not None and problem.rows % config.rows == 0:
        return 0
    return threads * _patch_bytes(problem, config)


def _patch_bytes(problem: GemmProblem, config: GemmConfig) -> int:
    return -(-config.rows * problem.src_stride // 64) * 64


def build(module: Module, name: str, problem: GemmProblem, config: GemmConfig) -> tuple[str, ...]:
    """Write the kernel and return its name. Operands: ``problem.operands``."""
    with module.kernel(name) as k:
        Writer(k, problem, config).write()
    return (name,)


class Writer:
    """Writes the loops around the register tile; ``args`` are the operands when given."""

    def __init__(
        self,
        k: Kernel,
        problem: GemmProblem,
        config: GemmConfig,
        args: dict[str, Value] | None = None,
    ) -> None:
        self.k, self.p, self.c = k, problem, config
        self.lanes = k.isa.lanes(F32)
        self.width = config.vectors * self.lanes
        self.args = args or {name: k.arg(i) for i, name in enumerate(problem.operands)}
        static = problem.rows
        self.rows = k.param(problem.row_param) if static is None else k.const(I64, static)
        self.scratch = k.alloca(config.rows * config.vectors * self.lanes * 4)

    def write(self) -> None:
        """Write the loop over this thread's share of (column block, row tile) pairs."""
        k, c = self.k, self.c
        tiles = (self.rows + (c.rows - 1)) // c.rows
        blocks = -(-self.p.columns // self.width)
        first, last = k.my_range(tiles * blocks)
        with k.loop(first, last) as items:
            if c.by_columns:
                self._tile(items.index // tiles, items.index % tiles)
            else:
                self._tile(items.index % blocks, items.index // blocks)

    def _tile(self, block: Value, tile: Value) -> None:
        k, p, c = self.k, self.p, self.c
        row = tile * c.rows
        count = k.min(k.const(I64, c.rows), self.rows - row)
        x = self._source(row, count)
        column = block * self.width
        depth_bytes, item = self.width * WEIGHT_BYTES[p.weights], ITEM_BYTES[p.dtype]
        w = self.args["weights"] + block * (p.depth * depth_bytes)
        sums: list[Value] | None = None
        for run, times in ((_BLOCK, p.depth // _BLOCK), (p.depth % _BLOCK, 1)):
            if not run or not times:
                continue
            unroll = 4 if run % 4 == 0 else 1
            register_tile = Tile(c.rows, c.vectors, unroll, p.weights)
            access = RowAccess(p.src_stride, run, run * item, p.dtype)
            sums = multiply_accumulate(k, x, access, w, register_tile, blocks=times, start=sums)
            x, w = x + run * times * item, w + run * times * depth_bytes
        self._store(sums or [], row, column, count)

    def _source(self, row: Value, count: Value) -> Value:
        """Return where the tile's rows are: in x, or copied when fewer rows exist than it reads."""
        k, p, c = self.k, self.p, self.c
        x = self.args["src"] + row * p.src_stride
        if p.rows is not None and p.rows % c.rows == 0:
            return x
        item = ITEM_BYTES[p.dtype]
        patch = self.args["workspace"] + k.tid * _patch_bytes(p, c)
        partial = count < c.rows
        with k.if_(partial), k.loop(0, c.rows) as rows:
            existing = k.min(rows.index, count - 1)
            k.copy(patch + rows.index * p.src_stride, x + existing * p.src_stride, p.depth * item)
        return k.select(partial, patch, x)

    def _store(self, sums: list[Value], row: Value, column: Value, count: Value) -> None:
        """Write the tile's rows that exist."""
        k, c = self.k, self.c
        registers, scales, bias = self._columns(column)
        size = registers[0].type.nbytes

        def write(values: list[Value], index: int | Value) -> None:
            for j, register in enumerate(registers):
                value = values[j]
                if scales:
                    value = k.fma(value, scales[j], bias[j]) if bias else value * scales[j]
                elif bias:
                    value = value + bias[j]
                at = (row + index, (column + j * self.lanes) * ITEM_BYTES[self.p.dtype])
                residual = None
                if self.p.residual_stride is not None:
                    residual = self.args["residual"] + at[0] * self.p.residual_stride + at[1]
                register.write(
                    value, self.args["dst"] + at[0] * self.p.dst_stride + at[1], residual
                )

        def through_stack() -> None:
            for i, value in enumerate(sums):
                k.store(value, self.scratch, i * size)
            with k.loop(0, count) as loop:
                at = self.scratch + loop.index * (c.vectors * size)
                write([k.load(r.type, at, j * size) for j, r in enumerate(registers)], loop.index)

        if not is_cheap(self.p.activation):
            through_stack()
            return
        with k.if_(k.eq(count, c.rows)) as whole:
            for i in range(c.rows):
                write(sums[i * c.vectors : (i + 1) * c.vectors], i)
        with whole.otherwise():
            through_stack()

    def _columns(self, column: Value) -> tuple[list[OutputRegister], list[Value], list[Value]]:
        """Return how the block's registers are stored, their scales and their bias (or empty)."""
        k, p = self.k, self.p
        partial = p.columns % self.width != 0
        layout = ActivationLayout.channels_last(p.columns, 1, 1, p.dtype)
        registers = [
            OutputRegister(
                k,
                p.activation,
                remaining=p.columns - (column + j * self.lanes) if partial else None,
                dst=layout,
                residual=layout,
            )
            for j in range(self.c.vectors)
        ]
        loaded: dict[str, list[Value]] = {"scales": [], "bias": []}
        for name, values in loaded.items():
            if name in self.args:
                start = self.args[name] + column * 4
                values.extend(
                    r.load_bias(start, j * self.lanes * 4) for j, r in enumerate(registers)
                )
        return registers, loaded["scales"], loaded["bias"]
