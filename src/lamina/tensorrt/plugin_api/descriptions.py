"""What plugins are told about their operands and results."""

from __future__ import annotations

from lamina.ir.types import TensorType
from lamina.tensorrt.enums import DataType, TensorFormat
from lamina.tensorrt.foundation.dims import Dims
from lamina.tensorrt.foundation.dtype import from_ir


class PluginTensorDesc:
    """Shape, element type and format of a tensor."""

    def __init__(self) -> None:
        """Describe a scalar in f32."""
        self.dims = Dims(())
        self.type = DataType.named("FLOAT")
        self.format = TensorFormat.named("LINEAR")
        self.scale = 0.0


class DynamicPluginTensorDesc:
    """A tensor with its smallest, likeliest and largest shape."""

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


def dynamic(type: TensorType) -> DynamicPluginTensorDesc:
    """Return the description of a type with the ranges of its sizes.

    Profiles are not known where plugins are asked, so sizes that are not known begin and end at 1.
    """
    found = DynamicPluginTensorDesc()
    found.desc = described(type)
    found.min = found.opt = found.max = Dims([d if isinstance(d, int) else 1 for d in type.shape])
    return found


__all__ = ["DynamicPluginTensorDesc", "PluginTensorDesc"]
