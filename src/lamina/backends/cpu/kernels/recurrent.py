"""Recurrent layers: all inputs times their weights at once, then one step after the other.

The first kernel multiplies the whole sequence by the input weights.  The second walks through time;
each thread owns some hidden units with all their gates, so that a step ends with one barrier.
Threads read their recurrent weights forwards in one step and backwards in the next: what a core's
cache still holds of them is read first.

Columns are ordered [group][block of the group][gate][lane]: a group is what one register tile
computes, a block one register of hidden units.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lamina.backends.cpu.kernels import epilogue, gemm
from lamina.backends.cpu.kernels.barrier import Barrier
from lamina.backends.cpu.kernels.convolution import Epilogue
from lamina.backends.cpu.kernels.gemm import GemmConfig, GemmProblem
from lamina.backends.cpu.kernels.microkernel import RowAccess, Tile, multiply_accumulate
from lamina.codegen.llvm.builder import F32, I32, I64, Builder, Kernel, Module, Value
from lamina.codegen.llvm.target import Isa
from lamina.ir.dims import Dim, Expr, ceildiv

GATES = {"rnn": 1, "lstm": 4, "gru": 3}
_COUNTER_BYTES = 128


@dataclass(frozen=True)
class RecurrentProblem:
    """A layer in the terms of :class:`lamina.ops.Recurrent`; time and batch may be symbolic.

    ``activations`` has the functions of each direction in turn.  A GRU applies its reset gate after
    the product (``linear_before_reset``).
    """

    kind: str
    time: Dim
    batch: Dim
    inputs: int
    hidden: int
    reverse: tuple[bool, ...]
    activations: tuple[Epilogue, ...]
    clip: float | None = None
    input_forget: bool = False
    lengths: bool = False

    @property
    def operands(self) -> tuple[str, ...]:
        """Return the names of the kernels' operands, in the order of their ``args``."""
        lengths = ("lengths",) if self.lengths else ()
        constants = ("weights", "recurrent", "bias", "inner_bias")
        return ("x", *constants, "h0", "c0", *lengths, "y", "h", "c", "workspace")


