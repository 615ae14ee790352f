"""Lets the kernels of a plan make constants of weights: see :mod:`lamina.ir.movement`.

A piece of a movement is seen as rows that are dense in the source.  Where they are dense in the
result too, each is copied; otherwise sixteen at a time are transposed.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache
from math import prod
from typing import Final

import numpy as np

from lamina.ir.blocks import cache_aligned
from lamina.ir.movement import (
    Axis,
    Course,
    Measure,
    Movement,
    Piece,
    conversions,
    kernel_name,
    result_size,
)
from lamina.ir.recipe import Array

LANES: Final = 16
"""Rows that are transposed at once."""

ROW_WORDS: Final = 3
"""Where a row begins in source, factors and result."""

GROUP_WORDS: Final = LANES + 2
"""Where its rows begin in the source and it in the result, and the number of its rows."""

_LEAST_ROW: Final = 8
_LINE_BYTES: Final = 64

_MOST_SUMMED: Final = 1 << 24
"""8-bit integers whose sum is an i32."""


_SCRATCH: Final = threading.local()


class Form(Enum):
    """What a kernel writes at once."""

    ROWS = "rows"
    COLUMNS = "columns"
    PAIRS = "pairs"
    FOURS = "fours"
    MEASURE = "measure"


TOGETHER: Final = {Form.COLUMNS: 1, Form.PAIRS: 2, Form.FOURS: 4}
"""How many columns are written together."""

SUMS: Final = f"{kernel_name('1')}_sums"
"""The kernel that adds 8-bit integers."""


def forms(chain: str) -> dict[str, Form]:
    """Return the kernels of a chain by name."""
    kept = [Form.ROWS, Form.COLUMNS]
    size = result_size(chain)
    # Instructions multiply two 16-bit numbers at once, and four of 8 bits.
    kept += [form for form, together in TOGETHER.items() if together > 1 and together * size == 4]
    return {_name(chain, form): form for form in kept}


def measuring(chain: str) -> str:
    """Return the name of the kernel that looks at the f32 numbers which a chain gives."""
    return _name(chain, Form.MEASURE)


def _name(chain: str, form: Form) -> str:
    return f"{kernel_name(chain)}_{form.value}"


Call = Callable[[str, Sequence[Array], Sequence[int]], None]
"""Calls a kernel with addresses of arrays and numbers."""


@dataclass(frozen=True, eq=False)
class _Job:
    """A call of a kernel, whatever source and result are.

    ``tables`` are the operands behind the result; ``picked`` are the factors' numbers in the order
    in which the kernel reads them, None for their own.
    """

    kernel: str
    tables: tuple[Array, ...]
    sizes: tuple[int, ...]
    picked: Array | None
    scratch_bytes: int


def move(movements: Sequence[Movement], out: Array, names: frozenset[str], call: Call) -> bool:
    """Let kernels write what movements give together into bytes ``out``.

    Returns False, having done nothing, if there is none for something.  ``names`` are those of the
    kernels that there are.
    """
    found = [(m, None if m.course.together else _jobs(m.course)) for m in movements]
    address: int = out.__array_interface__["data"][0]
    if not movements or address % _LINE_BYTES:
        return False
    for movement, jobs in found:
        size = movement.course.elements * movement.course.result_size
        if jobs is None or size != out.nbytes or any(job.kernel not in names for job in jobs):
            return False
    if movements[0].course.is_padded:
        out[:] = 0
    for movement, jobs in found:
        for job in jobs or ():
            _run(job, movement, out, call)
    return True


def _run(job: _Job, movement: Movement, out: Array, call: Call) -> None:
    factors = np.zeros(1, np.float32) if movement.factors is None else movement.factors
    if movement.factors is not None and job.picked is not None:
        factors = movement.factors[job.picked]
    operands = [movement.base, factors, out, *job.tables]
    if job.scratch_bytes:
        operands.append(scratch(job.scratch_bytes, "columns"))
    call(job.kernel, operands, job.sizes)


def scratch(size_bytes: int, use: str) -> Array:
    """Return memory of this thread for a use, whatever is in it; new memory is slow to write."""
    kept: dict[str, Array] = vars(_SCRATCH)
    if use not in kept or kept[use].nbytes < size_bytes:
        kept[use] = cache_aligned((size_bytes,), np.uint8)
    return kept[use][:size_bytes]


def sums(movement: Movement, names: frozenset[str], call: Call) -> Array | None:
    """Return the sums of 8-bit integers with the same first index; None without a kernel."""
    course, base = movement.course, movement.base
    rows, length = course.shape[0], prod(course.shape[1:])
    if SUMS not in names or not course.keeps_order or not course.is_dense:
        return None
    if base.dtype != np.int8 or length > _MOST_SUMMED or not base.size:
        return None
    table = np.zeros((rows, ROW_WORDS), np.int64)
    table[:, 0] = np.arange(rows) * length
    found = np.empty(rows, np.int32)
    call(SUMS, (base, found, found, table), (rows, length))
    return found


def measure(movement: Movement, names: frozenset[str], call: Call) -> Measure | None:
    """Return what a kernel finds in the numbers that a movement gives; None without one."""
    course = movement.course
    if measuring(course.chain) not in names:
        return None
    found = np.zeros(2, np.uint32)
    factors = np.zeros(1, np.float32) if movement.factors is None else movement.factors
    for table, length in _measured_rows(course):
        each = np.zeros(2, np.uint32)
        operands = (movement.base, factors, each, table)
        call(measuring(course.chain), operands, (len(table), length))
        found = np.maximum(found, each)
    return Measure(found[:1].view(np.float32)[0], not found[1])


@lru_cache(maxsize=1024)
def _measured_rows(course: Course) -> list[tuple[Array, int]]:
    found = []
    for piece in course.pieces:
        columns, rows = _split(piece.axes)
        job = _rows(course, piece, rows, prod(a.size for a in columns), _source_size(course.chain))
        found.append((job.tables[0], job.sizes[1]))
    return found


@lru_cache(maxsize=1024)
def _jobs(course: Course) -> tuple[_Job, ...] | None:
    """Return the calls that a course takes; None where there is no kernel for a part of it."""
    found = [_job(course, piece) for piece in course.pieces]
    return None if None in found else tuple(job for job in found if job is not None)


def _job(course: Course, piece: Piece) -> _Job | None:
    converts = conversions(course.chain)
    scaled = converts is not None and converts.multiplies
    read = _source_size(course.chain)
    if not piece.axes:
        return None
    last = piece.axes[-1]
    if last.result == last.source == 1 and not last.factor and last.size >= _LEAST_ROW:
        # The rest of the dense run is dense in the result too only as far as this axis goes.
        rows = [axis for axis in piece.axes if axis is not last]
        return _rows(course, piece, rows, last.size, read)
    # Where columns are together, the rows are those of the axis before.
    few = last.size in TOGETHER.values() and last.size > 1 and len(piece.axes) > 1
    pair = last if few and piece.axes[-2].result == last.size else None
    lane = last if pair is None else piece.axes[-2]
    columns, rows = _split(piece.axes, lane)
    if prod(axis.size for axis in columns) < LANES:
        return None
    if lane.result == 1:
        return _columns(course, piece, rows, columns, read, scaled)
    if pair in columns and pair.size * course.result_size == 4:
        return _pairs(course, piece, rows, columns, pair, read, scaled)
    return None


def _split(axes: Sequence[Axis], lane: Axis | None = None) -> tuple[list[Axis], list[Axis]]:
    """Return the axes that are one dense run in the source, the innermost first, and the others.

    ``lane`` is among the others.
    """
    columns: list[Axis] = []
    run = 1
    rest = list(axes)
    while following := [a for a in rest if a.source == run and not a.factor and a is not lane]:
        columns.append(following[0])
        rest.remove(following[0])
        run *= following[0].size
    return columns, rest


def _offsets(axes: Sequence[Axis], steps: Sequence[int]) -> Array:
    """Return where each index of some axes is, the last axis running fastest."""
    total = np.zeros(1, np.int64)
    for axis, step in zip(axes, steps, strict=True):
        total = (total[:, None] + np.arange(axis.size) * step).reshape(-1)
    return total


def _rows(course: Course, piece: Piece, rows: list[Axis], length: int, read: int) -> _Job:
    table = np.stack(
        [
            (piece.source + _offsets(rows, [a.source for a in rows])) * read,
            (piece.factor + _offsets(rows, [a.factor for a in rows])) * 4,
            (piece.result + _offsets(rows, [a.result for a in rows])) * course.result_size,
        ],
        axis=1,
    )
    table = np.ascontiguousarray(table, np.int64)
    return _Job(_name(course.chain, Form.ROWS), (table,), (len(table), length), None, 0)


def _groups(course: Course, piece: Piece, rows: list[Axis], read: int) -> tuple[Array, Array]:
    """Return the groups of a piece's rows, and the numbers of their factors."""
    ordered = sorted(rows, key=lambda axis: -axis.result)
    lanes = ordered[-1].size
    columns = [
        (begin + _offsets(ordered, steps)).reshape(-1, lanes)
        for begin, steps in (
            (piece.source, [a.source for a in ordered]),
            (piece.factor, [a.factor for a in ordered]),
            (piece.result, [a.result for a in ordered]),
        )
    ]
    rest = -lanes % LANES
    counts = np.full((len(columns[0]), (lanes + rest) // LANES), LANES)
    counts[:, -1] -= rest
    # A group that is not whole repeats its last row.
    source, factor, result = (
        np.pad(c, ((0, 0), (0, rest)), mode="edge").reshape(-1, LANES) for c in columns
    )
    ends = result[:, :1] * course.result_size
    table = np.concatenate([source * read, ends, counts.reshape(-1, 1)], axis=1)
    return np.ascontiguousarray(table, np.int64), factor.reshape(-1)


def _columns(
    course: Course, piece: Piece, rows: list[Axis], columns: list[Axis], read: int, scaled: bool
) -> _Job:
    table, factors = _groups(course, piece, rows, read)
    outer = columns[::-1]
    places = _offsets(outer, [a.result for a in outer]) * course.result_size
    whole = _are_whole(table, places, LANES * course.result_size)
    sizes = (len(table), len(places), whole)
    picked = factors if scaled else None
    return _Job(_name(course.chain, Form.COLUMNS), (table, places), sizes, picked, 0)


def _pairs(
    course: Course,
    piece: Piece,
    rows: list[Axis],
    columns: list[Axis],
    pair: Axis,
    read: int,
    scaled: bool,
) -> _Job:
    table, factors = _groups(course, piece, rows, read)
    outer = [axis for axis in columns[::-1] if axis is not pair]
    places = _offsets(outer, [a.result for a in outer]) * course.result_size
    first = _offsets(outer, [a.source for a in outer])
    line = LANES * course.result_size
    own = [(first + i * pair.source) * line for i in range(pair.size)]
    entries = np.stack([places, *own], axis=1)
    whole = _are_whole(table, places, pair.size * line)
    count = prod(axis.size for axis in columns)
    sizes = (len(table), count, whole, len(entries))
    tables = (table, np.ascontiguousarray(entries, np.int64))
    picked = factors if scaled else None
    form = next(form for form, together in TOGETHER.items() if together == pair.size)
    return _Job(_name(course.chain, form), tables, sizes, picked, count * line)


def _are_whole(groups: Array, places: Array, unit: int) -> int:
    """Whether everything is written at multiples of a unit."""
    return int(not (groups[:, LANES] % unit).any() and not (places % unit).any())


def _source_size(chain: str) -> int:
    converts = conversions(chain)
    if converts is None:
        return int(chain)
    return 4 if converts.source == "float32" else 2
