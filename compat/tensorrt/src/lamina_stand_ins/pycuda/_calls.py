"""Calls of CUDA's runtime that raise PyCUDA's exceptions."""

from __future__ import annotations

from typing import Any

from cuda.bindings import runtime


class Error(Exception):
    """What CUDA refuses."""


class LogicError(Error):
    """A call that makes no sense."""


class LaunchError(Error):
    """A kernel that failed."""


class RuntimeError(Error):
    """Anything else."""


class MemoryError(Error):
    """Too little memory."""


def call(name: str, *arguments: Any) -> Any:
    """Call a function of the runtime; returns its result, raises an Error."""
    error, *results = getattr(runtime, name)(*arguments)
    if int(error) == 0:
        return results[0] if len(results) == 1 else tuple(results)
    kind = MemoryError if int(error) == 2 else LogicError
    raise kind(f"{name} failed: {runtime.cudaError_t(int(error)).name}")
