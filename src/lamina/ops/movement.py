"""Operators that only move elements to other places."""

from __future__ import annotations

import numpy as np

from lamina.errors import TypeMismatch
from lamina.ir.dims import Dim, always_le, is_static, never_equal, product
from lamina.ir.graph import Array, Op, operator
from lamina.ir.types import TensorType
from lamina.ops.check import axis_in, entries, same_dtype, same_size
from lamina.ops.kinds import PadMode


@operator
class Reshape(Op):
    """The same elements in row-major order under another shape; every dimension is explicit."""

    shape: tuple[Dim, ...]

    def infer(self, x: TensorType) -> TensorType:
        if never_equal(x.size, product(self.shape)):
            raise TypeMismatch(
                f"{x} has {x.size} elements but the new shape {_text(self.shape)} "
                f"has {product(self.shape)}"
            )
        return x.with_shape(self.shape)

    def reference(self, x: Array) -> Array:
        return x.reshape(_numbers(self.shape))


@operator
class Transpose(Op):
    """Exchange axes: axis ``i`` of the result is axis ``perm[i]`` of the operand."""

    perm: tuple[int, ...]

    def infer(self, x: TensorType) -> TensorType:
        if sorted(self.perm) != list(range(x.rank)):
            raise TypeMismatch(f"perm {self.perm} is no permutation of the {x.rank} axes of {x}")
        return x.with_shape(tuple(x.shape[p] for p in self.perm))

    def reference(self, x: Array) -> Array:
        return np.ascontiguousarray(x.transpose(self.perm)).reshape([x.shape[p] for p in self.perm])


@operator
class Expand(Op):
    """Repeat axes of size 1, and add leading axes, until the operand has ``shape``."""

    shape: tuple[Dim, ...]

    def infer(self, x: TensorType) -> TensorType:
        if len(self.shape) < x.rank:
            raise TypeMismatch(f"{x} has rank {x.rank}, more than the {len(self.shape)} of shape")
        for axis, (d, n) in enumerate(zip(reversed(x.shape), reversed(self.shape), strict=False)):
            if d != 1 and never_equal(d, n):
                raise TypeMismatch(
                    f"axis {x.rank - 1 - axis} of {x} is {d}, which cannot become {n}",
                    hint="only axes of size 1 expand",
                )
        return x.with_shape(self.shape)

    def reference(self, x: Array) -> Array:
        return np.array(np.broadcast_to(x, _numbers(self.shape)))


@operator
class Slice(Op):
    """Take ``sizes`` elements from ``starts`` in ``steps``, one entry of each per axis.

    ``y[i] = x[starts + i * steps]`` on every axis; starts are non-negative, steps may be negative.
    """

    starts: tuple[Dim, ...]
    sizes: tuple[Dim, ...]
    steps: tuple[int, ...]

    def infer(self, x: TensorType) -> TensorType:
        for what in ("starts", "sizes", "steps"):
            entries(what, getattr(self, what), x.rank)
        for axis, (d, n) in enumerate(zip(x.shape, self.sizes, strict=True)):
            self._check_axis(axis, d, n)
        return x.with_shape(self.sizes)

    def _check_axis(self, axis: int, d: Dim, n: Dim) -> None:
        if self.steps[axis] == 0:
            raise TypeMismatch(f"the step of axis {axis} is zero")
        first = self.starts[axis]
        last = first + (n - 1) * self.steps[axis]
        known = is_static(d) and is_static(first) and is_static(last) and n != 0
        if known and not (always_le(0, first) and always_le(0, last)):
            raise TypeMismatch(f"axis {axis} is read from {first} to {last}, below its start")
        if known and not (always_le(first, d - 1) and always_le(last, d - 1)):
            raise TypeMismatch(f"axis {axis} has size {d} but is read from {first} to {last}")

    def reference(self, x: Array) -> Array:
        windows = zip(_numbers(self.starts), _numbers(self.sizes), self.steps, strict=True)
        return x[tuple(_window(start, size, step) for start, size, step in windows)].copy()


