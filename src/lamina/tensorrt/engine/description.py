"""What an engine says about its tensors, profiles and memory."""

from __future__ import annotations

import lamina.runtime.engine as runtime
from lamina.plan.named import NamedWeights
from lamina.plan.plan import Section
from lamina.tensorrt.check import checked
from lamina.tensorrt.engine.formats import FORMATS, sentence_of
from lamina.tensorrt.engine.shapes import ShapeRules
from lamina.tensorrt.engine.weight_streaming import weight_bytes
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
from lamina.tensorrt.foundation.dtype import volume
from lamina.tensorrt.metadata import EngineMetadata, ProfileInfo, TensorInfo


class Description:
    """Read-only properties of ICudaEngine."""

    _engine: runtime.Engine
    _metadata: EngineMetadata
    _reporter: Reporter
    _rules: ShapeRules

    def _describe(self) -> None:
        self._tensors = {t.name: t for t in self._metadata.tensors}
        self._names = list(self._tensors)
        self._arenas: dict[int, int] = {}
        self._arenas_of: Section | None = None

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
        return sentence_of(found.formats[0], found.dtype)

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
        """Bytes that a context needs for activations, for the largest shapes of any profile."""
        return self._arena_bytes(None)

    device_memory_size_v2 = device_memory_size

    @checked
    def get_device_memory_size_for_profile(self, profile_index: int) -> int:
        """Return the bytes that a context needs for the largest shapes of a profile."""
        return 0 if self._profile(profile_index) is None else self._arena_bytes(profile_index)

    @checked
    def get_device_memory_size_for_profile_v2(self, profile_index: int) -> int:
        """Return the bytes that a context needs for the largest shapes of a profile."""
        return 0 if self._profile(profile_index) is None else self._arena_bytes(profile_index)

    @checked
    def get_engine_stat(self, stat: EngineStat | None = None) -> int:
        """Return the bytes of all weights, or of those that are stripped from the engine."""
        if stat is None or stat.name == "TOTAL_WEIGHTS_SIZE":
            return self._weight_bytes()
        described = NamedWeights(self._engine.plan).described if self._metadata.refittable else {}
        missing = (described[name] for name in self._engine.missing_weights())
        return sum(volume(w.shape) * w.dtype.itemsize for w in missing)

    def _weight_bytes(self) -> int:
        return weight_bytes(self._engine.section)

    def _arena_bytes(self, profile: int | None) -> int:
        section, number = self._engine.section, -1 if profile is None else profile
        if self._arenas_of is not section:  # a refit may bring another one
            self._arenas_of, self._arenas = section, {}
        if number not in self._arenas:
            # Smaller buffers can fit together worse than larger ones do.
            self._arenas[number] = max(
                self._engine.arena_bytes(self._sizes(which_profile, which), which_profile or 0)
                for which_profile in (profile, *self._apart(profile))
                for which in range(3)
            )
        return self._arenas[number]

    def _apart(self, profile: int | None) -> list[int]:
        """Return the profiles with programs of their own, when all of them are meant."""
        numbers = range(len(self._metadata.profiles) if profile is None else 0)
        base = self._engine.section
        return [n for n in numbers if self._engine.section_of(n) is not base]

    def _sizes(self, profile: int | None, which: int) -> dict[str, int]:
        """Return the smallest, likeliest or largest size of every symbol."""
        sizes = {name: limits[which] for name, *limits in self._engine.plan.ranges}
        if profile is not None:
            shapes = self._metadata.profiles[profile].shapes
            sizes |= self._rules.bind({name: limits[which] for name, limits in shapes.items()})
        return sizes
