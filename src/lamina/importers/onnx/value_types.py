"""Names for symbolic dimensions, and conversion between TypeProto and value types."""

from __future__ import annotations

import keyword
import re
from collections.abc import Mapping, Sequence

import onnx

from lamina.errors import ConfigError, ImportFailed
from lamina.importers.onnx.tensors import NUMBERS, dtype_of
from lamina.ir.dims import Dim, Expr, is_static, sym
from lamina.ir.types import OptionalType, SequenceType, TensorType, ValueType

Shapes = Mapping[str, int | Sequence[int | str]]
"""Sizes that the caller fixes: a symbol's number, or all dimensions of an input."""


class Symbols:
    """Gives every dimension parameter of a model one symbol whose name is an identifier."""

    def __init__(self, shapes: Shapes | None = None) -> None:
        self._by_parameter: dict[str, Expr] = {}
        self._taken: set[str] = set()
        self._numbers: dict[str, int] = {}
        self.overrides: dict[str, Sequence[int | str]] = {}
        for key, value in (shapes or {}).items():
            if isinstance(value, int):
                self._numbers[key] = value
            else:
                self.overrides[key] = value

    def named(self, parameter: str) -> Dim:
        """Return the dimension for a ``dim_param``, a number where the caller gave one."""
        if parameter in self._numbers:
            return self._numbers[parameter]
        if parameter not in self._by_parameter:
            self._by_parameter[parameter] = self.fresh(parameter)
        return self._by_parameter[parameter]

    def fresh(self, hint: str) -> Expr:
        """Return a symbol that nothing else uses, named after ``hint``."""
        name = base = _identifier(hint)
        n = 1
        while name in self._taken:
            name = f"{base}_{n}"
            n += 1
        self._taken.add(name)
        return sym(name)

    def check_used(self, inputs: Sequence[str]) -> None:
        """Raise ConfigError when ``shapes`` names an input that does not exist."""
        unknown = [name for name in self.overrides if name not in inputs]
        if unknown:
            raise ConfigError(
                f"shapes names the input {unknown[0]!r}, which the model does not have",
                hint=f"its inputs are {', '.join(inputs)}",
            )


def value_type(proto: onnx.TypeProto, symbols: Symbols, name: str) -> ValueType | None:
    """Convert a declared type; None when it leaves the rank or the element type open.

    Dimensions without a size or name get a fresh symbol called after ``name``.
    """
    kind = proto.WhichOneof("value")
    if kind == "tensor_type":
        tensor = proto.tensor_type
        if not tensor.elem_type or (not tensor.HasField("shape") and name not in symbols.overrides):
            return None
        return TensorType(dtype_of(tensor.elem_type), _shape(tensor.shape, symbols, name))
    if kind in ("sequence_type", "optional_type"):
        element = value_type(getattr(proto, kind).elem_type, symbols, name)
        if element is None:
            return None
        return SequenceType(element) if kind == "sequence_type" else OptionalType(element)
    return None


def _shape(shape: onnx.TensorShapeProto, symbols: Symbols, name: str) -> tuple[Dim, ...]:
    if name in symbols.overrides:
        given = symbols.overrides[name]
        declared = len(shape.dim)
        if declared and declared != len(given):
            raise ConfigError(
                f"shapes gives {len(given)} dimensions for the input {name!r}, "
                f"the model declares {declared}"
            )
        return tuple(d if isinstance(d, int) else symbols.named(d) for d in given)
    return tuple(_dim(d, symbols, f"{name}_dim{i}") for i, d in enumerate(shape.dim))


def _dim(d: onnx.TensorShapeProto.Dimension, symbols: Symbols, hint: str) -> Dim:
    if d.HasField("dim_value") and d.dim_value >= 0:
        return int(d.dim_value)
    if d.dim_param:
        return symbols.named(d.dim_param)
    return symbols.fresh(hint)


def type_proto(type: ValueType) -> onnx.TypeProto:
    """Convert a value type to a TypeProto; symbolic dimensions keep their text as parameter."""
    result = onnx.TypeProto()
    if isinstance(type, TensorType):
        result.tensor_type.elem_type = NUMBERS[type.dtype]
        result.tensor_type.shape.SetInParent()
        for d in type.shape:
            proto = result.tensor_type.shape.dim.add()
            if is_static(d):
                proto.dim_value = int(d)  # type: ignore[arg-type]
            else:
                proto.dim_param = str(d)
    elif isinstance(type, SequenceType):
        result.sequence_type.elem_type.CopyFrom(type_proto(type.element))
    elif isinstance(type, OptionalType):
        result.optional_type.elem_type.CopyFrom(type_proto(type.element))
    else:
        raise ImportFailed(f"{type} has no ONNX type")
    return result


def _identifier(text: str) -> str:
    name = re.sub(r"\W", "_", text, flags=re.ASCII) or "dim"
    if name[0].isdigit() or keyword.iskeyword(name):
        name = f"_{name}"
    return name
