"""The register-blocked matrix product that every contraction kernel is built on.

It multiplies f32, or with the type ``bf16x2`` on both sides pairs of bf16: a value of the left
operand is then two depths, a lane of a packed register the same two depths of its column, and the
CPU's own instruction (avx512_bf16) adds both products to the f32 sum.
"""

from __future__ import annotations

from dataclasses import dataclass

from lamina.backends.cpu.kernels.convolution import ITEM_BYTES
from lamina.codegen.llvm.builder import BF16, F32, I8, I16, I32, Builder, Type, Value

WEIGHT_BYTES = {"f32": 4, "bf16": 2, "s8": 1, "bf16x2": 4}
"""Bytes of one packed weight of each supported type."""


@dataclass(frozen=True)
class RowAccess:
    """Where the left operand's element (row, depth) lies.

    Rows are ``row_bytes`` apart. Depth runs in blocks of ``block`` consecutive values; a block
    starts ``block_bytes`` after the one before.
    """

    row_bytes: int
    block: int
    block_bytes: int | Value
    dtype: str = "f32"

    @property
    def item_bytes(self) -> int:
        """Return the bytes of one value."""
        return ITEM_BYTES[self.dtype]


@dataclass(frozen=True)
class Tile:
    """The register tile: ``rows`` by ``vectors`` accumulators, ``unroll`` depths per loop step.

    ``weights`` is the type of the packed operand in memory: f32, bf16, s8 (plain integers) or
    bf16x2, which the left operand must then be too.
    ``pitch`` counts the registers from one depth of it to the next where that is not ``vectors``.
    """

    rows: int
    vectors: int
    unroll: int = 4
    weights: str = "f32"
    pitch: int = 0

    def fits(self, registers: int) -> bool:
        """Tell whether accumulators, one row of columns and one broadcast fit the registers."""
        return self.rows * self.vectors + self.vectors + 1 <= registers


def multiply_accumulate(
    k: Builder,
    left: Value,
    access: RowAccess,
    packed: Value,
    tile: Tile,
    *,
    blocks: int | Value,
    start: list[Value] | None = None,
) -> list[Value]:
    """Return the accumulator registers of left @ packed for one register tile, row by row.

    ``packed`` holds, for each depth, ``tile.vectors`` registers of consecutive columns (the first
    of ``tile.pitch``). Depth is ``blocks * access.block``.
    """
    type_ = F32.vector(k.isa.lanes(F32))
    column_bytes = (tile.pitch or tile.vectors) * type_.lanes * WEIGHT_BYTES[tile.weights]
    unroll = min(tile.unroll, access.block)
    if access.block % unroll:
        raise ValueError(f"a block of {access.block} is no multiple of the unrolling {unroll}")
    carried = start or [k.const(type_, 0.0) for _ in range(tile.rows * tile.vectors)]
    skip = access.block_bytes - access.block * access.item_bytes

    def steps(sums: list[Value], a: Value, b: Value) -> list[Value]:
        for depth in range(unroll):
            _one_depth(k, sums, (a, access, depth), (b, depth * column_bytes), tile)
        return [*sums, a + unroll * access.item_bytes, b + unroll * column_bytes]

    with k.loop(0, blocks, carry=[*carried, left, packed]) as outer:
        if unroll == access.block:
            *sums, a, b = steps(list(outer.values[:-2]), *outer.values[-2:])
        else:
            with k.loop(0, access.block, unroll, carry=outer.values) as inner:
                inner.next(*steps(list(inner.values[:-2]), *inner.values[-2:]))
            *sums, a, b = inner.results
        outer.next(*sums, a + skip, b)
    return list(outer.results[:-2])


def _one_depth(
    k: Builder,
    sums: list[Value],
    left: tuple[Value, RowAccess, int],
    packed: tuple[Value, int],
    tile: Tile,
) -> None:
    type_ = sums[0].type
    a, access, depth = left
    b, column_offset = packed
    step = type_.lanes * WEIGHT_BYTES[tile.weights]
    columns = [
        _column(k, b, column_offset + j * step, type_, tile.weights) for j in range(tile.vectors)
    ]
    for row in range(tile.rows):
        x = _broadcast(k, a, row * access.row_bytes + depth * access.item_bytes, type_, access)
        for j, column in enumerate(columns):
            at = row * tile.vectors + j
            sums[at] = _multiply_add(k, x, column, sums[at])


def _multiply_add(k: Builder, x: Value, column: Value, total: Value) -> Value:
    if x.type.is_float and x.type.bits == 16:
        name = "x86.avx512bf16.dpbf16ps"
        return k.intrinsic(name, total.type, total, x, column, suffix=f"{32 * total.type.lanes}")
    return k.fma(x, column, total)


def _broadcast(k: Builder, pointer: Value, offset: int, type_: Type, access: RowAccess) -> Value:
    """Load one value of the left operand and repeat it in each lane as f32."""
    if access.dtype == "f32":
        return k.load_broadcast(type_, pointer, offset)
    if access.dtype == "bf16x2":
        return _pairs(k, k.load_broadcast(I32.like(type_), pointer, offset))
    # Both halves of each lane get the value; the shift leaves it in the upper one, as f32 has it.
    pairs = k.load_broadcast(I16.vector(2 * type_.lanes), pointer, offset)
    words = k.emit(I32.like(type_), f"bitcast {pairs} to {I32.like(type_)}")
    return k.bitcast(words << 16, F32)


def _column(k: Builder, pointer: Value, offset: int, type_: Type, weights: str) -> Value:
    """Load one register of the packed operand as f32."""
    if weights == "f32":
        return k.load(type_, pointer, offset)
    if weights == "bf16x2":
        return _pairs(k, k.load(I32.like(type_), pointer, offset))
    narrow = k.load({"bf16": BF16, "s8": I8}[weights].like(type_), pointer, offset)
    return k.convert(narrow, F32)


def _pairs(k: Builder, words: Value) -> Value:
    type_ = BF16.vector(2 * words.type.lanes)
    return k.emit(type_, f"bitcast {words} to {type_}")
