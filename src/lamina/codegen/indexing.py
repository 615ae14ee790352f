"""Index arithmetic of loop nests: which element of a tensor an iteration touches."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from lamina.ir.dims import Dim, dim_min, divides, floordiv, is_static

Splits = dict[int, tuple[int, int, Dim]]
"""For a loop that was cut: the loop over blocks, the loop inside a block, and the block's size."""

Terms = tuple[tuple[int, Dim], ...]


@dataclass(frozen=True)
class AxisIndex:
    """A position along one axis: offset + sum(step * loop) + sum(step * value of instruction)."""

    offset: Dim = 0
    terms: Terms = ()
    dynamic: Terms = ()

    @staticmethod
    def loop(dim: int) -> AxisIndex:
        """Return the index that is a loop's counter."""
        return AxisIndex(0, ((dim, 1),))

    @staticmethod
    def value(instruction: int) -> AxisIndex:
        """Return the index that an instruction computes."""
        return AxisIndex(0, (), ((instruction, 1),))

    def __mul__(self, factor: Dim) -> AxisIndex:
        if factor == 0:
            return AxisIndex()
        return AxisIndex(
            self.offset * factor,
            tuple((d, s * factor) for d, s in self.terms),
            tuple((i, s * factor) for i, s in self.dynamic),
        )

    def __add__(self, other: AxisIndex | Dim) -> AxisIndex:
        if not isinstance(other, AxisIndex):
            return AxisIndex(self.offset + other, self.terms, self.dynamic)
        return AxisIndex(
            self.offset + other.offset,
            _merged(self.terms, other.terms),
            _merged(self.dynamic, other.dynamic),
        )

    @property
    def loops(self) -> frozenset[int]:
        """Return the loops that the position varies with."""
        return frozenset(d for d, _ in self.terms)


Position = tuple[AxisIndex, ...]
"""One index per axis of a value."""


def _merged(a: Terms, b: Terms) -> Terms:
    total: dict[int, Dim] = dict(a)
    for key, step in b:
        total[key] = total.get(key, 0) + step
    return tuple((key, step) for key, step in sorted(total.items()) if step != 0)


def resolve(index: AxisIndex, splits: Splits) -> AxisIndex:
    """Express an index in the loops that remain after cutting."""
    result = AxisIndex(index.offset, (), index.dynamic)
    for d, step in index.terms:
        if d in splits:
            outer, inner, size = splits[d]
            parts = AxisIndex(0, tuple(sorted(((outer, step * size), (inner, step)))))
            result = result + resolve(parts, splits)
        else:
            result = result + AxisIndex(0, ((d, step),))
    return result


def leaves(loops: Iterable[int], splits: Splits) -> frozenset[int]:
    """Return the loops that remain of these after cutting."""
    result: set[int] = set()
    for d in loops:
        if d in splits:
            result |= leaves(splits[d][:2], splits)
        else:
            result.add(d)
    return frozenset(result)


def broadcast(position: Position, source: tuple[Dim, ...], target: tuple[Dim, ...]) -> Position:
    """Return where an operand of shape ``source`` is read for a position in shape ``target``."""
    skipped = len(target) - len(source)
    result = []
    for index, small, large in zip(position[skipped:], source, target[skipped:], strict=True):
        if small == 1:
            result.append(AxisIndex())
        elif small == large or (is_static(small) and not is_static(large)):
            result.append(index)
        elif is_static(small) and is_static(large):
            result.append(index)
        else:
            # The size may turn out to be one at run time: the step is then 0.
            result.append(index * dim_min(small - 1, 1))
    return tuple(result)


def exact_quotient(a: Dim, b: Dim) -> Dim | None:
    """Return a / b when the division is known to have no remainder."""
    if is_static(b) and b != 0 and divides(int(b), a):  # type: ignore[arg-type]
        return floordiv(a, b)
    if b == 0:
        return None
    q = floordiv(a, b)
    return q if q * b == a else None
