"""Processes that compile: each answers one request after the other.

A compiler that holds a lock around its work, or that may crash, runs beside this process: a worker
is a fresh interpreter whose function ``answer`` gets a request (a JSON object and some bytes) and
returns the like.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Lock
from typing import IO, Any

from lamina.errors import BuildError

Message = tuple[dict[str, Any], bytes]


class Workers:
    """At most ``limit`` processes with the function ``answer`` of ``module``; ``close`` ends them.

    A process that dies fails the request that it had, and another takes its place.  The limit may
    ``grow`` up to ``most``.
    """

    def __init__(
        self,
        module: str,
        limit: int,
        environment: Mapping[str, str] | None = None,
        *,
        most: int = 0,
    ) -> None:
        self._module, self.limit, self._environment = module, limit, environment
        self._processes: list[subprocess.Popen[bytes]] = []
        self._idle: SimpleQueue[subprocess.Popen[bytes]] = SimpleQueue()
        self._threads = ThreadPoolExecutor(max(limit, most))
        self._lock = Lock()

    def start(self, count: int) -> None:
        """Start processes until there are ``count``, so that they are ready when work comes."""
        with self._lock:
            while len(self._processes) < min(count, self.limit):
                self._start()

    def grow(self, limit: int) -> None:
        """Let there be up to ``limit`` processes, and start them."""
        with self._lock:
            if not 0 < self.limit < limit:
                return
            self.limit = limit
        self.start(limit)

    def submit(self, head: dict[str, Any], payload: bytes = b"") -> Future[Message]:
        """Begin to answer a request; the result raises BuildError when the process dies of it."""
        return self._threads.submit(self._ask, head, payload)

    def close(self) -> None:
        """Give up what is not finished and end the processes."""
        with self._lock:
            processes, self._processes, self.limit = self._processes, [], 0
        for process in processes:
            process.kill()  # it holds nothing, and leaving by itself takes an interpreter 20 ms
        self._threads.shutdown(cancel_futures=True)
        for process in processes:
            process.communicate()  # closes the pipes

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _start(self) -> None:
        root = str(Path(__file__).parents[2])
        program = (
            f"import sys; sys.path.insert(0, {root!r}); import {self._module} as m; "
            "from lamina.codegen.workers import serve; serve(m.answer)"
        )
        process = subprocess.Popen(
            [sys.executable, "-c", program],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            process_group=0,  # Ctrl-C is for this process, which ends the workers itself
            env=self._environment,
        )
        self._processes.append(process)
        self._idle.put(process)

    def _free(self) -> subprocess.Popen[bytes]:
        """Return a process that has nothing to do, a new one while there may be more."""
        if self._idle.empty():
            self.start(len(self._processes) + 1)
        while self.limit:
            with suppress(Empty):
                return self._idle.get(timeout=0.5)
        raise BuildError("the processes that compile were closed")

    def _ask(self, head: dict[str, Any], payload: bytes) -> Message:
        process = self._free()
        try:
            assert process.stdin is not None and process.stdout is not None
            _send(process.stdin, head, payload)
            return _receive(process.stdout)
        except (OSError, EOFError, ValueError) as e:
            process.kill()
            raise BuildError(f"the compiler ended with status {process.wait()}") from e
        finally:
            self._give_back(process)

    def _give_back(self, process: subprocess.Popen[bytes]) -> None:
        if process.poll() is None:
            self._idle.put(process)
            return
        with self._lock:
            if process in self._processes:
                self._processes.remove(process)
                process.communicate()
                self._start()


def serve(answer: Callable[[dict[str, Any], bytes], Message]) -> None:
    """Answer requests on standard input until it ends (the main function of a process).

    Whatever a compiler prints goes to standard error, so that it cannot mix with the answers.
    Ctrl-C reaches a terminal's whole group of processes; what it means is the parent's to decide,
    and the end of the input then ends the worker.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    while True:
        try:
            head, payload = _receive(sys.stdin.buffer)
        except EOFError:
            return
        _send(answers, *answer(head, payload))


def _send(stream: IO[bytes], head: dict[str, Any], payload: bytes) -> None:
    for part in (json.dumps(head).encode(), payload):
        stream.write(len(part).to_bytes(8, "little") + part)
    stream.flush()


def _receive(stream: IO[bytes]) -> Message:
    head = json.loads(_part(stream))
    return head, _part(stream)


def _part(stream: IO[bytes]) -> bytes:
    head = stream.read(8)
    size = int.from_bytes(head, "little")
    data = stream.read(size) if len(head) == 8 else b""
    if len(head) < 8 or len(data) < size:
        raise EOFError
    return data
