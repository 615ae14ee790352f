"""Compiles several modules at once in worker processes.

LLVM's Python binding holds one lock around every call, so threads would take turns; a worker is a
fresh interpreter that reads LLVM text from its input and writes objects to its output.
"""

from __future__ import annotations

import dataclasses
import json
import signal
import subprocess
import sys
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue
from typing import IO

from lamina.codegen.llvm import target
from lamina.errors import BuildError


class CompilePool:
    """Worker processes that compile modules; ``close`` ends them."""

    def __init__(self, isa: target.Isa, workers: int) -> None:
        self._isa = isa
        root = str(Path(__file__).parents[3])
        start = (
            f"import sys; sys.path.insert(0, {root!r}); "
            "from lamina.codegen.llvm import compile_pool; compile_pool.serve()"
        )
        self._workers = [
            subprocess.Popen(
                [sys.executable, "-c", start],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                process_group=0,  # Ctrl-C is for this process, which ends the workers itself
            )
            for _ in range(workers)
        ]
        self._idle: SimpleQueue[subprocess.Popen[bytes]] = SimpleQueue()
        for worker in self._workers:
            self._idle.put(worker)
        self._threads = ThreadPoolExecutor(workers)

    def submit(self, text: str, *, level: int = 1) -> Future[bytes]:
        """Begin to compile a module; its result raises BuildError as ``compile_module`` does."""
        return self._threads.submit(self._compile, text, level)

    def _compile(self, text: str, level: int) -> bytes:
        worker = self._idle.get()
        try:
            return self._ask(worker, text, level)
        finally:
            self._idle.put(worker)

    def _ask(self, worker: subprocess.Popen[bytes], text: str, level: int) -> bytes:
        if worker.stdin is None or worker.stdout is None:
            raise BuildError("a compile worker has no pipes")
        try:
            head = json.dumps({"isa": dataclasses.asdict(self._isa), "level": level})
            _send(worker.stdin, head.encode(), text.encode())
            kind, answer = _receive(worker.stdout), _receive(worker.stdout)
        except (BrokenPipeError, EOFError) as error:
            raise BuildError(f"a compile worker ended with status {worker.poll()}") from error
        if kind != b"object":
            raise BuildError(answer.decode())
        return answer

    def close(self) -> None:
        """Give up what is not finished and end the workers."""
        for worker in self._workers:
            worker.kill()  # it holds nothing, and leaving by itself takes an interpreter 20 ms
        self._threads.shutdown(cancel_futures=True)
        for worker in self._workers:
            if worker.stdin is not None:
                worker.stdin.close()
            if worker.stdout is not None:
                worker.stdout.close()
            worker.wait()
        self._workers = []

    def __enter__(self) -> CompilePool:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def serve() -> None:
    """Answer compile requests on standard input until it ends (the worker's main function).

    Ctrl-C reaches a terminal's whole group of processes; what it means is the parent's to decide,
    and the end of the input then ends the worker.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    while True:
        try:
            head, text = _receive(sys.stdin.buffer), _receive(sys.stdin.buffer)
        except EOFError:
            return
        request = json.loads(head)
        fields = request["isa"]
        isa = target.Isa(**{**fields, "features": tuple(fields["features"])})
        try:
            answer = target.compile_module(text.decode(), isa, level=request["level"])
        except BuildError as error:
            _send(sys.stdout.buffer, b"error", str(error).encode())
        else:
            _send(sys.stdout.buffer, b"object", answer)


def _send(stream: IO[bytes], *parts: bytes) -> None:
    for part in parts:
        stream.write(len(part).to_bytes(8, "little") + part)
    stream.flush()


def _receive(stream: IO[bytes]) -> bytes:
    head = stream.read(8)
    if len(head) < 8:
        raise EOFError
    return stream.read(int.from_bytes(head, "little"))
