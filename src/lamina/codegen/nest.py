"""The loop-level description of a kernel: a loop nest with a program of scalar operations.

A :class:`LoopNest` iterates over ``dims``.  Its program is a list of instructions in SSA order; an
instruction that depends on no reduced dimension has one value per *row* (one point of the kept
dimensions), the others have one value per element.  :class:`Fold` joins the values of an
instruction over all reduced dimensions.  Folds may depend on earlier folds: the nest then passes
over each row several times.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from lamina.ir.dims import Dim
from lamina.ir.graph import Op
from lamina.ir.types import DType


class Refusal(Exception):
    """A description cannot be lowered; the text is the reason.  Never leaves this package."""


@dataclass(frozen=True)
class LoopDim:
    """One loop.  With ``guard = (outer, total)`` it runs while ``outer * size + i < total``."""

    size: Dim
    reduced: bool = False
    guard: tuple[int, Dim] | None = None


@dataclass(frozen=True)
class Access:
    """Where a load or a store goes, in elements: offset + strides . loops + strides . values.

    ``operand`` counts the arguments of the kernel; a negative one names a constant table of the
    nest (-1 is the first).  ``dynamic`` holds (instruction, stride) pairs.  A load happens only
    where ``predicate`` (an instruction) holds and gives 0 elsewhere.  A store writes zero where
    the guard of loop ``padded`` cuts it off: the padding of its last block.
    """

    operand: int
    dtype: DType
    strides: tuple[Dim, ...]
    offset: Dim = 0
    dynamic: tuple[tuple[int, Dim], ...] = ()
    predicate: int | None = None
    padded: int | None = None


@dataclass(frozen=True)
class Load:
    """Read one element."""

    access: Access

    @property
    def dtype(self) -> DType:
        """Return the element type."""
        return self.access.dtype

    @property
    def args(self) -> tuple[int, ...]:
        """Return the instructions that the address and the predicate need."""
        extra = () if self.access.predicate is None else (self.access.predicate,)
        return (*(i for i, _ in self.access.dynamic), *extra)


@dataclass(frozen=True)
class Constant:
    """A number."""

    dtype: DType
    number: float | int | bool

    args: tuple[int, ...] = ()


@dataclass(frozen=True)
class Apply:
    """A pointwise operator of the scalar table on earlier instructions."""

    op: Op
    args: tuple[int, ...]
    dtype: DType


@dataclass(frozen=True)
class Index:
    """The number ``offset + strides . loops`` (i32)."""

    strides: tuple[Dim, ...]
    offset: Dim = 0

    args: tuple[int, ...] = ()
    dtype: DType = DType.I32


@dataclass(frozen=True)
class Fold:
    """Join ``args[0]`` over the reduced dimensions: sum, prod, max, min, argmax or argmin.

    For argmax and argmin the result is ``args[1]`` (i32) at the extreme element, the first one in
    iteration order, or the last with ``last``; a NaN is more extreme than every number.
    """

    kind: str
    args: tuple[int, ...]
    dtype: DType
    last: bool = False


@dataclass(frozen=True)
class Scan:
    """The running sum or prod of ``args[0]`` along the only reduced dimension, per element."""

    kind: str
    args: tuple[int, ...]
    dtype: DType
    exclusive: bool = False


Instruction = Load | Constant | Apply | Index | Fold | Scan


@dataclass(frozen=True)
class Store:
    """Write the value of an instruction."""

    access: Access
    value: int


@dataclass(frozen=True)
class Table:
    """A constant array that the kernel carries."""

    dtype: DType
    values: tuple[float, ...]


@dataclass(frozen=True)
class LoopNest:
    """Loops and their program; equal nests give equal code."""

    dims: tuple[LoopDim, ...]
    program: tuple[Instruction, ...]
    stores: tuple[Store, ...]
    tables: tuple[Table, ...] = ()

    @cached_property
    def depends(self) -> tuple[frozenset[int], ...]:
        """Return for each instruction the dimensions that its value varies with."""
        reduced = frozenset(i for i, d in enumerate(self.dims) if d.reduced)
        result: list[frozenset[int]] = []
        for x in self.program:
            own: frozenset[int] = frozenset().union(*(result[a] for a in x.args))
            if isinstance(x, Load):
                own |= frozenset(i for i, s in enumerate(x.access.strides) if s != 0)
            elif isinstance(x, Index):
                own |= frozenset(i for i, s in enumerate(x.strides) if s != 0)
            elif isinstance(x, Fold):
                own -= reduced
            elif isinstance(x, Scan):
                own |= reduced
            result.append(own)
        return tuple(result)

    @cached_property
    def stages(self) -> tuple[int, ...]:
        """Return for each instruction the number of folds that must come before it."""
        result: list[int] = []
        for x in self.program:
            after = max((result[a] for a in x.args), default=0)
            result.append(after + isinstance(x, Fold))
        return tuple(result)

    @property
    def has_folds(self) -> bool:
        """Whether anything is reduced."""
        return any(isinstance(x, Fold | Scan) for x in self.program)
