"""Turns a graph of operators into a loop nest, from the outputs backwards.

A value is evaluated at a :data:`Position`: one index per axis, made of loops and, for gathers, of
computed numbers.  Operators that only move elements change the position; pointwise operators apply
their scalar operation; reductions add reduced loops.  One rule per operator, in the ``rules_*``
files.  What a rule cannot express it refuses with a :class:`Refusal`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from lamina.codegen.indexing import (
    AxisIndex,
    Position,
    Splits,
    broadcast,
    exact_quotient,
    leaves,
    resolve,
)
from lamina.codegen.layout import Layout
from lamina.codegen.nest import (
    Apply,
    Constant,
    Fold,
    LoopNest,
    Refusal,
    Table,
)
from lamina.codegen.placement import RawIndex, RawLoad, RawNest, RawStore, place
from lamina.ir.dims import Dim, is_static
from lamina.ir.graph import Graph, Node, Op, Value
from lamina.ir.types import DType, TensorType
from lamina.ops.cast import Cast
from lamina.ops.const import Const
from lamina.ops.elementwise import Binary, Select
from lamina.ops.kinds import BinaryKind

MOST_NODES = 250
Rule = Callable[["Lowering", Node, int, Position], int]
"""Evaluates result number ``int`` of a node at a position; returns an instruction."""


@dataclass
class Lowering:
    """The nest being built: loops, program, and what was evaluated where."""

    rules: Mapping[type[Op], Rule]
    operands: dict[Value, tuple[int, Layout]]
    sizes: list[Dim] = field(default_factory=list)
    reduced: set[int] = field(default_factory=set)
    program: list[object] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    predicate: int | None = None
    splits: Splits = field(default_factory=dict)
    shared: dict[object, tuple[AxisIndex, ...]] = field(default_factory=dict)
    _homes: dict[int, int] = field(default_factory=dict)
    _known: dict[object, int] = field(default_factory=dict)
    _folded: frozenset[int] | None = None
    _loops: dict[int, frozenset[int]] = field(default_factory=dict)

    def loop(self, size: Dim, *, reduced: bool = False, always: bool = False) -> AxisIndex:
        """Add a loop and return its index; a loop of size one is the index 0 unless ``always``."""
        if size == 1 and not always:
            return AxisIndex()
        self.sizes.append(size)
        if reduced:
            self.reduced.add(len(self.sizes) - 1)
        return AxisIndex.loop(len(self.sizes) - 1)

    def output_loops(self, shape: Sequence[Dim], blocked: frozenset[int]) -> Position:
        """Add one loop per axis of the largest output; ``blocked`` axes have padding to write."""
        position = tuple(self.loop(d, always=axis in blocked) for axis, d in enumerate(shape))
        for axis, index in enumerate(position):
            for d in index.loops:
                self._homes[d] = axis - len(position)
        return position

    def add(self, instruction: object) -> int:
        """Append an instruction, or return the equal one that is there."""
        found = self._known.get(instruction)
        if found is None:
            found = self._known[instruction] = len(self.program)
            self.program.append(instruction)
        return found

    def dtype(self, instruction: int) -> DType:
        """Return the element type of an instruction."""
        found: DType = self.program[instruction].dtype  # type: ignore[attr-defined]
        return found

    def constant(self, dtype: DType, number: float) -> int:
        """Add a number."""
        return self.add(Constant(dtype, number))

    def apply(self, op: Op, *args: int, dtype: DType | None = None) -> int:
        """Add a pointwise operator; the dtype is that of the last operand unless given."""
        return self.add(Apply(op, args, dtype or self.dtype(args[-1])))

    def binary(self, kind: BinaryKind, a: int, b: int) -> int:
        """Add a binary operator."""
        dtype = DType.BOOL if kind.is_comparison else self.dtype(a)
        return self.add(Apply(Binary(kind=kind), (a, b), dtype))

    def number(self, a: int, value: float) -> int:
        """Add a constant of the dtype of instruction ``a``."""
        return self.constant(self.dtype(a), value)

    def select(self, condition: int, a: int, b: int) -> int:
        """Add a choice."""
        return self.add(Apply(Select(), (condition, a, b), self.dtype(a)))

    def cast(self, a: int, dtype: DType) -> int:
        """Add a conversion unless the dtype is right already."""
        if self.dtype(a) is dtype:
            return a
        return self.add(Apply(Cast(dtype=dtype), (a,), dtype))

    def index(self, position: AxisIndex) -> int:
        """Add the value of an index as an i32."""
        result = self.add(RawIndex(AxisIndex(position.offset, position.terms)))
        for instruction, step in position.dynamic:
            if not is_static(step):
                raise Refusal("an index computed from data has a symbolic step")
            part = self.cast(instruction, DType.I32)
            scaled = self.binary(BinaryKind.MUL, part, self.number(part, int(step)))  # type: ignore[arg-type]
            result = self.binary(BinaryKind.ADD, result, scaled)
        return result

    def flat_load(self, value: Value, linear: AxisIndex) -> int | None:
        """Return element number ``linear`` of a row-major operand, None for any other value."""
        if value not in self.operands:
            return None
        operand, layout = self.operands[value]
        if layout.is_blocked or layout.strides != Layout.dense(value.tensor.shape).strides:
            return None
        flat = Layout((1,), layout.offset)
        return self.add(RawLoad(operand, value.tensor.dtype, flat, (linear,), self.predicate))

    def typed_load(self, value: Value, dtype: DType, position: Position) -> int | None:
        """Return an operand's element read as another type, None for any other value."""
        if value not in self.operands:
            return None
        operand, layout = self.operands[value]
        shape = value.tensor.shape
        place = tuple(AxisIndex() if d == 1 else p for d, p in zip(shape, position, strict=True))
        return self.add(RawLoad(operand, dtype, layout, place, self.predicate))

    def table(self, dtype: DType, values: Sequence[float], position: AxisIndex) -> int:
        """Add a load from a constant table that the kernel carries."""
        table = Table(dtype, tuple(values))
        if table not in self.tables:
            self.tables.append(table)
        number = -1 - self.tables.index(table)
        return self.add(RawLoad(number, dtype, Layout((1,)), (position,), None))

    def fold(self, kind: str, *args: int, dtype: DType | None = None, last: bool = False) -> int:
        """Join an instruction over the reduced loops."""
        return self.add(Fold(kind, args, dtype or self.dtype(args[-1]), last))

    def evaluate(self, value: Value, position: Position) -> int:
        """Return the instruction that computes ``value`` at ``position``."""
        tensor = value.tensor
        position = tuple(
            AxisIndex() if d == 1 else p for d, p in zip(tensor.shape, position, strict=True)
        )
        key = ("value", id(value), position, self.predicate)
        found = self._known.get(key)
        if found is None:
            found = self._known[key] = self._evaluate(value, tensor, position)
        return found

    def _evaluate(self, value: Value, tensor: TensorType, position: Position) -> int:
        if value in self.operands:
            operand, layout = self.operands[value]
            return self.add(RawLoad(operand, tensor.dtype, layout, position, self.predicate))
        node = value.node
        if node is None:
            raise Refusal(f"%{value.name} is no operand")
        if isinstance(node.op, Const):
            return self._constant_value(node.op, tensor, position)
        if (rule := self.rules.get(type(node.op))) is None:
            raise Refusal(f"{node.op.name} has no loop-nest rule")
        return rule(self, node, value.index, position)

    def _constant_value(self, op: Const, tensor: TensorType, position: Position) -> int:
        array = op.reference()
        if array.size == 1:
            return self.constant(tensor.dtype, array.reshape(-1)[0].item())
        if array.size > 4096:
            raise Refusal(f"a constant of {array.size} elements is inside the region")
        flat = AxisIndex()
        for stride, index in zip(Layout.dense(array.shape).strides, position, strict=True):
            flat = flat + index * stride
        numbers = np.asarray(array).reshape(-1)
        values = tuple(float(x) if tensor.dtype.is_float else int(x) for x in numbers)
        return self.table(tensor.dtype, values, flat)

    def operand_at(self, node: Node, number: int, position: Position) -> int:
        """Evaluate an operand where it broadcasts to the shape of the node's first result."""
        source = node.inputs[number]
        target = node.outputs[0].tensor.shape
        return self.evaluate(source, broadcast(position, source.tensor.shape, target))

    def guarded(self, condition: int, value: Callable[[], int], other: int) -> int:
        """Return ``value()`` where the condition holds, else ``other`` without reading."""
        outer = self.predicate
        if outer is not None:
            self.predicate = self.binary(BinaryKind.LOGICAL_AND, outer, condition)
        else:
            self.predicate = condition
        try:
            inner = value()
        finally:
            self.predicate = outer
        return self.select(condition, inner, other)

    def loops_of(self, *indices: AxisIndex, predicate: bool = True) -> frozenset[int]:
        """Return the loops that indices vary with, also through what computes them.

        With ``predicate`` those of the condition that is in force count too.
        """
        loops: set[int] = set()
        for index in indices:
            loops |= index.loops
            for instruction, _ in index.dynamic:
                loops |= self._instruction_loops(instruction)
        if predicate and self.predicate is not None:
            loops |= self._instruction_loops(self.predicate)
        return leaves(loops, self.splits)

    def _instruction_loops(self, number: int) -> frozenset[int]:
        found = self._loops.get(number)
        if found is None:
            x = self.program[number]
            if isinstance(x, RawLoad):
                found = self.loops_of(*x.position, predicate=False)
                if x.predicate is not None:
                    found |= self._instruction_loops(x.predicate)
            elif isinstance(x, RawIndex):
                found = self.loops_of(x.position, predicate=False)
            else:
                args: tuple[int, ...] = x.args  # type: ignore[attr-defined]
                found = frozenset().union(*(self._instruction_loops(a) for a in args))
                if isinstance(x, Fold):
                    found -= leaves(self._folded or frozenset(), self.splits)
            self._loops[number] = found
        return leaves(found, self.splits)

    def reduction_loops(
        self, sizes: Sequence[Dim], used: frozenset[int], homes: Sequence[int] = ()
    ) -> list[AxisIndex]:
        """Return reduced loops of these sizes: existing ones that ``used`` leaves free, or new.

        ``homes`` names axes, counted from the last as -1, whose loops are preferred.  Raises
        Refusal when folds would have to run over different loops.
        """
        taken = set(leaves(used, self.splits))
        result = []
        for number, size in enumerate(sizes):
            if size == 1:
                result.append(AxisIndex())
                continue
            free = [d for d in self._free_loops(size) if not leaves({d}, self.splits) & taken]
            home = homes[number] if homes else None
            free.sort(key=lambda d: (self._homes.get(d) != home, d not in self.reduced, d))
            chosen = AxisIndex.loop(free[0]) if free else self.loop(size)
            taken |= leaves(chosen.loops, self.splits)
            result.append(chosen)
        loops = leaves(frozenset().union(*(r.loops for r in result)), self.splits)
        self.claim(loops)
        return result

    def claim(self, loops: frozenset[int]) -> None:
        """Declare what is reduced; Refusal when other loops were reduced before."""
        leaf = leaves(loops, self.splits)
        if self._folded is not None and leaf != leaves(self._folded, self.splits):
            raise Refusal("reductions run over different axes")
        self._folded = leaf
        self.reduced |= leaf

    def _free_loops(self, size: Dim) -> list[int]:
        return [d for d, n in enumerate(self.sizes) if n == size]

    def split_loop(self, dim: int, inner: Dim) -> AxisIndex:
        """Cut a loop into blocks of ``inner``, which divides it; return its index in the parts."""
        count = exact_quotient(self.sizes[dim], inner)
        if count is None:
            raise Refusal(f"a loop of {self.sizes[dim]} cannot be cut into blocks of {inner}")
        self.sizes += [count, inner]
        outer, lane = len(self.sizes) - 2, len(self.sizes) - 1
        self.splits[dim] = (outer, lane, inner)
        if dim in self.reduced:
            self.reduced |= {outer, lane}
        return resolve(AxisIndex.loop(dim), self.splits)

    def split(self, index: AxisIndex, inner: Dim, size: Dim) -> tuple[AxisIndex, AxisIndex]:
        """Return quotient and remainder of an index below ``size`` by ``inner``.

        A loop that straddles is cut in two; Refusal when that does not work out evenly.
        """
        index = resolve(index, self.splits)
        if inner == 1:
            return index, AxisIndex()
        if size == inner or index == AxisIndex():
            return AxisIndex(), index
        if index.dynamic:
            raise Refusal("a computed index cannot be split by a reshape")
        offset = exact_quotient(index.offset, inner)
        if offset is None:
            raise Refusal("an offset does not fall on a boundary of the reshape")
        high, low = AxisIndex(offset), AxisIndex()
        span: Dim = 0
        for d, step in index.terms:
            quotient = exact_quotient(step, inner)
            if quotient is not None:
                high = high + AxisIndex(0, ((d, quotient),))
                continue
            reach = step * self.sizes[d]
            block = exact_quotient(inner, step)
            if block is not None and exact_quotient(reach, inner) is not None and reach != inner:
                self.split_loop(d, block)
                return self.split(index, inner, size)
            low = low + AxisIndex(0, ((d, step),))
            span = span + step * (self.sizes[d] - 1)
        fits = is_static(span) and is_static(inner) and 0 <= int(span) < int(inner)  # type: ignore[arg-type]
        if not fits and span != inner - 1:
            raise Refusal("the reshape cuts a loop")
        return high, low

    def span(self, index: AxisIndex) -> Dim | None:
        """Return how many positions an index takes when its loops tile them, else None."""
        index = resolve(index, self.splits)
        if index.dynamic:
            return None
        reached: Dim = 1
        remaining = dict(index.terms)
        while remaining:
            found = [d for d, step in remaining.items() if step == reached]
            if not found:
                return None
            reached = reached * self.sizes[found[0]]
            del remaining[found[0]]
        return reached

    def exact(self, a: Dim, b: Dim, what: str) -> Dim:
        """Return a / b; Refusal when it is not known to be whole."""
        quotient = exact_quotient(a, b)
        if quotient is None:
            raise Refusal(f"{a} {what} of {b}")
        return quotient

    def finish(self, stores: Sequence[RawStore]) -> LoopNest:
        """Resolve layouts and return the nest."""
        raw = RawNest(
            tuple(self.sizes), frozenset(self.reduced), tuple(self.program), tuple(stores),
            tuple(self.tables), dict(self.splits),
        )  # fmt: skip
        return place(raw)


