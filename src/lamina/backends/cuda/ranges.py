"""Names for runs and steps in NVIDIA's profilers: NVTX ranges, through the package ``nvtx``."""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

from lamina.errors import DeviceError

Range = Callable[[str], AbstractContextManager[object]]
"""Gives a name to what this thread does inside the context."""

_DOMAIN = "lamina"


def ranges(*, wanted: bool) -> Range:
    """Return what names ranges, or does nothing; raises DeviceError without ``nvtx``."""
    if not wanted:
        nothing = contextlib.nullcontext()
        return lambda _: nothing
    try:
        nvtx: Any = importlib.import_module("nvtx")
    except ImportError as e:
        raise DeviceError("NVTX ranges need the package nvtx", hint="pip install nvtx") from e
    return lambda name: nvtx.annotate(message=name, domain=_DOMAIN)
