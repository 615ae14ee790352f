"""Dimensions: arithmetic agrees with integers, whatever the symbols stand for."""

from __future__ import annotations

import math

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from lamina.errors import GraphError
from lamina.ir.dims import (
    Dim,
    Expr,
    always_equal,
    always_le,
    bounds,
    ceildiv,
    dim_max,
    dim_min,
    divides,
    evaluate,
    floordiv,
    is_static,
    never_equal,
    parse_dim,
    product,
    substitute,
    sym,
    symbols,
)

NAMES = ("a", "b", "c")
A, B, C = map(sym, NAMES)
VALUES = st.fixed_dictionaries({n: st.integers(0, 12) for n in NAMES})
LEAVES = st.one_of(st.integers(-6, 6), st.sampled_from(NAMES))


def _grow(inner: st.SearchStrategy) -> st.SearchStrategy:
    return st.tuples(st.sampled_from(("+", "-", "*", "//", "^", "min", "max", "%")), inner, inner)


# A term is a number, a name or (operation, term, term).
TERMS = st.recursive(LEAVES, _grow, max_leaves=8)


def _dim(term: object) -> Dim:
    """The term as a dimension; raises GraphError where it divides by zero."""
    if isinstance(term, int):
        return term
    if isinstance(term, str):
        return sym(term)
    kind, x, y = term  # type: ignore[misc]
    a, b = _dim(x), _dim(y)
    match kind:
        case "+":
            return a + b
        case "-":
            return a - b
        case "*":
            return a * b
        case "//":
            return floordiv(a, b)
        case "^":
            return ceildiv(a, b)
        case "min":
            return dim_min(a, b)
        case "max":
            return dim_max(a, b)
    return a - floordiv(a, b) * b


def _value(term: object, env: dict[str, int]) -> int:
    """The same term in Python's integers; raises ZeroDivisionError."""
    if isinstance(term, int):
        return term
    if isinstance(term, str):
        return env[term]
    kind, x, y = term  # type: ignore[misc]
    a, b = _value(x, env), _value(y, env)
    match kind:
        case "+":
            return a + b
        case "-":
            return a - b
        case "*":
            return a * b
        case "//":
            return a // b
        case "^":
            return -(-a // b)
        case "min":
            return min(a, b)
        case "max":
            return max(a, b)
    return a % b


def _made(term: object) -> Dim:
    try:
        return _dim(term)
    except GraphError:
        assume(False)
        raise


def _expected(term: object, env: dict[str, int]) -> int:
    try:
        return _value(term, env)
    except ZeroDivisionError:
        assume(False)
        raise


PROFILE = settings(max_examples=200, deadline=None, derandomize=True)


@PROFILE
@given(TERMS, VALUES)
def test_arithmetic_agrees_with_integers(term: object, env: dict[str, int]) -> None:
    wanted = _expected(term, env)
    assert evaluate(_made(term), env) == wanted


@PROFILE
@given(TERMS, VALUES)
def test_substitution_may_go_step_by_step(term: object, env: dict[str, int]) -> None:
    wanted = _expected(term, env)
    d = _made(term)
    try:
        for name in NAMES:
            d = substitute(d, {name: env[name]})
    except GraphError:
        assume(False)
    assert d == wanted


@PROFILE
@given(TERMS, TERMS, VALUES)
def test_substituting_a_dimension(term: object, inner: object, env: dict[str, int]) -> None:
    replaced = _made(inner)
    middle = _expected(inner, env)
    assume(middle >= 0)  # symbols stand for sizes
    wanted = _expected(term, {**env, "a": middle})
    try:
        d = substitute(_made(term), {"a": replaced})
    except GraphError:
        assume(False)
        raise
    assert evaluate(d, env) == wanted


@PROFILE
@given(TERMS)
def test_printing_and_parsing_gives_the_same_dimension(term: object) -> None:
    d = _made(term)
    again = parse_dim(str(d))
    assert again == d
    assert hash(again) == hash(d)
    assert str(again) == str(d)


@PROFILE
@given(TERMS, VALUES)
def test_bounds_contain_every_value(term: object, env: dict[str, int]) -> None:
    value = _expected(term, env)
    d = _made(term)
    low, high = bounds(d, {})
    assert low <= value <= high
    tight = {n: (float(v), float(v)) for n, v in env.items()}
    low, high = bounds(d, tight)
    assert low <= value <= high
    wide = {n: (float(v), math.inf) for n, v in env.items()}
    low, high = bounds(d, wide)
    assert low <= value <= high


@PROFILE
@given(TERMS, TERMS, VALUES)
def test_comparisons_never_lie(x: object, y: object, env: dict[str, int]) -> None:
    a, b = _made(x), _made(y)
    p, q = _expected(x, env), _expected(y, env)
    if always_le(a, b):
        assert p <= q
    if always_equal(a, b):
        assert p == q
    if never_equal(a, b):
        assert p != q
    for divisor in (1, 2, 3, 16):
        if divides(divisor, a):
            assert p % divisor == 0


@PROFILE
@given(st.lists(LEAVES, max_size=6), VALUES)
def test_products(factors: list[object], env: dict[str, int]) -> None:
    d = product(_dim(f) for f in factors)
    assert evaluate(d, env) == math.prod(_value(f, env) for f in factors)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (A + A, A * 2),
        (A * B, B * A),
        ((A + 1) * (A - 1), A * A - 1),
        (A - A, 0),
        (A * 0, 0),
        (floordiv(A * 6, 3), A * 2),
        (floordiv(A * 6 + 5, 3), A * 2 + 1),
        (floordiv(A * B, B), A),
        (floordiv((A + 1) * B, B), A + 1),
        (floordiv(A * 2 + 2, A + 1), 2),
        (floordiv(floordiv(A, 2), 3), floordiv(A, 6)),
        (ceildiv(ceildiv(A, 2), 3), ceildiv(A, 6)),
        (ceildiv(A * 4, 2), A * 2),
        ((A * 4) % 4, 0),
        (dim_min(A, A + 1), A),
        (dim_max(A, A + 1), A + 1),
        (dim_max(A, 0), A),
        (dim_min(dim_min(A, B), 3), dim_min(3, B, A)),
        (dim_max(5, 7, 2), 7),
        (5 - A + A, 5),
        (7 // sym("a"), floordiv(7, A)),
        (7 % sym("a"), 7 - floordiv(7, A) * A),
    ],
    ids=str,
)
def test_equal_expressions_are_equal_objects(one: Dim, other: Dim) -> None:
    assert one == other
    assert hash(one) == hash(other)
    assert str(one) == str(other)


