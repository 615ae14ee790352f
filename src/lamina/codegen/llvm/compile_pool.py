"""Compiles several LLVM modules at once.

LLVM's Python binding holds one lock around every call, so threads would take turns.
"""

from __future__ import annotations

import dataclasses
from concurrent.futures import Future
from typing import Any

from lamina.codegen.llvm import target
from lamina.codegen.workers import Message, Workers
from lamina.errors import BuildError


class CompilePool:
    """Worker processes that compile modules; ``close`` ends them."""

    def __init__(self, isa: target.Isa, workers: int) -> None:
        self._isa = dataclasses.asdict(isa)
        self._workers = Workers(__name__, workers)
        self._workers.start(workers)

    def submit(self, text: str, *, level: int = 1) -> Future[Message]:
        """Begin to compile a module; ``compiled`` returns what becomes of it."""
        return self._workers.submit({"isa": self._isa, "level": level}, text.encode())

    def close(self) -> None:
        """Give up what is not finished and end the workers."""
        self._workers.close()

    def __enter__(self) -> CompilePool:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def compiled(begun: Future[Message]) -> bytes:
    """Return the object of a module; raises BuildError as ``compile_module`` does."""
    head, code = begun.result()
    if "error" in head:
        raise BuildError(head["error"])
    return code


def answer(head: dict[str, Any], payload: bytes) -> Message:
    """Compile a module (in a worker)."""
    fields = head["isa"]
    isa = target.Isa(**{**fields, "features": tuple(fields["features"])})
    try:
        return {}, target.compile_module(payload.decode(), isa, level=head["level"])
    except BuildError as e:
        return {"error": str(e)}, b""
