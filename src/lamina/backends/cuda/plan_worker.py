"""What a process that makes plans of cuDNN's engines does with a request.

It has a context of its own on the device, as the library proposes other engines, and fewer, for a
device that it knows by a description alone.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from lamina.backends.cuda.bindings import open_device
from lamina.backends.cuda.library.cudnn import Cudnn
from lamina.backends.cuda.library.cudnn_planner import load_cudnn
from lamina.codegen.workers import Message
from lamina.errors import LaminaError


def answer(head: dict[str, Any], _: bytes) -> Message:
    """Plan an engine: its plan with the bytes of its ``workspace``, or an ``error``."""
    try:
        library = _library(head["device"])
        plan, workspace = library.plan(head["problem"], head["names"], head["engine"])
    except LaminaError as e:
        return {"error": str(e)}, b""
    return {"workspace": workspace}, plan


@cache
def _library(ordinal: int) -> Cudnn:
    return Cudnn(open_device(ordinal), load_cudnn())
