"""Tensors that are written like arrays while a standard plugin is composed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx

from lamina import ops
from lamina.importers.onnx.importer import inline
from lamina.importers.onnx.node import OnnxNode
from lamina.ir.dims import Dim
from lamina.ir.graph import Value
from lamina.ir.types import DType

_OPSET = 21


class Tensor:
    """A value that arithmetic applies to; shapes may hold symbols."""

    __slots__ = ("e", "value")

    def __init__(self, e: OnnxNode, value: Value) -> None:
        self.e, self.value = e, value

    @property
    def shape(self) -> tuple[Dim, ...]:
        """Sizes."""
        return self.value.tensor.shape

    @property
    def dtype(self) -> DType:
        """Element type."""
        return self.value.tensor.dtype

    def onnx(self, name: str, *operands: Any, **attributes: Any) -> Tensor:
        """Apply an operator of ONNX with one result; numbers become constants of this type."""
        return self.several(name, 1, *operands, **attributes)[0]

    def several(self, name: str, results: int, *operands: Any, **attributes: Any) -> list[Tensor]:
        """Apply an operator of ONNX with several results; None stands for an absent operand."""
        given = [self.value, *(None if x is None else self._of(x).value for x in operands)]
        found = apply(self.e, name, given, results, attributes)
        return [Tensor(self.e, v) for v in found]

    def _of(self, x: Any) -> Tensor:
        if isinstance(x, Tensor):
            return x
        array = np.asarray(x)
        kind = self.dtype if array.dtype.kind == "f" or array.ndim == 0 else None
        return Tensor(self.e, self.e.constant(array, kind))

    def constant(self, array: Any) -> Tensor:
        """Return a constant of this element type."""
        return Tensor(self.e, self.e.constant(np.asarray(array), self.dtype))

    def __add__(self, x: Any) -> Tensor:
        return self.onnx("Add", x)

    def __sub__(self, x: Any) -> Tensor:
        return self.onnx("Sub", x)

    def __mul__(self, x: Any) -> Tensor:
        return self.onnx("Mul", x)

    def __truediv__(self, x: Any) -> Tensor:
        return self.onnx("Div", x)

    def __le__(self, x: Any) -> Tensor:
        return self.onnx("LessOrEqual", x)

    def __ge__(self, x: Any) -> Tensor:
        return self.onnx("GreaterOrEqual", x)

    def __gt__(self, x: Any) -> Tensor:
        return self.onnx("Greater", x)

    def __and__(self, x: Tensor) -> Tensor:
        return self.onnx("And", x)

    def __or__(self, x: Tensor) -> Tensor:
        return self.onnx("Or", x)

    __radd__, __rmul__ = __add__, __mul__

    def exp(self) -> Tensor:
        """Return the exponential function of each element."""
        return self.onnx("Exp")

    def clip(self, low: float, high: float) -> Tensor:
        """Return elements kept between two numbers."""
        return self.onnx("Clip", low, high)

    def cast(self, dtype: DType) -> Tensor:
        """Return elements in another type."""
        return Tensor(self.e, self.e.cast(self.value, dtype))

    def reshape(self, *shape: Dim) -> Tensor:
        """Return the elements in another shape."""
        return Tensor(self.e, self.e.reshape(self.value, tuple(shape)))

    def expand(self, *shape: Dim) -> Tensor:
        """Return the elements repeated to a shape."""
        return Tensor(self.e, self.e.expand(self.value, tuple(shape)))

    def filled(self, number: float, *shape: Dim) -> Tensor:
        """Return a tensor of this type with the same number everywhere."""
        return Tensor(self.e, self.e.fill(number, self.dtype, tuple(shape)))

    def transpose(self, *perm: int) -> Tensor:
        """Return the axes in another order."""
        return Tensor(self.e, self.e.transpose(self.value, perm))

    def part(self, axis: int, start: Dim, size: Dim) -> Tensor:
        """Return ``size`` elements of an axis from ``start`` on."""
        axis %= len(self.shape)
        op = ops.Slice(
            starts=tuple(start if a == axis else 0 for a in range(len(self.shape))),
            sizes=tuple(size if a == axis else d for a, d in enumerate(self.shape)),
            steps=(1,) * len(self.shape),
        )
        return Tensor(self.e, self.e.emit(op, self.value))

    def parts(self, axis: int, count: int) -> list[Tensor]:
        """Return the elements of an axis of ``count`` one by one; the axis stays, with size 1."""
        return [self.part(axis, i, 1) for i in range(count)]

    def where(self, yes: Any, no: Any) -> Tensor:
        """Return elements of ``yes`` where this is true, else of ``no``."""
        known = yes if isinstance(yes, Tensor) else no
        return self.onnx("Where", known._of(yes), known._of(no))


def joined(tensors: Sequence[Tensor], axis: int) -> Tensor:
    """Return tensors behind each other along an axis."""
    first, *rest = tensors
    return first.onnx("Concat", *rest, axis=axis) if rest else first


def apply(
    e: OnnxNode,
    name: str,
    operands: Sequence[Value | None],
    results: int,
    attributes: dict[str, Any],
) -> list[Value]:
    """Emit one operator of ONNX and return its results."""
    inputs = [f"i{k}" for k in range(len(operands))]
    outputs = [f"o{k}" for k in range(results)]
    given = [i if v is not None else "" for i, v in zip(inputs, operands, strict=True)]
    node = onnx.helper.make_node(name, given, outputs, **attributes)
    function = onnx.helper.make_function(
        "lamina", name, inputs, outputs, [node], [onnx.helper.make_opsetid("", _OPSET)]
    )
    call = onnx.NodeProto(op_type=name, name=e.proto.name)
    call.output.extend(outputs)
    return inline(OnnxNode(call, {}, e.opset, e.loc, e.scope, list(operands)), function, {})
