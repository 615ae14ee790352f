"""Rows of a nest: the passes over reduced loops, with their folds and stores."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from lamina.codegen.llvm.builder import Kernel, Value
from lamina.codegen.llvm.folds import Accumulator
from lamina.codegen.llvm.nest_loops import LoopEmitter, State, cut, flat
from lamina.codegen.llvm.nest_schedule import Schedule
from lamina.codegen.llvm.nest_values import Number, Scope
from lamina.codegen.nest import Fold, LoopNest, Scan
from lamina.ir.dims import is_static

_MOST_RESIDENT_WORK = 800


class RowEmitter(LoopEmitter):
    """Emits one row: a pass for each stage of folds.

    A short row stays in registers between passes; rows that are neighbouring vectors may be
    reduced together.
    """

    def __init__(
        self,
        k: Kernel,
        nest: LoopNest,
        plan: Schedule,
        params: Mapping[str, int],
        tables: Sequence[Value] = (),
    ) -> None:
        super().__init__(k, nest, plan, params, tables)
        self._column_scopes: list[Scope] = []
        self._column_base: Number = 0

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
            parts = cut(states[0], len(self._column_scopes))
            for column in self._each_column():
                self._finish([parts[column]], folds, accumulators)
            for fold in folds:
                if not self.values.varies(fold):
                    self.values.set(fold, self._column_scopes[0].values[fold])
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
                    state = flat(
                        self._reduced_loops(level + 1, accumulators, folds, cut(state, len(states)))
                    )
                self._leave(d)
            return state

        share = (0, self._extent(d))
        if innermost:
            return self._loop(d, share, body, states, unroll=len(states))
        return cut(self._loop(d, share, body, [flat(states)], unroll=1)[0], len(states))

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
        parts = cut(state, len(self._column_scopes))
        for column in self._each_column():
            with self.values.scope():
                parts[column] = self._single_element(accumulators, folds, parts[column])
        return flat(parts)

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
