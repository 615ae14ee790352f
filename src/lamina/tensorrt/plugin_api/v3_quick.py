"""Plugins of the quick kind, which users may subclass as they do the third generation's parts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lamina.tensorrt.enums import (
    DataType,
    QuickPluginCreationRequest,
    TensorFormat,
    TensorRTPhase,
)
from lamina.tensorrt.plugin_api.descriptions import (
    DynamicPluginTensorDesc,
    PluginTensorDesc,
)
from lamina.tensorrt.plugin_api.expressions import DimsExprs, IExprBuilder
from lamina.tensorrt.plugin_api.fields import PluginFieldCollection_
from lamina.tensorrt.plugin_api.launch import ISymExprs, KernelLaunchParams
from lamina.tensorrt.plugin_api.v2 import IPluginCreatorInterface
from lamina.tensorrt.plugin_api.v3 import IPluginCapability, IPluginV3OneCore


class IPluginV3QuickCore(IPluginV3OneCore):
    """The part that names the plugin."""


class IPluginV3QuickBuild(IPluginCapability):
    """The part that is asked while an engine is built."""

    num_outputs = 1
    metadata_string = ""
    timing_cache_id = ""

    def __init__(self, other: Any = None) -> None:
        """Begin a new part."""

    def get_num_outputs(self) -> int:
        """Return the number of results."""
        return int(self.num_outputs)

    def get_output_data_types(
        self, input_types: Sequence[DataType], ranks: Sequence[int]
    ) -> list[DataType]:
        """Return the element type of each result."""
        raise _missing(self, "get_output_data_types(input_types, ranks)")

    def get_output_shapes(
        self,
        inputs: list[DimsExprs],
        shape_inputs: list[DimsExprs],
        expr_builder: IExprBuilder,
    ) -> list[DimsExprs]:
        """Return the shape of each result."""
        raise _missing(self, "get_output_shapes(inputs, shape_inputs, expr_builder)")

    def get_supported_format_combinations(
        self, in_out: list[DynamicPluginTensorDesc], num_inputs: int
    ) -> list[PluginTensorDesc]:
        """Return descriptions of all tensors for each combination, one combination after another.

        Without this one, tensors of the network's types in linear format are supported.
        """
        return [t.desc for t in in_out]

    def configure_plugin(
        self, inp: list[DynamicPluginTensorDesc], out: list[DynamicPluginTensorDesc]
    ) -> None:
        """Learn the types and shapes that were chosen."""

    def get_valid_tactics(self) -> list[int]:
        """Return the numbers of the plugin's tactics, none where it has one way only."""
        return []

    def get_aliased_input(self, output_index: int) -> int:
        """Return the operand that a result overwrites, -1 for none."""
        return -1


class IPluginV3QuickAOTBuild(IPluginV3QuickBuild):
    """A build part that gives a kernel which is compiled ahead of time."""

    def get_kernel(
        self, input_desc: list[PluginTensorDesc], output_desc: list[PluginTensorDesc]
    ) -> tuple[Any, Any]:
        """Return the name of the kernel and its PTX."""
        raise _missing(self, "get_kernel(input_desc, output_desc)")

    def get_launch_params(
        self,
        inputs: list[DimsExprs],
        in_out: list[DynamicPluginTensorDesc],
        num_inputs: int,
        launch_params: KernelLaunchParams,
        extra_args: ISymExprs,
        expr_builder: IExprBuilder,
    ) -> None:
        """Fill in the launch and the extra arguments; called before ``get_kernel``."""
        raise _missing(self, "get_launch_params(...)")

    def set_tactic(self, tactic: int) -> int | None:
        """Learn for which tactic the kernel is wanted."""
        return 0


class IPluginV3QuickRuntime(IPluginCapability):
    """The part that runs."""

    def __init__(self, other: Any = None) -> None:
        """Begin a new part."""

    def set_tactic(self, tactic: int) -> int | None:
        """Learn which tactic was chosen; returns 0."""
        return 0

    def get_fields_to_serialize(self) -> PluginFieldCollection_:
        """Return the attributes with which the creator makes the plugin again."""
        raise _missing(self, "get_fields_to_serialize()")

    def enqueue(
        self,
        input_desc: list[PluginTensorDesc],
        output_desc: list[PluginTensorDesc],
        inputs: list[int],
        outputs: list[int],
        in_strides: list[tuple[int, ...]],
        out_strides: list[tuple[int, ...]],
        stream: int,
    ) -> int | None:
        """Compute the results at the addresses ``outputs``; returns 0 or nothing."""
        raise _missing(self, "enqueue(input_desc, output_desc, inputs, outputs, ..., stream)")


