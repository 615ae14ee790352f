"""Execution contexts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from lamina.backends.cuda.device import LEGACY_STREAM
from lamina.errors import LaminaError
from lamina.tensorrt.check import as_handle, checked
from lamina.tensorrt.engine.allocators import IOutputAllocator
from lamina.tensorrt.engine.context_options import ContextOptions
from lamina.tensorrt.engine.debug import IDebugListener
from lamina.tensorrt.engine.execution import Execution
from lamina.tensorrt.engine.formats import FORMATS
from lamina.tensorrt.engine.legacy_context import LegacyContext
from lamina.tensorrt.engine.profiler import IProfiler
from lamina.tensorrt.engine.runtime_config import IRuntimeConfig
from lamina.tensorrt.engine.shapes import Shape
from lamina.tensorrt.engine.slots import Slot, Slots
from lamina.tensorrt.error_reporting import Reporter
from lamina.tensorrt.foundation.dims import Dims

if TYPE_CHECKING:
    from lamina.tensorrt.engine.cuda_engine import ICudaEngine


class IExecutionContext(ContextOptions, LegacyContext):
    """Runs an engine; made by ICudaEngine.create_execution_context.

    Addresses are those of the GPU that the engine runs on.  Where it runs on the CPU they are
    addresses of the host, and work is done when a call returns, whatever stream it names.
    """

    def __init__(self, engine: ICudaEngine, config: IRuntimeConfig) -> None:
        self._cuda_engine = engine
        self._reporter = Reporter(engine._reporter.logger, engine._reporter.recorder)
        self._config = config
        self._slots = Slots(engine._engine, engine._metadata, engine._rules)
        self._execution = Execution(engine._engine.create_context(), self._slots)
        self._run = self._execution.context.run
        self._on_gpu = self._slots.space.on_gpu
        self._batch = engine._metadata.max_batch_size
        self._profile = 0
        self._profiler: IProfiler | None = None
        self._watched = False
        """Whether a profiler or a listener has a part in runs."""
        self._consumed = 0
        self._listener: IDebugListener | None = None
        self._debug_states: dict[str, bool] = {}
        self._start_memory()

    def _slot(self, name: str) -> Slot | None:
        slot = self._slots.by_name.get(name)
        if slot is None or slot.hidden:
            known = ", ".join(self._cuda_engine._names)
            self._reporter.error(f"the engine has no tensor {name!r}; it has {known}")
            return None
        return slot

    @property
    def engine(self) -> ICudaEngine:
        """The engine."""
        return self._cuda_engine

    def set_input_shape(self, name: str, shape: Sequence[int] | Dims) -> bool:
        """Set the shape of an input; False, after reporting why, for one outside the profile."""
        slot = self._slot(name)
        if slot is None:
            return False
        if not slot.is_input:
            self._reporter.error(f"{name!r} is an output: its shape follows from the inputs")
            return False
        try:
            given = tuple(map(int, shape))
        except (TypeError, ValueError) as e:
            raise TypeError(f"set_input_shape(): {shape!r} is not a shape") from e
        if given == slot.shape and not self._batch:
            return True
        if self._refusal(name, given):
            return False
        if self._batch:
            given = (self._batch, *given)
        if given != slot.shape:
            slot.shape = given
            self._execution.ready = False
        return True

    def _refusal(self, name: str, given: Shape) -> bool:
        """Whether an input cannot have a shape; reports why."""
        declared = self._cuda_engine._tensors[name].shape
        fits = len(given) == len(declared) and all(
            d in (-1, n) for d, n in zip(declared, given, strict=True)
        )
        if not fits:
            self._reporter.error(f"input {name!r} has the shape {declared}, it cannot be {given}")
            return True
        low, _, high = self._limits(name)
        if all(a <= n <= b for a, n, b in zip(low, given, high, strict=True)):
            return False
        self._reporter.error(
            f"input {name!r} with the shape {given} does not satisfy optimization profile "
            f"{self._profile}: it allows {low} to {high}"
        )
        return True

    def _limits(self, name: str) -> tuple[Shape, Shape, Shape]:
        own = self._cuda_engine._tensors[name].shape
        profiles = self._cuda_engine._metadata.profiles
        return profiles[self._profile].shapes.get(name, (own, own, own))

    @checked
    def get_tensor_shape(self, name: str) -> Dims:
        """Return the shape of a tensor for the shapes that are set, -1 for unknown sizes."""
        slot = self._slot(name)
        if slot is None:
            return Dims()
        with self._reporter.reporting():
            shape = self._slots.shape_of(slot, self._slots.environment())
            return Dims(shape[1:] if self._batch else shape)
        return Dims()

    @checked
    def get_tensor_strides(self, name: str) -> Dims:
        """Return the elements (vectors, in vectorized formats) between neighbours along each axis.

        They are -1 where that is not known.
        """
        shape = tuple(self.get_tensor_shape(name))
        format = self._slots.rules.formats.get(name, FORMATS["LINEAR"])
        return Dims(format.strides(shape) if shape else ())

    def set_tensor_address(self, name: str, memory: int) -> bool:
        """Set where a tensor lies; False, after reporting it, for an unknown name."""
        slot = self._slots.by_name.get(name)
        if slot is None or slot.hidden:
            return self._slot(name) is not None
        address = (
            memory
            if type(memory) is int
            else as_handle(memory, "set_tensor_address", f"the address of {name!r}")
        )
        if address != slot.address or slot.own is not None:
            slot.address, slot.own = address, None
            self._execution.ready = False
        return True

    @checked
    def get_tensor_address(self, name: str) -> int:
        """Return where a tensor lies, 0 when that was not set."""
        slot = self._slot(name)
        return 0 if slot is None else slot.address

    @checked
    def set_output_allocator(self, name: str, output_allocator: IOutputAllocator | None) -> bool:
        """Set what gives memory for an output, None for its address alone."""
        slot = self._slot(name)
        if slot is None or slot.is_input:
            if slot is not None:
                self._reporter.error(f"{name!r} is an input: only outputs take an allocator")
            return False
        slot.allocator = output_allocator
        self._execution.ready = False
        return True

    @checked
    def get_output_allocator(self, name: str) -> IOutputAllocator | None:
        """Return what gives memory for an output."""
        slot = self._slot(name)
        found: IOutputAllocator | None = None if slot is None else slot.allocator
        return found

    @checked
    def get_max_output_size(self, name: str) -> int:
        """Return the most bytes that an output may need, -1 when nothing bounds it."""
        slot = self._slot(name)
        if slot is None:
            return -1
        count = self._slots.rules.largest(name)
        return -1 if count < 0 else count * slot.type.dtype.numpy.itemsize

    def infer_shapes(self) -> list[str]:
        """Return the inputs whose shape, or for shape tensors whose address, was not set."""
        missing = [s.name for s in self._slots.inputs if s.shape is None]
        for s in self._slots.inputs:
            if s.holds_shape and not s.address and s.own is None and s.name not in missing:
                missing.append(s.name)
        with self._reporter.reporting():
            self._slots.environment()
        return missing

    @property
    def all_binding_shapes_specified(self) -> bool:
        """Whether every input has a shape."""
        return all(s.shape is not None for s in self._slots.inputs)

    @property
    def all_shape_inputs_specified(self) -> bool:
        """Whether every shape tensor has its elements."""
        return all(s.address or s.own is not None for s in self._slots.inputs if s.holds_shape)

    @checked
    def set_optimization_profile_async(self, profile_index: int, stream_handle: int) -> bool:
        """Choose a profile; shapes of dynamic inputs must be set again."""
        count = len(self._cuda_engine._metadata.profiles)
        if not 0 <= profile_index < count:
            self._reporter.error(f"there is no optimization profile {profile_index} of {count}")
            return False
        if profile_index != self._profile:
            self._profile = profile_index
            self._cuda_engine._engine.use_profile(self._execution.context, profile_index)
            self._slots.reset_shapes()
            self._execution.ready = False
        return True

    def execute_async_v3(self, stream_handle: int) -> bool:
        """Put a run on a stream; False, after reporting why, when that fails."""
        execution = self._execution
        if type(stream_handle) is not int:
            stream_handle = as_handle(stream_handle, "execute_async_v3", "stream_handle")
        if not execution.ready or self._watched:
            return self._execute(stream_handle)
        try:
            if self._on_gpu:
                self._run(execution.feed, execution.out, stream_handle or LEGACY_STREAM)
                if self._consumed:
                    self._slots.space.record(self._consumed, stream_handle)
            else:
                self._run(execution.feed, execution.out)
        except LaminaError as e:
            return self._failed(e)
        return True

    def execute_v2(self, bindings: Sequence[int]) -> bool:
        """Run on a list of addresses in the order of the tensors; returns when it is done."""
        return self._bind(bindings) and self._execute(None)

    def _bind(self, bindings: Sequence[int]) -> bool:
        """Take addresses in the order of the tensors, behind those of earlier profiles."""
        names = self._cuda_engine._names
        first = self._profile * len(names)
        if not isinstance(bindings, Sequence | np.ndarray):
            raise TypeError(f"bindings are a list of addresses, not a {type(bindings).__name__}")
        if len(bindings) not in (len(names), len(names) * self._profiles):
            self._reporter.error(f"{len(bindings)} bindings for the {len(names)} tensors {names}")
            return False
        given = bindings[first:] if len(bindings) > len(names) else bindings
        for name, address in zip(names, given, strict=False):
            slot = self._slots.by_name[name]
            if slot.own is None:
                self.set_tensor_address(name, address)
        return True

    @property
    def _profiles(self) -> int:
        return len(self._cuda_engine._metadata.profiles)

    def _execute(self, stream: int | None) -> bool:
        """Prepare and run; with None for a stream, wait for the results."""
        try:
            self._execution.run(stream)
            if self._consumed:
                self._slots.space.record(self._consumed, stream or 0)
            if self._listener is not None:
                self._execution.show(self._listener, self._shown(), stream or 0)
        except LaminaError as e:
            return self._failed(e)
        finally:
            self._execution.release()
        if self._profiler is not None and self.enqueue_emits_profile:
            return self.report_to_profiler()
        return True

    def _shown(self) -> dict[str, bool]:
        """Return whether each debug tensor is shown."""
        unfused = self.__dict__.get("unfused_tensors_debug_state", False)
        names = self._cuda_engine._metadata.unfused_tensors
        return dict.fromkeys(names, unfused) | self._debug_states

    def _failed(self, error: LaminaError) -> bool:
        with self._reporter.reporting(self.name):
            raise error
        return False

    @property
    def active_optimization_profile(self) -> int:
        """Number of the profile whose shapes are allowed."""
        return self._profile

    @active_optimization_profile.setter
    @checked
    def active_optimization_profile(self, value: int) -> None:
        if not self.set_optimization_profile_async(value, 0):
            raise RuntimeError(f"there is no optimization profile {value}")

    @property
    def profiler(self) -> IProfiler | None:
        """What receives the time of each layer; runs are slower with one."""
        return self._profiler

    @profiler.setter
    @checked
    def profiler(self, value: IProfiler | None) -> None:
        self._profiler = value
        self._watch()

    def _watch(self) -> None:
        self._watched = self._profiler is not None or self._listener is not None

    def report_to_profiler(self) -> bool:
        """Give the profiler the time of each layer of another run on the same inputs."""
        if self._profiler is None:
            self._reporter.error("there is no profiler to report to")
            return False
        with self._reporter.reporting():
            times = self._execution.profile()
            names = self._cuda_engine._layer_names(self._profile)
            for name, microseconds in zip(names, times, strict=True):
                self._profiler.report_layer_time(name, microseconds / 1000)
            return True
        return False

    @checked
    def set_debug_listener(self, listener: IDebugListener | None) -> bool:
        """Set what is shown the debug tensors whose state is on."""
        self._listener = listener
        self._watch()
        return True

    @checked
    def set_input_consumed_event(self, event: int) -> bool:
        """Set the event that is recorded when inputs may be overwritten; 0 for none.

        On a CPU they may be when a run returns, and no event is needed.
        """
        self._consumed = event
        return True

    def get_input_consumed_event(self) -> int:
        """Return the event that is recorded when inputs may be overwritten."""
        return self._consumed

    def get_debug_listener(self) -> IDebugListener | None:
        """Return what is shown the debug tensors."""
        return self._listener

    @checked
    def set_tensor_debug_state(self, name: str, flag: bool) -> bool:
        """Choose whether a debug tensor is shown; False, after reporting it, for others."""
        if name not in self._cuda_engine._metadata.debug_tensors:
            self._reporter.error(f"tensor {name!r} was not marked for debugging")
            return False
        self._debug_states[name] = flag
        return True

    @checked
    def get_debug_state(self, name: str) -> bool:
        """Whether a debug tensor is shown."""
        return self._debug_states.get(name, False)

    @checked
    def set_all_tensors_debug_state(self, flag: bool) -> bool:
        """Choose whether all debug tensors are shown."""
        self._debug_states = dict.fromkeys(self._cuda_engine._metadata.debug_tensors, flag)
        return True

    def update_device_memory_size_for_shapes(self) -> int:
        """Return the bytes that the context needs for activations, 0 unless all shapes are set."""
        if not self.all_binding_shapes_specified:
            self._reporter.error("the shapes of some inputs are not set")
            return 0
        with self._reporter.reporting():
            return self._cuda_engine._engine.arena_bytes(self._slots.environment())
        return 0

    def __enter__(self) -> IExecutionContext:
        return self

    def __exit__(self, *exc: object) -> None:
        return None

    def __del__(self) -> None:
        """Nothing is left to do; programs call it all the same."""


__all__ = ["IExecutionContext"]
