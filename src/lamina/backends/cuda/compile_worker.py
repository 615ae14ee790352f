"""What a process that compiles GPU kernels does with a request."""

from __future__ import annotations

import dataclasses
from typing import Any

from lamina.backends.cuda.request import KernelRequest
from lamina.backends.cuda.triton_compile import compile_request
from lamina.codegen.workers import Message
from lamina.errors import BuildError


def answer(head: dict[str, Any], _: bytes) -> Message:
    """Compile a kernel: the fields of its MachineCode, or an ``error``."""
    fields = {k: _tuples(v) for k, v in head["request"].items()}
    try:
        code = compile_request(KernelRequest(**fields), head["arch"])
    except BuildError as e:
        return {"error": str(e)}, b""
    described = {k: v for k, v in dataclasses.asdict(code).items() if k != "cubin"}
    return described, code.cubin


def _tuples(x: Any) -> Any:
    return tuple(map(_tuples, x)) if isinstance(x, list) else x