@dataclass(frozen=True)
class RecurrentConfig:
    """Rows of the batch and blocks of hidden units in a register tile, and the first product."""

    rows: int
    blocks: int
    product: GemmConfig


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
    rows = -(-batch // -(-batch // most))
    choices = [max(1, 8 // gates)] if rows <= (2 if many else 1) else [max(1, 4 // gates)]
    if rows == 1:
        choices.append(max(1, 4 // gates))
    for blocks in dict.fromkeys(choices):
        layout = _Layout(problem, blocks, isa)
        product = _product(problem, layout, time * batch)
        for config in gemm.configs(product, isa, threads):
            yield RecurrentConfig(rows, blocks, config)
            break


class _Layout:
    """Sizes of the padded hidden axis and of a row of gates."""

    def __init__(self, p: RecurrentProblem, blocks: int, isa: Isa) -> None:
        self.lanes = isa.lanes(F32)
        self.gates, self.blocks = GATES[p.kind], blocks
        self.width = blocks * self.lanes
        self.groups = -(-p.hidden // self.width)
        self.hidden = self.groups * self.width
        self.columns = self.hidden * self.gates

    def ordered(self, rows: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return [gates * H, ...] as [groups, ..., blocks, gates, lanes], padded with zeros."""
        rest = rows.shape[1:]
        split = rows.reshape(self.gates, -1, *rest)
        padded = np.zeros((self.gates, self.hidden, *rest), np.float32)
        padded[:, : split.shape[1]] = split
        parts = padded.reshape(self.gates, self.groups, self.blocks, self.lanes, *rest)
        others = range(4, parts.ndim)
        return np.ascontiguousarray(parts.transpose(1, *others, 2, 0, 3))


def _product(p: RecurrentProblem, layout: _Layout, likely: int) -> GemmProblem:
    rows = p.time * p.batch
    columns = len(p.reverse) * layout.columns
    static = rows if isinstance(rows, int) else None
    return GemmProblem(
        static, p.inputs, columns, p.inputs * 4, columns * 4, bias=True, expected_rows=likely
    )


def pack(
    w: NDArray[np.float32],
    r: NDArray[np.float32],
    b: NDArray[np.float32],
    problem: RecurrentProblem,
    config: RecurrentConfig,
    isa: Isa,
) -> dict[str, NDArray[np.generic]]:
    """Return the constants of the kernels from those of the operator."""
    layout = _Layout(problem, config.blocks, isa)
    directions = range(len(problem.reverse))
    rows = layout.gates * problem.hidden
    inner = b[:, rows:].copy()
    outer = b[:, :rows] + inner
    if problem.kind == "gru":
        last = slice(2 * problem.hidden, None)
        outer[:, last] = b[:, :rows][:, last]
        inner[:, : 2 * problem.hidden] = 0
    else:
        inner[:] = 0
    weights = [layout.ordered(w[d]).swapaxes(0, 1).reshape(problem.inputs, -1) for d in directions]
    product = _product(problem, layout, 1)
    return {
        "weights": gemm.pack_weights(np.concatenate(weights, 1), product, config.product, isa),
        "recurrent": np.stack([layout.ordered(r[d]) for d in directions]),
        "bias": np.concatenate([layout.ordered(outer[d]).reshape(-1) for d in directions]),
        "inner_bias": np.stack([layout.ordered(inner[d]) for d in directions]),
    }


class _Plan:
    """Where the buffers of a step lie in its workspace."""

    def __init__(self, p: RecurrentProblem, c: RecurrentConfig, isa: Isa, threads: int) -> None:
        self.layout = _Layout(p, c.blocks, isa)
        directions = len(p.reverse)
        self.rows = ceildiv(p.batch, c.rows) * c.rows
        self.state_bytes = self.rows * directions * self.layout.hidden * 4
        self.patch = _COUNTER_BYTES
        product = _product(p, self.layout, 1)
        patch = gemm.workspace_bytes(product, c.product, isa, threads)
        self.h = self.patch + -(-patch // 64) * 64
        self.c = self.h + 2 * self.state_bytes
        self.gates = self.c + self.state_bytes
        self.row_bytes = directions * self.layout.columns * 4
        self.nbytes: Dim = self.gates + p.time * p.batch * self.row_bytes

    def dims(self, p: RecurrentProblem) -> tuple[Dim, ...]:
        """Return every size that code needs."""
        return (p.time * p.batch, p.time, p.batch, self.rows, self.state_bytes, self.c, self.gates)


def workspace_bytes(
    problem: RecurrentProblem, config: RecurrentConfig, isa: Isa, threads: int
) -> Dim:
    """Return the workspace of all threads together."""
    return _Plan(problem, config, isa, threads).nbytes


def parameters(
    problem: RecurrentProblem, config: RecurrentConfig, isa: Isa, threads: int
) -> tuple[Expr, ...]:
    """Return the sizes that the kernels take at run time; the first one is the rows of x."""
    dims = _Plan(problem, config, isa, threads).dims(problem)
    return tuple(dict.fromkeys(d for d in dims if isinstance(d, Expr)))


def build(
    module: Module, name: str, problem: RecurrentProblem, config: RecurrentConfig, threads: int
) -> tuple[str, ...]:
    """Write the two kernels and return their names."""
    plan = _Plan(problem, config, module.isa, threads)
    names = (f"{name}x", f"{name}h")
    with module.kernel(names[0]) as k:
        args = {n: k.arg(i) for i, n in enumerate(problem.operands)}
        with k.if_(k.eq(k.tid, 0)):
            k.store(k.const(I64, 0), args["workspace"])
        product = _product(problem, plan.layout, 1)
        operands = {
            "src": args["x"],
            "weights": args["weights"],
            "bias": args["bias"],
            "dst": args["workspace"] + _Sizes(k, problem, plan, threads, config).of(plan.gates),
            "workspace": args["workspace"] + plan.patch,
        }
        gemm.Writer(k, product, config.product, operands).write()
    with module.kernel(names[1]) as k:
        _Steps(k, problem, config, plan, threads).write()
    return names


class _Sizes:
    """Sizes as values: numbers, or parameters of the kernel."""

    def __init__(
        self, k: Kernel, p: RecurrentProblem, plan: _Plan, threads: int, c: RecurrentConfig
    ) -> None:
        self.k = k
        self.numbers = {d: i for i, d in enumerate(parameters(p, c, k.isa, threads))}

    def of(self, d: Dim) -> Value:
        """Return a size as an i64."""
        return self.k.param(self.numbers[d]) if isinstance(d, Expr) else self.k.const(I64, d)


class _Steps:
    """Writes the walk through time."""

    def __init__(
        self, k: Kernel, p: RecurrentProblem, c: RecurrentConfig, plan: _Plan, threads: int
    ) -> None:
        self.k, self.p, self.c, self.plan = k, p, c, plan
        self.layout = plan.layout
        self.lanes = self.layout.lanes
        self.vector = F32.vector(self.lanes)
        self.vectors = self.layout.blocks * self.layout.gates
        self.args = {n: k.arg(i) for i, n in enumerate(p.operands)}
        sizes = _Sizes(k, p, plan, threads, c)
        self.time, self.batch, self.rows = (sizes.of(d) for d in (p.time, p.batch, plan.rows))
        work = self.args["workspace"]
        self.barrier = Barrier(k, work)
        self.state_bytes = sizes.of(plan.state_bytes)
        self.h, self.cell = work + sizes.of(plan.h), work + sizes.of(plan.c)
        self.gates = work + sizes.of(plan.gates)
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
            before, after = self.h + odd * self.state_bytes, self.h + (1 - odd) * self.state_bytes
            for d in range(len(self.p.reverse)):
                with k.loop(first, last) as groups:
                    group = k.select(k.eq(odd, 0), groups.index, first + last - 1 - groups.index)
                    with k.loop(0, self.rows, self.c.rows) as tiles:
                        self._tile(d, step, group, tiles.index, before, after)
            self.barrier.wait()
        final = self.h + (self.time & 1) * self.state_bytes
        self._results(first, last, final)

    def _state_offset(self, d: int, row: Value, unit: Value) -> Value:
        return (self.rows * d + row) * (self.layout.hidden * 4) + unit * 4

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

    def _tile(
        self, d: int, step: Value, group: Value, row: Value, before: Value, after: Value
    ) -> None:
        """Compute the gates of some rows and hidden units, then their states."""
        k, p, c = self.k, self.p, self.c
        layout = self.layout
        register = self.lanes * 4
        tile_bytes = self.vectors * register
        inner = self.args["inner_bias"] + (group + d * layout.groups) * tile_bytes
        start: list[Value] = []
        inputs = []
        for i in range(c.rows):
            at = self._position(d, step, row + i)[0]
            existing = k.min(row + i, self.batch - 1)
            source = self.gates + (at * self.batch + existing) * self.plan.row_bytes
            source = source + (group + d * layout.groups) * tile_bytes
            inputs.append(source)
            for j in range(self.vectors):
                separate = p.kind == "gru" and j % layout.gates == 2
                start.append(k.load(self.vector, inner if separate else source, j * register))
        packed = self.args["recurrent"] + (group + d * layout.groups) * (p.hidden * tile_bytes)
        unroll = next(u for u in (4, 2, 1) if p.hidden % u == 0)
        sums = multiply_accumulate(
            k,
            before + self._state_offset(d, row, k.const(I64, 0)),
            RowAccess(layout.hidden * 4, p.hidden, p.hidden * 4),
            packed,
            Tile(c.rows, self.vectors, unroll),
            blocks=1,
            start=start,
        )
        for i, x in enumerate(sums):
            k.store(x, self.scratch, i * register)
        for i in range(c.rows):
            with k.loop(0, layout.blocks) as blocks:
                unit = group * layout.width + blocks.index * self.lanes
                at = blocks.index * (layout.gates * register)
                gates = self.scratch + at + i * tile_bytes
                self._unit(d, step, row + i, unit, (gates, inputs[i] + at), (before, after))

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
        states: tuple[Value, Value],
    ) -> None:
        """Turn the gates of a register of hidden units into its next states."""
        k, p = self.k, self.p
        place = self._state_offset(d, row, unit)
        before = k.load(self.vector, states[0], place)
        cell = k.load(self.vector, self.cell, place)
        h, c = self._cell(d, gates, before, cell)
        position, alive = self._position(d, step, row)
        result = h
        if alive is not None:
            kept = k.broadcast(alive, self.lanes)
            result = k.select(kept, h, k.const(self.vector, 0.0))
            h, c = k.select(kept, h, before), k.select(kept, c, cell)
        k.store(h, states[1], place)
        if p.kind == "lstm":
            k.store(c, self.cell, place)
        with k.if_(row < self.batch):
            directions = len(p.reverse)
            line = (position * directions + d) * self.batch + row
            mask = k.lane_mask(p.hidden - unit, self.lanes)
            k.store(result, self.args["y"] + line * (p.hidden * 4), unit * 4, mask=mask)

    def _cell(self, d: int, gates: tuple[Value, Value], h: Value, c: Value) -> tuple[Value, Value]:
        k, p = self.k, self.p
        each = len(p.activations) // len(p.reverse)
        functions = p.activations[d * each : (d + 1) * each]
        register = self.lanes * 4

        def gate(index: int) -> Value:
            return k.load(self.vector, gates[0], index * register)

        def activate(index: int, x: Value) -> Value:
            return epilogue.apply(k, _clipped(k, x, p.clip), functions[index])

        if p.kind == "lstm":
            i = activate(0, gate(0))
            f = 1.0 - i if p.input_forget else activate(0, gate(2))
            c = k.fma(f, c, i * activate(1, gate(3)))
            return activate(0, gate(1)) * epilogue.apply(k, c, functions[2]), c
        if p.kind == "gru":
            z, r = activate(0, gate(0)), activate(0, gate(1))
            outer = k.load(self.vector, gates[1], 2 * register)
            new = activate(1, k.fma(r, gate(2), outer))
            return k.fma(z, h - new, new), c
        return activate(0, gate(0)), c


def _clipped(k: Builder, x: Value, limit: float | None) -> Value:
    return x if limit is None else k.min(limit, k.max(-limit, x))
