"""Constants made of weights as kernels, which plans hold for refits: see :mod:`lamina.ir.movement`.

They are the same for all plans of an instruction set; sizes and strides are operands.
:mod:`lamina.backends.cpu.weights.moving` calls them.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

from lamina.backends.cpu.weights.moving import (
    GROUP_WORDS,
    LANES,
    ROW_WORDS,
    SUMS,
    TOGETHER,
    Form,
    forms,
    measuring,
)
from lamina.codegen.llvm.builder import F16, F32, I8, I16, I32, I64, Kernel, Module, Value
from lamina.codegen.llvm.nest_tile import transpose
from lamina.codegen.llvm.target import Isa
from lamina.ir.movement import CHAINS, MEASURED, TYPES, conversions

Values = tuple[Value, ...]

_INTEGERS = {1: I8, 2: I16, 4: I32}


def module_text(isa: Isa, precision: str) -> str:
    """Return a module with the kernels for the weights of a network."""
    module = Module(isa)
    for text in CHAINS["cpu"][precision]:
        chain = _Chain(text)
        for name, form in forms(text).items():
            with module.kernel(name) as k:
                if form is Form.ROWS:
                    _write_rows(k, chain)
                else:
                    _write_tiles(k, chain, TOGETHER[form])
    with module.kernel(SUMS) as k:
        _write_sums(k)
    for text in MEASURED.get(precision, ()):
        with module.kernel(measuring(text)) as k:
            _write_measure(k, _Chain(text))
    return str(module)


class _Chain:
    """What happens to each number."""

    def __init__(self, text: str) -> None:
        self._converts = conversions(text)
        sizes = (int(text), int(text)) if text.isdecimal() else self._sizes()
        self.source, self.result = (_INTEGERS[size].vector(LANES) for size in sizes)

    def _sizes(self) -> tuple[int, int]:
        assert self._converts is not None
        return TYPES[self._converts.source].itemsize, TYPES[self._converts.result].itemsize

    @property
    def multiplies(self) -> bool:
        return self._converts is not None and self._converts.multiplies

    def apply(self, k: Kernel, bits: Value, factor: Value | None) -> Value:
        """Return the bits of results for those of numbers."""
        if self._converts is None:
            return bits
        types = self._converts.before
        for before, after in pairwise(types):
            bits = _converted(k, bits, before, after)
        types = (types[-1], *self._converts.after)
        if factor is not None:
            bits = k.bitcast(k.bitcast(bits, F32) * factor, I32)
        for before, after in pairwise(types):
            bits = _converted(k, bits, before, after)
        return bits


def _converted(k: Kernel, bits: Value, before: str, after: str) -> Value:
    """Return the bits of numbers of another type, as NumPy converts them.

    The CPU's instructions for f16 change the bits of a NaN: there must be none.
    """
    if before == "bfloat16":
        return k.convert(bits, I32, signed=False) << 16
    if before == "float16":
        return k.bitcast(k.convert(k.bitcast(bits, F16), F32), I32)
    if after == "float16":
        return k.bitcast(k.convert(k.bitcast(bits, F32), F16), I16)
    high = bits >> 16
    rounded = (bits + ((high & 1) + 0x7FFF)) >> 16
    nan = (high & 0x8000) | 0x7FC0
    return k.convert(k.select(k.is_nan(k.bitcast(bits, F32)), nan, rounded), I16)


def _write_rows(k: Kernel, chain: _Chain) -> None:
    """Write rows that are dense in source and result.

    Operands: source, factors, result, and for each row where it begins in these, in bytes.
    Parameters: rows, elements of a row.
    """
    source, factors, result, table = (k.arg(i) for i in range(4))
    rows, elements = k.param(0), k.param(1)
    read, written = chain.source.scalar.nbytes, chain.result.scalar.nbytes
    with k.loop(0, rows) as row:
        entry = k.offset(table, row.index * (8 * ROW_WORDS))
        places = [k.load(I64, entry, 8 * i) for i in range(ROW_WORDS)]
        begin, end = k.offset(source, places[0]), k.offset(result, places[2])
        factor = None
        if chain.multiplies:
            factor = k.load_broadcast(F32.vector(LANES), k.offset(factors, places[1]))

        def body(index: Value, mask: Value | None) -> None:
            bits = k.load(chain.source, begin, index * read, mask=mask)
            k.store(chain.apply(k, bits, factor), end, index * written, mask=mask)

        k.vectorized(0, elements, LANES, body)


def _write_measure(k: Kernel, chain: _Chain) -> None:
    """Write the bits of the largest magnitude of f32 numbers, and 1 unless f16 holds all of them.

    Operands and parameters are those of rows.
    """
    source, factors, result, table = (k.arg(i) for i in range(4))
    rows, elements = k.param(0), k.param(1)
    nothing = k.const(I32.vector(LANES), 0)
    whole = elements // LANES * LANES

    def seen(bits: Value, factor: Value | None, mask: Value | None, before: Values) -> Values:
        bits = chain.apply(k, bits, factor)
        if mask is not None:
            bits = k.select(mask, bits, nothing)
        number = k.bitcast(bits, F32)
        same = k.eq(k.convert(k.convert(number, F16), F32), number)
        # As integers: a NaN is larger than every number.
        return k.max(before[0], bits & 0x7FFFFFFF), k.select(same, before[1], 1)

    with k.loop(0, rows, carry=(nothing, nothing)) as row:
        entry = k.offset(table, row.index * (8 * ROW_WORDS))
        begin = k.offset(source, k.load(I64, entry))
        factor = None
        if chain.multiplies:
            factor = k.load_broadcast(F32.vector(LANES), k.offset(factors, k.load(I64, entry, 8)))
        size = chain.source.scalar.nbytes
        with k.loop(0, whole, LANES, carry=row.values) as part:
            bits = k.load(chain.source, begin, part.index * size)
            part.next(*seen(bits, factor, None, part.values))
        mask = k.lane_mask(elements - whole, LANES)
        bits = k.load(chain.source, begin, whole * size, mask=mask)
        row.next(*seen(bits, factor, mask, part.results))
    for i, vector in enumerate(row.results):
        k.store(k.reduce("max", vector), result, 4 * i)


def _write_sums(k: Kernel) -> None:
    """Write the sum of each row of 8-bit integers, as i32.

    Operands and parameters are those of rows.
    """
    source, result, table = k.arg(0), k.arg(2), k.arg(3)
    elements = k.param(1)
    whole = elements // LANES * LANES
    bytes_ = I8.vector(LANES)
    with k.loop(0, k.param(0)) as row:
        begin = k.offset(source, k.load(I64, table, row.index * (8 * ROW_WORDS)))
        with k.loop(0, whole, LANES, carry=(k.const(I32.vector(LANES), 0),)) as part:
            total = part.values[0] + k.convert(k.load(bytes_, begin, part.index), I32)
            part.next(total)
        mask = k.lane_mask(elements - whole, LANES)
        rest = k.convert(k.load(bytes_, begin, whole, mask=mask), I32)
        k.store(k.reduce("add", part.results[0] + rest), result, row.index * 4)


def _write_tiles(k: Kernel, chain: _Chain, together: int) -> None:
    """Write the columns of groups of rows: each column of a group is dense in the result.

    Operands: source, factors, result, the groups (where each row begins in the source and the group
    in the result, in bytes, and how many of its rows are meant), where in a group's result each
    column is, in bytes.  Where elements of several columns are ``together``, there is an entry for
    these columns, which says behind that place where they are in scratch memory for all columns of
    a group, the last operand.
    Parameters: groups, columns, whether all places are multiples of what is written at once,
    entries.
    """
    result, groups, places = k.arg(2), k.arg(3), k.arg(4)
    lanes = LANES * together
    with k.loop(0, k.param(0)) as group:
        entry = k.offset(groups, group.index * (8 * GROUP_WORDS))
        end = k.offset(result, k.load(I64, entry, 8 * LANES))
        rows = k.load(I64, entry, 8 * (LANES + 1))
        whole = k.param(2) * LANES + rows
        mask = k.lane_mask(rows * together, lanes)

        def write(group: Value, entry: Value, end: Value, mask: Value | None) -> None:
            streams = mask is None
            if together == 1:

                def place(column: Value, values: Value) -> None:
                    at = k.load(I64, places, column * 8)
                    k.store(values, end, at, mask=mask, nontemporal=streams)

                _transposed(k, chain, group, entry, place)
                return
            with k.loop(0, k.param(3)) as columns:
                own = k.offset(places, columns.index * (8 * (1 + together)))
                begins = [k.load(I64, own, 8 * (1 + i)) for i in range(together)]
                parts = [k.load(chain.result, k.arg(5), begin) for begin in begins]
                values = _interleaved(k, parts)
                k.store(values, end, k.load(I64, own), mask=mask, nontemporal=streams)

        if together > 1:

            def keep(column: Value, values: Value) -> None:
                k.store(values, k.arg(5), column * chain.result.nbytes)

            _transposed(k, chain, group.index, entry, keep)
        with k.if_(k.eq(whole, 2 * LANES)) as branch:
            write(group.index, entry, end, None)
        with branch.otherwise():
            write(group.index, entry, end, mask)


def _interleaved(k: Kernel, parts: list[Value]) -> Value:
    """Return the first elements of all parts, then the second ones, and so on."""
    if len(parts) == 1:
        return parts[0]
    first, second = _interleaved(k, parts[::2]), _interleaved(k, parts[1::2])
    lanes = first.type.lanes
    return k.shuffle(first, second, [i // 2 + i % 2 * lanes for i in range(2 * lanes)])


def _transposed(
    k: Kernel,
    chain: _Chain,
    group: Value,
    entry: Value,
    use: Callable[[Value, Value], None],
) -> None:
    """Call ``use`` with the number and the numbers of each column of a group."""
    source, factors, columns = k.arg(0), k.arg(1), k.param(1)
    begins = [k.offset(source, k.load(I64, entry, 8 * i)) for i in range(LANES)]
    factor = None
    if chain.multiplies:
        factor = k.load(F32.vector(LANES), factors, group * (4 * LANES))
    with k.loop(0, columns, LANES) as tile:
        # The last tile overlaps the one before.
        first = k.min(tile.index, columns - LANES)
        at = first * chain.source.scalar.nbytes
        tiles = transpose(k, [k.load(chain.source, begin, at) for begin in begins])
        for i, bits in enumerate(tiles):
            use(first + i, chain.apply(k, bits, factor))
