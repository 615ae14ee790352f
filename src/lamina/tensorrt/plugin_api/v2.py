"""Plugins of the second generation, which users subclass."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from lamina.tensorrt.enums import DataType
from lamina.tensorrt.foundation.interface import IVersionedInterface
from lamina.tensorrt.plugin_api.descriptions import DynamicPluginTensorDesc, PluginTensorDesc
from lamina.tensorrt.plugin_api.expressions import DimsExprs, IExprBuilder
from lamina.tensorrt.plugin_api.fields import PluginFieldCollection_


class IPluginV2:
    """A plugin: a name, a version and a number of results."""

    num_outputs = 1
    plugin_type = ""
    plugin_version = "1"
    plugin_namespace = ""
    tensorrt_version = 0
    serialization_size = 0

    def initialize(self) -> int:
        """Get ready to run; returns 0."""
        return 0

    def terminate(self) -> None:
        """Give back what ``initialize`` took."""

    def serialize(self) -> bytes:
        """Return what ``deserialize_plugin`` of the creator needs."""
        return b""

    def destroy(self) -> None:
        """End the plugin's life."""

    def clone(self) -> Any:
        """Return a copy that runs by itself."""
        raise _missing(self, "clone()")


class IPluginV2Ext(IPluginV2):
    """A plugin that tells the types of its results."""

    def attach_to_context(self, cudnn: Any, cublas: Any, allocator: Any) -> None:
        """Learn of the context's resources."""

    def detach_from_context(self) -> None:
        """Forget the context's resources."""


class IPluginV2DynamicExtBase(IPluginV2Ext):
    """What dynamic plugins have in common."""


class IPluginV2DynamicExt(IPluginV2DynamicExtBase):
    """A plugin for tensors of any shape; subclass it and define the methods that raise here."""

    FORMAT_COMBINATION_LIMIT: ClassVar[int] = 100

    def __init__(self, other: IPluginV2DynamicExt | None = None) -> None:
        """Begin a new plugin, or a copy of another."""
        if other is not None:
            self.__dict__.update(other.__dict__)

    def get_output_datatype(self, index: int, input_types: Sequence[DataType]) -> DataType:
        """Return the element type of a result: that of the first operand."""
        return input_types[0]

    def get_output_dimensions(
        self, output_index: int, inputs: list[DimsExprs], expr_builder: IExprBuilder
    ) -> DimsExprs:
        """Return the shape of a result."""
        raise _missing(self, "get_output_dimensions(output_index, inputs, expr_builder)")

    def supports_format_combination(
        self, pos: int, in_out: list[PluginTensorDesc], num_inputs: int
    ) -> bool:
        """Whether tensor ``pos`` may be as described, given those before it."""
        raise _missing(self, "supports_format_combination(pos, in_out, num_inputs)")

    def configure_plugin(
        self, inp: list[DynamicPluginTensorDesc], out: list[DynamicPluginTensorDesc]
    ) -> None:
        """Learn the types and shapes that were chosen."""

    def get_workspace_size(
        self, input_desc: list[PluginTensorDesc], output_desc: list[PluginTensorDesc]
    ) -> int:
        """Return the bytes that ``enqueue`` needs beside its tensors."""
        return 0

    def get_serialization_size(self) -> int:
        """Return the bytes of ``serialize``."""
        return len(self.serialize())

    def enqueue(
        self,
        input_desc: list[PluginTensorDesc],
        output_desc: list[PluginTensorDesc],
        inputs: list[int],
        outputs: list[int],
        workspace: int,
        stream: int,
    ) -> int:
        """Compute the results at the addresses ``outputs``; returns 0."""
        raise _missing(self, "enqueue(input_desc, output_desc, inputs, outputs, workspace, stream)")


class IPluginCreatorInterface(IVersionedInterface):
    """What all creators have in common."""

    name = ""
    plugin_version = "1"
    plugin_namespace = ""
    field_names: Any = PluginFieldCollection_()


class IPluginCreator(IPluginCreatorInterface):
    """Makes plugins of the second generation."""

    tensorrt_version = 0

    def create_plugin(self, name: str, field_collection: PluginFieldCollection_) -> Any:
        """Return a plugin with these attributes."""
        raise _missing(self, "create_plugin(name, field_collection)")

    def deserialize_plugin(self, name: str, serialized_plugin: bytes) -> Any:
        """Return the plugin in what its ``serialize`` gave."""
        raise _missing(self, "deserialize_plugin(name, serialized_plugin)")


def _missing(owner: object, method: str) -> NotImplementedError:
    return NotImplementedError(f"{type(owner).__name__} must define {method}")


__all__ = [
    "IPluginCreator",
    "IPluginCreatorInterface",
    "IPluginV2",
    "IPluginV2DynamicExt",
    "IPluginV2DynamicExtBase",
    "IPluginV2Ext",
]
