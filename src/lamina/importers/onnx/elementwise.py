"""Arithmetic, comparisons, logic and casts."""

from __future__ import annotations

from functools import reduce

import numpy as np

from lamina import ops
from lamina.importers.onnx.node import OnnxNode
from lamina.importers.onnx.table import Importer, Table
from lamina.importers.onnx.tensors import dtype_of
from lamina.ir.graph import Value
from lamina.ir.types import DType
from lamina.ops.check import STORAGE_TYPES
from lamina.ops.kinds import BinaryKind, E8M0Rounding, UnaryKind

table = Table()

_UNARY = {
    "Abs": UnaryKind.ABS,
    "Acos": UnaryKind.ACOS,
    "Acosh": UnaryKind.ACOSH,
    "Asin": UnaryKind.ASIN,
    "Asinh": UnaryKind.ASINH,
    "Atan": UnaryKind.ATAN,
    "Atanh": UnaryKind.ATANH,
    "BitwiseNot": UnaryKind.BITWISE_NOT,
    "Ceil": UnaryKind.CEIL,
    "Cos": UnaryKind.COS,
    "Cosh": UnaryKind.COSH,
    "Erf": UnaryKind.ERF,
    "Exp": UnaryKind.EXP,
    "Floor": UnaryKind.FLOOR,
    "Log": UnaryKind.LOG,
    "Neg": UnaryKind.NEG,
    "Not": UnaryKind.LOGICAL_NOT,
    "Reciprocal": UnaryKind.RECIPROCAL,
    "Round": UnaryKind.ROUND,
    "Sign": UnaryKind.SIGN,
    "Sin": UnaryKind.SIN,
    "Sinh": UnaryKind.SINH,
    "Sqrt": UnaryKind.SQRT,
    "Tan": UnaryKind.TAN,
}
_BINARY = {
    "Add": BinaryKind.ADD,
    "And": BinaryKind.LOGICAL_AND,
    "BitwiseAnd": BinaryKind.BITWISE_AND,
    "BitwiseOr": BinaryKind.BITWISE_OR,
    "BitwiseXor": BinaryKind.BITWISE_XOR,
    "Div": BinaryKind.DIV,
    "Equal": BinaryKind.EQUAL,
    "Greater": BinaryKind.GREATER,
    "GreaterOrEqual": BinaryKind.GREATER_EQUAL,
    "Less": BinaryKind.LESS,
    "LessOrEqual": BinaryKind.LESS_EQUAL,
    "Mul": BinaryKind.MUL,
    "Or": BinaryKind.LOGICAL_OR,
    "Pow": BinaryKind.POW,
    "Sub": BinaryKind.SUB,
    "Xor": BinaryKind.LOGICAL_XOR,
}


def _unary(kind: UnaryKind) -> Importer:
    def importer(n: OnnxNode, x: Value) -> Value:
        return n.emit(ops.Unary(kind=kind), x)

    return importer


def _binary(kind: BinaryKind) -> Importer:
    def importer(n: OnnxNode, a: Value, b: Value) -> Value:
        return n.emit(ops.Binary(kind=kind), a, aligned(n, a, b))

    return importer


for _name, _kind in _UNARY.items():
    table.op(_name)(_unary(_kind))
for _name, _binary_kind in _BINARY.items():
    table.op(_name)(_binary(_binary_kind))


def aligned(n: OnnxNode, a: Value, b: Value) -> Value:
    """Return ``b`` ready for broadcasting: before opset 7 an attribute says where it starts."""
    if n.opset >= 7 or not n.flag("broadcast") or not n.has("axis"):
        return b
    after = a.tensor.rank - n.axis(a) - b.tensor.rank
    return n.reshape(b, (*b.tensor.shape, *(1 for _ in range(after))))


@table.op("Max")
def maximum(n: OnnxNode, *xs: Value) -> Value:
    """Import Max, the largest of any number of operands."""
    return _fold(n, BinaryKind.MAX, xs)


@table.op("Min")
def minimum(n: OnnxNode, *xs: Value) -> Value:
    """Import Min, the smallest of any number of operands."""
    return _fold(n, BinaryKind.MIN, xs)


