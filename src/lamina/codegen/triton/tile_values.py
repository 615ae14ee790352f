"""Computes the instructions of a nest on the lanes of a program: loads, stores, operations."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from lamina.codegen import scalar
from lamina.codegen.nest import Access, Apply, Constant, Index, Load, LoopNest, Refusal, Store
from lamina.codegen.triton.scalar_triton import Piece, TritonEmitter
from lamina.codegen.triton.text import LANGUAGE_TYPES, TYPES, Text
from lamina.codegen.triton.tile import Tile, extent
from lamina.ir.dims import Dim, ceildiv, divides
from lamina.ir.types import DType

_HALVES = (DType.F16, DType.BF16)


@dataclass
class Group:
    """Loops that are counted as one number.

    ``place`` is the axis of the program's blocks that the number runs along, None for a number that
    a program has one of at a time; ``mask`` tells which lanes are inside, None for all.
    """

    name: str
    loops: tuple[int, ...]
    block: int
    place: int | None = None
    index: str = "0"
    mask: str | None = None


class Pointers:
    """The memory that the nests of a kernel use, by operand number; tables are negative."""

    def __init__(self) -> None:
        self.types: dict[tuple[int, int], DType] = {}

    def name(self, nest: int, operand: int, dtype: DType) -> str:
        """Return the pointer to an operand's elements; another type than before is cast to."""
        key = (nest if operand < 0 else 0, operand)
        first = self.types.setdefault(key, dtype)
        name = f"p{operand}" if operand >= 0 else f"t{nest}_{-1 - operand}"
        if TYPES[first] == TYPES[dtype]:
            return name
        element = "tl.int8" if dtype is DType.BOOL else LANGUAGE_TYPES[dtype]
        return f"{name}.to(tl.pointer_type({element}))"


