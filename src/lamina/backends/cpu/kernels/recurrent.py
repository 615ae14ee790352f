"""Recurrent layers: all inputs times their weights at once, then one step after the other.

One kernel multiplies the whole sequence by the input weights.  Another one walks through time;
each thread owns some hidden units with all their gates, so that a step ends with one barrier.
Threads read their recurrent weights forwards in one step and backwards in the next: what a core's
cache still holds of them is read first.  With bf16 factors, a kernel before these rounds the
inputs, and states are kept a second time, rounded, for the products.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from typing import NamedTuple

from lamina.backends.cpu.kernels import epilogue, gemm
from lamina.backends.cpu.kernels.barrier import Barrier
from lamina.backends.cpu.kernels.convolution import Epilogue
from lamina.backends.cpu.kernels.microkernel import RowAccess, Tile, multiply_accumulate
from lamina.backends.cpu.kernels.recurrent_layout import (
    GATES,
    Layout,
    Plan,
    RecurrentConfig,
    RecurrentProblem,
    first_product,
    parameters,
)
from lamina.codegen.llvm.builder import BF16, F32, I32, I64, Builder, Kernel, Module, Value
from lamina.codegen.llvm.target import Isa
from lamina.ir.dims import Dim, Expr

_PRODUCTS = 2
"""Ways of multiplying the inputs that are worth timing for each register tile."""


def multiplies(isa: Isa, factors: str) -> bool:
    """Whether the kernels multiply factors of this type on such a CPU."""
    return factors == "f32" or (factors == "bf16" and isa.has("avx512bf16"))


def why_not(problem: RecurrentProblem) -> str | None:
    """Return why the kernels cannot compute the problem, or None when they can."""
    for activation in problem.activations:
        if activation.kind not in epilogue.SUPPORTED:
            return f"has no activation {activation.kind}"
    return None


def configs(
    problem: RecurrentProblem, isa: Isa, time: int, batch: int, threads: int = 2
) -> Iterator[RecurrentConfig]:
    """Yield configurations for the likeliest sizes, best guess first."""
    gates = GATES[problem.kind]
    many = isa.registers >= 32
    most = (6 if many else 2) if gates > 1 else 8
    even = -(-batch // -(-batch // most))
    # Rows that a last tile lacks are computed all the same.
    whole = min(range(most, most // 2, -1), key=lambda rows: -batch % rows)
    for rows in dict.fromkeys((even, min(whole, even))):
        choices = [max(1, 8 // gates)] if rows <= (2 if many else 1) else [max(1, 4 // gates)]
        if rows == 1:
            choices.append(max(1, 4 // gates))
        for blocks in dict.fromkeys(choices):
            layout = Layout(problem, blocks, isa)
            product = first_product(problem, layout, time * batch)
            for config in islice(gemm.configs(product, isa, threads), _PRODUCTS):
                # Several layers in turn leave little in the shared cache: weights are read once.
                yield RecurrentConfig(rows, blocks, replace(config, by_columns=True))


def build(
    module: Module, name: str, problem: RecurrentProblem, config: RecurrentConfig, threads: int
) -> tuple[str, ...]:
    """Write the kernels and return their names, in the order of running."""
    plan = Plan(problem, config, module.isa, threads)
    names = [f"{name}{kernel}" for kernel in ("rxh" if problem.paired else "xh")]
    if problem.paired:
        with module.kernel(names[0]) as k:
            _round_inputs(k, problem, plan, _Sizes(k, problem, plan, threads, config))
    with module.kernel(names[-2]) as k:
        args = {n: k.arg(i) for i, n in enumerate(problem.operands)}
        with k.if_(k.eq(k.tid, 0)):
            k.store(k.const(I64, 0), args["workspace"])
        product = first_product(problem, plan.layout, 1)
        sizes = _Sizes(k, problem, plan, threads, config)
        rounded = args["workspace"] + sizes.of(plan.rounded)
        operands = {
            "src": rounded if problem.paired else args["x"],
            "weights": args["weights"],
            "bias": args["bias"],
            "dst": args["workspace"] + sizes.of(plan.gates),
            "workspace": args["workspace"] + plan.patch,
        }
        gemm.Writer(k, product, config.product, operands).write()
    with module.kernel(names[-1]) as k:
        _Steps(k, problem, config, plan, threads).write()
    return tuple(names)


def _round_inputs(k: Kernel, p: RecurrentProblem, plan: Plan, sizes: _Sizes) -> None:
    """Write this thread's rows of inputs as bf16, padded with zeros."""
    args = {n: k.arg(i) for i, n in enumerate(p.operands)}
    target, lanes = args["workspace"] + sizes.of(plan.rounded), plan.layout.lanes
    first, last = k.my_range(sizes.of(p.time * p.batch))
    with k.loop(first, last) as rows:
        source = args["x"] + rows.index * (p.inputs * 4)
        with k.loop(0, p.inputs, lanes) as columns:
            at = columns.index
            mask = k.lane_mask(p.inputs - at, lanes)
            x = k.load(F32.vector(lanes), source, at * 4, mask=mask)
            k.store(k.convert(x, BF16, quick=True), target + rows.index * p.rounded_stride, at * 2)


