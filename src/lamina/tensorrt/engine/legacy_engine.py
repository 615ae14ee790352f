"""Engines with numbered bindings, as versions before 10 have them."""

from __future__ import annotations

import lamina.runtime.engine as runtime
from lamina.tensorrt.check import checked
from lamina.tensorrt.engine.formats import FORMATS, sentence_of
from lamina.tensorrt.enums import DataType, TensorFormat, TensorLocation
from lamina.tensorrt.error_reporting import Reporter
from lamina.tensorrt.foundation.dims import Dims
from lamina.tensorrt.metadata import EngineMetadata, TensorInfo


class LegacyEngine:
    """What ICudaEngine had up to version 9.

    Each optimization profile has a binding for each tensor; those of profile k are called
    ``"name [profile k]"``.
    """

    _engine: runtime.Engine
    _metadata: EngineMetadata
    _tensors: dict[str, TensorInfo]
    _names: list[str]
    _reporter: Reporter

    @property
    def num_bindings(self) -> int:
        """Number of bindings of all profiles."""
        return len(self._names) * len(self._metadata.profiles)

    def __len__(self) -> int:
        return len(self._names) * len(self._metadata.profiles)

    def __bool__(self) -> bool:
        return True

    @property
    def max_batch_size(self) -> int:
        """Largest batch; 1 where the batch is explicit."""
        return self._metadata.max_batch_size or 1

    def _binding_name(self, index: int) -> str | None:
        """Return the name of a binding; None for a wrong number."""
        if not self._names or not 0 <= index < len(self):
            return None
        profile, tensor = divmod(index, len(self._names))
        return self._names[tensor] + (f" [profile {profile}]" if profile else "")

    def _info(self, binding: int | str) -> TensorInfo | None:
        """Return the tensor of a binding; None, after reporting it, for an unknown one."""
        if isinstance(binding, str):
            index = self._binding_index(binding)
        else:
            index = binding if 0 <= binding < len(self) else -1
        if index < 0:
            self._reporter.error(f"the engine has no binding {binding!r}")
            return None
        return self._tensors[self._names[index % len(self._names)]]

    def _binding_index(self, name: str) -> int:
        for index in range(len(self)):
            if self._binding_name(index) == name:
                return index
        return -1

    @checked
    def get_binding_name(self, index: int) -> str | None:
        """Return the name of a binding, None for a wrong number."""
        found = self._binding_name(index)
        if found is None:
            self._reporter.error(f"the engine has no binding {index}")
        return found

    @checked
    def get_binding_index(self, name: str) -> int:
        """Return the number of a binding, -1 for an unknown name."""
        index = self._binding_index(name)
        if index < 0:
            self._reporter.error(f"the engine has no binding {name!r}")
        return index

    @checked
    def binding_is_input(self, binding: int | str) -> bool:
        """Whether a binding is an input."""
        info = self._info(binding)
        return info is not None and info.mode == "INPUT"

    @checked
    def get_binding_shape(self, binding: int | str) -> Dims:
        """Return the shape of a binding, -1 for dynamic sizes."""
        info = self._info(binding)
        return Dims() if info is None else Dims(info.shape)

    @checked
    def get_binding_dtype(self, binding: int | str) -> DataType:
        """Return the element type of a binding."""
        info = self._info(binding)
        return DataType.named("FLOAT" if info is None else info.dtype)

    @checked
    def get_location(self, binding: int | str) -> TensorLocation:
        """Where the address of a binding must point to."""
        info = self._info(binding)
        return TensorLocation.named("DEVICE" if info is None else info.location)

    @checked
    def is_shape_binding(self, binding: int) -> bool:
        """Whether a binding holds sizes."""
        info = self._info(binding)
        return info is not None and info.shape_io

    @checked
    def is_execution_binding(self, binding: int) -> bool:
        """Whether a binding holds data."""
        info = self._info(binding)
        return info is not None and not (info.shape_io and info.location == "HOST")

    @checked
    def get_profile_shape(self, profile_index: int, binding: int | str) -> list[Dims]:
        """Return [min, opt, max] of an input in a profile."""
        info = self._info(binding)
        if info is None or not 0 <= profile_index < len(self._metadata.profiles):
            return []
        shapes = self._metadata.profiles[profile_index].shapes
        return [Dims(s) for s in shapes.get(info.name, (info.shape,) * 3)]

    @checked
    def get_profile_shape_input(self, profile_index: int, binding: int | str) -> list[Dims]:
        """Return [min, opt, max] of the elements of a shape tensor in a profile."""
        info = self._info(binding)
        if info is None or not 0 <= profile_index < len(self._metadata.profiles):
            return []
        values = self._metadata.profiles[profile_index].values
        return [Dims(v) for v in values.get(info.name, ())]

    @checked
    def get_binding_format(self, index: int) -> TensorFormat:
        """Return the memory layout of a binding."""
        info = self._info(index)
        return TensorFormat.named("LINEAR" if info is None else info.formats[0])

    @checked
    def get_binding_format_desc(self, index: int) -> str:
        """Return a sentence about the type and layout of a binding."""
        info = self._info(index)
        if info is None:
            return ""
        return sentence_of(info.formats[0], info.dtype)

    @checked
    def get_binding_components_per_element(self, index: int) -> int:
        """Return the components of a vector; -1 for tensors that are not vectorized."""
        info = self._info(index)
        components = 1 if info is None else FORMATS[info.formats[0]].components
        return components if components > 1 else -1

    @checked
    def get_binding_bytes_per_component(self, index: int) -> int:
        """Return the bytes of a vector component; -1 for tensors that are not vectorized."""
        info = self._info(index)
        if info is None or FORMATS[info.formats[0]].components < 2:
            return -1
        return int(DataType.named(info.dtype).itemsize or 1)

    @checked
    def get_binding_vectorized_dim(self, index: int) -> int:
        """Return the vectorized axis, -1 for none."""
        info = self._info(index)
        return -1 if info is None else info.vectorized_dim