class TileValues:
    """Evaluates instructions lazily; a value lives in the block of text where it was needed."""

    def __init__(
        self, text: Text, nest: LoopNest, tile: Tile, pointers: Pointers, number: int, wide: bool
    ) -> None:
        self.text, self.nest, self.tile, self.wide = text, nest, tile, wide
        self.pointers, self.number = pointers, number
        halves = all(s.access.dtype in (*_HALVES, DType.I8, DType.U8) for s in nest.stores)
        self.emitter = TritonEmitter(text, quick=halves)
        self.scopes: list[dict[object, Piece]] = [{}]
        self.outer = Group("outer", tile.outer, 1)
        self.y = Group("y", tile.y, tile.y_block)
        self.x = Group("x", tile.x, tile.x_block)
        self.z = Group("z", tile.z, tile.z_block)
        self.groups = (self.outer, self.y, self.x, self.z)
        self.lanes = [g for g in self.groups[:3] if g.loops and g.block > 1]
        if tile.z and tile.z_block:
            self.lanes.append(self.z)
        for place, group in enumerate(self.lanes):
            group.place = place

    # Where the program stands.

    def enter(self, program: str) -> None:
        """Write which part of the kept loops a program has."""
        text, rest = self.text, program
        sizes = {g.name: extent(self.nest, g.loops) for g in (self.outer, self.y, self.x)}
        for group, further in ((self.x, ("y", "outer")), (self.y, ("outer",))):
            total = sizes[group.name]
            if total == 1:
                continue
            blocks = text.dim(ceildiv(total, group.block))
            start = rest
            if any(sizes[name] != 1 for name in further):
                start, rest = text.name(f"{rest} % {blocks}"), text.name(f"{rest} // {blocks}")
            group.index = start
            if group.block > 1:
                group.index = text.name(f"{start} * {group.block} + {self.arange(group)}")
                self.bound(group)
        self.outer.index = rest

    def bound(self, group: Group) -> None:
        """Write which lanes of a group are inside."""
        total = extent(self.nest, group.loops)
        if not divides(group.block, total):
            group.mask = self.text.name(f"{group.index} < {self.text.dim(total)}")

    def arange(self, group: Group) -> str:
        """Return the lanes of a group along their axis."""
        axes = ", ".join(":" if g is group else "None" for g in self.lanes)
        shape = "" if len(self.lanes) == 1 else f"[{axes}]"
        return f"tl.arange(0, {group.block}){shape}"

    def shape(self, groups: Sequence[Group]) -> str:
        """Return the shape of a value that varies along these groups."""
        return "[" + ", ".join(str(g.block if g in groups else 1) for g in self.lanes) + "]"

    @contextmanager
    def scope(self) -> Iterator[None]:
        """Keep what is computed inside a block of text from being used outside it."""
        self.scopes.append({})
        try:
            yield
        finally:
            self.scopes.pop()

    # Values.

    def varying(self, loops: frozenset[int]) -> list[Group]:
        """Return the lanes that a value of these loops varies along."""
        return [g for g in self.lanes if loops & frozenset(g.loops)]

    def known(self, key: object) -> Piece | None:
        """Return what is computed already."""
        for scope in reversed(self.scopes):
            if key in scope:
                return scope[key]
        return None

    def set(self, key: object, value: str) -> None:
        """Record what is computed in the current block of text."""
        self.scopes[-1][key] = Piece(value)

    def value(self, i: int) -> Piece:
        """Return the value of an instruction."""
        found = self.known(i)
        if found is None:
            found = self.scopes[-1][i] = self._compute(i)
        return found

    def read(self, i: int) -> str:
        """Return what a load reads, as it lies in memory; asked for early, it is under way."""
        found = self.known(("read", i))
        if found is not None:
            return str(found)
        x = self.nest.program[i]
        assert isinstance(x, Load)
        name = self.text.name(self._raw(i, x.access))
        self.set(("read", i), name)
        return name

    def _compute(self, i: int) -> Piece:
        x = self.nest.program[i]
        if isinstance(x, Constant):
            return self.emitter.constant(x.dtype, x.number)
        if isinstance(x, Load):
            return self._load(i, x.access.dtype)
        if isinstance(x, Index):
            return self._index(i, x)
        if isinstance(x, Apply):
            terms = tuple(self._term(a) for a in x.args)
            return scalar.apply(x.op, terms).value
        raise AssertionError(f"instruction {i} is needed before it is reduced")

    def _term(self, i: int) -> scalar.Term[Piece]:
        x = self.nest.program[i]
        number = x.number if isinstance(x, Constant) else None
        return scalar.Term(self.emitter, x.dtype, self.value(i), number)

    # Places.

    def linear(self, strides: Sequence[Dim], offset: Dim) -> str:
        """Return offset + strides . loops."""
        terms = [] if offset == 0 else [self.text.dim(offset)]
        for group in self.groups:
            loops = group.loops
            last = len(loops) - 1
            while last >= 0:
                first = last
                while first > 0 and self._joins(strides, loops[first - 1], loops[first]):
                    first -= 1
                step = strides[loops[last]]
                if step != 0:
                    index = self._counter(group, first, last)
                    terms.append(index if step == 1 else f"{index} * {self._factor(step)}")
                last = first - 1
        return " + ".join(terms) or "0"

    def _factor(self, d: Dim) -> str:
        text = self.text.dim(d)
        return f"({text})" if text.startswith("-") else text

    def _joins(self, strides: Sequence[Dim], outer: int, inner: int) -> bool:
        if strides[inner] == 0:
            return strides[outer] == 0
        return strides[outer] == strides[inner] * self.nest.dims[inner].size

    def _counter(self, group: Group, first: int, last: int) -> str:
        """Return the number that loops ``first`` to ``last`` of a group count as."""
        key = ("counter", group.name, first, last)
        found = self.known(key)
        if found is not None:
            return str(found)
        inner = extent(self.nest, group.loops[last + 1 :])
        expression = group.index
        if inner != 1:
            expression = f"{expression} // {self.text.dim(inner)}"
        if first > 0:
            own = extent(self.nest, group.loops[first : last + 1])
            expression = f"({expression}) % {self.text.dim(own)}"
        if expression != group.index:
            expression = self.text.name(expression)
        self.set(key, expression)
        return expression

    def _index(self, i: int, x: Index) -> Piece:
        place = self.linear(x.strides, x.offset)
        if not self.varying(self.nest.depends[i]):
            return Piece(self.text.name(f"tl.full((), {place}, tl.int32)"))
        return Piece(self.text.name(f"({place}).to(tl.int32)" if self.wide else place))

    def _address(self, a: Access) -> str:
        """Return the pointer to the elements of an access."""
        place = self.linear(a.strides, a.offset)
        integer = "tl.int64" if self.wide else "tl.int32"
        for i, step in a.dynamic:
            place += f" + ({self.value(i)}).to({integer}) * {self._factor(step)}"
        return f"{self.pointers.name(self.number, a.operand, a.dtype)} + {place}"

    def _mask(self, loops: frozenset[int], predicate: int | None) -> str | None:
        parts = [g.mask for g in self.varying(loops) if g.mask is not None]
        if predicate is not None:
            parts.append(str(self.value(predicate)))
        return (
            " & ".join(f"({p})" for p in parts) if len(parts) > 1 else parts[0] if parts else None
        )

    def _load(self, i: int, dtype: DType) -> Piece:
        name = self.read(i)
        if dtype is DType.BOOL:
            return Piece(self.text.name(f"{name} != 0"))
        if dtype in _HALVES:
            return Piece(self.text.name(f"{name}.to(tl.float32)"))
        return Piece(name)

    def _raw(self, i: int, a: Access) -> str:
        loops = self.nest.depends[i]
        address, mask = self._address(a), self._mask(loops, a.predicate)
        own = frozenset(d for d, s in enumerate(a.strides) if s != 0)
        for j, _ in a.dynamic:
            own |= self.nest.depends[j]
        if self.varying(own) != self.varying(loops):
            # The predicate has more lanes than the address.
            integer = "tl.int64" if self.wide else "tl.int32"
            address += f" + tl.zeros({self.shape(self.varying(loops))}, {integer})"
        extra = "" if mask is None else f", mask={mask}"
        if a.predicate is not None:
            extra += ", other=0"
        return f"tl.load({address}{extra})"

    def store(self, s: Store) -> None:
        """Store the value of an instruction."""
        a = s.access
        if a.padded is not None:
            raise Refusal("a blocked layout")
        value = str(self.value(s.value))
        if a.dtype is DType.BOOL:
            value = f"({value}).to(tl.int8)"
        elif a.dtype in _HALVES:
            value = f"({value}).to({LANGUAGE_TYPES[a.dtype]})"
        loops = frozenset(d for d, step in enumerate(a.strides) if step != 0)
        for i, _ in a.dynamic:
            loops |= self.nest.depends[i]
        mask = self._mask(loops, None)
        extra = "" if mask is None else f", mask={mask}"
        self.text.line(f"tl.store({self._address(a)}, {value}{extra})")