class _Turn(NamedTuple):
    """Where a step finds the states and leaves the next ones; and the same as factors."""

    before: Value
    after: Value
    factors: Value
    next_factors: Value


class _Sizes:
    """Sizes as values: numbers, or parameters of the kernel."""

    def __init__(
        self, k: Kernel, p: RecurrentProblem, plan: Plan, threads: int, c: RecurrentConfig
    ) -> None:
        self.k = k
        self.numbers = {d: i for i, d in enumerate(parameters(p, c, k.isa, threads))}

    def of(self, d: Dim) -> Value:
        """Return a size as an i64."""
        return self.k.param(self.numbers[d]) if isinstance(d, Expr) else self.k.const(I64, d)


class _Steps:
    """Writes the walk through time."""

    def __init__(
        self, k: Kernel, p: RecurrentProblem, c: RecurrentConfig, plan: Plan, threads: int
    ) -> None:
        self.k, self.p, self.c, self.plan = k, p, c, plan
        self.layout = plan.layout
        self.lanes = self.layout.lanes
        self.vector = F32.vector(self.lanes)
        self.vectors = self.layout.blocks * self.layout.gates
        self.depth = p.depths(p.hidden)
        self.args = {n: k.arg(i) for i, n in enumerate(p.operands)}
        sizes = _Sizes(k, p, plan, threads, c)
        self.time, self.batch, self.rows = (sizes.of(d) for d in (p.time, p.batch, plan.rows))
        work = self.args["workspace"]
        self.barrier = Barrier(k, work)
        self.state_bytes = sizes.of(plan.state_bytes)
        self.h, self.cell = work + sizes.of(plan.h), work + sizes.of(plan.c)
        self.gates = work + sizes.of(plan.gates)
        self.factors, self.factor_bytes = (
            work + sizes.of(plan.factors),
            sizes.of(plan.factor_bytes),
        )
        self.factor_item = 2 if p.paired else 4
        self.update, self.reset = work + sizes.of(plan.update), work + sizes.of(plan.reset)
        self.scratch = k.alloca(c.rows * self.vectors * self.lanes * 4)

    def write(self) -> None:
        """Write initial states, steps and last states; all of a thread's own hidden units."""
        k = self.k
        first, last = k.my_range(self.layout.groups)
        self._states(first, last)
        self.barrier.wait()
        with k.loop(0, self.time) as steps:
            step = steps.index
            odd = step & 1
            turn = _Turn(
                self.h + odd * self.state_bytes,
                self.h + (1 - odd) * self.state_bytes,
                self.factors + odd * self.factor_bytes,
                self.factors + (1 - odd) * self.factor_bytes,
            )
            split = [self._gates_tile, self._candidate_tile]
            for product in split if self.p.reset_first else [self._tile]:
                for d in range(len(self.p.reverse)):
                    with k.loop(first, last) as groups:
                        group = first + last - 1 - groups.index
                        group = k.select(k.eq(odd, 0), groups.index, group)
                        with k.loop(0, self.rows, self.c.rows) as tiles:
                            product(d, step, group, tiles.index, turn)
                self.barrier.wait()
        final = self.h + (self.time & 1) * self.state_bytes
        self._results(first, last, final)

    def _state_offset(self, d: int, row: Value, unit: Value) -> Value:
        return (self.rows * d + row) * (self.layout.pitch * 4) + unit * 4

    def _factor_offset(self, d: int, row: Value, unit: Value) -> Value:
        pitch = self.layout.pitch * self.factor_item
        return (self.rows * d + row) * pitch + unit * self.factor_item

    def _keep_factor(self, x: Value, target: Value, d: int, row: Value, unit: Value) -> None:
        """Store what the next product multiplies, where that is not the f32 state itself."""
        if self.p.paired:
            rounded = self.k.convert(x, BF16, quick=True)
            self.k.store(rounded, target, self._factor_offset(d, row, unit))

    def _units(self, first: Value, last: Value) -> tuple[Value, Value]:
        return first * self.layout.width, last * self.layout.width

    def _states(self, first: Value, last: Value) -> None:
        """Copy the initial states; padding becomes zeros."""
        k = self.k
        begin, end = self._units(first, last)
        for d in range(len(self.p.reverse)):
            with k.loop(0, self.rows) as rows:
                row = k.min(rows.index, self.batch - 1)
                source = (self.batch * d + row) * (self.p.hidden * 4)
                with k.loop(begin, end, self.lanes) as units:
                    mask = k.lane_mask(self.p.hidden - units.index, self.lanes)
                    at = self._state_offset(d, rows.index, units.index)
                    for name, target in (("h0", self.h), ("c0", self.cell)):
                        x = k.load(
                            self.vector, self.args[name] + source, units.index * 4, mask=mask
                        )
                        k.store(x, target, at)
                        if name == "h0":
                            self._keep_factor(x, self.factors, d, rows.index, units.index)

    def _results(self, first: Value, last: Value, final: Value) -> None:
        k = self.k
        begin, end = self._units(first, last)
        for d in range(len(self.p.reverse)):
            with k.loop(0, self.batch) as rows:
                target = (self.batch * d + rows.index) * (self.p.hidden * 4)
                with k.loop(begin, end, self.lanes) as units:
                    mask = k.lane_mask(self.p.hidden - units.index, self.lanes)
                    at = self._state_offset(d, rows.index, units.index)
                    cell = self.cell if self.p.kind == "lstm" else None
                    x = k.load(self.vector, final, at)
                    k.store(x, self.args["h"] + target, units.index * 4, mask=mask)
                    kept = k.load(self.vector, cell or self.cell, at)
                    k.store(kept, self.args["c"] + target, units.index * 4, mask=mask)

    def _tile(self, d: int, step: Value, group: Value, row: Value, turn: _Turn) -> None:
        """Compute the gates of some rows and hidden units, then their states."""
        k, p, c = self.k, self.p, self.c
        layout = self.layout
        register = self.lanes * 4
        tile_bytes = self.vectors * register
        inner = self.args["inner_bias"] + (group + d * layout.groups) * tile_bytes
        inputs = [self._inputs(d, step, group, row + i) for i in range(c.rows)]
        self._prefetch(inputs)
        packed = self.args["recurrent"] + (group + d * layout.groups) * (self.depth * tile_bytes)
        left = turn.factors + self._factor_offset(d, row, k.const(I64, 0))
        sums = self._multiplied(left, packed, self.vectors)
        for i, source in enumerate(inputs):
            for j in range(self.vectors):
                separate = p.kind == "gru" and j % layout.gates == 2
                added = k.load(self.vector, inner if separate else source, j * register)
                number = i * self.vectors + j
                k.store(sums[number] + added, self.scratch, number * register)
        for i in range(c.rows):
            with k.loop(0, layout.blocks) as blocks:
                unit = group * layout.width + blocks.index * self.lanes
                at = blocks.index * (layout.gates * register)
                gates = self.scratch + at + i * tile_bytes
                self._unit(d, step, row + i, unit, (gates, inputs[i] + at), turn)

    def _gates_tile(self, d: int, step: Value, group: Value, row: Value, turn: _Turn) -> None:
        """Compute the update gate, and what the reset gate leaves of the states."""
        k, p, layout = self.k, self.p, self.layout
        self._product(d, step, group, row, turn.factors, (0, 1))
        for i in range(self.c.rows):
            with k.loop(0, layout.blocks) as blocks:
                unit = group * layout.width + blocks.index * self.lanes
                place = self._state_offset(d, row + i, unit)
                gates = (blocks.index + i * layout.blocks) * (2 * self.lanes * 4)
                z, r = (
                    self._activated(
                        d, 0, k.load(self.vector, self.scratch + gates, j * self.lanes * 4)
                    )
                    for j in (0, 1)
                )
                k.store(z, self.update, place)
                left = r * k.load(self.vector, turn.before, place)
                if p.paired:
                    self._keep_factor(left, self.reset, d, row + i, unit)
                else:
                    k.store(left, self.reset, place)

    def _candidate_tile(self, d: int, step: Value, group: Value, row: Value, turn: _Turn) -> None:
        """Compute the candidates from what the reset gate left, then the next states."""
        k, layout = self.k, self.layout
        self._product(d, step, group, row, self.reset, (2,))
        for i in range(self.c.rows):
            with k.loop(0, layout.blocks) as blocks:
                unit = group * layout.width + blocks.index * self.lanes
                place = self._state_offset(d, row + i, unit)
                at = (blocks.index + i * layout.blocks) * (self.lanes * 4)
                new = self._activated(d, 1, k.load(self.vector, self.scratch, at))
                h = k.load(self.vector, turn.before, place)
                h = k.fma(k.load(self.vector, self.update, place), h - new, new)
                self._keep(d, step, row + i, unit, (h, None), turn)

    def _product(
        self, d: int, step: Value, group: Value, row: Value, left: Value, gates: tuple[int, ...]
    ) -> None:
        """Put some gates of a tile, without their functions, into the scratch memory."""
        k, layout = self.k, self.layout
        register, vectors = self.lanes * 4, layout.blocks * len(gates)
        inputs = [self._inputs(d, step, group, row + i) for i in range(self.c.rows)]
        self._prefetch(inputs)
        # The weights of the gates that the first product makes come before all others.
        skipped = d * layout.gates * layout.groups + min(gates) * layout.groups
        packed = self.args["recurrent"] + (group * len(gates) + skipped) * (
            self.depth * layout.blocks * register
        )
        sums = self._multiplied(
            left + self._factor_offset(d, row, k.const(I64, 0)), packed, vectors
        )
        places = [b * layout.gates + g for b in range(layout.blocks) for g in gates]
        for i, source in enumerate(inputs):
            for j, place in enumerate(places):
                at = i * vectors + j
                added = k.load(self.vector, source, place * register)
                k.store(sums[at] + added, self.scratch, at * register)

    def _prefetch(self, inputs: list[Value]) -> None:
        """Ask for a tile's products of inputs, which are added to what comes after."""
        for source in inputs:
            for j in range(self.vectors):
                self.k.prefetch(source, j * self.lanes * 4)

    def _multiplied(self, left: Value, packed: Value, vectors: int) -> list[Value]:
        p = self.p
        unroll = next(u for u in (4, 2, 1) if self.depth % u == 0)
        pitch = self.layout.pitch * self.factor_item
        access = RowAccess(pitch, self.depth, self.depth * 4, p.product_type)
        tile = Tile(self.c.rows, vectors, unroll, p.product_type)
        return multiply_accumulate(self.k, left, access, packed, tile, blocks=1)

    def _inputs(self, d: int, step: Value, group: Value, row: Value) -> Value:
        """Return where the products of a row of inputs lie, for one group of hidden units."""
        k, layout = self.k, self.layout
        at = self._position(d, step, row)[0]
        existing = k.min(row, self.batch - 1)
        source = self.gates + (at * self.batch + existing) * self.plan.row_bytes
        return source + (group + d * layout.groups) * (self.vectors * self.lanes * 4)

    def _position(self, d: int, step: Value, row: Value) -> tuple[Value, Value | None]:
        """Return the position in time of a step, and whether the sequence lasts that long."""
        k = self.k
        reverse = self.p.reverse[d]
        if not self.p.lengths:
            return (self.time - 1 - step if reverse else step), None
        existing = k.min(row, self.batch - 1)
        length = k.convert(k.load(I32, self.args["lengths"], existing * 4), I64)
        alive = step < length
        at = length - 1 - step if reverse else step
        return k.select(alive, at, step), alive

    def _unit(
        self,
        d: int,
        step: Value,
        row: Value,
        unit: Value,
        gates: tuple[Value, Value],
        turn: _Turn,
    ) -> None:
        """Turn the gates of a register of hidden units into its next states."""
        k, p = self.k, self.p
        place = self._state_offset(d, row, unit)
        before = k.load(self.vector, turn.before, place)
        cell = k.load(self.vector, self.cell, place)
        h, c = self._cell(d, gates, unit, before, cell)
        self._keep(d, step, row, unit, (h, c if p.kind == "lstm" else None), turn)

    def _keep(
        self,
        d: int,
        step: Value,
        row: Value,
        unit: Value,
        following: tuple[Value, Value | None],
        turn: _Turn,
    ) -> None:
        """Store the next states of a register of hidden units, and their result."""
        k, p = self.k, self.p
        place = self._state_offset(d, row, unit)
        position, alive = self._position(d, step, row)
        h, c = following
        result = h
        if alive is not None:
            kept = k.broadcast(alive, self.lanes)
            result = k.select(kept, h, k.const(self.vector, 0.0))
            h = k.select(kept, h, k.load(self.vector, turn.before, place))
            if c is not None:
                c = k.select(kept, c, k.load(self.vector, self.cell, place))
        k.store(h, turn.after, place)
        self._keep_factor(h, turn.next_factors, d, row, unit)
        if c is not None:
            k.store(c, self.cell, place)
        with k.if_(row < self.batch):
            directions = len(p.reverse)
            line = (position * directions + d) * self.batch + row
            mask = k.lane_mask(p.hidden - unit, self.lanes)
            k.store(result, self.args["y"] + line * (p.hidden * 4), unit * 4, mask=mask)

    def _functions(self, d: int) -> tuple[Epilogue, ...]:
        each = len(self.p.activations) // len(self.p.reverse)
        return self.p.activations[d * each : (d + 1) * each]

    def _activated(self, d: int, index: int, x: Value) -> Value:
        return epilogue.apply(self.k, _clipped(self.k, x, self.p.clip), self._functions(d)[index])

    def _cell(
        self, d: int, gates: tuple[Value, Value], unit: Value, h: Value, c: Value
    ) -> tuple[Value, Value]:
        k, p = self.k, self.p
        register = self.lanes * 4

        def gate(index: int) -> Value:
            return k.load(self.vector, gates[0], index * register)

        def seen(index: int, x: Value, cell: Value) -> Value:
            if not p.peephole:
                return x
            at = (3 * d + index) * (self.layout.hidden * 4) + unit * 4
            return k.fma(k.load(self.vector, self.args["peephole"], at), cell, x)

        def activate(index: int, x: Value) -> Value:
            return self._activated(d, index, x)

        if p.kind == "lstm":
            i = activate(0, seen(0, gate(0), c))
            f = 1.0 - i if p.input_forget else activate(0, seen(2, gate(2), c))
            c = k.fma(f, c, i * activate(1, gate(3)))
            o = activate(0, seen(1, gate(1), c))
            return o * epilogue.apply(k, c, self._functions(d)[2]), c
        if p.kind == "gru":
            z, r = activate(0, gate(0)), activate(0, gate(1))
            outer = k.load(self.vector, gates[1], 2 * register)
            new = activate(1, k.fma(r, gate(2), outer))
            return k.fma(z, h - new, new), c
        return activate(0, gate(0)), c


def _clipped(k: Builder, x: Value, limit: float | None) -> Value:
    return x if limit is None else k.min(limit, k.max(-limit, x))
