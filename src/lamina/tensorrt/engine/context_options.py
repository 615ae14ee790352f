"""Settings of execution contexts that do not change what they compute."""

from __future__ import annotations

from typing import Any

from lamina.tensorrt.check import checked
from lamina.tensorrt.engine.allocators import IGpuAllocator
from lamina.tensorrt.engine.runtime_config import IRuntimeConfig
from lamina.tensorrt.enums import ProfilingVerbosity
from lamina.tensorrt.error_reporting import IErrorRecorder, Reporter
from lamina.tensorrt.option import Option


class ContextOptions:
    """Options of IExecutionContext; memory and streams of the runtime's own need no settings."""

    _reporter: Reporter
    _config: IRuntimeConfig

    name = Option(str, "", "Name, for messages.")
    debug_sync = Option(bool, False, "Whether each layer is waited for; kept.")
    enqueue_emits_profile = Option(bool, True, "Whether every run reports to the profiler.")
    persistent_cache_limit = Option(int, 0, "Bytes of L2 cache for persistent use; kept.")
    nvtx_verbosity = Option(ProfilingVerbosity, "LAYER_NAMES_ONLY", "What NVTX marks say; kept.")
    unfused_tensors_debug_state = Option(
        bool, False, "Whether the listener sees the tensors between layers."
    )
    temporary_allocator = Option(
        IGpuAllocator | None, None, "What gives memory for results of data-dependent size; kept."
    )
    device_memory = Option(int, 0, "Address of memory for activations; kept, as contexts own it.")

    @checked
    def set_device_memory(self, memory: int, size: int) -> None:
        """Offer memory for activations; contexts have memory of their own all the same."""
        self.__dict__["device_memory"] = memory

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
