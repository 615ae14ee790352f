"""The public names of the package, collected from the modules that define them."""

from __future__ import annotations

import importlib
from typing import Any

_MODULES = (
    "builder",
    "builder_config",
    "calibration.calibrators",
    "engine.algorithm_selector",
    "engine.allocators",
    "engine.context",
    "engine.cuda_engine",
    "engine.debug",
    "engine.inspector",
    "engine.profiler",
    "engine.refitter",
    "engine.runtime",
    "engine.runtime_config",
    "engine.streams",
    "enums",
    "error_reporting",
    "foundation.dims",
    "foundation.dtype",
    "foundation.host_memory",
    "foundation.interface",
    "foundation.permutation",
    "foundation.weights",
    "legacy.caffe",
    "legacy.uff",
    "logger",
    "network_definition",
    "network.attention",
    "network.control",
    "network.detection",
    "network.experts",
    "network.fully_connected",
    "network.generation",
    "network.image",
    "network.indexing",
    "network.layer",
    "network.linear",
    "network.movement",
    "network.normalization",
    "network.pointwise",
    "network.quantization",
    "network.recurrent",
    "network.reduction",
    "network.slicing",
    "network.tensor",
    "onnx.parser",
    "onnx.parser_error",
    "onnx.refitter",
    "plugin_api.descriptions",
    "plugin_api.expressions",
    "plugin_api.fields",
    "plugin_api.launch",
    "plugin_api.layers",
    "plugin_api.quick_kernels",
    "plugin_api.quick_running",
    "plugin_api.registry",
    "plugin_api.running",
    "plugin_api.standard",
    "plugin_api.v2",
    "plugin_api.v3",
    "plugin_api.v3_quick",
    "profile",
    "progress",
    "timing_cache",
)
"""Modules whose ``__all__`` is public."""


def collect() -> dict[str, Any]:
    """Import the modules and return the public names of all versions."""
    found: dict[str, Any] = {}
    for name in _MODULES:
        module = importlib.import_module(f"lamina.tensorrt.{name}")
        found.update({public: getattr(module, public) for public in module.__all__})
    for value in found.values():
        if isinstance(value, type) and not hasattr(value, "__enter__"):
            _manage(value)
    return found


def _manage(cls: Any) -> None:
    """Let ``with`` take objects of a class, as TensorRT's bindings do for all of theirs."""

    def enter(self: Any) -> Any:
        return self

    def leave(self: Any, *failure: object) -> None:
        return None

    cls.__enter__, cls.__exit__ = enter, leave