class IPluginCreatorV3Quick(IPluginCreatorInterface):
    """Makes plugins of the quick kind."""

    def create_plugin(
        self,
        name: str,
        namespace: str,
        field_collection: PluginFieldCollection_,
        phase: TensorRTPhase,
        quick_plugin_creation_request: QuickPluginCreationRequest,
    ) -> Any:
        """Return a plugin with these attributes."""
        raise _missing(self, "create_plugin(name, namespace, field_collection, phase, ...)")


class _BuildPart:
    """Lets a quick build part be asked as one of the third generation is."""

    format_combination_limit = 100

    def __init__(self, part: IPluginV3QuickBuild) -> None:
        self._part = part

    def __getattr__(self, name: str) -> Any:
        return getattr(self._part, name)

    @property
    def num_outputs(self) -> int:
        return self._part.get_num_outputs()

    def supports_format_combination(
        self, pos: int, in_out: list[DynamicPluginTensorDesc], num_inputs: int
    ) -> bool:
        found = self._part.get_supported_format_combinations(in_out, num_inputs)
        linear = TensorFormat.named("LINEAR")
        count = len(in_out)
        rows = [found[i : i + count] for i in range(0, len(found) - count + 1, count)]
        return any(
            all(
                d.type == t.desc.type and d.format == linear
                for d, t in zip(row, in_out, strict=True)
            )
            for row in rows
        )


class _RuntimePart:
    """Lets a quick runtime part run as one of the third generation does."""

    def __init__(self, part: IPluginV3QuickRuntime) -> None:
        self._part = part

    def __getattr__(self, name: str) -> Any:
        return getattr(self._part, name)

    def on_shape_change(self, inp: list[PluginTensorDesc], out: list[PluginTensorDesc]) -> int:
        return 0

    def attach_to_context(self, resource_context: Any) -> Any:
        return None

    def enqueue(
        self,
        input_desc: list[PluginTensorDesc],
        output_desc: list[PluginTensorDesc],
        inputs: list[int],
        outputs: list[int],
        workspace: int,
        stream: int,
    ) -> int | None:
        strides = [[_strides(d) for d in group] for group in (input_desc, output_desc)]
        return self._part.enqueue(
            input_desc, output_desc, inputs, outputs, strides[0], strides[1], stream
        )


def adapted(part: Any, name: str) -> Any:
    """Return a part in the form that the third generation's parts have."""
    if name == "BUILD" and isinstance(part, IPluginV3QuickBuild):
        return _BuildPart(part)
    if name == "RUNTIME" and isinstance(part, IPluginV3QuickRuntime):
        return _RuntimePart(part)
    return part


def kernel_part(build: Any) -> IPluginV3QuickAOTBuild | None:
    """Return a build part that gives kernels, None for any other."""
    part = build._part if isinstance(build, _BuildPart) else build
    return part if isinstance(part, IPluginV3QuickAOTBuild) else None


def output_types(build: Any, types: Sequence[DataType], ranks: Sequence[int]) -> Any:
    """Return the element types of results; quick parts are told the ranks of operands too."""
    if isinstance(build, _BuildPart):
        return build._part.get_output_data_types(types, ranks)
    return build.get_output_data_types(types)


def create(creator: Any, name: str, fields: PluginFieldCollection_, phase: TensorRTPhase) -> Any:
    """Let a creator of the third generation or of the quick kind make a plugin."""
    if isinstance(creator, IPluginCreatorV3Quick):
        request = QuickPluginCreationRequest.named("PREFER_JIT")
        return creator.create_plugin(name, creator.plugin_namespace, fields, phase, request)
    return creator.create_plugin(name, fields, phase)


def _strides(desc: PluginTensorDesc) -> tuple[int, ...]:
    strides, step = [], 1
    for size in reversed(tuple(desc.dims)):
        strides.append(step)
        step *= size
    return tuple(reversed(strides))


def _missing(owner: object, method: str) -> NotImplementedError:
    return NotImplementedError(f"{type(owner).__name__} must define {method}")


__all__ = [
    "IPluginCreatorV3Quick",
    "IPluginV3QuickAOTBuild",
    "IPluginV3QuickBuild",
    "IPluginV3QuickCore",
    "IPluginV3QuickRuntime",
]
