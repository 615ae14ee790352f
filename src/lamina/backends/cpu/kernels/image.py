"""Quantizes planar images of few channels into interleaved 8-bit pixels.

Sixteen pixels at a time: one register of each plane is scaled, rounded and narrowed, and the bytes
are interleaved by one shuffle.  The first layer of an integer network reads its input so.
"""

from __future__ import annotations

from dataclasses import dataclass

from lamina.codegen.llvm.builder import F32, I8, I32, Builder, Module, Value

PIXELS = 16
MOST_CHANNELS = 4


@dataclass(frozen=True)
class ImageProblem:
    """f32 [images, channels, pixels] to 8 bits [images, pixels, channels]."""

    images: int
    channels: int
    pixels: int
    scale: float
    zero_point: int
    signed: bool


def build(m: Module, name: str, problem: ImageProblem) -> None:
    """Write the kernel; arguments are source and destination.

    The product with the reciprocal of the scale may round a tie to the other side.
    """
    channels, pixels = problem.channels, problem.pixels
    blocks = -(-pixels // PIXELS)
    with m.kernel(name) as k:
        src, dst = k.arg(0), k.arg(1)
        low, high = k.my_range(problem.images * blocks)
        with k.loop(low, high) as block:
            image, first = block.index // blocks, block.index % blocks * PIXELS
            whole = pixels % PIXELS == 0
            count = None if whole else k.index_min(pixels - first, PIXELS)
            planes = []
            for c in range(channels):
                offset = ((image * channels + c) * pixels + first) * 4
                mask = None if count is None else k.lane_mask(count, PIXELS)
                x = k.load(F32.vector(PIXELS), src, offset, mask=mask)
                planes.append(_quantized(k, x, problem))
            bytes_ = _interleaved(k, planes)
            mask = None if count is None else k.lane_mask(count * channels, PIXELS * channels)
            k.store(bytes_, dst, (image * pixels + first) * channels, mask=mask)


def _quantized(k: Builder, x: Value, problem: ImageProblem) -> Value:
    """Return 8-bit lanes; the clip comes before the conversion, which NaN leaves at the limit."""
    low = -128 if problem.signed else 0
    whole = k.unary("roundeven", x * (1.0 / problem.scale)) + float(problem.zero_point)
    clipped = k.min(k.max(whole, float(low)), float(low + 255))
    return k.convert(k.convert(clipped, I32), I8)


def _interleaved(k: Builder, planes: list[Value]) -> Value:
    if len(planes) == 1:
        return planes[0]
    joined = range(2 * PIXELS)
    pairs = [
        k.shuffle(planes[i], planes[min(i + 1, len(planes) - 1)], joined)
        for i in range(0, len(planes), 2)
    ]
    order = [c * PIXELS + i for i in range(PIXELS) for c in range(len(planes))]
    return k.shuffle(pairs[0], pairs[1] if len(pairs) > 1 else None, order)
