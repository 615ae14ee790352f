"""The loops of a nest: counters, masks, unrolling, and values computed as early as they can be."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from lamina.codegen.llvm.builder import Kernel, Value
from lamina.codegen.llvm.nest_buffers import Passes, RowBuffers
from lamina.codegen.llvm.nest_schedule import Schedule
from lamina.codegen.llvm.nest_values import NestValues, Number
from lamina.codegen.nest import Constant, Fold, LoopNest, Scan

State = tuple[Value, ...]
Body = Callable[[Number, bool, int, State], State]
"""Emits one iteration: index, whether it is a partial vector, number of the copy, its state."""


class LoopEmitter:
    """What every part of an emitted nest shares: the loops that are open, and how one is made."""

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
        self._multiples: dict[int, int] = {}

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
        carry = flat(used)
        if isinstance(start, int) and isinstance(stop, int) and stop - start < group:
            return start, states
        with k.loop(start, stop - (group - 1), group, carry=carry) as loop:
            inner = cut(loop.values, len(used))
            for copy in range(unroll):
                own = copy % len(used)
                inner[own] = body(loop.index + copy * step, False, copy, inner[own])
            loop.next(*flat(inner))
        end = start + (k.index_max(stop - start, 0)) // group * group
        return end, [*cut(loop.results, len(used)), *states[len(used) :]]

    def _tail(self, start: Number, stop: Number, body: Body, states: list[State]) -> list[State]:
        """Run the last, partial vector when there is one."""
        k = self.k
        if isinstance(start, int) and isinstance(stop, int):
            return [body(start, True, 0, states[0]), *states[1:]]
        # A loop of at most one iteration carries the state through.
        with k.loop(start, stop, self.plan.lanes, carry=states[0]) as loop:
            loop.next(*body(loop.index, True, 0, loop.values))
        return [loop.results, *states[1:]]


def flat(states: Sequence[State]) -> State:
    """Join states to one."""
    return tuple(x for state in states for x in state)


def cut(values: State, count: int) -> list[State]:
    """Split what ``flat`` joined."""
    size = len(values) // count
    return [values[i * size : (i + 1) * size] for i in range(count)]
