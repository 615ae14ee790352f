"""The main function of a process that compiles kernels: a JSON line in, a JSON line out."""

from __future__ import annotations

import base64
import dataclasses
import json
import os
import signal
import sys
from typing import Any

from lamina.backends.cuda.request import KernelRequest
from lamina.backends.cuda.triton_compile import compile_request
from lamina.errors import BuildError


def serve() -> None:
    """Answer requests on standard input until it ends.

    Whatever Triton prints goes to standard error, so that it cannot mix with the answers.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    for line in sys.stdin:
        answers.write(json.dumps(_answer(json.loads(line))) + "\n")
        answers.flush()


def _answer(question: dict[str, Any]) -> dict[str, Any]:
    fields = {k: _tuples(v) for k, v in question["request"].items()}
    try:
        code = compile_request(KernelRequest(**fields), question["arch"])
    except BuildError as e:
        return {"error": str(e)}
    return {**dataclasses.asdict(code), "cubin": base64.b64encode(code.cubin).decode()}


def _tuples(x: Any) -> Any:
    return tuple(map(_tuples, x)) if isinstance(x, list) else x
