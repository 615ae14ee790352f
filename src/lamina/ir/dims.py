"""Symbolic dimensions: integers and integer expressions over named symbols.

A dimension is an ``int`` or an :class:`Expr`.  Expressions are kept in one normal form, a sum of
integer coefficients times products of atoms, so that equal polynomials are equal objects: ``b*2``
and ``b+b`` compare, hash and print alike.  An atom is a symbol or a floor/ceiling division, a
minimum, a maximum or a remainder of expressions.

All symbols stand for integers; sizes are non-negative, and :func:`bounds` uses the ranges that a
profile gives.  Printing gives text that :func:`parse_dim` reads back: ``2*b``, ``floordiv(h+1,2)``.
"""

from __future__ import annotations

import ast
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Union

from lamina.errors import GraphError

Range = tuple[float, float]
"""Smallest and largest value, inclusive; ``math.inf`` where there is no bound."""

_NUMBER = re.compile(r"0|[1-9][0-9]*")


@dataclass(frozen=True)
class Atom:
    """A symbol (``kind == "sym"``) or a function of expressions that does not simplify."""

    kind: str
    name: str = ""
    args: tuple[Dim, ...] = ()

    def __str__(self) -> str:
        if self.kind == "sym":
            return self.name
        return f"{self.kind}({','.join(map(str, self.args))})"


Monomial = tuple[Atom, ...]


@dataclass(frozen=True)
class Expr:
    """A polynomial in atoms; make one with :func:`sym` and arithmetic, never directly."""

    terms: tuple[tuple[Monomial, int], ...]

    def __add__(self, other: Dim) -> Dim:
        return _poly(_terms(self), _terms(other))

    __radd__ = __add__

    def __neg__(self) -> Dim:
        return self * -1

    def __sub__(self, other: Dim) -> Dim:
        return self + (other * -1)

    def __rsub__(self, other: Dim) -> Dim:
        return (self * -1) + other

    def __mul__(self, other: Dim) -> Dim:
        return _multiply(self, other)

    __rmul__ = __mul__

    def __floordiv__(self, other: Dim) -> Dim:
        return floordiv(self, other)

    def __rfloordiv__(self, other: Dim) -> Dim:
        return floordiv(other, self)

    def __mod__(self, other: Dim) -> Dim:
        return self - floordiv(self, other) * other

    def __rmod__(self, other: Dim) -> Dim:
        return other - floordiv(other, self) * self

    def __str__(self) -> str:
        parts = []
        for mono, c in self.terms:
            factors = [str(a) for a in mono]
            if c != 1 or not factors:
                factors.insert(0, str(c))
            parts.append("*".join(factors))
        return "+".join(parts).replace("+-", "-")

    def __repr__(self) -> str:
        return f"Expr({self})"


Dim = Union[int, Expr]  # noqa: UP007 - a forward reference inside | fails at run time


def sym(name: str) -> Expr:
    """Return the symbol ``name``."""
    return Expr((((Atom("sym", name),), 1),))


def is_static(d: Dim) -> bool:
    """Whether ``d`` is a number."""
    return not isinstance(d, Expr)


def floordiv(a: Dim, b: Dim) -> Dim:
    """Return the quotient rounded towards minus infinity; raises GraphError for zero."""
    return _divide("floordiv", a, b)


def ceildiv(a: Dim, b: Dim) -> Dim:
    """Return the quotient rounded towards plus infinity; raises GraphError for zero."""
    return _divide("ceildiv", a, b)


def dim_min(*args: Dim) -> Dim:
    """Return the smallest argument."""
    return _extreme("min", args)


def dim_max(*args: Dim) -> Dim:
    """Return the largest argument."""
    return _extreme("max", args)


def product(dims: Iterable[Dim]) -> Dim:
    """Return the product of ``dims`` (1 for none)."""
    result: Dim = 1
    for d in dims:
        result = result * d
    return result


def symbols(d: Dim) -> Iterator[str]:
    """Yield the symbols in ``d``, with repetitions."""
    if isinstance(d, Expr):
        for mono, _ in d.terms:
            for atom in mono:
                if atom.kind == "sym":
                    yield atom.name
                for arg in atom.args:
                    yield from symbols(arg)


def substitute(d: Dim, env: Mapping[str, Dim]) -> Dim:
    """Replace the symbols that ``env`` names and simplify."""
    if not isinstance(d, Expr):
        return d
    total: Dim = 0
    for mono, c in d.terms:
        value: Dim = c
        for atom in mono:
            value = value * _substitute_atom(atom, env)
        total = total + value
    return total


