"""Normalizations.

Statistics are computed in f32 or wider and the result is rounded once.
"""

from __future__ import annotations

import numpy as np

from lamina.errors import TypeMismatch
from lamina.ir.dims import Dim, is_static
from lamina.ir.graph import Array, Op, operator
from lamina.ir.types import TensorType
from lamina.ops import check
from lamina.ops.accumulate import narrow, widen


@operator
class BatchNorm(Op):
    """``(x - mean) / sqrt(variance + epsilon) * scale + bias`` with statistics per channel [C].

    The statistics may have a wider type than x.
    """

    epsilon: float

    def infer(
        self,
        x: TensorType,
        scale: TensorType,
        bias: TensorType,
        mean: TensorType,
        variance: TensorType,
    ) -> TensorType:
        """Return the type of x [N, C, ...]."""
        check.floating("x", x)
        check.rank_at_least("x", x, 2)
        named = (("scale", scale), ("bias", bias), ("mean", mean), ("variance", variance))
        for name, operand in named:
            check.floating(name, operand)
            check.shape_is(name, operand, (x.shape[1],))
        return x

    def reference(self, x: Array, scale: Array, bias: Array, mean: Array, variance: Array) -> Array:
        """Apply the formula with the statistics on axis 1."""
        column = (-1, *[1] * (x.ndim - 2))
        s, b, m, v = (widen(a).reshape(column) for a in (scale, bias, mean, variance))
        with np.errstate(all="ignore"):
            y = (widen(x) - m) / np.sqrt(v + v.dtype.type(self.epsilon)) * s + b
        return narrow(y, x.dtype)


@operator
class InstanceNorm(Op):
    """Normalize each channel of each sample over its spatial axes, then scale and shift by [C]."""

    epsilon: float

    def infer(self, x: TensorType, scale: TensorType, bias: TensorType) -> TensorType:
        """Return the type of x [N, C, ...]."""
        check.rank_at_least("x", x, 3)
        _check_channels(x, scale, bias)
        return x

    def reference(self, x: Array, scale: Array, bias: Array) -> Array:
        """Normalize over every axis after the second."""
        y = normalized(widen(x), tuple(range(2, x.ndim)), self.epsilon)
        return narrow(_per_channel(y, scale, bias), x.dtype)


@operator
class GroupNorm(Op):
    """Normalize groups of channels of each sample, then scale and shift by [C]."""

    groups: int
    epsilon: float

    def infer(self, x: TensorType, scale: TensorType, bias: TensorType) -> TensorType:
        """Return the type of x [N, C, ...]."""
        check.rank_at_least("x", x, 2)
        _check_channels(x, scale, bias)
        channels = x.shape[1]
        if self.groups < 1 or (is_static(channels) and int(channels) % self.groups):  # type: ignore[arg-type]
            raise TypeMismatch(f"C is {channels}, which {self.groups} groups do not divide")
        return x

    def reference(self, x: Array, scale: Array, bias: Array) -> Array:
        """Normalize [N, groups, everything else] over the last axis."""
        grouped = widen(x).reshape(x.shape[0], self.groups, -1)
        y = normalized(grouped, (2,), self.epsilon).reshape(x.shape)
        return narrow(_per_channel(y, scale, bias), x.dtype)


@operator
class LayerNorm(Op):
    """Normalize over ``axis`` and all axes after it, then scale and shift.

    scale and bias broadcast to the normalized axes.
    """

    axis: int
    epsilon: float

    def infer(
        self, x: TensorType, scale: TensorType | None = None, bias: TensorType | None = None
    ) -> TensorType:
        """Return the type of x."""
        check.floating("x", x)
        check.axis_in(self.axis, x)
        for name, operand in (("scale", scale), ("bias", bias)):
            if operand is not None:
                _check_affine(name, operand, x.shape)
        return x

    def reference(self, x: Array, scale: Array | None = None, bias: Array | None = None) -> Array:
        """Subtract the mean and divide by the standard deviation."""
        y = normalized(widen(x), tuple(range(self.axis, x.ndim)), self.epsilon)
        return narrow(_affine(y, scale, bias), x.dtype)


@operator
class RmsNorm(Op):
    """Divide by the root mean square over ``axis`` and all axes after it, then scale."""

    axis: int
    epsilon: float

    def infer(self, x: TensorType, scale: TensorType | None = None) -> TensorType:
        """Return the type of x."""
        check.floating("x", x)
        check.axis_in(self.axis, x)
        if scale is not None:
            _check_affine("scale", scale, x.shape)
        return x

    def reference(self, x: Array, scale: Array | None = None) -> Array:
        """Apply the formula ``x / sqrt(mean(x * x) + epsilon) * scale``."""
        wide = widen(x)
        axes = tuple(range(self.axis, x.ndim))
        with np.errstate(all="ignore"):
            mean = np.mean(wide * wide, axis=axes, keepdims=True)
            y = wide / np.sqrt(mean + wide.dtype.type(self.epsilon))
        return narrow(_affine(y, scale, None), x.dtype)


@operator
class Lrn(Op):
    """Local response normalization across channels (AlexNet).

    ``x / (bias + alpha / size * sum of squares of size neighbouring channels) ** beta``, where
    ``(size - 1) // 2`` neighbours come before the channel.
    """

    size: int
    alpha: float = 0.0001
    beta: float = 0.75
    bias: float = 1.0

    def infer(self, x: TensorType) -> TensorType:
        """Return the type of x [N, C, ...]."""
        check.floating("x", x)
        check.rank_at_least("x", x, 2)
        if self.size < 1:
            raise TypeMismatch(f"size is {self.size}, expected at least 1")
        return x

    def reference(self, x: Array) -> Array:
        """Sum the squares of the neighbours, shifted along the channel axis."""
        wide = widen(x)
        before = (self.size - 1) // 2
        pads = [(0, 0), (before, self.size - 1 - before)] + [(0, 0)] * (x.ndim - 2)
        with np.errstate(all="ignore"):
            squares = np.pad(wide * wide, pads)
            total = sum(squares[:, i : i + x.shape[1]] for i in range(self.size))
            y = wide / (self.bias + self.alpha / self.size * total) ** self.beta
        return narrow(y, x.dtype)


def normalized(x: Array, axes: tuple[int, ...], epsilon: float) -> Array:
    """Return x with zero mean and unit variance over ``axes``."""
    with np.errstate(all="ignore"):
        centered = x - np.mean(x, axis=axes, keepdims=True)
        variance = np.mean(centered * centered, axis=axes, keepdims=True)
        return np.asarray(centered / np.sqrt(variance + x.dtype.type(epsilon)))


def _per_channel(y: Array, scale: Array, bias: Array) -> Array:
    column = (-1, *[1] * (y.ndim - 2))
    return _affine(y, scale.reshape(column), bias.reshape(column))


def _affine(y: Array, scale: Array | None, bias: Array | None) -> Array:
    with np.errstate(all="ignore"):
        if scale is not None:
            y = y * widen(scale)
        if bias is not None:
            y = y + widen(bias)
    return y


def _check_channels(x: TensorType, scale: TensorType, bias: TensorType) -> None:
    check.floating("x", x)
    for name, operand in (("scale", scale), ("bias", bias)):
        check.floating(name, operand)
        check.shape_is(name, operand, (x.shape[1],))


def _check_affine(name: str, operand: TensorType, shape: tuple[Dim, ...]) -> None:
    check.floating(name, operand)
    check.broadcasts_to(name, operand, shape)
