"""The libraries that a plan may name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from lamina.backends.cuda.device import Device
from lamina.backends.cuda.library import cublaslt, cudnn
from lamina.backends.cuda.primitive import Library
from lamina.errors import PlanError

_OPENERS: Final[dict[str, Callable[[Device], Library]]] = {
    cublaslt.NAME: cublaslt.open_library,
    cudnn.NAME: cudnn.open_library,
}


def open_library(name: str, device: Device) -> Library:
    """Load a library for a device; DeviceError says what is missing and how to get it."""
    if name not in _OPENERS:
        raise PlanError(f"the library {name!r} is not known", hint="install a newer Lamina")
    return _OPENERS[name](device)