def evaluate(d: Dim, env: Mapping[str, int]) -> int:
    """Return the value of ``d``; raises GraphError naming a symbol that ``env`` lacks."""
    if not isinstance(d, Expr):
        return d
    try:
        return _number(d, env)
    except KeyError:
        result = substitute(d, env)  # a factor that is zero makes up for a missing symbol
    if isinstance(result, Expr):
        missing = sorted(set(symbols(result)))
        raise GraphError(f"dimension {d} needs a value for {', '.join(missing)}")
    return result


def _number(d: Dim, env: Mapping[str, int]) -> int:
    """Compute without building expressions: a run with new shapes evaluates thousands."""
    if not isinstance(d, Expr):
        return d
    total = 0
    for mono, factor in d.terms:
        for atom in mono:
            if atom.kind == "sym":
                factor *= env[atom.name]
            else:
                value = _FUNCTIONS[atom.kind](*[_number(a, env) for a in atom.args])
                factor *= _number(value, env)
        total += factor
    return total


def bounds(d: Dim, ranges: Mapping[str, Range]) -> Range:
    """Return an interval that contains ``d`` when each symbol is in its range.

    Symbols without a range are sizes: 0 to infinity.  Interval arithmetic: sound, not always tight.
    """
    if not isinstance(d, Expr):
        return (d, d)
    low = high = 0.0
    for mono, c in d.terms:
        lo, hi = float(c), float(c)
        for atom in mono:
            lo, hi = _times((lo, hi), _atom_bounds(atom, ranges))
        low, high = low + lo, high + hi
    return (low, high)


def always_le(a: Dim, b: Dim, ranges: Mapping[str, Range] | None = None) -> bool:
    """Whether ``a <= b`` for every value of the symbols in their ranges (False when unsure)."""
    return bounds(b - a, ranges or {})[0] >= 0


def always_equal(a: Dim, b: Dim) -> bool:
    """Whether both are the same expression after simplification."""
    return a == b


def never_equal(a: Dim, b: Dim, ranges: Mapping[str, Range] | None = None) -> bool:
    """Whether the two differ for every value of the symbols in their ranges."""
    low, high = bounds(a - b, ranges or {})
    return low > 0 or high < 0


def divides(divisor: int, d: Dim) -> bool:
    """Whether ``d`` is a multiple of ``divisor`` for every value of its symbols."""
    if divisor == 0:
        return False
    return all(c % divisor == 0 for _, c in _terms(d))


def parse_dim(text: str) -> Dim:
    """Parse what printing a dimension gives; raises GraphError for anything else."""
    try:
        if _NUMBER.fullmatch(text):
            return int(text)
        return _parse(ast.parse(text.strip(), mode="eval").body)
    except (SyntaxError, TypeError, ValueError, RecursionError, MemoryError) as e:
        raise GraphError(f"not a dimension: {text!r}") from e


def _terms(d: Dim) -> tuple[tuple[Monomial, int], ...]:
    if isinstance(d, Expr):
        return d.terms
    return (((), d),) if d else ()


def _poly(*groups: Iterable[tuple[Monomial, int]]) -> Dim:
    total: dict[Monomial, int] = {}
    for group in groups:
        for mono, c in group:
            total[mono] = total.get(mono, 0) + c
    terms = {m: c for m, c in total.items() if c}
    if not terms:
        return 0
    if set(terms) == {()}:
        return terms[()]
    order = sorted(terms.items(), key=lambda t: (not t[0], len(t[0]), [str(a) for a in t[0]]))
    return Expr(tuple(order))


def _multiply(a: Dim, b: Dim) -> Dim:
    return _poly(
        (tuple(sorted((*m, *n), key=str)), c * d) for m, c in _terms(a) for n, d in _terms(b)
    )


def _atom(kind: str, *args: Dim) -> Expr:
    return Expr((((Atom(kind, "", args),), 1),))