@operator
class Concat(Op):
    """Join tensors one after the other along ``axis``."""

    axis: int

    def infer(self, *xs: TensorType) -> TensorType:
        if not xs:
            raise TypeMismatch("concat needs at least one operand, got none")
        first, total = xs[0], xs[0].shape[self.axis] if self.axis < xs[0].rank else 0
        axis_in(self.axis, first)
        for i, x in enumerate(xs[1:], 1):
            same_dtype("operand 0", first, f"operand {i}", x)
            if x.rank != first.rank:
                raise TypeMismatch(f"operand 0 has rank {first.rank} but operand {i} has {x.rank}")
            for axis, (a, b) in enumerate(zip(first.shape, x.shape, strict=True)):
                if axis != self.axis:
                    same_size(f"axis {axis} of operand 0", a, f"of operand {i}", b)
            total = total + x.shape[self.axis]
        dims = (_agreed(tuple(x.shape[a] for x in xs)) for a in range(first.rank))
        return first.with_shape(tuple(total if a == self.axis else d for a, d in enumerate(dims)))

    def reference(self, *xs: Array) -> Array:
        return np.concatenate(xs, axis=self.axis)


@operator
class Pad(Op):
    """Add elements before and after each axis; negative amounts crop.

    Cropping happens first, so that reflected, repeated and wrapped elements come from what is kept.
    ``value`` is what the constant mode adds (zero when absent).
    """

    mode: PadMode = PadMode.CONSTANT
    pads_begin: tuple[Dim, ...]
    pads_end: tuple[Dim, ...]

    def infer(self, x: TensorType, value: TensorType | None = None) -> TensorType:
        entries("pads_begin", self.pads_begin, x.rank)
        entries("pads_end", self.pads_end, x.rank)
        if value is not None:
            same_dtype("x", x, "value", value)
            if value.size != 1:
                raise TypeMismatch(f"the padding value must be one element, got {value}")
        shape = tuple(
            d + b + e for d, b, e in zip(x.shape, self.pads_begin, self.pads_end, strict=True)
        )
        for axis, d in enumerate(shape):
            if is_static(d) and not always_le(0, d):
                raise TypeMismatch(f"padding axis {axis} of {x} leaves the size {d}")
        return x.with_shape(shape)

    def reference(self, x: Array, value: Array | None = None) -> Array:
        pads = list(zip(_numbers(self.pads_begin), _numbers(self.pads_end), strict=True))
        y = x[
            tuple(
                slice(max(-b, 0), n - max(-e, 0)) for n, (b, e) in zip(x.shape, pads, strict=True)
            )
        ]
        for axis, (before, after) in enumerate(pads):
            y = self._pad_axis(y, axis, max(before, 0), max(after, 0), value)
        return np.ascontiguousarray(y).reshape(y.shape)

    def _pad_axis(self, x: Array, axis: int, before: int, after: int, value: Array | None) -> Array:
        if not before and not after:
            return x
        n = x.shape[axis]
        if self.mode is PadMode.CONSTANT:
            ends = []
            for count in (before, after):
                shape = (*x.shape[:axis], count, *x.shape[axis + 1 :])
                fill = np.zeros(shape, x.dtype)
                if value is not None:
                    fill[...] = value.reshape(())
                ends.append(fill)
            return np.concatenate((ends[0], x, ends[1]), axis=axis)
        position = np.arange(-before, n + after)
        if self.mode is PadMode.EDGE:
            source = position.clip(0, n - 1)
        elif self.mode is PadMode.WRAP:
            source = position % n
        else:  # reflected positions repeat with this period; the edge itself is not repeated
            period = max(2 * (n - 1), 1)
            source = np.abs((position + n - 1) % period - (n - 1)) if n > 1 else position * 0
        return np.take(x, source, axis=axis)


@operator
class Tile(Op):
    """Repeat the whole tensor ``repeats`` times along each axis."""

    repeats: tuple[Dim, ...]

    def infer(self, x: TensorType) -> TensorType:
        entries("repeats", self.repeats, x.rank)
        return x.with_shape(tuple(d * r for d, r in zip(x.shape, self.repeats, strict=True)))

    def reference(self, x: Array) -> Array:
        return np.tile(x, _numbers(self.repeats))


def _numbers(dims: tuple[Dim, ...]) -> tuple[int, ...]:
    """Return dimensions as Python numbers; the caller has substituted the symbols."""
    return tuple(int(d) for d in dims)  # type: ignore[arg-type]


def _text(shape: tuple[Dim, ...]) -> str:
    return f"[{','.join(map(str, shape))}]"


def _window(start: int, size: int, step: int) -> slice:
    stop = start + size * step
    if size == 0:
        return slice(0, 0)
    return slice(start, None if stop < 0 else stop, step)


def _agreed(sizes: tuple[Dim, ...]) -> Dim:
    """Return the size that equal dimensions have: a number when one of them is known."""
    return next((d for d in sizes if is_static(d)), sizes[0])
