"""Optimization profiles: the ranges of dynamic shapes."""

from __future__ import annotations

from collections.abc import Sequence

from lamina.tensorrt.check import checked
from lamina.tensorrt.foundation.dims import Dims

Range = tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]


class IOptimizationProfile:
    """Smallest, likeliest and largest shape of each dynamic input."""

    def __init__(self) -> None:
        self._shapes: dict[str, Range] = {}
        self._values: dict[str, Range] = {}
        self._extra_memory_target = 1.0

    @checked
    def set_shape(self, input: str, min: Dims, opt: Dims, max: Dims) -> None:
        """Set the range of an input's shape; RuntimeError unless 0 <= min <= opt <= max."""
        found = _ordered(input, tuple(min), tuple(opt), tuple(max))
        if any(size < 0 for size in found[0]):
            raise RuntimeError(f"Shape provided for {input!r} has a negative size: min {found[0]}")
        self._shapes[input] = found

    @checked
    def get_shape(self, input: str) -> list[Dims]:
        """Return [min, opt, max], nothing when they were not set."""
        return [Dims(s) for s in self._shapes.get(input, ())]

    def set_shape_input(
        self, input: str, min: Sequence[int], opt: Sequence[int], max: Sequence[int]
    ) -> None:
        """Set the range of the elements of a shape tensor; RuntimeError unless in order."""
        low, likely, high = (tuple(int(v) for v in values) for values in (min, opt, max))
        self._values[input] = _ordered(input, low, likely, high)

    @checked
    def get_shape_input(self, input: str) -> list[tuple[int, ...]]:
        """Return [min, opt, max], nothing when they were not set."""
        return list(self._values.get(input, ()))

    @property
    def extra_memory_target(self) -> float:
        """Share of additional memory that the builder may use for this profile; kept."""
        return self._extra_memory_target

    @extra_memory_target.setter
    @checked
    def extra_memory_target(self, value: float) -> None:
        self._extra_memory_target = value

    def __bool__(self) -> bool:
        return bool(self._shapes or self._values)

    __nonzero__ = __bool__


def _ordered(name: str, low: tuple[int, ...], opt: tuple[int, ...], high: tuple[int, ...]) -> Range:
    same = len(low) == len(opt) == len(high)
    if not same or any(not a <= b <= c for a, b, c in zip(low, opt, high, strict=False)):
        raise RuntimeError(
            f"Shape provided for {name!r} is inconsistent: min {low}, opt {opt}, max {high} must "
            f"have the same length and min <= opt <= max"
        )
    return low, opt, high


__all__ = ["IOptimizationProfile"]