def _divide(kind: str, a: Dim, b: Dim) -> Dim:
    if b == 0:
        raise GraphError(f"dimension {a} is divided by zero")
    if not isinstance(a, Expr) and not isinstance(b, Expr):
        return a // b if kind == "floordiv" else -(-a // b)
    if (exact := _exact_quotient(a, b)) is not None:
        return exact
    if isinstance(b, int) and b > 0 and isinstance(a, Expr):
        whole = _poly((m, c // b) for m, c in a.terms if c % b == 0)
        rest = _poly((m, c) for m, c in a.terms if c % b)
        if whole != 0:
            return whole + _divide(kind, rest, b)
        if (nested := _nested_floor(kind, rest, b)) is not None:
            return nested
    return _atom(kind, a, b)


def _nested_floor(kind: str, a: Dim, b: int) -> Dim | None:
    """Merge ``floordiv(floordiv(x, m), b)`` into ``floordiv(x, m*b)``."""
    if not isinstance(a, Expr) or len(a.terms) != 1:
        return None
    mono, c = a.terms[0]
    if c == 1 and len(mono) == 1 and mono[0].kind == kind and isinstance(mono[0].args[1], int):
        return _divide(kind, mono[0].args[0], mono[0].args[1] * b)
    return None


def _exact_quotient(a: Dim, b: Dim) -> Dim | None:
    """Return a / b when b is one monomial that divides every term of a."""
    terms = _terms(b)
    if len(terms) != 1:
        if a == b:
            return 1
        return _common_factor(a, b)
    (mono, c) = terms[0]
    result = []
    for m, k in _terms(a):
        rest = list(m)
        for atom in mono:
            if atom not in rest:
                return None
            rest.remove(atom)
        if k % c:
            return None
        result.append((tuple(rest), k // c))
    return _poly(result)


def _common_factor(a: Dim, b: Dim) -> Dim | None:
    """Return q when a == q * b for a monomial q read off the leading terms."""
    ta, tb = _terms(a), _terms(b)
    if len(ta) != len(tb):
        return None
    q = _exact_quotient(_poly([ta[0]]), _poly([tb[0]]))
    return q if q is not None and q * b == a else None


def _extreme(kind: str, args: Sequence[Dim]) -> Dim:
    if not args:
        raise GraphError(f"the {kind} of no dimensions")
    flat: list[Dim] = []
    for a in args:
        if isinstance(a, Expr) and len(a.terms) == 1 and a.terms[0][1] == 1:
            (mono, _) = a.terms[0]
            if len(mono) == 1 and mono[0].kind == kind:
                flat.extend(mono[0].args)
                continue
        flat.append(a)
    pick = min if kind == "min" else max
    numbers = [a for a in flat if not isinstance(a, Expr)]
    rest: list[Dim] = [a for a in dict.fromkeys(flat) if isinstance(a, Expr)]
    if numbers:
        rest.append(pick(numbers))
    kept = [a for i, a in enumerate(rest) if not _dominated(kind, a, i, rest)]
    if len(kept) == 1:
        return kept[0]
    return _atom(kind, *sorted(kept, key=str))


def _dominated(kind: str, a: Dim, i: int, rest: list[Dim]) -> bool:
    for j, b in enumerate(rest):
        if i == j:
            continue
        worse = always_le(b, a) if kind == "min" else always_le(a, b)
        both = always_le(a, b) and always_le(b, a)
        if worse and (not both or j < i):
            return True
    return False


def _substitute_atom(atom: Atom, env: Mapping[str, Dim]) -> Dim:
    if atom.kind == "sym":
        return env.get(atom.name, sym(atom.name))
    return _FUNCTIONS[atom.kind](*(substitute(a, env) for a in atom.args))


def _times(a: Range, b: Range) -> Range:
    products = [0.0 if 0.0 in (x, y) else x * y for x in a for y in b]
    return (min(products), max(products))


def _atom_bounds(atom: Atom, ranges: Mapping[str, Range]) -> Range:
    if atom.kind == "sym":
        return ranges.get(atom.name, (0.0, math.inf))
    args = [bounds(a, ranges) for a in atom.args]
    if atom.kind == "min":
        return (min(a[0] for a in args), min(a[1] for a in args))
    if atom.kind == "max":
        return (max(a[0] for a in args), max(a[1] for a in args))
    (a, b) = args
    if b[0] <= 0 <= b[1]:
        return (-math.inf, math.inf)
    rounded = math.floor if atom.kind == "floordiv" else math.ceil
    ends = [_ratio(x, y) for x in a for y in b]
    return tuple(e if math.isinf(e) else float(rounded(e)) for e in (min(ends), max(ends)))  # type: ignore[return-value]


def _ratio(x: float, y: float) -> float:
    if math.isinf(y):
        return 0.0
    return x / y


_FUNCTIONS: dict[str, Callable[..., Dim]] = {
    "floordiv": floordiv,
    "ceildiv": ceildiv,
    "min": dim_min,
    "max": dim_max,
}


@lru_cache(maxsize=1024)
def _symbol(name: str) -> Expr:
    return sym(name)


def _parse(node: ast.expr) -> Dim:
    match node:
        case ast.Constant(value=int() as v) if not isinstance(v, bool):
            return v
        case ast.Name(id=name):
            return _symbol(name)
        case ast.UnaryOp(op=ast.USub(), operand=x):
            return _parse(x) * -1
        case ast.BinOp(left=a, op=ast.Add(), right=b):
            return _parse(a) + _parse(b)
        case ast.BinOp(left=a, op=ast.Sub(), right=b):
            return _parse(a) - _parse(b)
        case ast.BinOp(left=a, op=ast.Mult(), right=b):
            return _parse(a) * _parse(b)
        case ast.Call(func=ast.Name(id=f), args=args, keywords=[]) if f in _FUNCTIONS:
            return _FUNCTIONS[f](*(_parse(a) for a in args))
    raise GraphError("not a dimension expression")
