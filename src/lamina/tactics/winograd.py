"""The matrices of Winograd's minimal filtering F(m x m, r x r), exact.

The Cook-Toom construction over points and infinity (Lavin and Gray, "Fast Algorithms for
Convolutional Neural Networks", 2015; Blahut, "Fast Algorithms for Signal Processing", chapter 5):
y = A^T [(G g) * (B^T d)] in one dimension, nested for two.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cache

import numpy as np
from numpy.typing import NDArray

Matrix = tuple[tuple[Fraction, ...], ...]

_POINTS = tuple(Fraction(p) for p in ("0", "1", "-1", "2", "-2", "1/2", "-1/2"))


@dataclass(frozen=True)
class Transforms:
    """The three matrices of F(m, r): ``output`` is m x n, ``weights`` n x r, ``input`` n x n."""

    output: Matrix
    weights: Matrix
    input: Matrix


def _product(roots: Sequence[Fraction]) -> list[Fraction]:
    """Return the coefficients of the polynomial with these roots, constant term first."""
    result = [Fraction(1)]
    for root in roots:
        shifted = [Fraction(0), *result]
        result = [s - root * c for s, c in zip(shifted, [*result, Fraction(0)], strict=True)]
    return result


@cache
def transforms(m: int, r: int, stride: int = 1) -> Transforms:
    """Return the matrices of F(m, r) for m + r <= 9; with stride 2, r must be 3.

    With stride 2 the even inputs meet the outer taps as F(m, 2) with stride 1, and the odd inputs
    meet the middle tap: 2m + 1 products for m outputs instead of 3m.
    """
    if stride == 2:
        return _interleaved(m, transforms(m, 2))
    n = m + r - 1
    points = _POINTS[: n - 1]
    output = [[p**i for p in points] + [Fraction(i == m - 1)] for i in range(m)]
    weights, inputs = [], []
    for i, point in enumerate(points):
        others = [p for j, p in enumerate(points) if j != i]
        scale = Fraction(1)
        for other in others:
            scale *= point - other
        weights.append([point**j / scale for j in range(r)])
        inputs.append([*_product(others), Fraction(0)])
    weights.append([Fraction(j == r - 1) for j in range(r)])
    inputs.append(_product(points))
    return Transforms(_freeze(output), _freeze(weights), _freeze(inputs))


def _interleaved(m: int, even: Transforms) -> Transforms:
    """Return the matrices of F(m, 3) with stride 2 from those of F(m, 2)."""
    zero, one = Fraction(0), Fraction(1)

    def unit(i: int, n: int) -> list[Fraction]:
        return [one if j == i else zero for j in range(n)]

    output = [[*row, *unit(i, m)] for i, row in enumerate(even.output)]
    weights = [[first, zero, last] for first, last in even.weights]
    weights += [[zero, one, zero]] * m
    inputs = [[x for c in row for x in (c, zero)][:-1] for row in even.input]
    inputs += [unit(2 * i + 1, 2 * m + 1) for i in range(m)]
    return Transforms(_freeze(output), _freeze(weights), _freeze(inputs))


def _freeze(rows: Sequence[Sequence[Fraction]]) -> Matrix:
    return tuple(tuple(row) for row in rows)


def weights_matrix(m: int, r: int, stride: int = 1) -> NDArray[np.float64]:
    """Return the matrix [n * n, r * r] that takes a flattened filter w to the flattened G w G^T."""
    g = np.array(transforms(m, r, stride).weights, np.float64)
    return np.asarray(np.kron(g, g), np.float64)
