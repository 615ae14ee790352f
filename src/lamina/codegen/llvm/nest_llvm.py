"""Emits a loop nest as an LLVM kernel.

Loops over kept dimensions are shared among threads from the outside.  For each row the reduced
loops run once per *pass*: a pass computes the folds of one stage, and stores whatever needs no
later fold.  A short row stays in registers between passes.  Values that vary with fewer loops
than the innermost are computed in the loop where they first are known.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence

from lamina.codegen.llvm.builder import Kernel, Value
from lamina.codegen.llvm.folds import Accumulator
from lamina.codegen.llvm.nest_buffers import Passes, RowBuffers
from lamina.codegen.llvm.nest_schedule import Schedule
from lamina.codegen.llvm.nest_values import NestValues, Number, Scope
from lamina.codegen.nest import Constant, Fold, LoopNest, Scan
from lamina.ir.dims import is_static

State = tuple[Value, ...]
Body = Callable[[Number, bool, int, State], State]
"""Emits one iteration: index, whether it is a partial vector, number of the copy, its state."""

_MOST_RESIDENT_WORK = 800


class NestEmitter:
    """Writes the loops of one nest into a kernel."""

    def __init__(
        self,
        k: Kernel,
        nest: LoopNest,
        plan: Schedule,
        params: Mapping[str, int],
        tables: Sequence[Value] = (),
    ) -> None:
        self.k, self.nest, self.plan = k, nest, plan
        self.values = NestValues(k, nest, plan, params, tables)
        self.bound: set[int] = set()
        self.store_mask: Value | None = None
        self.passes = Passes(nest)
        self.buffers = RowBuffers(self.values, self.passes)
        self.number = 0
        self.values.provider = lambda i: self.buffers.load(i, self.number)
        self.kept = [d for d in plan.kept if d != plan.vector or not plan.single]
        self._piece: tuple[Number, Number] | None = None
        self._column_scopes: list[Scope] = []
        self._column_base: Number = 0
        self._multiples: dict[int, int] = {}

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

    # Kept loops

    def _common(self, d: int, grain: int) -> int:
        """Return what divides the length of every share of a loop that is cut at ``grain``."""
        size = self.nest.dims[d].size
        return math.gcd(int(size), grain) if is_static(size) else 1  # type: ignore[arg-type]

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

    def _bind(self, d: int, index: Number, partial: bool) -> None:
        """Set a loop's index, the masks when it is the vector, and compute what is now known."""
        self.values.index[d] = index
        if d == self.plan.vector:
            self._set_masks(index, partial)
        self._entered((d,))

    def _entered(self, loops: Sequence[int]) -> None:
        self.bound |= set(loops)
        plan = self.plan
        if plan.single and plan.vector not in self.bound and plan.vector not in self.passes.reduced:
            guard = self.nest.dims[plan.vector].guard
            if guard is None or guard[0] < 0 or guard[0] in self.bound:
                self.values.index[plan.vector] = 0
                size = self.nest.dims[plan.vector].size
                self._set_masks(0, size != plan.lanes)
                self.bound.add(plan.vector)
        self._hoist()

    def _leave(self, d: int) -> None:
        self.bound.discard(d)
        guard = self.nest.dims[self.plan.vector].guard if self.plan.single else None
        if guard is not None and guard[0] == d:
            self.bound.discard(self.plan.vector)
        if d == self.plan.vector:
            self.values.mask = self.store_mask = None

    def _set_masks(self, index: Number, partial: bool) -> None:
        """Mask the lanes beyond the loop's size, and beyond its guard."""
        k, plan = self.k, self.plan
        loop = self.nest.dims[plan.vector]
        size = self.values.dims[loop.size]
        self.store_mask = k.lane_mask(size - index, plan.lanes) if partial else None
        self.values.mask = self.store_mask
        limit = self._limit(plan.vector)
        if limit is not None:
            count = k.index_min(limit, size) if partial else limit
            self.values.mask = k.lane_mask(k.index_max(count - index, 0), plan.lanes)

    def _limit(self, d: int) -> Number | None:
        """Return where a guard ends a loop, None without one."""
        loop = self.nest.dims[d]
        if loop.guard is None:
            return None
        outer, total = loop.guard
        if outer < 0:
            return self.values.dims[total]
        return self.values.dims[total] - self.values.index[outer] * self.values.dims[loop.size]

    def _extent(self, d: int) -> Number:
        size = self.values.dims[self.nest.dims[d].size]
        if d == self.plan.vector or (limit := self._limit(d)) is None:
            return size
        return self.k.index_min(limit, size)

    def _hoist(self) -> None:
        """Compute what varies with no loop that is still to come."""
        nest, passes = self.nest, self.passes
        ready = frozenset(self.bound)
        if len(ready) == len(nest.dims):
            return
        for i, x in enumerate(nest.program):
            if isinstance(x, Constant | Fold | Scan) or not nest.depends[i] <= ready:
                continue
            late = nest.stages[i] > self.number
            if not late and (not passes.is_element(i) or i in passes.needed[self.number]):
                self.values.value(i)

    # Rows

    def _columns(self) -> int:
        """Return how many neighbouring vectors of rows are reduced together.

        Several make each step read a longer run of memory; values kept for later passes and
        running reductions allow only one.
        """
        nest, plan = self.nest, self.plan
        if not plan.reduced or self.buffers.pointers or nest.dims[plan.vector].guard is not None:
            return 1
        if any(isinstance(x, Scan) for x in nest.program) or self.passes.work() > 24:
            return 1
        return 8 if self.passes.work() <= 6 else 4

    def _column_groups(self, share: tuple[Number, Number]) -> tuple[Number, Number]:
        """Emit whole groups of vectors of rows; return what is left of the share."""
        k, plan = self.k, self.plan
        count = self._columns()
        start, stop = share
        step = count * plan.lanes
        if isinstance(start, int) and isinstance(stop, int) and stop - start < step:
            return share
        with k.loop(start, stop - (step - 1), step) as loop, self.values.scope():
            self._column_scopes = [Scope() for _ in range(count)]
            self._column_base = loop.index
            self._row()
            self._column_scopes = []
        end = start + k.index_max(stop - start, 0) // step * step
        return end, stop

    def _each_column(self) -> Iterator[int]:
        """Enter each of the vectors of rows that are reduced together."""
        for number, scope in enumerate(self._column_scopes):
            self.values.index[self.plan.vector] = self._column_base + number * self.plan.lanes
            with self.values.scope(scope):
                yield number

    def _row(self) -> None:
        nest, passes = self.nest, self.passes
        resident = self._resident()
        self.buffers.active = resident is None
        for number in range(passes.count):
            self.number = number
            if passes.folds[number] or passes.stores[number]:
                self._pass(number, resident)
        for _ in self._each_column() if self._column_scopes else (0,):
            for s in passes.row_stores:
                self.values.store(nest.stores[s], self.store_mask)
        self.number = 0

    def _resident(self) -> list[Scope] | None:
        """Return one scope per vector of a row that is short enough for registers, else None."""
        plan, nest = self.plan, self.nest
        if self.passes.count < 2 or plan.reduced != (plan.vector,) or plan.lanes == 1:
            return None
        size = nest.dims[plan.vector].size
        if not is_static(size) or nest.dims[plan.vector].guard is not None:
            return None
        vectors = -(-int(size) // plan.lanes)  # type: ignore[arg-type]
        if (
            vectors > self.k.isa.registers // 2
            or vectors * self.passes.work() > _MOST_RESIDENT_WORK
        ):
            return None
        return [Scope() for _ in range(vectors)]

    def _pass(self, number: int, resident: list[Scope] | None) -> None:
        k, plan, nest = self.k, self.plan, self.nest
        folds = self.passes.folds[number]
        accumulators = [
            Accumulator(x, nest.program[x.args[0]].dtype)
            for x in (nest.program[f] for f in folds)
            if isinstance(x, Fold)
        ]
        across = plan.vector in self.passes.reduced
        lanes = [plan.lanes if across or self.values.varies(f) else 1 for f in folds]
        scans = self._scans(number)
        copies = 1 if scans else max(1, plan.unroll)
        self._hoist()
        start = tuple(x for a, n in zip(accumulators, lanes, strict=True) for x in a.start(k, n))
        start += tuple(x for _, a, n in scans for x in a.start(k, n))
        if self._column_scopes:
            start, copies = start * len(self._column_scopes), 1
        states = [start] * (copies if plan.reduced else 1)
        if resident is not None:
            states = self._resident_pass(resident, accumulators, folds, states)
        else:
            states = self._reduced_loops(0, accumulators, folds, states)
        if self._column_scopes:
            parts = _cut(states[0], len(self._column_scopes))
            for column in self._each_column():
                self._finish([parts[column]], folds, accumulators)
        else:
            self._finish(states, folds, accumulators)

    def _finish(
        self, states: list[State], folds: list[int], accumulators: list[Accumulator]
    ) -> None:
        """Join the copies of each fold's state and record its result."""
        k, across = self.k, self.plan.vector in self.passes.reduced
        place = 0
        for fold, accumulator in zip(folds, accumulators, strict=True):
            width = 2 if accumulator.is_pair else 1
            total = states[0][place : place + width]
            for other in states[1:]:
                total = accumulator.join(k, total, other[place : place + width])
            self.values.set(fold, accumulator.finish(k, total, across=across))
            place += width

    def _scans(self, number: int) -> list[tuple[int, Accumulator, int]]:
        return [
            (i, Accumulator(x, x.dtype), self.plan.lanes if self.values.varies(i) else 1)
            for i, x in enumerate(self.nest.program)
            if isinstance(x, Scan) and i in self.passes.needed[number]
        ]

    def _reduced_loops(
        self, level: int, accumulators: list[Accumulator], folds: list[int], states: list[State]
    ) -> list[State]:
        if level == len(self.plan.reduced):
            return [self._element(accumulators, folds, states[0]), *states[1:]]
        d = self.plan.reduced[level]
        innermost = level == len(self.plan.reduced) - 1

        def body(index: Number, partial: bool, copy: int, state: State) -> State:
            with self.values.scope():
                self._bind(d, index, partial)
                if innermost:
                    state = self._element(accumulators, folds, state)
                else:
                    state = _flat(
                        self._reduced_loops(
                            level + 1, accumulators, folds, _cut(state, len(states))
                        )
                    )
                self._leave(d)
            return state

        share = (0, self._extent(d))
        if innermost:
            return self._loop(d, share, body, states, unroll=len(states))
        return _cut(self._loop(d, share, body, [_flat(states)], unroll=1)[0], len(states))

    def _resident_pass(
        self,
        scopes: list[Scope],
        accumulators: list[Accumulator],
        folds: list[int],
        states: list[State],
    ) -> list[State]:
        d, lanes = self.plan.vector, self.plan.lanes
        size = self.nest.dims[d].size
        assert isinstance(size, int)
        states = list(states)
        for i, scope in enumerate(scopes):
            with self.values.scope(scope):
                self._bind(d, i * lanes, (i + 1) * lanes > size)
                copy = i % len(states)
                states[copy] = self._element(accumulators, folds, states[copy])
                self._leave(d)
        return states

    def _element(self, accumulators: list[Accumulator], folds: list[int], state: State) -> State:
        """Emit one element of a pass, for each of the rows that are reduced together."""
        if not self._column_scopes:
            return self._single_element(accumulators, folds, state)
        parts = _cut(state, len(self._column_scopes))
        for column in self._each_column():
            with self.values.scope():
                parts[column] = self._single_element(accumulators, folds, parts[column])
        return _flat(parts)

    def _single_element(
        self, accumulators: list[Accumulator], folds: list[int], state: State
    ) -> State:
        """Emit one element of a pass: running reductions, folds, stores."""
        k, nest, number = self.k, self.nest, self.number
        scans = self._scans(number)
        base = len(state) - len(scans)
        result = list(state)
        for place, (i, accumulator, _) in enumerate(scans, base):
            x = nest.program[i]
            assert isinstance(x, Scan)
            value = self.values.value(x.args[0])
            joined = accumulator.take(k, (state[place],), (value,), self.values.mask)
            self.values.set(i, state[place] if x.exclusive else joined[0])
            result[place] = joined[0]
        self.buffers.save(number)
        place = 0
        mask = self.values.mask if self.plan.vector in self.passes.reduced else None
        for fold, accumulator in zip(folds, accumulators, strict=True):
            width = 2 if accumulator.is_pair else 1
            args = tuple(self.values.value(a) for a in nest.program[fold].args)
            taken = accumulator.take(k, tuple(result[place : place + width]), args, mask)
            result[place : place + width] = taken
            place += width
        for s in self.passes.stores[number]:
            self.values.store(nest.stores[s], self.store_mask)
        return tuple(result)

    # Loops

    def _loop(
        self, d: int, share: tuple[Number, Number], body: Body, states: list[State], *, unroll: int
    ) -> list[State]:
        """Run a loop in copies of ``unroll`` iterations, each with a state of its own.

        Iterations left over use the first state (all of them when there is only one).
        """
        step = self.plan.lanes if d == self.plan.vector else 1
        start, stop = share
        if isinstance(start, int) and isinstance(stop, int) and stop - start <= 2 * step * unroll:
            return self._straight(start, stop, step, body, states)
        whole = self._multiples.get(d, 1) if isinstance(stop, Value) else 1
        if unroll > 1:
            start, states = self._main_loop(start, stop, step, unroll, body, states)
            if whole % (step * unroll) == 0:
                return states
        if not (isinstance(start, int) and start == stop):
            start, states = self._main_loop(start, stop, step, 1, body, states)
        if step == 1 or whole % step == 0 or (isinstance(start, int) and start == stop):
            return states
        return self._tail(start, stop, body, states)

    def _straight(
        self, start: int, stop: int, step: int, body: Body, states: list[State]
    ) -> list[State]:
        states = list(states)
        for number, index in enumerate(range(start, stop, step)):
            copy = number % len(states)
            states[copy] = body(index, index + step > stop, copy, states[copy])
        return states

    def _main_loop(
        self, start: Number, stop: Number, step: int, unroll: int, body: Body, states: list[State]
    ) -> tuple[Number, list[State]]:
        """Run all full groups of iterations; return where they end."""
        k, group = self.k, step * unroll
        count = len(states)
        used = states[:unroll] if count >= unroll else states
        carry = _flat(used)
        if isinstance(start, int) and isinstance(stop, int) and stop - start < group:
            return start, states
        with k.loop(start, stop - (group - 1), group, carry=carry) as loop:
            inner = _cut(loop.values, len(used))
            for copy in range(unroll):
                own = copy % len(used)
                inner[own] = body(loop.index + copy * step, False, copy, inner[own])
            loop.next(*_flat(inner))
        end = start + (k.index_max(stop - start, 0)) // group * group
        return end, [*_cut(loop.results, len(used)), *states[len(used) :]]

    def _tail(self, start: Number, stop: Number, body: Body, states: list[State]) -> list[State]:
        """Run the last, partial vector when there is one."""
        k = self.k
        if isinstance(start, int) and isinstance(stop, int):
            return [body(start, True, 0, states[0]), *states[1:]]
        # A loop of at most one iteration carries the state through.
        with k.loop(start, stop, self.plan.lanes, carry=states[0]) as loop:
            loop.next(*body(loop.index, True, 0, loop.values))
        return [loop.results, *states[1:]]


def _flat(states: Sequence[State]) -> State:
    return tuple(x for state in states for x in state)


def _cut(values: State, count: int) -> list[State]:
    size = len(values) // count
    return [values[i * size : (i + 1) * size] for i in range(count)]
