"""Layers that compute each element from one element of each operand."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lamina import ops
from lamina.ir.graph import Value
from lamina.ops.kinds import ActivationKind, BinaryKind, UnaryKind
from lamina.tensorrt.check import checked
from lamina.tensorrt.enums import ActivationType, DataType, ElementWiseOperation, UnaryOperation
from lamina.tensorrt.foundation.dtype import to_ir
from lamina.tensorrt.lowering.emitter import LayerEmitter
from lamina.tensorrt.network.additions import Additions
from lamina.tensorrt.network.layer import ILayer
from lamina.tensorrt.network.setting import Setting, set_quietly
from lamina.tensorrt.network.tensor import ITensor

ACTIVATIONS = {
    "RELU": ActivationKind.RELU,
    "SIGMOID": ActivationKind.SIGMOID,
    "TANH": ActivationKind.TANH,
    "LEAKY_RELU": ActivationKind.LEAKY_RELU,
    "ELU": ActivationKind.ELU,
    "SELU": ActivationKind.SELU,
    "SOFTSIGN": ActivationKind.SOFTSIGN,
    "CLIP": ActivationKind.CLIP,
    "HARD_SIGMOID": ActivationKind.HARD_SIGMOID,
    "SCALED_TANH": ActivationKind.SCALED_TANH,
    "THRESHOLDED_RELU": ActivationKind.THRESHOLDED_RELU,
    "GELU_ERF": ActivationKind.GELU,
    "GELU_TANH": ActivationKind.GELU_TANH,
}
_PARAMETERS = {
    "LEAKY_RELU": 1, "ELU": 1, "SELU": 2, "CLIP": 2, "HARD_SIGMOID": 2, "SCALED_TANH": 2,
    "THRESHOLDED_RELU": 1,
}  # fmt: skip
BINARY = {
    "SUM": BinaryKind.ADD,
    "PROD": BinaryKind.MUL,
    "MAX": BinaryKind.MAX,
    "MIN": BinaryKind.MIN,
    "SUB": BinaryKind.SUB,
    "DIV": BinaryKind.DIV,
    "POW": BinaryKind.POW,
    "AND": BinaryKind.LOGICAL_AND,
    "OR": BinaryKind.LOGICAL_OR,
    "XOR": BinaryKind.LOGICAL_XOR,
    "EQUAL": BinaryKind.EQUAL,
    "GREATER": BinaryKind.GREATER,
    "LESS": BinaryKind.LESS,
}
UNARY = {
    "EXP": UnaryKind.EXP,
    "LOG": UnaryKind.LOG,
    "SQRT": UnaryKind.SQRT,
    "RECIP": UnaryKind.RECIPROCAL,
    "ABS": UnaryKind.ABS,
    "NEG": UnaryKind.NEG,
    "SIN": UnaryKind.SIN,
    "COS": UnaryKind.COS,
    "TAN": UnaryKind.TAN,
    "SINH": UnaryKind.SINH,
    "COSH": UnaryKind.COSH,
    "ASIN": UnaryKind.ASIN,
    "ACOS": UnaryKind.ACOS,
    "ATAN": UnaryKind.ATAN,
    "ASINH": UnaryKind.ASINH,
    "ACOSH": UnaryKind.ACOSH,
    "ATANH": UnaryKind.ATANH,
    "CEIL": UnaryKind.CEIL,
    "FLOOR": UnaryKind.FLOOR,
    "ERF": UnaryKind.ERF,
    "NOT": UnaryKind.LOGICAL_NOT,
    "SIGN": UnaryKind.SIGN,
    "ROUND": UnaryKind.ROUND,
    "ISNAN": UnaryKind.ISNAN,
}


class IActivationLayer(ILayer):
    """An activation function with up to two parameters."""

    _kind = "ACTIVATION"
    type = Setting(ActivationType, "RELU", "Which function.")
    alpha = Setting(float, 0.0, "First parameter of the function.")
    beta = Setting(float, 0.0, "Second parameter of the function.")

    def _lower(self, e: LayerEmitter, *inputs: Value | None) -> Sequence[Value]:
        (x,) = inputs
        assert x is not None
        return (apply_activation(e, x, self.type.name, self.alpha, self.beta),)


def apply_activation(e: LayerEmitter, x: Value, kind: str, alpha: float, beta: float) -> Value:
    """Emit an activation; ``alpha * log(1 + exp(beta * x))`` for SOFTPLUS."""
    if kind == "SOFTPLUS":
        inner = x if beta == 1 else e.multiply(x, e.like(beta, x))
        y = e.emit(ops.Activation(kind=ActivationKind.SOFTPLUS), inner)
        return y if alpha == 1 else e.multiply(y, e.like(alpha, y))
    count = _PARAMETERS.get(kind, 0)
    op = ops.Activation(
        kind=ACTIVATIONS[kind], alpha=alpha if count else 0.0, beta=beta if count > 1 else 0.0
    )
    return e.emit(op, x)


class IElementWiseLayer(ILayer):
    """A function of two elements; sizes of one are repeated."""

    _kind = "ELEMENTWISE"
    op = Setting(ElementWiseOperation, "SUM", "Which function.")

    def _lower(self, e: LayerEmitter, *inputs: Value | None) -> Sequence[Value]:
        a, b = inputs
        assert a is not None and b is not None
        if a.tensor.rank != b.tensor.rank:
            raise self._fail(
                f"the operands {a.tensor} and {b.tensor} have different numbers of dimensions",
                "reshape one of them with add_shuffle",
            )
        if self.op.name == "FLOOR_DIV":
            return (_floor_div(e, a, b),)
        return (e.binary(BINARY[self.op.name], a, b),)


def _floor_div(e: LayerEmitter, a: Value, b: Value) -> Value:
    if a.tensor.dtype.is_float:
        return e.emit(ops.Unary(kind=UnaryKind.FLOOR), e.binary(BinaryKind.DIV, a, b))
    if e.is_known(a) and e.is_known(b):
        return e.binary(BinaryKind.DIV, a, b)  # sizes are not negative, so both roundings agree
    rest = e.binary(BinaryKind.MOD, a, b)  # has the sign of the divisor
    return e.binary(BinaryKind.DIV, e.binary(BinaryKind.SUB, a, rest), b)


class IUnaryLayer(ILayer):
    """A function of one element."""

    _kind = "UNARY"
    op = Setting(UnaryOperation, "EXP", "Which function.")

    def _lower(self, e: LayerEmitter, *inputs: Value | None) -> Sequence[Value]:
        (x,) = inputs
        assert x is not None
        if self.op.name == "ISINF":
            size = e.emit(ops.Unary(kind=UnaryKind.ABS), x)
            return (e.binary(BinaryKind.EQUAL, size, e.like(np.inf, x)),)
        return (e.emit(ops.Unary(kind=UNARY[self.op.name]), x),)


class IParametricReLULayer(ILayer):
    """The operand where it is positive, the operand times a slope elsewhere."""

    _kind = "PARAMETRIC_RELU"

    def _lower(self, e: LayerEmitter, *inputs: Value | None) -> Sequence[Value]:
        x, slopes = inputs
        assert x is not None and slopes is not None
        return (e.binary(BinaryKind.PRELU, x, slopes),)


class ISelectLayer(ILayer):
    """Elements of the second operand where the first is true, else of the third."""

    _kind = "SELECT"

    def _lower(self, e: LayerEmitter, *inputs: Value | None) -> Sequence[Value]:
        condition, a, b = inputs
        assert condition is not None and a is not None and b is not None
        return (e.emit(ops.Select(), condition, a, b),)


class IIdentityLayer(ILayer):
    """The operand; with another output type, a conversion."""

    _kind = "IDENTITY"

    def _lower(self, e: LayerEmitter, *inputs: Value | None) -> Sequence[Value]:
        (x,) = inputs
        assert x is not None
        wanted = self._output_types.get(0)
        return (x if wanted is None else e.cast(x, to_ir(wanted)),)


class ICastLayer(ILayer):
    """A conversion to another element type."""

    _kind = "CAST"
    to_type = Setting(DataType, "FLOAT", "Type of the result.")

    def _lower(self, e: LayerEmitter, *inputs: Value | None) -> Sequence[Value]:
        (x,) = inputs
        assert x is not None
        return (e.cast(x, to_ir(self.to_type)),)


class PointwiseAdditions(Additions):
    """``add_*`` of the layers of this module."""

    @checked
    def add_activation(self, input: ITensor, type: ActivationType) -> IActivationLayer:
        """Add an activation function."""
        layer = self._add(IActivationLayer(self._state, [input]))
        set_quietly(layer, type=type)
        return layer

    @checked
    def add_elementwise(
        self, input1: ITensor, input2: ITensor, op: ElementWiseOperation
    ) -> IElementWiseLayer:
        """Add a function of two tensors."""
        layer = self._add(IElementWiseLayer(self._state, [input1, input2]))
        set_quietly(layer, op=op)
        return layer

    @checked
    def add_unary(self, input: ITensor, op: UnaryOperation) -> IUnaryLayer:
        """Add a function of one tensor."""
        layer = self._add(IUnaryLayer(self._state, [input]))
        set_quietly(layer, op=op)
        return layer

    @checked
    def add_parametric_relu(self, input: ITensor, slopes: ITensor) -> IParametricReLULayer:
        """Add a leaky ReLU with slopes from a tensor."""
        return self._add(IParametricReLULayer(self._state, [input, slopes]))

    @checked
    def add_select(
        self, condition: ITensor, then_input: ITensor, else_input: ITensor
    ) -> ISelectLayer:
        """Add a choice between two tensors, element by element."""
        return self._add(ISelectLayer(self._state, [condition, then_input, else_input]))

    @checked
    def add_identity(self, input: ITensor) -> IIdentityLayer:
        """Add a layer that passes its operand on."""
        return self._add(IIdentityLayer(self._state, [input]))

    @checked
    def add_cast(self, input: ITensor, to_type: DataType) -> ICastLayer:
        """Add a conversion to another element type."""
        layer = self._add(ICastLayer(self._state, [input]))
        set_quietly(layer, to_type=to_type)
        return layer


__all__ = [
    "IActivationLayer",
    "ICastLayer",
    "IElementWiseLayer",
    "IIdentityLayer",
    "IParametricReLULayer",
    "ISelectLayer",
    "IUnaryLayer",
]
