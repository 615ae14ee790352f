"""Winograd's transforms as instructions on registers."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from functools import cache

from lamina.codegen.llvm.builder import Builder, Value
from lamina.tactics.winograd import Matrix
from lamina.tactics.winograd import Transforms as Transforms
from lamina.tactics.winograd import transforms as transforms
from lamina.tactics.winograd import weights_matrix as weights_matrix


def linear(k: Builder, matrix: Matrix, x: Sequence[Value]) -> list[Value]:
    """Return matrix @ x on registers, sharing the sums that symmetric points have in common.

    Rows of points +a and -a are e + o and e - o with disjoint e and o (input transforms); columns
    of +a and -a agree up to sign in every row, so x_i + x_j and x_i - x_j serve all rows (output
    transforms).
    """
    if len(matrix) < len(matrix[0]) and (pairs := _mirrored_pairs(_columns(matrix))):
        return _with_column_pairs(k, matrix, x, pairs)
    partners = dict(_mirrored_pairs(matrix))
    results: dict[int, Value] = {}
    for i, row in enumerate(matrix):
        if i in results:
            continue
        if i not in partners:
            results[i] = _combination(k, row, x)
            continue
        partner = partners[i]
        other = matrix[partner]
        even = _combination(k, [(a + b) / 2 for a, b in zip(row, other, strict=True)], x)
        odd = _combination(k, [(a - b) / 2 for a, b in zip(row, other, strict=True)], x)
        results[i], results[partner] = even + odd, even - odd
    return [results[i] for i in range(len(matrix))]


def _mirrored(row: Sequence[Fraction], other: Sequence[Fraction]) -> bool:
    same = any(a == b != 0 for a, b in zip(row, other, strict=True))
    opposite = any(a == -b != 0 for a, b in zip(row, other, strict=True))
    return same and opposite and all(abs(a) == abs(b) for a, b in zip(row, other, strict=True))


@cache
def _columns(matrix: Matrix) -> Matrix:
    return tuple(zip(*matrix, strict=True))


@cache
def _mirrored_pairs(rows: Matrix) -> tuple[tuple[int, int], ...]:
    """Return the pairs of rows that agree up to sign; each row is in one pair at most."""
    pairs: list[tuple[int, int]] = []
    used: set[int] = set()
    for i, first in enumerate(rows):
        partner = next(
            (j for j in range(i + 1, len(rows)) if j not in used and _mirrored(first, rows[j])),
            None,
        )
        if i not in used and partner is not None:
            pairs.append((i, partner))
            used |= {i, partner}
    return tuple(pairs)


def _with_column_pairs(
    k: Builder, matrix: Matrix, x: Sequence[Value], pairs: Sequence[tuple[int, int]]
) -> list[Value]:
    terms = list(x)
    for i, j in pairs:
        terms[i], terms[j] = x[i] + x[j], x[i] - x[j]
    rows = []
    for row in matrix:
        folded = list(row)
        for i, j in pairs:
            folded[i] = row[i] if row[i] == row[j] else Fraction(0)
            folded[j] = row[i] if row[i] != row[j] else Fraction(0)
        rows.append(_combination(k, folded, terms))
    return rows


def _combination(k: Builder, coefficients: Sequence[Fraction], x: Sequence[Value]) -> Value:
    """Return the weighted sum, starting from a term of weight one so that the rest are FMAs."""
    terms = [(c, v) for c, v in zip(coefficients, x, strict=True) if c]
    terms.sort(key=lambda term: term[0] != 1)
    (c, v), *rest = terms
    total = v if c == 1 else v * float(c)
    for c, v in rest:
        if abs(c) == 1:
            total = total + v if c == 1 else total - v
        else:
            total = k.fma(v, float(c), total)
    return total
