"""Writes one loop nest into a Triton function.

The kept loops are spread over programs and lanes.  The reduced loops of a program run once per
*pass*: a pass computes the folds of one stage, and stores whatever needs no later fold.  A row that
fits in registers needs no passes.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from math import prod

from lamina.codegen.nest import Fold, Load, LoopNest, Refusal, Scan, Store
from lamina.codegen.triton.folds import Joining
from lamina.codegen.triton.text import Text
from lamina.codegen.triton.tile import Tile, extent
from lamina.codegen.triton.tile_values import Group, Pointers, TileValues
from lamina.ir.dims import is_static

_MOST_UNROLLED = 32
_WARP = 32
_MOST_BYTES_AHEAD = 256
"""Of registers of a lane that hold what is read before it is needed."""


class NestPrinter:
    """Writes the program of one nest."""

    def __init__(
        self, text: Text, nest: LoopNest, tile: Tile, pointers: Pointers, number: int, wide: bool
    ) -> None:
        if any(d.guard is not None for d in nest.dims):
            raise Refusal("a blocked layout")
        self.text, self.nest, self.tile = text, nest, tile
        self.values = TileValues(text, nest, tile, pointers, number, wide)
        self.reduced = frozenset(tile.z)

    def print(self, program: str, constants: frozenset[int] | None = None) -> None:
        """Write what program number ``program`` does.

        With ``constants``, the operands that no kernel writes, it also waits for the kernel ahead.
        """
        self.values.enter(program)
        row = bool(self.tile.z) and self.tile.resident
        if row:
            self._row()
        if constants is not None:
            if row:
                self._read_ahead(constants)
            self.text.wait()
        if not self.tile.z:
            self._single()
        elif row:
            self._resident()
        else:
            self._passes()

    def _single(self) -> None:
        """Write a nest that reduces nothing, or over loops of one step only."""
        for i, x in enumerate(self.nest.program):
            if isinstance(x, Scan) and x.exclusive:
                self.values.set(i, self._joining(i).narrowed(self._joining(i).identities()[0]))
            elif isinstance(x, Fold | Scan):
                self.values.set(i, str(self.values.value(x.args[-1])))
        for s in self.nest.stores:
            self.values.store(s)

    def _row(self) -> None:
        """Write where the lanes of a row are that a program has whole."""
        z = self.values.z
        z.index = self.text.name(self.values.arange(z))
        self.values.bound(z)

    def _read_ahead(self, operands: frozenset[int] | None = None) -> None:
        """Ask for what is read, of some operands or all, before a fold waits for all lanes."""
        nest, values = self.nest, self.values
        loads = {
            i: x.access
            for i, x in enumerate(nest.program)
            if isinstance(x, Load) and not nest.stages[i] and not x.access.dynamic
        }
        blocks = {i: prod(g.block for g in values.varying(nest.depends[i])) for i in loads}
        read = sum(blocks[i] * a.dtype.itemsize for i, a in loads.items())
        if read > _MOST_BYTES_AHEAD * _WARP * self.tile.warps:
            return
        for i, a in loads.items():
            if a.predicate is None and (operands is None or a.operand in operands):
                values.read(i)

    def _resident(self) -> None:
        values = self.values
        self._read_ahead()
        for i, x in enumerate(self.nest.program):
            if isinstance(x, Fold):
                self._fold_lanes(i, self._elements(i))
            elif isinstance(x, Scan):
                elements = self._elements(i)
                self._record_scan(i, self._scanned(i, elements))
        for s in self.nest.stores:
            values.store(s)

    # Passes over blocks of the reduced loops.

    def _passes(self) -> None:
        nest = self.nest
        last = max(nest.stages, default=0)
        inner = [s for s in nest.stores if self._stage_of(s) is not None]
        for number in range(last + 1):
            folds = [
                i
                for i, x in enumerate(nest.program)
                if isinstance(x, Fold) and nest.stages[i] == number + 1
            ]
            stores = [s for s in inner if self._stage_of(s) == number]
            scans = [i for i in self._needed(folds, stores) if isinstance(nest.program[i], Scan)]
            if folds or stores:
                self._pass(folds, scans, stores)
        for s in nest.stores:
            if s not in inner:
                self.values.store(s)

    def _stage_of(self, s: Store) -> int | None:
        """Return the pass that an element's store belongs to, None for a store of a row."""
        used = [s.value, *(i for i, _ in s.access.dynamic)]
        touched = {d for d, stride in enumerate(s.access.strides) if stride != 0}
        loops = touched.union(*(self.nest.depends[i] for i in used))
        return max(self.nest.stages[i] for i in used) if loops & self.reduced else None

    def _needed(self, folds: list[int], stores: list[Store]) -> list[int]:
        """Return the instructions that a pass needs, in order; earlier folds are known."""
        stack = [a for f in folds for a in self.nest.program[f].args]
        for s in stores:
            stack += [s.value, *(i for i, _ in s.access.dynamic)]
        found: set[int] = set()
        while stack:
            i = stack.pop()
            if i not in found:
                found.add(i)
                if not isinstance(self.nest.program[i], Fold):
                    stack += self.nest.program[i].args
        return sorted(found)

    def _pass(self, folds: list[int], scans: list[int], stores: list[Store]) -> None:
        values, text = self.values, self.text
        for i in self._needed(folds, stores):
            if not values.nest.depends[i] & self.reduced:
                values.value(i)
        sums = {f: self._start(f, [*self._kept_lanes(f), values.z]) for f in folds}
        carries = {s: self._start(s, self._kept_lanes(s)) for s in scans}
        with self._blocks():
            for i in scans:
                elements = self._elements(i)
                self._record_scan(i, self._scanned(i, elements, carries[i]))
                self._carry(i, elements, carries[i])
            for f in folds:
                joining = self._joining(f)
                names = ", ".join(sums[f])
                operands = ", ".join([*sums[f], *self._elements(f)])
                text.line(f"{names} = {joining.function}({operands})")
            for s in stores:
                values.store(s)
        for f in folds:
            self._fold_lanes(f, sums[f])

    @contextmanager
    def _blocks(self) -> Iterator[None]:
        """Enter the loop over the reduced loops."""
        text, values, z = self.text, self.values, self.values.z
        total = extent(self.nest, z.loops)
        counter = text.fresh()
        if z.place is not None:
            head = f"for {counter} in range(0, {text.dim(total)}, {z.block}):"
        elif is_static(total) and int(total) <= _MOST_UNROLLED:  # type: ignore[arg-type]
            head = f"for {counter} in tl.static_range({total}):"
        else:
            head = f"for {counter} in range(0, {text.dim(total)}):"
        with text.block(head), values.scope():
            z.index, z.mask = counter, None
            if z.place is not None:
                z.index = text.name(f"{counter} + {values.arange(z)}")
                values.bound(z)
            yield

    # Folds and scans.

    def _joining(self, i: int) -> Joining:
        x = self.nest.program[i]
        assert isinstance(x, Fold | Scan)
        joining = Joining(x, self.nest.program[x.args[0]].dtype)
        self.text.helpers.add(joining.helper)
        return joining

    def _kept_lanes(self, i: int) -> list[Group]:
        """Return the kept lanes that what is joined varies along."""
        loops: frozenset[int] = frozenset()
        for a in self.nest.program[i].args:
            loops |= self.nest.depends[a]
        return [g for g in self.values.varying(loops) if g is not self.values.z]

    def _start(self, i: int, groups: list[Group]) -> list[str]:
        """Write running values that joins start from."""
        joining, values = self._joining(i), self.values
        result = []
        lanes = [g for g in groups if g.place is not None]
        for identity, type_ in zip(joining.identities(), joining.types, strict=True):
            if lanes:
                spread = f"tl.broadcast_to({identity}, {values.shape(lanes)})"
                result.append(self.text.name(spread))
            else:
                result.append(self.text.name(f"({identity}).to({type_})"))
        return result

    def _elements(self, i: int) -> list[str]:
        """Return what this block of the reduced loops gives to a fold or a scan."""
        x, values, text = self.nest.program[i], self.values, self.text
        joining = self._joining(i)
        z = values.z
        inside = z.mask
        if isinstance(x, Scan) and x.exclusive:
            elements, inside = self._before(x.args)
        else:
            elements = [str(values.value(a)) for a in x.args]
        elements[0] = joining.widened(elements[0])
        if z.place is None:
            return [text.name(e) for e in elements]
        shape = values.shape([*self._kept_lanes(i), z])
        spread = [text.name(f"tl.broadcast_to({e}, {shape})") for e in elements]
        if inside is None:
            return spread
        identities = joining.identities()
        return [
            text.name(f"tl.where({inside}, {e}, {none})")
            for e, none in zip(spread, identities, strict=True)
        ]

    def _before(self, args: tuple[int, ...]) -> tuple[list[str], str]:
        """Return the elements one step back, and where there are any."""
        values, z = self.values, self.values.z
        index, mask = z.index, z.mask
        saved, values.scopes = values.scopes, [{}]
        z.index = self.text.name(f"{index} - 1")
        inside = f"({z.index} >= 0)" + ("" if mask is None else f" & ({mask})")
        z.mask = inside = self.text.name(inside)
        found = [str(values.value(a)) for a in args]
        values.scopes, z.index, z.mask = saved, index, mask
        return found, inside

    def _fold_lanes(self, i: int, elements: list[str]) -> None:
        """Join lanes and record the result of a fold."""
        joining, values, text = self._joining(i), self.values, self.text
        if values.z.place is not None:
            elements = self._reduced(joining, elements)
        values.set(i, text.name(joining.narrowed(elements[-1])))

    def _reduced(self, joining: Joining, elements: list[str]) -> list[str]:
        place = self.values.z.place
        keep = "" if len(self.values.lanes) == 1 else ", keep_dims=True"
        operands = f"({', '.join(elements)})" if joining.is_pair else elements[0]
        call = f"tl.reduce({operands}, {place}, {joining.function}{keep})"
        if not joining.is_pair:
            return [self.text.name(call)]
        first, second = self.text.fresh(), self.text.fresh()
        self.text.line(f"{first}, {second} = {call}")
        return [first, second]

    def _scanned(self, i: int, elements: list[str], carry: list[str] | None = None) -> str:
        """Return running values of a block, joined with what came before it."""
        joining, z = self._joining(i), self.values.z
        if z.place is None:
            raise Refusal("a running reduction needs lanes")
        running = self.text.name(
            f"tl.associative_scan({elements[0]}, {z.place}, {joining.function})"
        )
        if carry is None:
            return running
        return self.text.name(f"{joining.function}({carry[0]}, {running})")

    def _record_scan(self, i: int, running: str) -> None:
        self.values.set(i, self.text.name(self._joining(i).narrowed(running)))

    def _carry(self, i: int, elements: list[str], carry: list[str]) -> None:
        joining = self._joining(i)
        total = self._reduced(joining, elements)
        self.text.line(f"{carry[0]} = {joining.function}({carry[0]}, {total[0]})")
