"""The generator of random numbers as scalar expressions; :mod:`lamina.ops.random` has the meaning.

Parts of the counter and of the key that are numbers are folded while the expression is written.
"""

from __future__ import annotations

import math
from typing import TypeVar

from lamina.codegen.scalar_term import Term
from lamina.ir.types import DType
from lamina.ops.kinds import RandomKind
from lamina.ops.random import KEY_STEPS, MULTIPLIERS, ROUNDS, Random, largest_below

V = TypeVar("V")
_WORD = (1 << 32) - 1


def drawn(op: Random, number: Term[V], key: Term[V] | None) -> Term[V]:
    """Return element ``number`` of random numbers."""
    if key is None:
        seed = op.seed or 0
        words = philox(number.cast(DType.U32), seed & _WORD, seed >> 32 & _WORD)
    else:
        high = key.with_("shr", 32).cast(DType.U32)
        words = philox(number.cast(DType.U32), key.cast(DType.U32), high)
    wide = op.dtype is DType.F64
    first = _fraction53(words[0], words[1]) if wide else _fraction24(words[0])
    if op.kind is RandomKind.UNIFORM:
        y = first.fma(op.high_or_scale - op.low_or_mean, op.low_or_mean)
        if op.low_or_mean < op.high_or_scale:
            y = y.with_("min", largest_below(op.high_or_scale, op.dtype))
        return y.cast(op.dtype)
    second = _fraction53(words[2], words[3]) if wide else _fraction24(words[1])
    radius = ((first + (2.0**-54 if wide else 2.0**-25)).call("log") * -2.0).call("sqrt")
    y = radius * (second * (2 * math.pi)).call("cos")
    return y.fma(op.high_or_scale, op.low_or_mean).cast(op.dtype)


def philox(
    number: Term[V], low: Term[V] | int, high: Term[V] | int
) -> tuple[Term[V], Term[V], Term[V], Term[V]]:
    """Return the four words of a counter (u32) under a key of two words (u32, or numbers)."""
    a: Term[V] | int = number
    b: Term[V] | int = 0
    c: Term[V] | int = 0
    d: Term[V] | int = 0
    for _ in range(ROUNDS):
        (p_high, p_low), (q_high, q_low) = _product(a, MULTIPLIERS[0]), _product(c, MULTIPLIERS[1])
        a, b = _xor(_xor(q_high, b), low), q_low
        c, d = _xor(_xor(p_high, d), high), p_low
        low, high = _plus(low, KEY_STEPS[0]), _plus(high, KEY_STEPS[1])
    return number.of(a), number.of(b), number.of(c), number.of(d)


def _product(x: Term[V] | int, factor: int) -> tuple[Term[V] | int, Term[V] | int]:
    """Return the upper and the lower word of a product."""
    if isinstance(x, int):
        return x * factor >> 32, x * factor & _WORD
    product = x.cast(DType.U64) * factor
    return product.with_("shr", 32).cast(DType.U32), product.cast(DType.U32)


def _xor(a: Term[V] | int, b: Term[V] | int) -> Term[V] | int:
    if isinstance(a, int) and isinstance(b, int):
        return a ^ b
    if isinstance(a, int):
        a, b = b, a
    assert not isinstance(a, int)
    return a if b == 0 and isinstance(b, int) else a.with_("xor", b)


def _plus(a: Term[V] | int, step: int) -> Term[V] | int:
    return a + step & _WORD if isinstance(a, int) else a + step


def _fraction24(word: Term[V]) -> Term[V]:
    """Return the upper 24 bits of a word as an f32 in [0, 1)."""
    return word.with_("shr", 8).cast(DType.I32).cast(DType.F32) * 2.0**-24


def _fraction53(high: Term[V], low: Term[V]) -> Term[V]:
    """Return the upper 27 and 26 bits of two words as an f64 in [0, 1)."""
    upper = high.with_("shr", 5).cast(DType.I32).cast(DType.F64)
    lower = low.with_("shr", 6).cast(DType.I32).cast(DType.F64)
    return upper.fma(2.0**26, lower) * 2.0**-53
