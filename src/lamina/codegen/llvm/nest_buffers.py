"""Which values of a row are kept on the stack between passes, and which each pass computes."""

from __future__ import annotations

from lamina.codegen.llvm.builder import Value
from lamina.codegen.llvm.nest_schedule import weight
from lamina.codegen.llvm.nest_values import NestValues, Number
from lamina.codegen.llvm.scalar_llvm import register_type
from lamina.codegen.nest import Fold, LoopNest, Scan
from lamina.ir.dims import is_static
from lamina.ir.types import DType

_MOST_STACK_BYTES = 1 << 16
_DEAR = 10


class Passes:
    """The work of each pass over a row: its folds, its stores, and all instructions they need."""

    def __init__(self, nest: LoopNest) -> None:
        self.nest = nest
        self.reduced = frozenset(i for i, d in enumerate(nest.dims) if d.reduced)
        self.count = max(nest.stages, default=0) + 1
        self.folds: list[list[int]] = [[] for _ in range(self.count)]
        self.stores: list[list[int]] = [[] for _ in range(self.count)]
        for i, x in enumerate(nest.program):
            if isinstance(x, Fold):
                self.folds[nest.stages[i] - 1].append(i)
        self.row_stores: list[int] = []
        for number, s in enumerate(nest.stores):
            needs = [s.value, *(i for i, _ in s.access.dynamic)]
            walks = any(s.access.strides[d] != 0 for d in self.reduced)
            if walks or any(self.is_element(i) for i in needs):
                self.stores[max(nest.stages[i] for i in needs)].append(number)
            else:
                self.row_stores.append(number)
        self.needed = [self._closure(p) for p in range(self.count)]

    def is_element(self, i: int) -> bool:
        """Whether an instruction has a value per element of a row."""
        return bool(self.nest.depends[i] & self.reduced)

    def roots(self, number: int) -> list[int]:
        """Return what a pass must compute."""
        nest = self.nest
        result = [a for f in self.folds[number] for a in nest.program[f].args]
        for s in self.stores[number]:
            result += [nest.stores[s].value, *(i for i, _ in nest.stores[s].access.dynamic)]
        return result

    def _closure(self, number: int) -> frozenset[int]:
        seen: set[int] = set()
        stack = self.roots(number)
        while stack:
            i = stack.pop()
            if i not in seen:
                seen.add(i)
                if not isinstance(self.nest.program[i], Fold):
                    stack += self.nest.program[i].args
        return frozenset(seen)

    def first(self, i: int) -> int:
        """Return the first pass that computes an instruction."""
        return next(p for p in range(self.count) if i in self.needed[p])

    def work(self) -> int:
        """Return the rough number of simple operations of all passes for one element."""
        return sum(weight(self.nest, i) for needed in self.needed for i in needed)


class RowBuffers:
    """Stack memory that holds dear values of a row for later passes."""

    def __init__(self, values: NestValues, passes: Passes) -> None:
        self.values, self.passes = values, passes
        self.pointers: dict[int, Value] = {}
        self.active = True
        nest, plan = values.nest, values.plan
        sizes = [nest.dims[d].size for d in plan.reduced]
        if not all(is_static(s) for s in sizes):
            return
        length = 1
        for s in sizes:
            length *= int(s)  # type: ignore[arg-type]
        for i, x in enumerate(nest.program):
            uses = sum(i in needed for needed in passes.needed)
            if uses < 2 or not passes.is_element(i) or weight(nest, i) < _DEAR:
                continue
            if isinstance(x, Scan) or x.dtype is DType.BOOL:
                continue
            lanes = plan.lanes if plan.vector in nest.depends[i] else 1
            per_entry = lanes if plan.vector not in passes.reduced else 1
            nbytes = (length * per_entry + plan.lanes) * register_type(x.dtype).nbytes
            if nbytes <= _MOST_STACK_BYTES:
                self.pointers[i] = values.k.alloca(nbytes)

    def save(self, number: int) -> None:
        """Store what this pass computed first."""
        for i in self.pointers if self.active else ():
            if i in self.passes.needed[number] and self.passes.first(i) == number:
                value = self.values.value(i)
                pointer, nbytes = self._place(i)
                self.values.k.store(value, pointer, nbytes)

    def load(self, i: int, number: int) -> Value | None:
        """Return a value that an earlier pass stored, or None."""
        if not self.active or i not in self.pointers or self.passes.first(i) >= number:
            return None
        values = self.values
        type_ = register_type(values.nest.program[i].dtype)
        lanes = values.plan.lanes if values.varies(i) else 1
        pointer, nbytes = self._place(i)
        return values.k.load(type_.vector(lanes), pointer, nbytes)

    def _place(self, i: int) -> tuple[Value, Number]:
        """Return the buffer and the byte where the current element lies."""
        values = self.values
        plan, nest = values.plan, values.nest
        linear: Number = 0
        for d in plan.reduced:
            size = nest.dims[d].size
            assert isinstance(size, int)
            linear = linear * size + values.index[d]
        nbytes = register_type(nest.program[i].dtype).nbytes
        if values.varies(i) and plan.vector not in self.passes.reduced:
            nbytes *= plan.lanes
        return self.pointers[i], linear * nbytes
