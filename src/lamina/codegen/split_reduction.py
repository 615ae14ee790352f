"""Cuts a large reduction with few results into partial reductions that threads can share.

The first nest folds pieces of the largest reduced loop into a workspace, the second folds the
pieces and computes whatever depends on the results.  The number of pieces is fixed, so results do
not depend on the number of threads.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from lamina.codegen.nest import (
    Access,
    Fold,
    Index,
    Instruction,
    Load,
    LoopDim,
    LoopNest,
    Scan,
    Store,
)
from lamina.codegen.placement import drop_dead, map_accesses
from lamina.ir.dims import Dim, is_static
from lamina.ir.types import DType

_FEWEST_ELEMENTS = 1 << 16
_FEWEST_IN_A_PIECE = 512
_MOST_ROWS = 8
_PIECES = (16, 12, 14, 10, 9, 8, 7, 6, 5, 4)
_JOINABLE = frozenset({"sum", "prod", "max", "min", "top"})
_ALIGNMENT = 64


@dataclass(frozen=True)
class SplitReduction:
    """Both nests, and the bytes of the workspace between them."""

    partial: LoopNest
    final: LoopNest
    workspace_bytes: int


def split_reduction(
    nest: LoopNest,
    workspace: int,
    *,
    pieces: Sequence[int] = _PIECES,
    most_rows: int = _MOST_ROWS,
) -> SplitReduction | None:
    """Return the two nests, or None when one is as good; ``workspace`` is its operand number.

    The number of pieces is the first of ``pieces`` that leaves none of them too short; a nest with
    more than ``most_rows`` results is not cut.
    """
    folds = [i for i, x in enumerate(nest.program) if isinstance(x, Fold)]
    if not folds or any(isinstance(x, Scan) for x in nest.program):
        return None
    if max(nest.stages) > 1 or not all(_joinable(nest, i) for i in folds):
        return None
    if not all(is_static(d.size) and d.guard is None for d in nest.dims):
        return None
    rows, total = 1, 1
    for d in nest.dims:
        total *= int(d.size)  # type: ignore[arg-type]
        rows *= 1 if d.reduced else int(d.size)  # type: ignore[arg-type]
    if total < _FEWEST_ELEMENTS or rows > most_rows or rows == 0:
        return None
    reduced = frozenset(i for i, d in enumerate(nest.dims) if d.reduced)
    if any(nest.depends[s.value] & reduced for s in nest.stores):
        return None
    largest = max(reduced, key=lambda i: int(nest.dims[i].size))  # type: ignore[arg-type]
    size = int(nest.dims[largest].size)  # type: ignore[arg-type]
    most = total // (rows * _FEWEST_IN_A_PIECE)
    count = next((p for p in pieces if size % p == 0 and p <= most), None)
    if count is None:
        return None
    return _split(nest, folds, largest, count, rows, workspace)


def _joinable(nest: LoopNest, i: int) -> bool:
    x = nest.program[i]
    return isinstance(x, Fold) and x.kind in _JOINABLE and x.dtype not in (DType.F16, DType.BF16)


def _split(
    nest: LoopNest, folds: list[int], largest: int, pieces: int, rows: int, workspace: int
) -> SplitReduction:
    size = int(nest.dims[largest].size) // pieces  # type: ignore[arg-type]
    dims = list(nest.dims)
    dims[largest] = LoopDim(size, reduced=True)
    dims.append(LoopDim(pieces))

    def with_piece(strides: tuple[Dim, ...]) -> tuple[Dim, ...]:
        return (*strides, strides[largest] * size)

    cut = map_accesses(replace(nest, dims=tuple(dims)), with_piece)
    kept = [i for i, d in enumerate(nest.dims) if not d.reduced]
    places: list[Access] = []
    nbytes = 0
    for fold in folds:
        dtype = nest.program[fold].dtype
        strides: list[Dim] = [0] * len(dims)
        step = 1
        for i in reversed(kept):
            strides[i] = step
            step *= int(nest.dims[i].size)  # type: ignore[arg-type]
        strides[-1] = step
        places.append(Access(workspace, dtype, tuple(strides), nbytes // dtype.itemsize))
        nbytes += -(-rows * pieces * dtype.itemsize // _ALIGNMENT) * _ALIGNMENT
    partial = replace(
        cut, stores=tuple(Store(a, fold) for a, fold in zip(places, folds, strict=True))
    )
    return SplitReduction(drop_dead(partial), _final(nest, folds, kept, pieces, places), nbytes)


def _final(
    nest: LoopNest, folds: list[int], kept: list[int], pieces: int, places: list[Access]
) -> LoopNest:
    """Return the nest that folds the pieces in the workspace."""

    def only_kept(strides: tuple[Dim, ...]) -> tuple[Dim, ...]:
        return (*(strides[i] for i in kept), 0)

    program: list[Instruction] = []
    names: dict[int, int] = {}
    reduced = frozenset(i for i, d in enumerate(nest.dims) if d.reduced)
    for i, x in enumerate(nest.program):
        if isinstance(x, Fold) and i in folds:
            place = places[folds.index(i)]
            strides = (*(place.strides[d] for d in kept), place.strides[-1])
            program.append(Load(replace(place, strides=strides)))
            program.append(replace(x, args=(len(program) - 1,)))
        elif nest.depends[i] & reduced:
            continue
        elif isinstance(x, Load):
            dynamic = tuple((names[j], s) for j, s in x.access.dynamic)
            predicate = None if x.access.predicate is None else names[x.access.predicate]
            access = replace(
                x.access, strides=only_kept(x.access.strides), dynamic=dynamic, predicate=predicate
            )
            program.append(Load(access))
        elif isinstance(x, Index):
            program.append(replace(x, strides=only_kept(x.strides)))
        else:
            program.append(replace(x, args=tuple(names[a] for a in x.args)) if x.args else x)
        names[i] = len(program) - 1
    stores = []
    for s in nest.stores:
        dynamic = tuple((names[j], step) for j, step in s.access.dynamic)
        access = replace(s.access, strides=only_kept(s.access.strides), dynamic=dynamic)
        stores.append(Store(access, names[s.value]))
    dims = (*(nest.dims[i] for i in kept), LoopDim(pieces, reduced=True))
    return drop_dead(LoopNest(dims, tuple(program), tuple(stores), nest.tables))
