"""Compile trained networks into optimized, serialized engines and run them.

``lamina.build`` turns a model into an :class:`Engine`; ``Engine.save`` and ``lamina.load`` move it
through a plan file.  Public names are imported on first use, so that running a plan loads nothing
of the compiler.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lamina.builder import build as build
    from lamina.config import BuildConfig as BuildConfig
    from lamina.errors import BuildError as BuildError
    from lamina.errors import BuildInterrupted as BuildInterrupted
    from lamina.errors import ConfigError as ConfigError
    from lamina.errors import DeviceError as DeviceError
    from lamina.errors import ExecutionError as ExecutionError
    from lamina.errors import GraphError as GraphError
    from lamina.errors import ImportFailed as ImportFailed
    from lamina.errors import InputError as InputError
    from lamina.errors import LaminaError as LaminaError
    from lamina.errors import NoTactic as NoTactic
    from lamina.errors import PlanError as PlanError
    from lamina.errors import TypeMismatch as TypeMismatch
    from lamina.errors import Unsupported as Unsupported
    from lamina.ir.graph import Graph as Graph
    from lamina.plugins import plugin as plugin
    from lamina.runtime.context import ExecutionContext as ExecutionContext
    from lamina.runtime.engine import Engine as Engine
    from lamina.runtime.load import load as load

__version__ = "0.1.0"

_ERRORS = (
    "BuildError",
    "BuildInterrupted",
    "ConfigError",
    "DeviceError",
    "ExecutionError",
    "GraphError",
    "ImportFailed",
    "InputError",
    "LaminaError",
    "NoTactic",
    "PlanError",
    "TypeMismatch",
    "Unsupported",
)
_HOME = {
    "BuildConfig": "lamina.config",
    "Engine": "lamina.runtime.engine",
    "ExecutionContext": "lamina.runtime.context",
    "Graph": "lamina.ir.graph",
    "build": "lamina.builder",
    "load": "lamina.runtime.load",
    "plugin": "lamina.plugins.registered",
    **dict.fromkeys(_ERRORS, "lamina.errors"),
}
__all__ = [
    "BuildConfig",
    "BuildError",
    "BuildInterrupted",
    "ConfigError",
    "DeviceError",
    "Engine",
    "ExecutionContext",
    "ExecutionError",
    "Graph",
    "GraphError",
    "ImportFailed",
    "InputError",
    "LaminaError",
    "NoTactic",
    "PlanError",
    "TypeMismatch",
    "Unsupported",
    "build",
    "load",
    "plugin",
]


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module 'lamina' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
