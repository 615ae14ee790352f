"""Gives the accesses of a loop nest their strides: cuts blocked axes, merges loops.

Before placement a load or a store names a layout and one index per axis; after it, one stride per
loop.  A blocked axis needs a loop over blocks and a loop over the lanes of a block; where the
axis is no multiple of the block, the lane loop gets a guard.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from lamina.codegen.indexing import (
    AxisIndex,
    Position,
    Splits,
    exact_quotient,
    leaves,
    resolve,
)
from lamina.codegen.layout import Layout
from lamina.codegen.nest import (
    Access,
    Apply,
    Constant,
    Fold,
    Index,
    Instruction,
    Load,
    LoopDim,
    LoopNest,
    Refusal,
    Scan,
    Store,
    Table,
)
from lamina.codegen.scalar import SCALAR_DTYPES
from lamina.ir.dims import Dim, ceildiv, is_static
from lamina.ir.types import DType


@dataclass(frozen=True)
class RawLoad:
    """A load before placement."""

    operand: int
    dtype: DType
    layout: Layout
    position: Position
    predicate: int | None


@dataclass(frozen=True)
class RawIndex:
    """The value of an index before placement."""

    position: AxisIndex
    dtype: DType = DType.I32


@dataclass(frozen=True)
class RawStore:
    """A store before placement."""

    operand: int
    dtype: DType
    layout: Layout
    position: Position
    value: int


@dataclass(frozen=True)
class RawNest:
    """A nest before placement."""

    sizes: tuple[Dim, ...]
    reduced: frozenset[int]
    program: tuple[object, ...]
    stores: tuple[RawStore, ...]
    tables: tuple[Table, ...]
    splits: Splits


class _Loops:
    """The loops while blocked axes cut them."""

    def __init__(self, raw: RawNest) -> None:
        self.sizes = list(raw.sizes)
        self.reduced = set(raw.reduced)
        self.splits: Splits = dict(raw.splits)
        self.guards: dict[int, tuple[int, Dim]] = {}

    def cut(self, dim: int, inner: int) -> None:
        """Cut a loop into blocks of ``inner``; the last one is guarded when it is not full."""
        if dim in self.guards or any(dim == outer for outer, _ in self.guards.values()):
            raise Refusal("a padded block would have to be cut again")
        total = self.sizes[dim]
        count = exact_quotient(total, inner)
        self.sizes += [ceildiv(total, inner) if count is None else count, inner]
        outer, lane = len(self.sizes) - 2, len(self.sizes) - 1
        self.splits[dim] = (outer, lane, inner)
        if count is None:
            self.guards[lane] = (outer, total)
        if dim in self.reduced:
            self.reduced |= {outer, lane}

    def fit(self, layout: Layout, position: Position) -> bool:
        """Cut what straddles the blocks of a layout; True when something was cut."""
        if not layout.is_blocked:
            return False
        index = resolve(position[layout.block_axis], self.splits)
        if index.dynamic:
            raise Refusal("a computed index along a blocked axis")
        if exact_quotient(index.offset, layout.block) is None:
            raise Refusal(f"offset {index.offset} is no multiple of the block {layout.block}")
        span = 0
        for d, step in index.terms:
            if exact_quotient(step, layout.block) is not None:
                continue
            if not is_static(step) or layout.block % int(step):  # type: ignore[arg-type]
                raise Refusal(f"step {step} does not fit blocks of {layout.block}")
            lanes = layout.block // int(step)  # type: ignore[arg-type]
            size = self.sizes[d]
            alone = len(index.terms) == 1
            if not is_static(size) or int(size) > lanes or (alone and size != lanes):  # type: ignore[arg-type]
                self.cut(d, lanes)
                return True
            span += int(step) * (int(size) - 1)  # type: ignore[arg-type]
        if span >= layout.block:
            raise Refusal("several loops share the lanes of a block")
        return False

    def padding(self, layout: Layout, position: Position) -> int | None:
        """Return the loop whose guard ends what a store fills of a layout's last block.

        None when every block is full; raises Refusal when no loop runs over the padding.
        """
        if not layout.is_blocked:
            return None
        index = resolve(position[layout.block_axis], self.splits)
        inside = [(d, s) for d, s in index.terms if exact_quotient(s, layout.block) is None]
        span: Dim = 1
        for d, s in inside:
            span = span + s * (self.sizes[d] - 1)
        if span != layout.block:
            raise Refusal(f"no loop over the padding of a block: {span} of {layout.block} lanes")
        return next((d for d, _ in inside if d in self.guards), None)

    def strides(self, layout: Layout, position: Position) -> tuple[tuple[Dim, ...], Dim, Any]:
        """Return the stride of every loop, the offset, and the dynamic terms."""
        strides: list[Dim] = [0] * len(self.sizes)
        offset = layout.offset
        dynamic: dict[int, Dim] = {}
        for axis, raw in enumerate(position):
            index, stride = resolve(raw, self.splits), layout.strides[axis]
            if axis == layout.block_axis and layout.is_blocked:
                blocks = exact_quotient(index.offset, layout.block)
                offset = offset + (blocks or 0) * stride
                for d, step in index.terms:
                    outer = exact_quotient(step, layout.block)
                    part = step * layout.lane_stride if outer is None else outer * stride
                    strides[d] = strides[d] + part
                continue
            offset = offset + index.offset * stride
            for d, step in index.terms:
                strides[d] = strides[d] + step * stride
            for i, step in index.dynamic:
                dynamic[i] = dynamic.get(i, 0) + step * stride
        return tuple(strides), offset, tuple(sorted(dynamic.items()))


def place(raw: RawNest) -> LoopNest:
    """Return the nest with strides instead of layouts; raises Refusal."""
    loops = _Loops(raw)
    placed = [x for x in raw.program if isinstance(x, RawLoad)]
    accesses: list[RawLoad | RawStore] = [*raw.stores, *placed]
    while any(loops.fit(a.layout, a.position) for a in accesses):
        pass
    program, renamed = _program(raw, loops)
    stores = tuple(_store(s, loops, renamed) for s in raw.stores)
    dims = tuple(
        LoopDim(size, i in loops.reduced, loops.guards.get(i)) for i, size in enumerate(loops.sizes)
    )
    live = leaves(range(len(raw.sizes)), loops.splits)
    nest = _as_bits(drop_dead(LoopNest(dims, program, stores, raw.tables)))
    nest = _keep(nest, [d for d in range(len(dims)) if d in live and dims[d].size != 1])
    return check(merge_loops(nest))


def _program(raw: RawNest, loops: _Loops) -> tuple[tuple[Instruction, ...], list[int]]:
    """Place every instruction; equal ones become one."""
    known: dict[Instruction, int] = {}
    renamed: list[int] = []
    for x in raw.program:
        y = _placed(x, loops, renamed)
        renamed.append(known.setdefault(y, len(known)))
    return tuple(known), renamed


def _placed(x: object, loops: _Loops, renamed: list[int]) -> Instruction:
    if isinstance(x, RawLoad):
        strides, offset, dynamic = loops.strides(x.layout, x.position)
        predicate = None if x.predicate is None else renamed[x.predicate]
        named = tuple((renamed[i], s) for i, s in dynamic)
        return Load(Access(x.operand, x.dtype, strides, offset, named, predicate))
    if isinstance(x, RawIndex):
        strides, offset, _ = loops.strides(Layout((1,)), (x.position,))
        return Index(strides, offset)
    assert isinstance(x, Apply | Constant | Fold | Scan)
    if isinstance(x, Constant):
        return x
    return replace(x, args=tuple(renamed[a] for a in x.args))


def _store(s: RawStore, loops: _Loops, renamed: list[int]) -> Store:
    strides, offset, dynamic = loops.strides(s.layout, s.position)
    named = tuple((renamed[i], step) for i, step in dynamic)
    padded = loops.padding(s.layout, s.position)
    return Store(Access(s.operand, s.dtype, strides, offset, named, None, padded), renamed[s.value])


def drop_dead(nest: LoopNest) -> LoopNest:
    """Drop instructions that no store needs."""
    live: set[int] = set()
    stack = [s.value for s in nest.stores] + [i for s in nest.stores for i, _ in s.access.dynamic]
    while stack:
        i = stack.pop()
        if i not in live:
            live.add(i)
            stack += nest.program[i].args
    order = sorted(live)
    names = {old: new for new, old in enumerate(order)}
    return map_accesses(
        replace(nest, program=tuple(nest.program[i] for i in order)), lambda s: s, names
    )


_BITS = {1: DType.U8, 2: DType.U16, 4: DType.U32, 8: DType.U64}


def _as_bits(nest: LoopNest) -> LoopNest:
    """Move elements that are only moved as integers of their size; other storage types refuse."""
    used = {a for x in nest.program for a in x.args}
    moved = {
        i
        for i, x in enumerate(nest.program)
        if isinstance(x, Load) and i not in used and x.dtype.itemsize in _BITS
    }
    program = list(nest.program)
    for i in moved:
        access = nest.program[i].access  # type: ignore[union-attr]
        program[i] = Load(replace(access, dtype=_BITS[access.dtype.itemsize]))
    for x in program:
        if x.dtype not in SCALAR_DTYPES:
            raise Refusal(f"{x.dtype} is only stored, never computed with")
    stores = tuple(
        Store(replace(s.access, dtype=program[s.value].dtype), s.value) if s.value in moved else s
        for s in nest.stores
    )
    return replace(nest, program=tuple(program), stores=stores)


def map_accesses(
    nest: LoopNest,
    strides: Callable[[tuple[Dim, ...]], tuple[Dim, ...]],
    names: dict[int, int] | None = None,
) -> LoopNest:
    """Rewrite the strides of every access and index, and the numbers of instructions."""

    def name(i: int) -> int:
        return i if names is None else names[i]

    def access(a: Access) -> Access:
        predicate = None if a.predicate is None else name(a.predicate)
        dynamic = tuple((name(i), s) for i, s in a.dynamic)
        return replace(a, strides=strides(a.strides), dynamic=dynamic, predicate=predicate)

    program: list[Instruction] = []
    for x in nest.program:
        if isinstance(x, Load):
            program.append(Load(access(x.access)))
        elif isinstance(x, Index):
            program.append(replace(x, strides=strides(x.strides)))
        elif isinstance(x, Constant):
            program.append(x)
        else:
            program.append(replace(x, args=tuple(name(a) for a in x.args)))
    stores = tuple(Store(access(s.access), name(s.value)) for s in nest.stores)
    return replace(nest, program=tuple(program), stores=stores)


def map_operands(nest: LoopNest, numbers: dict[int, int]) -> LoopNest:
    """Give the operands of a nest other numbers; tables keep theirs."""

    def access(a: Access) -> Access:
        return replace(a, operand=numbers.get(a.operand, a.operand))

    program = tuple(Load(access(x.access)) if isinstance(x, Load) else x for x in nest.program)
    stores = tuple(Store(access(s.access), s.value) for s in nest.stores)
    return replace(nest, program=program, stores=stores)


def _keep(nest: LoopNest, kept: list[int]) -> LoopNest:
    """Keep only these loops, in this order."""
    names = {old: new for new, old in enumerate(kept)}
    dims = []
    for loop in (nest.dims[i] for i in kept):
        guard = loop.guard
        if guard is not None:
            # With one block only (its loop is gone) the guard is a plain bound.
            guard = (names.get(guard[0], -1), guard[1])
        dims.append(replace(loop, guard=guard))
    nest = map_accesses(nest, lambda s: tuple(s[i] for i in kept))
    stores = [
        s if (d := s.access.padded) is None else Store(replace(s.access, padded=names[d]), s.value)
        for s in nest.stores
    ]
    return replace(nest, dims=tuple(dims), stores=tuple(stores))


def strides_of(nest: LoopNest) -> list[tuple[Dim, ...]]:
    """Return the strides of every load, store and index."""
    result = [s.access.strides for s in nest.stores]
    for x in nest.program:
        if isinstance(x, Load):
            result.append(x.access.strides)
        elif isinstance(x, Index):
            result.append(x.strides)
    return result


def merge_loops(nest: LoopNest) -> LoopNest:
    """Merge loops that every access walks as one."""
    again = True
    while again:
        again = False
        for a in range(len(nest.dims)):
            for b in range(len(nest.dims)):
                if a != b and _mergeable(nest, a, b):
                    nest = _merge(nest, a, b)
                    again = True
                    break
            if again:
                break
    return nest


def _mergeable(nest: LoopNest, a: int, b: int) -> bool:
    outer, inner = nest.dims[a], nest.dims[b]
    if outer.reduced != inner.reduced or outer.guard or inner.guard:
        return False
    if any(d.guard and d.guard[0] in (a, b) for d in nest.dims):
        return False
    return all(s[a] == s[b] * inner.size for s in strides_of(nest))


def _merge(nest: LoopNest, a: int, b: int) -> LoopNest:
    dims = list(nest.dims)
    dims[b] = replace(dims[b], size=dims[a].size * dims[b].size)
    merged = replace(nest, dims=tuple(dims))
    return _keep(merged, [d for d in range(len(dims)) if d != a])


def check(nest: LoopNest) -> LoopNest:
    """Refuse what the emitters cannot do: a fold of a fold, a store that several rows share."""
    if len({s.access.padded for s in nest.stores} - {None}) > 1:
        raise Refusal("outputs have their padding along different loops")
    kept = {i for i, d in enumerate(nest.dims) if not d.reduced}
    for s in nest.stores:
        touched = {i for i, stride in enumerate(s.access.strides) if stride != 0}
        for i, _ in s.access.dynamic:
            touched |= nest.depends[i]
        if not kept <= touched:
            raise Refusal("an output does not depend on every outer loop")
        if nest.depends[s.value] - touched:
            raise Refusal("an output is smaller than what is computed for it")
    scans = [x for x in nest.program if isinstance(x, Scan)]
    folds = any(isinstance(x, Fold) for x in nest.program)
    if scans and (len(nest.dims) - len(kept) != 1 or folds):
        raise Refusal("a running reduction must be alone")
    return nest
