"""Constants made of a weight on the device: numbers multiplied, rounded and put in another order.

All numbers are handled as bits, so that the bits of a NaN are those that NumPy gives on an x86 CPU:
a plan whose weights were replaced on the device is that of a build, byte for byte.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def _widened(bits, TYPE: tl.constexpr):
    """Return the bits of an f32 number for those of a 16-bit one."""
    if TYPE == "float16":
        half = bits.to(tl.uint32)
        nan = ((half & 0x8000) << 16) | 0x7F800000 | ((half & 0x3FF) << 13)
        wide = bits.to(tl.float16, bitcast=True).to(tl.float32).to(tl.uint32, bitcast=True)
        return tl.where((half & 0x7FFF) > 0x7C00, nan, wide)
    elif TYPE == "bfloat16":
        return bits.to(tl.uint32) << 16
    else:
        return bits


@triton.jit
def _narrowed(bits, TYPE: tl.constexpr):
    """Return the bits of a 16-bit number for those of an f32 one, rounded to nearest even."""
    is_nan = (bits & 0x7FFFFFFF) > 0x7F800000
    if TYPE == "float16":
        payload = (bits >> 13) & 0x3FF
        payload = tl.where(payload == 0, 1, payload)
        nan = ((bits >> 16) & 0x8000) | 0x7C00 | payload
        half = bits.to(tl.float32, bitcast=True).to(tl.float16).to(tl.uint16, bitcast=True)
        return tl.where(is_nan, nan.to(tl.uint16), half)
    elif TYPE == "bfloat16":
        nan = ((bits >> 16) & 0x8000) | 0x7FC0
        rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
        return tl.where(is_nan, nan, rounded).to(tl.uint16)
    else:
        return bits


@triton.jit
def _product(x, y):
    """Return the bits of the product of f32 numbers."""
    numbers = x.to(tl.float32, bitcast=True) * y.to(tl.float32, bitcast=True)
    product = numbers.to(tl.uint32, bitcast=True)
    nan = tl.where((y & 0x7FFFFFFF) > 0x7F800000, y | 0x400000, 0xFFC00000)
    nan = tl.where((x & 0x7FFFFFFF) > 0x7F800000, x | 0x400000, nan)
    return tl.where((product & 0x7FFFFFFF) > 0x7F800000, nan, product)


@triton.jit
def pack(
    source, factors, result, COUNT,
    n1, n2, n3, n4, s0, s1, s2, s3, s4, f0, f1, f2, f3, f4, r0, r1, r2, r3, r4,
    SOURCE: tl.constexpr, SCALED: tl.constexpr, RESULT: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Write one piece of a :class:`lamina.ir.movement.Movement` with five loops.

    ``n1`` to ``n4`` are the sizes of all loops but the outermost one, ``s``, ``f`` and ``r`` the
    steps of all five in source, factors and result, in elements.  ``SOURCE`` and ``RESULT`` are
    element types; where they are equal and nothing is ``SCALED``, bits move as they are.
    """
    element = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = element < COUNT
    i4 = element % n4
    element = element // n4
    i3 = element % n3
    element = element // n3
    i2 = element % n2
    element = element // n2
    i1 = element % n1
    i0 = element // n1
    place = i0 * s0 + i1 * s1 + i2 * s2 + i3 * s3 + i4 * s4
    bits = tl.load(source + place, mask=inside, other=0)
    if SCALED or SOURCE != RESULT:
        bits = _widened(bits, SOURCE)
        if SCALED:
            at = i0 * f0 + i1 * f1 + i2 * f2 + i3 * f3 + i4 * f4
            bits = _product(bits, tl.load(factors + at, mask=inside, other=0))
        bits = _narrowed(bits, RESULT)
    tl.store(result + i0 * r0 + i1 * r1 + i2 * r2 + i3 * r3 + i4 * r4, bits, mask=inside)


@triton.jit
def transform(
    source, factors, matrix, result, COUNT, CHANNELS, FILTERS, DEPTH, POSITIONS,
    TAPS: tl.constexpr, SCALED: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Write [position][filter][channel] for filters [filter][channel][tap] times a matrix.

    ``matrix`` is [tap][position], ``COUNT`` is filters times channels, ``DEPTH`` the channels of
    the result.  Sums are f64.
    """
    pair = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    position = tl.program_id(1)
    inside = pair < COUNT
    filter, channel = pair // CHANNELS, pair % CHANNELS
    total = tl.zeros((BLOCK,), tl.float64)
    for tap in tl.static_range(TAPS):
        x = tl.load(source + pair * TAPS + tap, mask=inside, other=0)
        if SCALED:
            x = _product(x, tl.load(factors + filter, mask=inside, other=0))
        number = x.to(tl.float32, bitcast=True).to(tl.float64)
        total = tl.fma(number, tl.load(matrix + tap * POSITIONS + position), total)
    place = (position * FILTERS + filter) * DEPTH + channel
    tl.store(result + place, total.to(tl.float32), mask=inside)
