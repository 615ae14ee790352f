"""Computes the instructions of a loop nest at one point: loads, stores and scalar operations."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from lamina.codegen import scalar
from lamina.codegen.llvm.builder import I1, I32, I64, PTR, Kernel, Type, Value
from lamina.codegen.llvm.nest_schedule import Schedule
from lamina.codegen.llvm.scalar_llvm import (
    MEMORY_TYPES,
    LlvmEmitter,
    load_as,
    store_as,
)
from lamina.codegen.nest import (
    Access,
    Apply,
    Constant,
    Index,
    Load,
    LoopNest,
    Refusal,
    Store,
)
from lamina.ir.dims import Atom, Dim, Expr, symbols

Number = int | Value


def nest_symbols(nest: LoopNest) -> list[str]:
    """Return the symbols whose run-time values the nest needs, sorted."""
    return sorted({s for d in _nest_dims(nest) for s in symbols(d)})


def _nest_dims(nest: LoopNest) -> Iterator[Dim]:
    for loop in nest.dims:
        yield loop.size
        if loop.guard is not None:
            yield loop.guard[1]
    for x in nest.program:
        if isinstance(x, Load):
            yield from _access_dims(x.access)
        elif isinstance(x, Index):
            yield from (*x.strides, x.offset)
    for s in nest.stores:
        yield from _access_dims(s.access)


def _access_dims(a: Access) -> Iterator[Dim]:
    yield from (*a.strides, a.offset, *(s for _, s in a.dynamic))


class DimValues:
    """The run-time values of symbolic dimensions, computed once at the start of a kernel."""

    def __init__(self, k: Kernel, params: Mapping[str, int], dims: Sequence[Dim]) -> None:
        self.k = k
        names = sorted({s for d in dims for s in symbols(d)})
        self._symbols = {name: k.param(params[name]) for name in names}
        self._known: dict[Dim, Value] = {}
        for d in dims:
            if isinstance(d, Expr):
                self._known[d] = self._compute(d)

    def __getitem__(self, d: Dim) -> Number:
        return self._known[d] if isinstance(d, Expr) else int(d)

    def _compute(self, d: Dim) -> Value:
        k = self.k
        if not isinstance(d, Expr):
            return k.const(I64, d)
        total: Value | None = None
        for factors, coefficient in d.terms:
            term = k.const(I64, coefficient)
            for atom in factors:
                term = term * self._atom(atom)
            total = term if total is None else total + term
        return total if total is not None else k.const(I64, 0)

    def _atom(self, atom: Atom) -> Value:
        if atom.kind == "sym":
            return self._symbols[atom.name]
        k, args = self.k, [self._compute(a) for a in atom.args]
        if atom.kind in ("min", "max"):
            result = args[0]
            for other in args[1:]:
                result = k.min(result, other) if atom.kind == "min" else k.max(result, other)
            return result
        a, b = args
        quotient = k.binary("div", a, b)
        rest = a - quotient * b
        nonzero = k.ne(rest, 0)
        same_sign = k.eq((rest < 0) ^ (b < 0), 0)
        if atom.kind == "floordiv":
            return quotient - k.convert(nonzero & k.eq(same_sign, 0), I64, signed=False)
        return quotient + k.convert(nonzero & same_sign, I64, signed=False)


@dataclass
class Scope:
    """What is computed where: values by instruction, valid in the current block and inside it."""

    values: dict[object, Value] = field(default_factory=dict)


class NestValues:
    """Evaluates instructions lazily; a value lives in the scope where it was first needed."""

    def __init__(
        self,
        k: Kernel,
        nest: LoopNest,
        plan: Schedule,
        params: Mapping[str, int],
        tables: Sequence[Value],
    ) -> None:
        self.k, self.nest, self.plan = k, nest, plan
        self.emitter = LlvmEmitter(k)
        self.dims = DimValues(k, params, list(_nest_dims(nest)))
        self.pointers: dict[int, Value] = {}
        for access in self._accesses():
            if access.operand >= 0 and access.operand not in self.pointers:
                self.pointers[access.operand] = k.arg(access.operand)
        for i, table in enumerate(tables):
            self.pointers[-1 - i] = k.value(PTR, table.text)
        self.index: dict[int, Number] = {}
        self.mask: Value | None = None
        self.scopes: list[Scope] = [Scope()]
        self._zero: Value | None = None
        self.provider: Callable[[int], Value | None] = lambda i: None

    def _accesses(self) -> Iterator[Access]:
        for x in self.nest.program:
            if isinstance(x, Load):
                yield x.access
        for s in self.nest.stores:
            yield s.access

    @contextmanager
    def scope(self, scope: Scope | None = None) -> Iterator[Scope]:
        """Keep what is computed inside a block from being used outside it."""
        inner = scope or Scope()
        self.scopes.append(inner)
        try:
            yield inner
        finally:
            self.scopes.pop()

    def known(self, i: int) -> Value | None:
        """Return the value of an instruction when it is computed already."""
        for scope in reversed(self.scopes):
            if i in scope.values:
                return scope.values[i]
        return None

    def set(self, i: int, value: Value) -> None:
        """Record the value of an instruction in the current scope."""
        self.scopes[-1].values[i] = value

    def value(self, i: int) -> Value:
        """Return the value of an instruction at the current point."""
        found = self.known(i)
        if found is None:
            found = self.provider(i) or self._compute(i)
            self.set(i, found)
        return found

    def varies(self, i: int) -> bool:
        """Whether an instruction has one value per lane."""
        return self.plan.vector in self.nest.depends[i]

    def _compute(self, i: int) -> Value:
        x = self.nest.program[i]
        if isinstance(x, Constant):
            return self.emitter.constant(x.dtype, x.number)
        if isinstance(x, Load):
            return load_as(self.k, self._load(i, x.access), x.dtype)
        if isinstance(x, Index):
            return self._index(x)
        if isinstance(x, Apply):
            terms = tuple(self._term(a) for a in x.args)
            return scalar.apply(x.op, terms).value
        raise AssertionError(f"instruction {i} is needed before it is reduced")

    def _term(self, i: int) -> scalar.Term[Value]:
        x = self.nest.program[i]
        number = x.number if isinstance(x, Constant) else None
        return scalar.Term(self.emitter, x.dtype, self.value(i), number)

    def linear(self, strides: Sequence[Dim], offset: Dim) -> Number:
        """Return offset + strides . loops at the current point (the vector loop's first lane)."""
        total: Number = self.dims[offset]
        for d, stride in enumerate(strides):
            if stride != 0:
                index, step = self.index[d], self.dims[stride]
                total = total + (index if stride == 1 else index * step)
        return total

    def _index(self, x: Index) -> Value:
        k, v = self.k, self.plan.vector
        start = self.linear(x.strides, x.offset)
        base = k.const(I32, start) if isinstance(start, int) else k.convert(start, I32)
        if v < 0 or x.strides[v] == 0 or self.plan.lanes == 1:
            return base
        step = self.dims[x.strides[v]]
        lanes = k.iota(I32, self.plan.lanes)
        scaled = lanes * (step if isinstance(step, int) else k.convert(step, I32))
        return k.broadcast(base, self.plan.lanes) + scaled

    def address(self, a: Access) -> tuple[Value, Value | None, Dim]:
        """Return the first lane's address, varying element offsets, and the stride of lanes."""
        k = self.k
        total = self.linear(a.strides, a.offset)
        spread: Value | None = None
        for i, stride in a.dynamic:
            wide = k.convert(self.value(i), I64) * self.dims[stride]
            if self.varies(i) and self.plan.lanes > 1:
                spread = wide if spread is None else spread + wide
            else:
                total = wide + total
        nbytes = MEMORY_TYPES[a.dtype].nbytes
        pointer = k.offset(self.pointers[a.operand], total * nbytes)
        stride = a.strides[self.plan.vector] if self.plan.vector >= 0 else 0
        return pointer, spread, stride

    def _lane_offsets(self, spread: Value | None, stride: Dim, nbytes: int) -> Value:
        k, step = self.k, self.dims[stride]
        lanes = k.iota(I64, self.plan.lanes) * step
        return (lanes if spread is None else spread + lanes) * nbytes

    def _predicate(self, a: Access) -> Value | None:
        return None if a.predicate is None else self.value(a.predicate)

    def _load(self, i: int, a: Access) -> Value:
        k, type_ = self.k, MEMORY_TYPES[a.dtype]
        pointer, spread, stride = self.address(a)
        predicate = self._predicate(a)
        lanes = self.plan.lanes
        if lanes == 1 or (spread is None and stride == 0):
            if predicate is not None and predicate.type.lanes:
                mask = self._joined(predicate)
                same = k.const(I64.vector(lanes), 0)
                return k.gather(type_, pointer, same, mask=mask)
            if predicate is not None:
                pointer = k.select(predicate, pointer, self._zeros())
            return k.load(type_, pointer)
        mask = self._joined(predicate)
        if spread is None and stride == 1:
            return k.load(type_.vector(lanes), pointer, mask=mask)
        if spread is None and stride == 2:
            return self._every_second(type_, pointer, mask)
        return k.gather(type_, pointer, self._lane_offsets(spread, stride, type_.nbytes), mask=mask)

    def _every_second(self, type_: Type, pointer: Value, mask: Value | None) -> Value:
        """Load every second element as two vectors; nothing beyond the last one is touched."""
        k, lanes = self.k, self.plan.lanes
        vector = type_.vector(lanes)
        if mask is None:
            low, high = None, k.lane_mask(lanes - 1, lanes)
        else:
            none = k.const(I1.vector(lanes), 0)
            half = lanes // 2
            spread = [[i for j in range(half) for i in (start + j, lanes)] for start in (0, half)]
            low, high = (k.shuffle(mask, none, places) for places in spread)
        first = k.load(vector, pointer, mask=low)
        second = k.load(vector, pointer, lanes * type_.nbytes, mask=high)
        return k.shuffle(first, second, range(0, 2 * lanes, 2))

    def _joined(self, predicate: Value | None) -> Value | None:
        if predicate is None:
            return self.mask
        wide = self.k.coerce(predicate, I1.vector(self.plan.lanes))
        return wide if self.mask is None else wide & self.mask

    def _zeros(self) -> Value:
        """Return the address of eight zero bytes, which loads that must not happen read."""
        if self._zero is None:
            self._zero = self.k.alloca(8, align=8)
            self.k.entry.append(f"  store i64 0, {self._zero}, align 8")
        return self._zero

    def store(self, s: Store, bound: Value | None = None) -> None:
        """Store the value of an instruction; ``bound`` masks the lanes beyond a padded block."""
        k, a = self.k, s.access
        pointer, spread, stride = self.address(a)
        value = store_as(k, self.value(s.value), a.dtype)
        lanes = self.plan.lanes
        if lanes == 1 or (spread is None and stride == 0):
            if value.type.lanes:
                raise Refusal("a store of many lanes into one element")
            k.store(value, pointer)
            return
        value = k.coerce(value, value.type.scalar.vector(lanes))
        mask = self.mask
        if a.padded is not None and self.mask is not None:
            value, mask = k.select(self.mask, value, 0), bound
        if spread is None and stride == 1:
            k.store(value, pointer, mask=mask)
            return
        offsets = self._lane_offsets(spread, stride, MEMORY_TYPES[a.dtype].nbytes)
        k.scatter(value, pointer, offsets, mask=mask)
