"""Small random graphs of the operators that passes rewrite, with bounded values."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from lamina import ops
from lamina.ir.graph import Graph, Op, Value, emit
from lamina.ir.loc import Loc
from lamina.ir.types import DType, TensorType
from lamina.ops.kinds import ActivationKind, BinaryKind, PoolKind, ReduceKind, UnaryKind

SAFE_UNARY = (UnaryKind.ABS, UnaryKind.NEG, UnaryKind.TANH, UnaryKind.ERF, UnaryKind.SIN)
SAFE_ACTIVATION = (
    ActivationKind.RELU,
    ActivationKind.SIGMOID,
    ActivationKind.TANH,
    ActivationKind.SOFTPLUS,
    ActivationKind.GELU,
    ActivationKind.HARD_SWISH,
)
SAFE_BINARY = (BinaryKind.ADD, BinaryKind.SUB, BinaryKind.MUL, BinaryKind.MIN, BinaryKind.MAX)
SAFE_REDUCE = (ReduceKind.SUM, ReduceKind.MEAN, ReduceKind.MAX, ReduceKind.L1)


class RandomGraph:
    """Grows a graph one random operator at a time."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.graph = Graph()
        self.values: list[Value] = []
        shapes = [(2, 3, 4), (2, 4, 5, 5), (2, 3, 4), (4, 6)]
        for i in range(int(self.rng.integers(1, 4))):
            shape = shapes[int(self.rng.integers(len(shapes)))]
            self.values.append(self.graph.input(f"x{i}", TensorType(DType.F32, shape)))

    def grow(self, steps: int) -> Graph:
        """Add operators and return the graph with a few random outputs."""
        makers: list[Callable[[Value], Value | None]] = [
            self.unary, self.activation, self.binary, self.binary, self.constant_binary,
            self.constant_binary, self.reshape, self.transpose, self.slice, self.concat,
            self.reduce, self.softmax, self.norm, self.matmul, self.convolution, self.batch_norm,
            self.pad, self.expand, self.cast, self.select, self.pool, self.clip, self.gather,
        ]  # fmt: skip
        for _ in range(steps):
            recent = self.values[-2:] if self.rng.random() < 0.8 else self.values
            x = recent[int(self.rng.integers(len(recent)))]
            made = makers[int(self.rng.integers(len(makers)))](x)
            if made is not None and 0 < int(made.tensor.size) <= 2048:  # type: ignore[arg-type]
                self.values.append(made)
        picks = {len(self.values) - 1, *self.rng.integers(0, len(self.values), 2).tolist()}
        for i in sorted(picks):
            self.graph.output(self.values[i], f"y{i}")
        return self.graph

    def emit(self, op: Op, *inputs: Value) -> Value:
        return emit(op, inputs, loc=Loc("random"))

    def const(self, *shape: int, scale: float = 0.5) -> Value:
        array = (self.rng.standard_normal(shape) * scale).astype(np.float32)
        return self.emit(ops.Const.of(array))

    def pick(self, choices: Any) -> Any:
        return choices[int(self.rng.integers(len(choices)))]

    def unary(self, x: Value) -> Value:
        return self.emit(ops.Unary(kind=self.pick(SAFE_UNARY)), x)

    def activation(self, x: Value) -> Value:
        return self.emit(ops.Activation(kind=self.pick(SAFE_ACTIVATION)), x)

    def clip(self, x: Value) -> Value:
        low = float(self.rng.integers(-2, 1))
        return self.emit(ops.Activation(kind=ActivationKind.CLIP, alpha=low, beta=low + 2), x)

    def binary(self, x: Value) -> Value | None:
        other = [v for v in self.values if v.tensor.shape == x.tensor.shape]
        return self.emit(ops.Binary(kind=self.pick(SAFE_BINARY)), x, self.pick(other))

    def constant_binary(self, x: Value) -> Value:
        shape = x.tensor.static_shape
        rank = len(shape)
        axis = int(self.rng.integers(rank)) if rank else 0
        forms: list[tuple[int, ...]] = [(), (1,), shape[-1:]] if rank else [()]
        if rank:
            forms.append(tuple(d if i == axis else 1 for i, d in enumerate(shape)))
        c = self.const(*self.pick(forms))
        kind = self.pick((*SAFE_BINARY, BinaryKind.MUL, BinaryKind.ADD))
        pair = (x, c) if self.rng.random() < 0.7 else (c, x)
        if self.rng.random() < 0.15:
            two = self.emit(ops.Const.of(np.float32(self.pick((1.0, 2.0, 0.5, 3.0)))))
            return self.emit(ops.Binary(kind=self.pick((BinaryKind.DIV, BinaryKind.MUL))), x, two)
        return self.emit(ops.Binary(kind=kind), *pair)

    def reshape(self, x: Value) -> Value:
        shape = list(x.tensor.static_shape)
        if len(shape) > 1 and self.rng.random() < 0.6:
            i = int(self.rng.integers(len(shape) - 1))
            shape[i : i + 2] = [shape[i] * shape[i + 1]]
        else:
            i = int(self.rng.integers(len(shape) + 1))
            even = [j for j, d in enumerate(shape) if d % 2 == 0]
            if even:
                j = self.pick(even)
                shape[j : j + 1] = [2, shape[j] // 2]
            else:
                shape.insert(i, 1)
        return self.emit(
            ops.Reshape(shape=tuple(shape) if len(shape) <= 6 else (x.tensor.size,)), x
        )

    def transpose(self, x: Value) -> Value:
        perm = tuple(int(p) for p in self.rng.permutation(x.tensor.rank))
        if x.tensor.rank > 2 and self.rng.random() < 0.5:
            rank = x.tensor.rank
            perm = (*range(rank - 2), rank - 1, rank - 2)
        return self.emit(ops.Transpose(perm=perm), x)

    def slice(self, x: Value) -> Value:
        shape = x.tensor.static_shape
        starts = [int(self.rng.integers(0, d)) if self.rng.random() < 0.4 else 0 for d in shape]
        sizes = [int(self.rng.integers(1, d - s + 1)) for d, s in zip(shape, starts, strict=True)]
        sizes = [
            d - s if self.rng.random() < 0.6 else n
            for d, s, n in zip(shape, starts, sizes, strict=True)
        ]
        steps = (1,) * len(shape)
        return self.emit(ops.Slice(starts=tuple(starts), sizes=tuple(sizes), steps=steps), x)

    def concat(self, x: Value) -> Value | None:
        if not x.tensor.rank:
            return None
        axis = int(self.rng.integers(x.tensor.rank))
        fits = [
            v
            for v in self.values
            if v.tensor.rank == x.tensor.rank
            and all(
                a == b
                for i, (a, b) in enumerate(zip(v.tensor.shape, x.tensor.shape, strict=True))
                if i != axis
            )
        ]
        return self.emit(ops.Concat(axis=axis), x, self.pick(fits))

    def reduce(self, x: Value) -> Value | None:
        rank = x.tensor.rank
        if not rank:
            return None
        first = int(self.rng.integers(rank))
        axes = tuple(range(first, rank)) if self.rng.random() < 0.5 else (first,)
        kind = self.pick(SAFE_REDUCE)
        return self.emit(ops.Reduce(kind=kind, axes=axes, keepdims=self.rng.random() < 0.6), x)

    def softmax(self, x: Value) -> Value | None:
        if not x.tensor.rank:
            return None
        return self.emit(ops.Softmax(axis=int(self.rng.integers(x.tensor.rank))), x)

    def norm(self, x: Value) -> Value | None:
        if not x.tensor.rank or x.tensor.shape[-1] == 1:
            return None
        axis = x.tensor.rank - 1
        size = int(x.tensor.shape[-1])  # type: ignore[arg-type]
        if self.rng.random() < 0.5:
            return self.emit(ops.RmsNorm(axis=axis, epsilon=1e-2), x)
        operands = [self.const(size), self.const(size)][: int(self.rng.integers(3))]
        return self.emit(ops.LayerNorm(axis=axis, epsilon=1e-2), x, *operands)

    def matmul(self, x: Value) -> Value | None:
        if x.tensor.rank < 2:
            return None
        n = int(self.rng.integers(1, 6))
        k = int(x.tensor.shape[-1])  # type: ignore[arg-type]
        if self.rng.random() < 0.5:
            return self.emit(ops.Matmul(transpose_b=True), x, self.const(n, k))
        return self.emit(ops.Matmul(), x, self.const(k, n))

    def convolution(self, x: Value) -> Value | None:
        shape = x.tensor.static_shape
        if len(shape) != 4 or min(shape[2:]) < 3:
            return None
        groups = 2 if shape[1] % 2 == 0 and self.rng.random() < 0.4 else 1
        k, m = int(self.pick((1, 3))), 4
        w = self.const(m, shape[1] // groups, k, k, scale=0.3)
        pad = int(self.rng.integers(0, 2))
        bias = [self.const(m)] if self.rng.random() < 0.5 else []
        op = ops.Convolution(
            strides=(1, 1),
            dilations=(1, 1),
            pads_begin=(pad, pad),
            pads_end=(pad, pad),
            groups=groups,
        )
        return self.emit(op, x, w, *bias)

    def pool(self, x: Value) -> Value | None:
        shape = x.tensor.static_shape
        if len(shape) != 4 or min(shape[2:]) < 3:
            return None
        op = ops.Pool(
            kind=self.pick((PoolKind.MAX, PoolKind.AVERAGE)),
            kernel=self.pick(((2, 2), shape[2:])),
            strides=(1, 1),
            dilations=(1, 1),
            pads_begin=(0, 0),
            pads_end=(0, 0),
        )
        return self.emit(op, x)

    def batch_norm(self, x: Value) -> Value | None:
        if x.tensor.rank < 2:
            return None
        c = int(x.tensor.shape[1])  # type: ignore[arg-type]
        variance = self.emit(ops.Const.of(self.rng.uniform(0.5, 2, c).astype(np.float32)))
        stats = (self.const(c), self.const(c), self.const(c), variance)
        return self.emit(ops.BatchNorm(epsilon=1e-3), x, *stats)

    def pad(self, x: Value) -> Value | None:
        rank = x.tensor.rank
        if rank < 3:
            return None
        begin, end = (
            (0, 0, *(int(p) for p in self.rng.integers(0, 2, rank - 2))) for _ in range(2)
        )
        return self.emit(ops.Pad(pads_begin=begin, pads_end=end), x)

    def expand(self, x: Value) -> Value:
        shape = [3 if d == 1 else d for d in x.tensor.static_shape]
        if self.rng.random() < 0.4:
            shape.insert(0, 2)
        return self.emit(ops.Expand(shape=tuple(shape)), x)

    def gather(self, x: Value) -> Value | None:
        if not x.tensor.rank:
            return None
        axis = int(self.rng.integers(x.tensor.rank))
        size = int(x.tensor.shape[axis])  # type: ignore[arg-type]
        index = np.asarray(self.rng.integers(-size, size, self.pick(((), (2,)))))
        return self.emit(ops.Gather(axis=axis), x, self.emit(ops.Const.of(index)))

    def cast(self, x: Value) -> Value:
        return self.emit(ops.Cast(dtype=DType.F32), self.emit(ops.Cast(dtype=DType.F64), x))

    def select(self, x: Value) -> Value:
        zero = self.emit(ops.Const.of(np.float32(0)))
        condition = self.emit(ops.Binary(kind=BinaryKind.GREATER), x, zero)
        return self.emit(ops.Select(), condition, x, self.unary(x))