@table.op("Sum")
def total(n: OnnxNode, *xs: Value) -> Value:
    """Import Sum, the sum of any number of operands."""
    return _fold(n, BinaryKind.ADD, xs)


@table.op("Mean")
def mean(n: OnnxNode, *xs: Value) -> Value:
    """Import Mean, the mean of any number of operands."""
    return n.binary(BinaryKind.DIV, _fold(n, BinaryKind.ADD, xs), n.like(len(xs), xs[0]))


def _fold(n: OnnxNode, kind: BinaryKind, xs: tuple[Value, ...]) -> Value:
    if not xs:
        raise n.unsupported("it has no operands")
    return reduce(lambda a, b: n.binary(kind, a, b), xs)


@table.op("Mod")
def mod(n: OnnxNode, a: Value, b: Value) -> Value:
    """Import Mod: the sign of the divisor, or of the dividend with ``fmod``."""
    return n.binary(BinaryKind.FMOD if n.flag("fmod") else BinaryKind.MOD, a, b)


@table.op("BitShift")
def bit_shift(n: OnnxNode, a: Value, b: Value) -> Value:
    """Import BitShift."""
    left = n.choice("direction", "LEFT", "RIGHT") == "LEFT"
    return n.binary(BinaryKind.SHIFT_LEFT if left else BinaryKind.SHIFT_RIGHT, a, b)


@table.op("Where")
def where(n: OnnxNode, condition: Value, a: Value, b: Value) -> Value:
    """Import Where."""
    return n.emit(ops.Select(), condition, a, b)


@table.op("IsNaN")
def is_nan(n: OnnxNode, x: Value) -> Value:
    """Import IsNaN."""
    return n.emit(ops.Unary(kind=UnaryKind.ISNAN), _with_arithmetic(n, x))


@table.op("IsInf")
def is_inf(n: OnnxNode, x: Value) -> Value:
    """Import IsInf as comparisons with the infinities that are asked for."""
    x = _with_arithmetic(n, x)
    signs = [
        n.binary(BinaryKind.EQUAL, x, n.like(value, x))
        for name, value in (("detect_negative", -np.inf), ("detect_positive", np.inf))
        if n.flag(name, True)
    ]
    if not signs:
        return n.fill(False, DType.BOOL, x.tensor.shape)
    return reduce(lambda a, b: n.binary(BinaryKind.LOGICAL_OR, a, b), signs)


def _with_arithmetic(n: OnnxNode, x: Value) -> Value:
    return n.cast(x, DType.F32) if x.tensor.dtype in STORAGE_TYPES else x


@table.op("Cast")
def cast(n: OnnxNode, x: Value) -> Value:
    """Import Cast; text becomes numbers (and numbers text) on the host."""
    return _cast(n, x, dtype_of(n.integer("to")) if n.opset >= 6 else _named_dtype(n))


@table.op("CastLike")
def cast_like(n: OnnxNode, x: Value, like: Value) -> Value:
    """Import CastLike."""
    return _cast(n, x, like.tensor.dtype)


def _named_dtype(n: OnnxNode) -> DType:
    names = {"FLOAT": DType.F32, "DOUBLE": DType.F64, "FLOAT16": DType.F16, "BOOL": DType.BOOL}
    name = n.text("to")
    return names.get(name) or DType(name.replace("UINT", "u").replace("INT", "i"))


def _cast(n: OnnxNode, x: Value, dtype: DType) -> Value:
    if x.tensor.dtype is dtype:
        return x
    if DType.STR in (dtype, x.tensor.dtype):
        raise n.unsupported("text is converted on the host")
    rounding = E8M0Rounding(n.choice("round_mode", "up", "down", "nearest"))
    op = ops.Cast(dtype=dtype, saturate=n.flag("saturate", True), rounding=rounding)
    return n.emit(op, x)


@table.op("BitCast")
def bitcast(n: OnnxNode, x: Value) -> Value:
    """Import BitCast."""
    return n.emit(ops.Bitcast(dtype=dtype_of(n.integer("to"))), x)
