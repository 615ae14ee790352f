"""Options that the builder itself had in TensorRT 7 and before."""

from __future__ import annotations

from typing import Any

from lamina.tensorrt.builder_config import IBuilderConfig
from lamina.tensorrt.check import checked
from lamina.tensorrt.compile import compile_network
from lamina.tensorrt.engine.cuda_engine import ICudaEngine
from lamina.tensorrt.engine.runtime import deserialize_plan
from lamina.tensorrt.error_reporting import Reporter
from lamina.tensorrt.network_definition import INetworkDefinition
from lamina.tensorrt.option import Option

_FLAGS = {
    "fp16_mode": "FP16",
    "int8_mode": "INT8",
    "strict_type_constraints": "STRICT_TYPES",
    "refittable": "REFIT",
    "debug_sync": "DEBUG",
}
"""The flag of IBuilderConfig that took a property's place."""

_OPTIONS = {
    "max_workspace_size": "max_workspace_size",
    "min_find_iterations": "min_timing_iterations",
    "average_find_iterations": "avg_timing_iterations",
}
"""The option of IBuilderConfig that took a property's place."""


class LegacyBuilder:
    """Properties and the build method of version 7."""

    max_workspace_size = Option(int, 1 << 30, "Limit of the workspace in bytes, once it is set.")
    fp16_mode = Option(bool, False, "Whether half precision may be used.")
    int8_mode = Option(bool, False, "Whether INT8 may be used.")
    strict_type_constraints = Option(bool, False, "Whether precisions are obeyed.")
    refittable = Option(bool, False, "Whether weights may be replaced later.")
    debug_sync = Option(bool, False, "Whether layers are waited for; kept.")
    min_find_iterations = Option(int, 1, "Least number of measurements of a tactic.")
    average_find_iterations = Option(int, 1, "Runs over which a time is averaged.")

    _reporter: Reporter
    _max_batch_size: int

    def _start_legacy(self) -> None:
        for name in (*_FLAGS, *_OPTIONS):
            self.__dict__.pop(name, None)
        self._calibrator: Any = None

    @property
    def int8_calibrator(self) -> Any:
        """What feeds calibration with data."""
        return self._calibrator

    @int8_calibrator.setter
    def int8_calibrator(self, value: Any) -> None:
        self._calibrator = value

    @checked
    def build_cuda_engine(self, network: INetworkDefinition) -> ICudaEngine | None:
        """Return an engine built with the builder's own options; None when that fails."""
        config = IBuilderConfig(self._reporter)
        for name, option in _OPTIONS.items():
            if name in self.__dict__:
                setattr(config, option, self.__dict__[name])
        config._flags |= {flag for name, flag in _FLAGS.items() if self.__dict__.get(name)}
        config._calibrator = self._calibrator
        plan = compile_network(network, config, self._reporter, self._max_batch_size)
        return None if plan is None else deserialize_plan(plan, self._reporter)
