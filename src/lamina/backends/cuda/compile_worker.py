"""What a process that compiles GPU kernels does with a request."""

from __future__ import annotations

import dataclasses
import os
import tempfile
import time
from typing import Any

from triton import knobs

from lamina.backends.cuda.compile import MachineCode
from lamina.backends.cuda.request import KernelRequest
from lamina.backends.cuda.triton_compile import compile_request
from lamina.codegen.workers import Message
from lamina.errors import BuildError


def answer(head: dict[str, Any], _: bytes) -> Message:
    """Compile a kernel: the fields of its MachineCode, or an ``error``.

    Besides, ``seconds`` says how long that took, and ``processor_seconds`` how long a processor was
    busy with it, here or in the assembler.
    """
    fields = {k: _tuples(v) for k, v in head["request"].items()}
    begin, busy = time.perf_counter(), sum(os.times()[:4])
    cubin = b""
    try:
        code = _compiled(KernelRequest(**fields), head["arch"])
        described = {k: v for k, v in dataclasses.asdict(code).items() if k != "cubin"}
        cubin = code.cubin
    except BuildError as e:
        described = {"error": str(e)}
    described["seconds"] = time.perf_counter() - begin
    described["processor_seconds"] = sum(os.times()[:4]) - busy
    return described, cubin


def _compiled(request: KernelRequest, arch: int) -> MachineCode:
    """Compile a kernel; Triton's own cache of it, of all stages, is thrown away."""
    with knobs.cache.scope(), tempfile.TemporaryDirectory(prefix="lamina") as folder:
        knobs.cache.dir = folder
        return compile_request(request, arch)


def _tuples(x: Any) -> Any:
    return tuple(map(_tuples, x)) if isinstance(x, list) else x
