"""Settings of execution contexts that do not change what they compute, such as their memory."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lamina.runtime.lent import LentMemory
from lamina.tensorrt.check import checked
from lamina.tensorrt.engine.allocators import AllocatorAdapter, IGpuAllocator
from lamina.tensorrt.engine.execution import Execution
from lamina.tensorrt.engine.runtime_config import IRuntimeConfig
from lamina.tensorrt.enums import ProfilingVerbosity
from lamina.tensorrt.error_reporting import IErrorRecorder, Reporter
from lamina.tensorrt.option import Option

if TYPE_CHECKING:
    from lamina.tensorrt.engine.cuda_engine import ICudaEngine


class ContextOptions:
    """Options of IExecutionContext."""

    _cuda_engine: ICudaEngine
    _execution: Execution
    _reporter: Reporter
    _config: IRuntimeConfig

    name = Option(str, "", "Name, for messages.")
    enqueue_emits_profile = Option(bool, True, "Whether every run reports to the profiler.")
    persistent_cache_limit = Option(int, 0, "Bytes of L2 cache for persistent use; kept.")
    nvtx_verbosity = Option(ProfilingVerbosity, "LAYER_NAMES_ONLY", "What NVTX marks say; kept.")
    unfused_tensors_debug_state = Option(
        bool, False, "Whether the listener sees the tensors between layers."
    )

    def _start_memory(self) -> None:
        self._allocator: IGpuAllocator | None = None
        self._lent: LentMemory | None = None
        self._checks = False
        if self._config._strategy == "USER_MANAGED":
            self._lend(LentMemory(0, 0))

    def _lend(self, memory: LentMemory | None) -> None:
        self._lent = memory
        self._execution.context.lend(memory)

    @property
    def debug_sync(self) -> bool:
        """Whether each layer is waited for, so that a fault names its layer; this is slow."""
        return self._checks

    @debug_sync.setter
    @checked
    def debug_sync(self, value: bool) -> None:
        self._checks = value
        self._execution.context.check_steps(wanted=value)

    @property
    def temporary_allocator(self) -> IGpuAllocator | None:
        """What gives the context its memory, None for what gave the engine its own."""
        return self._allocator

    @temporary_allocator.setter
    @checked
    def temporary_allocator(self, value: IGpuAllocator | None) -> None:
        self._allocator = value
        adapter = None if value is None else AllocatorAdapter(value)
        self._execution.context.allocate_with(adapter)

    @property
    def device_memory(self) -> int:
        """Address of as many bytes for activations as ``engine.device_memory_size`` says."""
        return 0 if self._lent is None else self._lent.pointer

    @device_memory.setter
    @checked
    def device_memory(self, value: int) -> None:
        self.set_device_memory(value, self._cuda_engine.device_memory_size_v2)

    @checked
    def set_device_memory(self, memory: int, size: int) -> None:
        """Run in so many bytes at an address; they must not be used while work is under way."""
        with self._reporter.reporting():
            self._lend(LentMemory(memory, size))

    @checked
    def set_aux_streams(self, aux_streams: list[int]) -> None:
        """Offer further streams; independent steps run at the same time without them."""

    @checked
    def set_communicator(self, communicator: Any) -> bool:
        """Refuse a communicator: engines run on one device."""
        self._reporter.error("engines run on one device; there is no use for a communicator")
        return False

    def get_runtime_config(self) -> IRuntimeConfig:
        """Return the configuration that the context was made with."""
        return self._config

    @property
    def error_recorder(self) -> IErrorRecorder | None:
        """What collects errors."""
        return self._reporter.recorder

    @error_recorder.setter
    @checked
    def error_recorder(self, value: IErrorRecorder | None) -> None:
        self._reporter.recorder = value
