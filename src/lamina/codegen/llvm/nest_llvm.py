"""Emits a loop nest as an LLVM kernel.

Loops over kept dimensions are shared among threads from the outside.  For each row the reduced
loops run once per *pass*: a pass computes the folds of one stage, and stores whatever needs no
later fold.  A short row stays in registers between passes.  Values that vary with fewer loops
than the innermost are computed in the loop where they first are known.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from lamina.codegen.llvm.builder import Kernel, Value
from lamina.codegen.llvm.nest_loops import State
from lamina.codegen.llvm.nest_rows import RowEmitter
from lamina.codegen.llvm.nest_schedule import Schedule
from lamina.codegen.llvm.nest_values import Number
from lamina.codegen.nest import LoopNest
from lamina.ir.dims import is_static


class NestEmitter(RowEmitter):
    """Writes the loops of one nest into a kernel."""

    def __init__(
        self,
        k: Kernel,
        nest: LoopNest,
        plan: Schedule,
        params: Mapping[str, int],
        tables: Sequence[Value] = (),
    ) -> None:
        super().__init__(k, nest, plan, params, tables)
        self.kept = [d for d in plan.kept if d != plan.vector or not plan.single]
        self._piece: tuple[Number, Number] | None = None

    def emit(self) -> None:
        """Emit this thread's share of the nest."""
        k = self.k
        if any(d.size == 0 and not d.reduced for d in self.nest.dims):
            return
        self._entered(())
        if not self.kept:
            with k.if_(k.eq(k.tid, 0)), self.values.scope():
                self._row()
        elif len(self.kept) == 1:
            d = self.kept[0]
            width = self.plan.lanes if d == self.plan.vector else 1
            if d == self.plan.vector:
                width *= self._columns()
            grain = width * self._kept_unroll()
            self._multiples[d] = self._common(d, grain)
            self._run_kept(0, k.my_range(self._extent(d), grain=grain))
        else:
            self._share_outer()

    def _common(self, d: int, grain: int) -> int:
        """Return what divides the length of every share of a loop that is cut at ``grain``."""
        loop = self.nest.dims[d]
        if loop.guard is not None or not is_static(loop.size):
            return 1
        return math.gcd(int(loop.size), grain)  # type: ignore[arg-type]

    def _share_outer(self) -> None:
        """Share the outer loops, and pieces of the last one, as one loop among the threads."""
        k = self.k
        count = self._shared_count()
        outer = self.kept[:count]
        sizes = [self._extent(d) for d in outer]
        last = self.kept[-1]
        pieces: Number = 1
        if self.plan.chunk:
            length = self._extent(last)
            pieces = (length + (self.plan.chunk - 1)) // self.plan.chunk
        total: Number = pieces
        for size in sizes:
            total = size * total
        start, stop = k.my_range(total)
        with k.loop(start, stop) as loop, self.values.scope():
            rest: Value = loop.index
            if self.plan.chunk:
                first = rest % pieces * self.plan.chunk
                rest = rest // pieces
                self._piece = (first, k.min(first + self.plan.chunk, self._extent(last)))
                self._multiples[last] = self._common(last, self.plan.chunk)
            for d, size in zip(reversed(outer[1:]), reversed(sizes[1:]), strict=True):
                self.values.index[d] = rest % size
                rest = rest // size
            self.values.index[outer[0]] = rest
            self._entered(outer)
            self._run_kept(count, None)

    def _shared_count(self) -> int:
        """Return how many kept loops threads share.

        Enough for even shares, but never the last one that is left to run over elements.
        """
        most = len(self.kept)
        if not self.passes.reduced or self.kept[-1] == self.plan.vector:
            most -= 1
        # The length of a guarded loop depends on another index: it is never shared.
        guarded = [i for i, d in enumerate(self.kept[:most]) if self.nest.dims[d].guard]
        most = min([most, *(i for i in guarded if i > 0)])
        if self.plan.chunk:
            return most
        items = 1
        for number, d in enumerate(self.kept[:most]):
            size = self.nest.dims[d].size
            items *= int(size) if is_static(size) else 1  # type: ignore[arg-type]
            guards = any(x.guard and x.guard[0] == d for x in self.nest.dims)
            if items >= 48 and not guards:
                return number + 1
        return most

    def _run_kept(self, number: int, share: tuple[Number, Number] | None) -> None:
        if number == len(self.kept):
            self._row()
            return
        d = self.kept[number]
        is_last = number == len(self.kept) - 1
        if share is None:
            share = self._piece if is_last and self._piece else (0, self._extent(d))
        if d == self.plan.vector and is_last and self._columns() > 1:
            share = self._column_groups(share)

        def body(index: Number, partial: bool, copy: int, state: State) -> State:
            with self.values.scope():
                self._bind(d, index, partial)
                self._run_kept(number + 1, None)
                self._leave(d)
            return state

        self._loop(d, share, body, [()], unroll=self._kept_unroll() if is_last else 1)

    def _kept_unroll(self) -> int:
        return 1 if self.passes.reduced else self.plan.unroll
