"""The builder: networks, configurations, and engines made of them."""

from __future__ import annotations

from typing import Any

from lamina.plan.format import write_plan
from lamina.tensorrt.builder_config import IBuilderConfig
from lamina.tensorrt.builder_legacy import LegacyBuilder
from lamina.tensorrt.check import checked
from lamina.tensorrt.compile import compile_network
from lamina.tensorrt.engine.cuda_engine import ICudaEngine
from lamina.tensorrt.engine.runtime import deserialize_plan
from lamina.tensorrt.engine.streams import IStreamWriter, write_all
from lamina.tensorrt.enums import NetworkDefinitionCreationFlag
from lamina.tensorrt.error_reporting import IErrorRecorder, Reporter
from lamina.tensorrt.foundation.host_memory import IHostMemory
from lamina.tensorrt.logger import ILogger
from lamina.tensorrt.lower import lower
from lamina.tensorrt.network_definition import INetworkDefinition
from lamina.tensorrt.option import names
from lamina.tensorrt.persona import current
from lamina.tensorrt.plugin_api.registry import IPluginRegistry, get_plugin_registry
from lamina.tensorrt.profile import IOptimizationProfile


class Builder(LegacyBuilder):
    """Makes networks and configurations, and builds engines of them."""

    @checked
    def __init__(self, logger: ILogger) -> None:
        """Take what messages go to."""
        self._reporter = Reporter(logger)
        self._max_batch_size = 1
        self._gpu_allocator: Any = None
        self._max_threads = 1
        self._start_legacy()

    @checked
    def create_network(self, flags: int = 0) -> INetworkDefinition:
        """Return an empty network; ``flags`` are bits of NetworkDefinitionCreationFlag."""
        known = names(NetworkDefinitionCreationFlag, flags)
        major = current().major
        if major == "11":
            known |= {"STRONGLY_TYPED"}
        implicit = major == "8" and "EXPLICIT_BATCH" not in known
        reporter = Reporter(self._reporter.logger, self._reporter.recorder)
        return INetworkDefinition(self, reporter, known, implicit_batch=implicit)

    def create_builder_config(self) -> IBuilderConfig:
        """Return a configuration with every option at its default."""
        return IBuilderConfig(self._reporter)

    def create_optimization_profile(self) -> IOptimizationProfile:
        """Return a profile without shapes."""
        return IOptimizationProfile()

    @checked
    def build_serialized_network(
        self, network: INetworkDefinition, config: IBuilderConfig
    ) -> IHostMemory | None:
        """Return an engine as bytes; None, after reporting why, when it cannot be built."""
        plan = compile_network(network, config, self._reporter, self._max_batch_size)
        return None if plan is None else IHostMemory(write_plan(plan))

    @checked
    def build_serialized_network_to_stream(
        self, network: INetworkDefinition, config: IBuilderConfig, writer: IStreamWriter
    ) -> bool:
        """Write an engine to a stream; False, after reporting why, when that fails."""
        data = self.build_serialized_network(network, config)
        if data is None:
            return False
        with self._reporter.reporting() as outcome:
            write_all(writer, data)
        return not outcome.failed

    @checked
    def build_engine_with_config(
        self, network: INetworkDefinition, config: IBuilderConfig
    ) -> ICudaEngine | None:
        """Return an engine; None, after reporting why, when it cannot be built."""
        plan = compile_network(network, config, self._reporter, self._max_batch_size)
        return None if plan is None else deserialize_plan(plan, self._reporter)

    build_engine = build_engine_with_config

    @checked
    def is_network_supported(self, network: INetworkDefinition, config: IBuilderConfig) -> bool:
        """Whether every layer of a network can be built."""
        with self._reporter.reporting() as outcome:
            lower(network._state)
        return not outcome.failed

    def reset(self) -> None:
        """Give the builder's options their defaults."""
        self._max_batch_size = 1
        self._start_legacy()

    def get_plugin_registry(self) -> IPluginRegistry:
        """Return the registry of plugin creators."""
        return get_plugin_registry()

    @property
    def max_batch_size(self) -> int:
        """Largest batch of networks with an implicit batch."""
        return self._max_batch_size

    @max_batch_size.setter
    @checked
    def max_batch_size(self, value: int) -> None:
        self._max_batch_size = value

    @property
    def platform_has_tf32(self) -> bool:
        """Whether TF32 is there."""
        return False

    @property
    def platform_has_fast_fp16(self) -> bool:
        """Whether half precision may be asked for."""
        return True

    @property
    def platform_has_fast_int8(self) -> bool:
        """Whether INT8 may be asked for."""
        return True

    @property
    def num_DLA_cores(self) -> int:
        """Number of deep-learning accelerators."""
        return 0

    @property
    def max_DLA_batch_size(self) -> int:
        """Largest batch on a deep-learning accelerator."""
        return 0

    @property
    def gpu_allocator(self) -> Any:
        """What allocates device memory during builds; kept (builds here use host memory)."""
        return self._gpu_allocator

    @gpu_allocator.setter
    def gpu_allocator(self, value: Any) -> None:
        self._gpu_allocator = value

    @property
    def error_recorder(self) -> IErrorRecorder | None:
        """What collects errors."""
        return self._reporter.recorder

    @error_recorder.setter
    @checked
    def error_recorder(self, value: IErrorRecorder | None) -> None:
        self._reporter.recorder = value

    @property
    def logger(self) -> ILogger:
        """What messages go to."""
        return self._reporter.logger

    @property
    def max_threads(self) -> int:
        """Most threads that the builder uses; kept."""
        return self._max_threads

    @max_threads.setter
    @checked
    def max_threads(self, value: int) -> None:
        self._max_threads = value


__all__ = ["Builder"]
