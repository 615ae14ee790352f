"""Operators that compute each element of the result from one element of each operand."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from lamina.errors import TypeMismatch
from lamina.ir.graph import Array, Op, operator
from lamina.ir.types import DType, TensorType
from lamina.ops import check
from lamina.ops.accumulate import narrow, widen
from lamina.ops.broadcast import broadcast_shapes
from lamina.ops.functions import activate, binary_function, unary_function
from lamina.ops.kinds import ActivationKind, BinaryKind, Epilogue, UnaryKind
from lamina.ops.symbolic import is_symbolic, symbolic_binary, symbolic_unary

_ANY_NUMBER = frozenset({UnaryKind.ABS, UnaryKind.NEG, UnaryKind.SIGN})


@operator
class Unary(Op):
    """One function of each element."""

    kind: UnaryKind
    is_pointwise: ClassVar[bool] = True

    def infer(self, x: TensorType) -> TensorType:
        """Return the operand's type; bool for ``isnan``."""
        if self.kind is UnaryKind.LOGICAL_NOT:
            check.boolean("x", x)
        elif self.kind is UnaryKind.BITWISE_NOT:
            check.integral("x", x)
        elif self.kind in _ANY_NUMBER:
            check.arithmetic("x", x)
        else:
            check.floating("x", x)
        return x.with_dtype(DType.BOOL) if self.kind is UnaryKind.ISNAN else x

    def reference(self, x: Array) -> Array:
        """Apply the NumPy function of that name; ``round`` takes halves to even."""
        if is_symbolic(x):
            return symbolic_unary(self.kind, x)
        y = unary_function(self.kind, widen(x))
        return y if self.kind is UnaryKind.ISNAN else narrow(y, x.dtype)


@operator
class Activation(Op):
    """One activation function of each element; see ActivationKind for alpha and beta."""

    kind: ActivationKind
    alpha: float = 0.0
    beta: float = 0.0
    is_pointwise: ClassVar[bool] = True

    @property
    def epilogue(self) -> Epilogue:
        """Return the same function in the form that contractions hold."""
        return Epilogue(self.kind, self.alpha, self.beta)

    def infer(self, x: TensorType) -> TensorType:
        """Return the operand's type; relu and clip also take integers."""
        if self.kind in (ActivationKind.RELU, ActivationKind.CLIP):
            check.arithmetic("x", x)
        else:
            check.floating("x", x)
        return x

    def reference(self, x: Array) -> Array:
        """Apply the function as ONNX defines it, halves in f32."""
        if is_symbolic(x):
            return symbolic_unary(self.kind, x)
        return narrow(activate(self.epilogue, widen(x)), x.dtype)


@operator
class Binary(Op):
    """One function of two elements, with NumPy broadcasting and without type promotion."""

    kind: BinaryKind
    is_pointwise: ClassVar[bool] = True

    @property
    def commutative(self) -> bool:
        """Whether the two operands may be exchanged."""
        return self.kind.is_commutative

    def infer(self, a: TensorType, b: TensorType) -> TensorType:
        """Return the broadcast shape; bool for comparisons."""
        if self.kind is not BinaryKind.POW:
            check.same_dtype("a", a, "b", b)
        self._check_dtype("a", a)
        self._check_dtype("b", b)
        dtype = DType.BOOL if self.kind.is_comparison else a.dtype
        shape = broadcast_shapes(a.shape, b.shape)
        if self.kind is BinaryKind.PRELU:
            check.broadcasts_to("the slope", b, a.shape)
            shape = a.shape
        return TensorType(dtype, shape)

    def reference(self, a: Array, b: Array) -> Array:
        """Compute in the type of the operands (halves in f32)."""
        if is_symbolic(a) or is_symbolic(b):
            return symbolic_binary(self.kind, a, b)
        if self.kind.is_bitwise or self.kind.is_logical or a.dtype == object:
            return np.asarray(binary_function(self.kind, a, b))
        y = np.asarray(binary_function(self.kind, widen(a), widen(b)))
        return y if self.kind.is_comparison else narrow(y, a.dtype)

    def _check_dtype(self, name: str, x: TensorType) -> None:
        if self.kind is BinaryKind.EQUAL:
            if x.dtype not in (DType.BOOL, DType.STR):
                check.arithmetic(name, x)
        elif self.kind.is_logical:
            check.boolean(name, x)
        elif self.kind.is_bitwise:
            check.integral(name, x)
        else:
            check.arithmetic(name, x)


@operator
class Select(Op):
    """``a`` where ``condition`` holds and ``b`` elsewhere, with NumPy broadcasting."""

    is_pointwise: ClassVar[bool] = True

    def infer(self, condition: TensorType, a: TensorType, b: TensorType) -> TensorType:
        """Return the type of ``a`` in the shape that the three broadcast to."""
        check.boolean("condition", condition)
        if a.dtype is not b.dtype:
            raise TypeMismatch(f"a is {a.dtype} but b is {b.dtype}")
        return TensorType(a.dtype, broadcast_shapes(condition.shape, a.shape, b.shape))

    def reference(self, condition: Array, a: Array, b: Array) -> Array:
        """Apply numpy.where."""
        return np.where(condition, a, b)
