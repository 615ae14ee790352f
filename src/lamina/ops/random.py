"""Random numbers by a generator without state: a draw depends on a key and its own number alone.

The generator is Philox 4x32-10 of Salmon, Moraes, Dror and Shaw, "Parallel Random Numbers: As Easy
as 1, 2, 3" (SC 2011): a counter of 128 bits is mixed in ten rounds under a key of 64.  Element i
of a tensor takes the words of the counter (i, 0, 0, 0), so that every backend, in whatever order
and layout it works, draws the same numbers.
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np

from lamina.errors import TypeMismatch
from lamina.ir.dims import Dim
from lamina.ir.graph import Array, Op, operator
from lamina.ir.types import DType, TensorType
from lamina.ops.kinds import RandomKind

MULTIPLIERS: Final = (0xD2511F53, 0xCD9E8D57)
KEY_STEPS: Final = (0x9E3779B9, 0xBB67AE85)
ROUNDS: Final = 10
_WORD: Final = (1 << 32) - 1


def philox(counter: Array, key: int) -> tuple[Array, Array, Array, Array]:
    """Return the four words that the counters (i, 0, 0, 0) give under a key of 64 bits.

    ``counter`` and the words are u32 in arrays of u64.
    """
    first, second = (np.uint64(m) for m in MULTIPLIERS)
    word, half = np.uint64(_WORD), np.uint64(32)
    a = counter.astype(np.uint64) & word
    b = c = d = np.zeros_like(a)
    low, high = key & _WORD, key >> 32 & _WORD
    for _ in range(ROUNDS):
        p, q = first * a, second * c
        a, b = (q >> half) ^ b ^ np.uint64(low), q & word
        c, d = (p >> half) ^ d ^ np.uint64(high), p & word
        low, high = low + KEY_STEPS[0] & _WORD, high + KEY_STEPS[1] & _WORD
    return a, b, c, d


def largest_below(high: float, dtype: DType) -> float:
    """Return the largest number of a type that is below ``high``."""
    bound = np.asarray(high, np.float64).astype(dtype.numpy)
    if bound >= high:
        bound = np.nextafter(bound, np.asarray(-math.inf, dtype.numpy))
    return float(bound)


@operator
class RandomKey(Op):
    """A key for random numbers, another one in each run; ``salt`` tells keys of one run apart."""

    salt: int = 0

    @property
    def pure(self) -> bool:
        """Every evaluation gives another key."""
        return False

    def infer(self) -> TensorType:
        return TensorType(DType.U64, ())

    def reference(self) -> Array:
        drawn = np.random.SeedSequence().generate_state(1, np.uint64)[0]
        return np.asarray(drawn ^ np.uint64(self.salt))


@operator
class Random(Op):
    """Random numbers that follow from a key: ``seed``, or the operand.

    A normal distribution has mean ``low_or_mean`` and standard deviation ``high_or_scale``; a
    uniform one lies in ``low_or_mean <= y < high_or_scale``.  With the words w of an element, f64
    has v = (w0 >> 5, w1 >> 6) as a fraction of 53 bits and v' the same of w2 and w3; all other
    types have v = w0 >> 8 and v' = w1 >> 8 as fractions of 24 bits.  Uniform numbers are
    low + v (high - low); normal ones are mean + scale sqrt(-2 ln u) cos(2 pi v'), where u is v and
    half a unit, rounded to f32 or f64 as v is (Box and Muller, "A Note on the Generation of Random
    Normal Deviates", 1958).
    """

    kind: RandomKind
    shape: tuple[Dim, ...]
    dtype: DType = DType.F32
    low_or_mean: float = 0.0
    high_or_scale: float = 1.0
    seed: int | None = None

    @property
    def pure(self) -> bool:
        """Random numbers are never computed at build time."""
        return False

    def infer(self, *key: TensorType) -> TensorType:
        if not self.dtype.is_float:
            raise TypeMismatch(f"random numbers must be floats, got {self.dtype}")
        if (self.seed is None) != (len(key) == 1):
            given = f"{len(key)} operands" + (" and a seed" if self.seed is not None else "")
            raise TypeMismatch(f"random numbers take a seed or one key, got {given}")
        if key and key[0] != TensorType(DType.U64, ()):
            raise TypeMismatch(f"a key is u64[], got {key[0]}")
        return TensorType(self.dtype, self.shape)

    def reference(self, *key: Array) -> Array:
        shape = tuple(int(d) for d in self.shape)  # type: ignore[arg-type]
        counter = np.arange(math.prod(shape), dtype=np.uint64).reshape(shape)
        words = philox(counter, int(key[0]) if key else self.seed or 0)
        if self.dtype is DType.F64:
            first, second = (_fraction53(*words[i : i + 2]) for i in (0, 2))
            above = first + 2.0**-54
        else:
            first, second = ((w >> np.uint64(8)) * 2.0**-24 for w in words[:2])
            above = (first + 2.0**-25).astype(np.float32).astype(np.float64)
        if self.kind is RandomKind.NORMAL:
            y = np.sqrt(-2 * np.log(above)) * np.cos(2 * math.pi * second)
            y = y * self.high_or_scale + self.low_or_mean
        else:
            y = first * (self.high_or_scale - self.low_or_mean) + self.low_or_mean
            if self.low_or_mean < self.high_or_scale:
                y = np.minimum(y, largest_below(self.high_or_scale, self.dtype))
        return np.asarray(y).astype(self.dtype.numpy)


def _fraction53(high: Array, low: Array) -> Array:
    """Return 53 bits of two words as a number in [0, 1)."""
    bits = (high >> np.uint64(5)) * np.uint64(1 << 26) + (low >> np.uint64(6))
    return np.asarray(bits * 2.0**-53)
