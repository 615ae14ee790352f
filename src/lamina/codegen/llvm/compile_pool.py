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
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO

from lamina.codegen.llvm import target
from lamina.errors import BuildError

_PAYS_FROM_BYTES = 1 << 20  # of text: about as long to compile as a worker takes to start


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

    def compile(self, texts: Sequence[str], *, level: int = 1) -> list[bytes]:
        """Return the object of each module, in order; BuildError as ``compile_module`` raises."""
        order = sorted(range(len(texts)), key=lambda i: -len(texts[i]))
        results: dict[int, bytes] = {}

        def drain(worker: subprocess.Popen[bytes]) -> None:
            while order:
                try:
                    index = order.pop(0)
                except IndexError:
                    return
                results[index] = self._ask(worker, texts[index], level)

        with ThreadPoolExecutor(len(self._workers)) as threads:
            try:
                for future in [threads.submit(drain, worker) for worker in self._workers]:
                    future.result()
            except BaseException:
                order.clear()  # the threads end with what they are at
                raise
        return [results[i] for i in range(len(texts))]

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
        """End the workers and wait for them."""
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


def compile_modules(
    texts: Sequence[str], isa: target.Isa, *, workers: int = 1, level: int = 1
) -> list[bytes]:
    """Compile modules to objects, in processes of their own when that can pay (workers > 1)."""
    count = min(workers, len(texts))
    if count < 2 or sum(map(len, texts)) < _PAYS_FROM_BYTES:
        return [target.compile_module(text, isa, level=level) for text in texts]
    with CompilePool(isa, count) as pool:
        return pool.compile(texts, level=level)


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
