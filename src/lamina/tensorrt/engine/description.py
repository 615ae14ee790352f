"""What an engine says about its tensors, profiles and memory."""

from __future__ import annotations

import lamina.runtime.engine as runtime
from lamina.plan.plan import Section
from lamina.tensorrt.check import checked
from lamina.tensorrt.engine.formats import FORMATS
from lamina.tensorrt.engine.requirements import arena_bytes
from lamina.tensorrt.enums import (
    DataType,
    EngineCapability,
    EngineStat,
    HardwareCompatibilityLevel,
    ProfilingVerbosity,
    TensorFormat,
    TensorIOMode,
    TensorLocation,
)
from lamina.tensorrt.error_reporting import Reporter
from lamina.tensorrt.foundation.dims import Dims
from lamina.tensorrt.metadata import EngineMetadata, ProfileInfo, TensorInfo


class Description:
    """Read-only properties of ICudaEngine."""

    _engine: runtime.Engine
    _metadata: EngineMetadata
    _reporter: Reporter

    def _describe(self) -> None:
        self._tensors = {t.name: t for t in self._metadata.tensors}
        self._names = list(self._tensors)
        self._budget = self._weight_bytes()
        self._arena: tuple[Section, int] | None = None

    def _tensor(self, name: str) -> TensorInfo | None:
        found = self._tensors.get(name)
        if found is None:
            self._reporter.error(f"the engine has no input or output {name!r}: {self._names}")
        return found

    def _profile(self, index: int) -> ProfileInfo | None:
        profiles = self._metadata.profiles
        if 0 <= index < len(profiles):
            return profiles[index]
        self._reporter.error(f"there is no optimization profile {index} of {len(profiles)}")
        return None

    @property
    def name(self) -> str:
        """Name of the network."""
        return self._metadata.name

    @property
    def num_io_tensors(self) -> int:
        """Number of inputs and outputs."""
        return len(self._names)

    def _name_at(self, index: int) -> str:
        if not 0 <= index < len(self._names):
            raise IndexError(f"there is no tensor {index} of {len(self._names)}")
        return self._names[index]

    @checked
    def get_tensor_name(self, index: int) -> str | None:
        """Return the name of an input or output."""
        if 0 <= index < len(self._names):
            return self._names[index]
        self._reporter.error(f"there is no tensor {index} of {len(self._names)}")
        return None

    @checked
    def get_tensor_mode(self, name: str) -> TensorIOMode:
        """Whether a tensor is an input, an output, or neither."""
        found = self._tensors.get(name)
        return TensorIOMode.named("NONE" if found is None else found.mode)

    @checked
    def get_tensor_shape(self, name: str) -> Dims:
        """Return the shape of a tensor, -1 for dynamic sizes."""
        found = self._tensor(name)
        return Dims() if found is None else Dims(found.shape)

    @checked
    def get_tensor_dtype(self, name: str) -> DataType:
        """Return the element type of a tensor."""
        found = self._tensor(name)
        return DataType.named("FLOAT" if found is None else found.dtype)

    @checked
    def get_tensor_location(self, name: str) -> TensorLocation:
        """Where the address of a tensor must point to."""
        found = self._tensor(name)
        return TensorLocation.named("DEVICE" if found is None else found.location)

    @checked
    def is_shape_inference_io(self, name: str) -> bool:
        """Whether a tensor holds sizes."""
        found = self._tensor(name)
        return found is not None and found.shape_io

    @checked
    def get_tensor_profile_shape(self, name: str, profile_index: int) -> list[Dims]:
        """Return [min, opt, max] of an input; its own shape three times when it is static."""
        found, profile = self._tensor(name), self._profile(profile_index)
        if found is None or profile is None:
            return []
        shapes = profile.shapes.get(name, (found.shape,) * 3)
        return [Dims(s) for s in shapes]

    @checked
    def get_tensor_profile_values(self, name: str, profile_index: int) -> list[Dims]:
        """Return [min, opt, max] of the elements of a shape tensor."""
        profile = self._profile(profile_index)
        return [] if profile is None else [Dims(v) for v in profile.values.get(name, ())]

    @checked
    def get_tensor_format(self, name: str, profile_index: int = 0) -> TensorFormat:
        """Return the memory layout of a tensor."""
        found = self._tensor(name)
        return TensorFormat.named("LINEAR" if found is None else found.formats[0])

    @checked
    def get_tensor_format_desc(self, name: str, profile_index: int = 0) -> str:
        """Return a sentence about the type and layout of a tensor."""
        found = self._tensor(name)
        if found is None:
            return ""
        return f"{FORMATS[found.formats[0]].sentence} {found.dtype} format (k{found.formats[0]})"

    @checked
    def get_tensor_bytes_per_component(self, name: str, profile_index: int = 0) -> int:
        """Return the bytes of a vector component; -1 for tensors that are not vectorized."""
        found = self._tensor(name)
        if found is None or FORMATS[found.formats[0]].components < 2:
            return -1
        return int(DataType.named(found.dtype).itemsize or 1)

    @checked
    def get_tensor_components_per_element(self, name: str, profile_index: int = 0) -> int:
        """Return the components of a vector; -1 for tensors that are not vectorized."""
        found = self._tensor(name)
        components = 1 if found is None else FORMATS[found.formats[0]].components
        return components if components > 1 else -1

    @checked
    def get_tensor_vectorized_dim(self, name: str, profile_index: int = 0) -> int:
        """Return the vectorized axis, -1 for none."""
        found = self._tensor(name)
        return -1 if found is None else found.vectorized_dim

    @checked
    def get_aliased_input_tensor(self, name: str) -> str | None:
        """Return the input whose memory an output shares, None for none."""
        return self._metadata.aliased.get(name)

    @checked
    def is_debug_tensor(self, name: str) -> bool:
        """Whether a tensor was marked for debugging."""
        return name in self._metadata.debug_tensors

    @property
    def num_layers(self) -> int:
        """Number of layers of the compiled program."""
        return len(self._engine.section.program.steps)

    @property
    def num_optimization_profiles(self) -> int:
        """Number of optimization profiles, at least one."""
        return len(self._metadata.profiles)

    @property
    def refittable(self) -> bool:
        """Whether weights may be replaced."""
        return self._metadata.refittable

    @property
    def has_implicit_batch_dimension(self) -> bool:
        """Whether shapes leave out a batch."""
        return self._metadata.max_batch_size > 0

    @property
    def engine_capability(self) -> EngineCapability:
        """Restrictions that the engine was built with."""
        return EngineCapability.named(self._metadata.capability)

    @property
    def profiling_verbosity(self) -> ProfilingVerbosity:
        """What the inspector tells."""
        return ProfilingVerbosity.named(self._metadata.verbosity)

    @property
    def hardware_compatibility_level(self) -> HardwareCompatibilityLevel:
        """On which other devices the engine runs."""
        return HardwareCompatibilityLevel.named(self._metadata.hardware_compatibility)

    @property
    def tactic_sources(self) -> int:
        """Bits of TacticSource that the engine was built with."""
        return self._metadata.tactic_sources

    @property
    def num_aux_streams(self) -> int:
        """Number of streams beside the caller's."""
        return 0

    @property
    def device_memory_size(self) -> int:
        """Bytes that a context needs, for the largest shapes where they are known."""
        return self._arena_bytes()

    device_memory_size_v2 = device_memory_size

    @checked
    def get_device_memory_size_for_profile(self, profile_index: int) -> int:
        """Return the bytes that a context needs with a profile."""
        return self._arena_bytes()

    @checked
    def get_device_memory_size_for_profile_v2(self, profile_index: int) -> int:
        """Return the bytes that a context needs with a profile."""
        return self._arena_bytes()

    @checked
    def get_engine_stat(self, stat: EngineStat | None = None) -> int:
        """Return the bytes of all weights; none are stripped."""
        return self._weight_bytes() if stat is None or stat.name == "TOTAL_WEIGHTS_SIZE" else 0

    @property
    def streamable_weights_size(self) -> int:
        """Bytes of weights that could be streamed."""
        return self._weight_bytes()

    @property
    def weight_streaming_budget_v2(self) -> int:
        """Bytes of weights that may stay on the device; kept, all of them do."""
        return self._budget

    @weight_streaming_budget_v2.setter
    @checked
    def weight_streaming_budget_v2(self, value: int) -> None:
        self._budget = value

    weight_streaming_budget = weight_streaming_budget_v2

    @property
    def minimum_weight_streaming_budget(self) -> int:
        """Least budget that is allowed."""
        return 0

    def get_weight_streaming_automatic_budget(self) -> int:
        """Return the budget that keeps all weights on the device."""
        return self._weight_bytes()

    @property
    def weight_streaming_scratch_memory_size(self) -> int:
        """Bytes that streaming needs beside the budget."""
        return 0

    def _weight_bytes(self) -> int:
        return sum(w.array.nbytes for w in self._engine.section.blobs)

    def _arena_bytes(self) -> int:
        section = self._engine.section
        if self._arena is None or self._arena[0] is not section:
            self._arena = section, arena_bytes(self._engine.plan, section.program)
        return self._arena[1]
