"""Engines."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import lamina.runtime.engine as runtime
from lamina.plan.format import write_plan
from lamina.plan.plan import Section
from lamina.plan.strip import strip
from lamina.tensorrt import metadata as notes
from lamina.tensorrt.check import checked
from lamina.tensorrt.engine.context import IExecutionContext
from lamina.tensorrt.engine.description import Description
from lamina.tensorrt.engine.inspector import EngineInspector
from lamina.tensorrt.engine.layers import layer_names
from lamina.tensorrt.engine.legacy_engine import LegacyEngine
from lamina.tensorrt.engine.runtime_config import IRuntimeConfig, ISerializationConfig
from lamina.tensorrt.engine.shapes import ShapeRules
from lamina.tensorrt.engine.weight_streaming import WeightStreaming
from lamina.tensorrt.enums import ExecutionContextAllocationStrategy
from lamina.tensorrt.error_reporting import IErrorRecorder, Reporter
from lamina.tensorrt.foundation.host_memory import IHostMemory
from lamina.tensorrt.metadata import EngineMetadata


class ICudaEngine(Description, WeightStreaming, LegacyEngine):
    """A compiled network; made by Runtime.deserialize_cuda_engine or the builder."""

    def __init__(
        self, engine: runtime.Engine, metadata: EngineMetadata, reporter: Reporter
    ) -> None:
        self._engine = engine
        self._metadata = metadata
        self._reporter = Reporter(reporter.logger, reporter.recorder)
        self._rules = ShapeRules(engine, metadata)
        self._labels: tuple[Section, list[str]] | None = None
        self._describe()

    def __getitem__(self, index: Any) -> Any:
        """Return the name of a tensor by its number, the number of a binding by its name."""
        if isinstance(index, str):
            found = self._binding_index(index)
            if found < 0:
                raise IndexError(f"the engine has no binding {index!r}")
            return found
        name = self._binding_name(index)
        if name is None:
            raise IndexError(f"there is no tensor {index} of {len(self)}")
        return name

    def _layer_names(self, profile: int = 0) -> list[str]:
        """Return a name for each step, by which the inspector and profilers know it."""
        section = self._engine.section_of(profile)  # a refit may bring another one
        if self._labels is None or self._labels[0] is not section:
            self._labels = section, layer_names(section.program.steps)
        return self._labels[1]

    @checked
    def create_execution_context(
        self,
        strategy: ExecutionContextAllocationStrategy | IRuntimeConfig | None = None,
        runtime_config: IRuntimeConfig | None = None,
    ) -> IExecutionContext | None:
        """Return a context; None, after reporting why, when that fails.

        It takes an ExecutionContextAllocationStrategy or an IRuntimeConfig.  With USER_MANAGED
        the context runs in memory that set_device_memory gives; else it takes what a run needs
        when it first sees its shapes.
        """
        given = strategy if isinstance(strategy, IRuntimeConfig) else runtime_config
        config = given or IRuntimeConfig()
        if isinstance(strategy, ExecutionContextAllocationStrategy):
            config.set_execution_context_allocation_strategy(strategy)
        with self._reporter.reporting():
            return IExecutionContext(self, config)
        return None

    def create_execution_context_without_device_memory(self) -> IExecutionContext | None:
        """Return a context that runs in memory that set_device_memory gives."""
        config = IRuntimeConfig()
        config._strategy = "USER_MANAGED"
        return self.create_execution_context(config)

    def create_runtime_config(self) -> IRuntimeConfig:
        """Return a configuration for contexts."""
        return IRuntimeConfig()

    def create_serialization_config(self) -> ISerializationConfig:
        """Return a configuration for serialization."""
        return ISerializationConfig()

    def create_engine_inspector(self) -> EngineInspector:
        """Return what describes the layers."""
        return EngineInspector(self)

    def serialize(self) -> IHostMemory:
        """Return the engine as bytes."""
        return IHostMemory(write_plan(self._engine.plan))

    @checked
    def serialize_with_config(self, config: ISerializationConfig) -> IHostMemory:
        """Return the engine as bytes, without what the flags exclude.

        EXCLUDE_WEIGHTS leaves out the weights that may be refitted, which the engine in these bytes
        then has to be.  EXCLUDE_LEAN_RUNTIME leaves the portable graph out: the engine runs on
        machines like this one only, and cannot be refitted.
        """
        plan = self._engine.plan
        if "EXCLUDE_WEIGHTS" in config._flags:
            if self._metadata.refittable:
                plan = strip(plan)
            else:
                self._reporter.warning("the engine cannot be refitted, so it keeps its weights")
        if "EXCLUDE_LEAN_RUNTIME" in config._flags and not self._metadata.refittable:
            plan = replace(plan, graph="", weights={})
        return IHostMemory(write_plan(plan))

    @property
    def error_recorder(self) -> IErrorRecorder | None:
        """What collects errors."""
        return self._reporter.recorder

    @error_recorder.setter
    @checked
    def error_recorder(self, value: IErrorRecorder | None) -> None:
        self._reporter.recorder = value

    def __enter__(self) -> ICudaEngine:
        return self

    def __exit__(self, *exc: object) -> None:
        return None

    def __del__(self) -> None:
        """Nothing is left to do; programs call it all the same."""


def wrap(engine: runtime.Engine, reporter: Reporter) -> ICudaEngine:
    """Return an engine of Lamina's as TensorRT's API shows it."""
    return ICudaEngine(engine, notes.of_plan(engine.plan), reporter)


__all__ = ["ICudaEngine"]