def lower_graph(
    graph: Graph,
    rules: Mapping[type[Op], Rule],
    inputs: Sequence[Layout],
    outputs: Sequence[Layout],
) -> LoopNest:
    """Return the nest that computes all outputs of ``graph``; raises Refusal.

    Arguments of the kernel are the inputs, then the outputs.
    """
    if sum(1 for _ in graph.nodes()) > MOST_NODES:
        raise Refusal(f"the region has more than {MOST_NODES} nodes")
    for value in (*graph.inputs, *graph.outputs):
        if not isinstance(value.type, TensorType):
            raise Refusal(f"%{value.name} is {value.type}, not a tensor")
    if any(d == 0 for value in graph.outputs for d in value.tensor.shape):
        # Nothing is computed; a region whose other outputs are not empty is refused.
        if all(0 in value.tensor.shape for value in graph.outputs):
            return LoopNest((), (), ())
        raise Refusal("only some outputs are empty")
    placed = zip(graph.inputs, inputs, strict=True)
    operands = {v: (i, layout) for i, (v, layout) in enumerate(placed)}
    low = Lowering(rules, operands)
    blocked = frozenset(x.block_axis for x in outputs if x.is_blocked)
    stores: dict[int, RawStore] = {}
    order = sorted(range(len(outputs)), key=lambda i: _size_key(graph.outputs[i].tensor))
    for number in order:
        value = graph.outputs[number]
        if stores:
            known = {graph.outputs[i].tensor.shape: s.position for i, s in stores.items()}
            position = _later_position(value.tensor, known)
        else:
            position = low.output_loops(value.tensor.shape, blocked)
        result = low.evaluate(value, position)
        stores[number] = RawStore(
            len(graph.inputs) + number, value.tensor.dtype, outputs[number], position, result
        )
    return low.finish([stores[i] for i in sorted(stores)])


def _size_key(tensor: TensorType) -> tuple[int, int]:
    """Order outputs so that the largest, which defines the loops, comes first."""
    size = 1
    for d in tensor.shape:
        size *= int(d) if is_static(d) else 1 << 20  # type: ignore[arg-type]
    return (-size, -tensor.rank)


def _later_position(tensor: TensorType, known: dict[tuple[Dim, ...], Position]) -> Position:
    """Return where a further output is stored: the loops of the first one where sizes agree."""
    if tensor.shape in known:
        return known[tensor.shape]
    full, first = next(iter(known.items()))
    if tensor.rank == len(full):
        if all(d in (1, n) for d, n in zip(tensor.shape, full, strict=True)):
            return tuple(
                AxisIndex() if d == 1 else p for d, p in zip(tensor.shape, first, strict=True)
            )
        raise Refusal("outputs have unrelated shapes")
    result, axis = [], 0
    for d in tensor.shape:
        while axis < len(full) and full[axis] != d:
            axis += 1
        if axis == len(full):
            raise Refusal("outputs have unrelated shapes")
        result.append(first[axis])
        axis += 1
    return tuple(result)
