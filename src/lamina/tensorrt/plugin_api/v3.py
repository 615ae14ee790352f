"""Plugins of the third generation, which users subclass: core, build and runtime parts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from lamina.tensorrt.enums import DataType, PluginCapabilityType, TensorRTPhase
from lamina.tensorrt.foundation.interface import IVersionedInterface
from lamina.tensorrt.plugin_api.descriptions import DynamicPluginTensorDesc, PluginTensorDesc
from lamina.tensorrt.plugin_api.expressions import DimsExprs, IExprBuilder
from lamina.tensorrt.plugin_api.fields import PluginFieldCollection_
from lamina.tensorrt.plugin_api.v2 import IPluginCreatorInterface


class IPluginCapability(IVersionedInterface):
    """Base of the parts of a plugin."""


class IPluginV3(IVersionedInterface):
    """A plugin; its parts are asked for by kind and often are the plugin itself."""

    def __init__(self, other: IPluginV3 | None = None) -> None:
        """Begin a new plugin."""

    def get_capability_interface(self, type: PluginCapabilityType) -> Any:
        """Return a part of the plugin."""
        return self

    def clone(self) -> Any:
        """Return a copy that runs by itself."""
        raise _missing(self, "clone()")

    def destroy(self) -> None:
        """End the plugin's life."""


class IPluginV3OneCore(IPluginCapability):
    """The part that names the plugin."""

    plugin_name = ""
    plugin_version = "1"
    plugin_namespace = ""

    def __init__(self, other: Any = None) -> None:
        """Begin a new part."""


class IPluginV3OneBuild(IPluginCapability):
    """The part that is asked while an engine is built."""

    DEFAULT_FORMAT_COMBINATION_LIMIT: ClassVar[int] = 100
    num_outputs = 1
    format_combination_limit = 100
    metadata_string = ""
    timing_cache_id = ""

    def __init__(self, other: Any = None) -> None:
        """Begin a new part."""

    def get_output_data_types(self, input_types: Sequence[DataType]) -> list[DataType]:
        """Return the element type of each result."""
        raise _missing(self, "get_output_data_types(input_types)")

    def get_output_shapes(
        self,
        inputs: list[DimsExprs],
        shape_inputs: list[DimsExprs],
        expr_builder: IExprBuilder,
    ) -> list[DimsExprs]:
        """Return the shape of each result."""
        raise _missing(self, "get_output_shapes(inputs, shape_inputs, expr_builder)")

    def supports_format_combination(
        self, pos: int, in_out: list[DynamicPluginTensorDesc], num_inputs: int
    ) -> bool:
        """Whether tensor ``pos`` may be as described, given those before it."""
        raise _missing(self, "supports_format_combination(pos, in_out, num_inputs)")

    def configure_plugin(
        self, inp: list[DynamicPluginTensorDesc], out: list[DynamicPluginTensorDesc]
    ) -> None:
        """Learn the types and shapes that were chosen."""

    def get_workspace_size(
        self, inp: list[DynamicPluginTensorDesc], out: list[DynamicPluginTensorDesc]
    ) -> int:
        """Return the bytes that ``enqueue`` needs beside its tensors."""
        return 0

    def get_valid_tactics(self) -> list[int]:
        """Return the numbers of the plugin's tactics, none where it has one way only."""
        return []


class IPluginV3OneBuildV2(IPluginV3OneBuild):
    """A build part whose results may overwrite operands."""

    def get_aliased_input(self, output_index: int) -> int:
        """Return the operand that a result overwrites, -1 for none."""
        return -1


class IPluginV3OneRuntime(IPluginCapability):
    """The part that runs."""

    def __init__(self, other: Any = None) -> None:
        """Begin a new part."""

    def on_shape_change(
        self, inp: list[PluginTensorDesc], out: list[PluginTensorDesc]
    ) -> int | None:
        """Learn the shapes of the next runs; returns 0."""
        return 0

    def set_tactic(self, tactic: int) -> int | None:
        """Learn which tactic was chosen; returns 0."""
        return 0

    def get_fields_to_serialize(self) -> PluginFieldCollection_:
        """Return the attributes with which the creator makes the plugin again."""
        raise _missing(self, "get_fields_to_serialize()")

    def attach_to_context(self, resource_context: Any) -> Any:
        """Return a copy of the plugin for an execution context."""
        return self

    def enqueue(
        self,
        input_desc: list[PluginTensorDesc],
        output_desc: list[PluginTensorDesc],
        inputs: list[int],
        outputs: list[int],
        workspace: int,
        stream: int,
    ) -> int | None:
        """Compute the results at the addresses ``outputs``; returns 0 or nothing."""
        raise _missing(self, "enqueue(input_desc, output_desc, inputs, outputs, workspace, stream)")


class IPluginCreatorV3One(IPluginCreatorInterface):
    """Makes plugins of the third generation."""

    def create_plugin(
        self, name: str, field_collection: PluginFieldCollection_, phase: TensorRTPhase
    ) -> Any:
        """Return a plugin with these attributes."""
        raise _missing(self, "create_plugin(name, field_collection, phase)")


class IPluginResource(IVersionedInterface):
    """Something that plugins share."""

    def release(self) -> None:
        """Give the resource back."""

    def clone(self) -> Any:
        """Return the resource that is kept."""
        return self


class IPluginResourceContext:
    """What a context offers to its plugins."""

    error_recorder: Any = None
    gpu_allocator: Any = None


def _missing(owner: object, method: str) -> NotImplementedError:
    return NotImplementedError(f"{type(owner).__name__} must define {method}")


__all__ = [
    "IPluginCapability",
    "IPluginCreatorV3One",
    "IPluginResource",
    "IPluginResourceContext",
    "IPluginV3",
    "IPluginV3OneBuild",
    "IPluginV3OneBuildV2",
    "IPluginV3OneCore",
    "IPluginV3OneRuntime",
]