@pytest.mark.parametrize(
    "text", ["b", "2*b", "b*h", "-2*b", "b-1", "floordiv(h+1,2)", "min(3,a,b)"]
)
def test_text_stays_as_it_is_written(text: str) -> None:
    assert str(parse_dim(text)) == text


@pytest.mark.parametrize(
    "text",
    [
        *("", " ", "b b", "b+", "1.5", "'b'", "True", "b.c", "b[0]", "f(b)", "min()", "-", "b//2"),
        *("floordiv(b)", "floordiv(b,2,3)", "floordiv(b,0)", "lambda: 0", "b**2", "b if b else b"),
        *(
            "(" * 300 + "b" + ")" * 300,
            "b+" * 20000 + "b",
            "9" * 5000,
            "b\x00",
            "min(b,k=2)",
            "b:=3",
        ),
    ],
    ids=lambda t: t[:20],
)
def test_rubbish_is_a_graph_error(text: str) -> None:
    with pytest.raises(GraphError):
        parse_dim(text)


def test_a_missing_symbol_is_named() -> None:
    with pytest.raises(GraphError, match=r"a\*b needs a value for b"):
        evaluate(A * B, {"a": 2})
    with pytest.raises(GraphError, match="divided by zero"):
        floordiv(A, 0)
    with pytest.raises(GraphError, match="divided by zero"):
        evaluate(floordiv(A, B), {"a": 1, "b": 0})


def test_symbols_and_static() -> None:
    d = floordiv(A * B + 1, dim_max(C, 2))
    assert set(symbols(d)) == {"a", "b", "c"}
    assert not is_static(d)
    assert is_static(4)
    assert list(symbols(4)) == []
    assert isinstance(d, Expr)
    assert repr(A + 1) == "Expr(a+1)"


def test_ranges_of_a_profile_sharpen_comparisons() -> None:
    assert not always_le(A, 8)
    assert always_le(A, 8, {"a": (1, 8)})
    assert never_equal(A, 9, {"a": (1, 8)})
    assert bounds(ceildiv(A, 16) * 16, {"a": (1, 33)}) == (16, 48)
    assert bounds(A * B, {"a": (2, 3), "b": (0, math.inf)}) == (0, math.inf)
    assert bounds(dim_min(A, 5), {}) == (0, 5)
