"""What plugins are told about their operands and results."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from lamina.ir.attributes import attribute_symbols
from lamina.ir.dims import Dim, evaluate
from lamina.ir.types import TensorType
from lamina.tensorrt.enums import DataType, TensorFormat
from lamina.tensorrt.foundation.dims import Dims
from lamina.tensorrt.foundation.dtype import from_ir

_NOTHING: Final[Mapping[str, tuple[int, int, int]]] = MappingProxyType({})


class PluginTensorDesc:
    """Shape, element type and format of a tensor."""

    dims = Dims(())
    type = DataType.named("FLOAT")
    format = TensorFormat.named("LINEAR")
    scale = 0.0

    def __init__(self) -> None:
        """Describe a scalar in f32."""
        self.dims = Dims(())
        self.type = DataType.named("FLOAT")
        self.format = TensorFormat.named("LINEAR")
        self.scale = 0.0


class DynamicPluginTensorDesc:
    """A tensor with its smallest, likeliest and largest shape."""

    desc = PluginTensorDesc()
    min = opt = max = Dims(())

    def __init__(self) -> None:
        """Describe a scalar in f32."""
        self.desc = PluginTensorDesc()
        self.min = Dims(())
        self.opt = Dims(())
        self.max = Dims(())


def described(type: TensorType) -> PluginTensorDesc:
    """Return the description of a type; sizes that are not known are -1."""
    found = PluginTensorDesc()
    found.dims = Dims([d if isinstance(d, int) else -1 for d in type.shape])
    found.type = from_ir(type.dtype)
    return found


SizeRanges = Mapping[str, tuple[int, int, int]]
"""Smallest, likeliest and largest value of symbols."""


def dynamic(type: TensorType, sizes: SizeRanges = _NOTHING) -> DynamicPluginTensorDesc:
    """Return the description of a type with the ranges of its sizes, by the values of symbols.

    Sizes with other symbols, which only a run tells, begin and end at 1.
    """
    found = DynamicPluginTensorDesc()
    found.desc = described(type)
    ends = [{name: values[i] for name, values in sizes.items()} for i in range(3)]
    found.min, found.opt, found.max = (Dims([_size(d, env) for d in type.shape]) for env in ends)
    return found


def _size(d: Dim, env: Mapping[str, int]) -> int:
    known = all(s in env for s in attribute_symbols(d))
    return evaluate(d, env) if known else 1


__all__ = ["DynamicPluginTensorDesc", "PluginTensorDesc"]
