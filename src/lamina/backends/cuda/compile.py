"""Compiled kernels: from the cache on disk, or compiled in worker processes.

A cached kernel is a pair of files, ``NAME.cubin`` and ``NAME.json``; the name is a digest of the
request, the compute capability, Triton's version and, for kernels that stand in a module, the
sources of all such modules.
"""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import importlib.metadata
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import cache
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from lamina.backends.cuda.request import MODULE, KernelRequest
from lamina.config import cache_folder, worker_environment
from lamina.errors import BuildError

_KERNELS = Path(__file__).parent / "kernels"


@dataclasses.dataclass(frozen=True)
class MachineCode:
    """A compiled kernel: an ELF image and what a launch of its ``function`` needs.

    ``scratch_bytes`` is global memory for each program of a launch.
    """

    cubin: bytes
    function: str
    warps: int
    shared_bytes: int
    scratch_bytes: int
    scratch_align: int


Outcome = MachineCode | str
"""A kernel, or the reason why it does not compile."""


class Compiler:
    """Compiles kernels for one compute capability; workers start when the first is missing."""

    def __init__(self, arch: int, workers: int) -> None:
        self.arch, self.workers = arch, workers
        self.known: dict[KernelRequest, Outcome] = {}
        self._pool: _Workers | None = None

    def compile(
        self, requests: Iterable[KernelRequest], progress: Callable[[int, int], None] | None = None
    ) -> Mapping[KernelRequest, Outcome]:
        """Return what became of each request; ``progress`` hears of those compiled now."""
        wanted = [r for r in dict.fromkeys(requests) if r not in self.known]
        missing = []
        for r in wanted:
            found = _read(self._path(r))
            if found is None:
                missing.append(r)
            else:
                self.known[r] = found
        if missing:
            if self._pool is None:
                self._pool = _Workers(min(self.workers, len(missing)), self.arch)
            self._pool.grow(min(self.workers, len(missing)))
            for done, (r, outcome) in enumerate(self._pool.compile(missing), 1):
                self.known[r] = outcome
                if isinstance(outcome, MachineCode):
                    _write(self._path(r), outcome)
                if progress is not None:
                    progress(done, len(missing))
        return self.known

    def code(self, request: KernelRequest) -> MachineCode:
        """Return one kernel; raises BuildError with the reason why there is none."""
        outcome = self.compile([request])[request]
        if isinstance(outcome, str):
            raise BuildError(outcome)
        return outcome

    def close(self) -> None:
        """End the workers."""
        if self._pool is not None:
            self._pool.close()
            self._pool = None

    def __enter__(self) -> Compiler:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _path(self, request: KernelRequest) -> Path:
        parts = [request.key(), str(self.arch), triton_version()]
        if request.source.startswith(MODULE):
            parts.append(_sources_digest())
        name = hashlib.blake2b("\n".join(parts).encode(), digest_size=16).hexdigest()
        return cache_folder() / "kernels" / name


@cache
def triton_version() -> str:
    """Return the version of Triton; raises BuildError when it is not installed."""
    try:
        return importlib.metadata.version("triton")
    except importlib.metadata.PackageNotFoundError as e:
        raise BuildError(
            "building for a GPU needs Triton", hint="pip install 'lamina[cuda]'"
        ) from e


@cache
def _sources_digest() -> str:
    digest = hashlib.blake2b(digest_size=16)
    for path in sorted(_KERNELS.glob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _read(path: Path) -> MachineCode | None:
    """Return a cached kernel; a missing or damaged one is compiled again."""
    try:
        fields = json.loads(path.with_suffix(".json").read_text())
        cubin = path.with_suffix(".cubin").read_bytes()
        if hashlib.blake2b(cubin, digest_size=16).hexdigest() != fields.pop("digest"):
            return None
        return MachineCode(cubin=cubin, **fields)
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None


def _write(path: Path, code: MachineCode) -> None:
    """Store a kernel, the description last; a place that cannot be written is no error."""
    fields = {k: v for k, v in dataclasses.asdict(code).items() if k != "cubin"}
    fields["digest"] = hashlib.blake2b(code.cubin, digest_size=16).hexdigest()
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        _replace(path.with_suffix(".cubin"), code.cubin)
        _replace(path.with_suffix(".json"), json.dumps(fields, sort_keys=True).encode())


def _replace(path: Path, data: bytes) -> None:
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".kernel")
    try:
        with os.fdopen(handle, "wb") as f:
            f.write(data)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


class _Workers:
    """Processes that compile one request after the other, asked by one thread each."""

    def __init__(self, count: int, arch: int) -> None:
        self.arch = arch
        self._processes: list[subprocess.Popen[bytes]] = []
        self._idle: SimpleQueue[subprocess.Popen[bytes]] = SimpleQueue()
        self.grow(count)

    def grow(self, count: int) -> None:
        """Start processes until there are ``count``."""
        while len(self._processes) < count:
            self._start()

    def _start(self) -> None:
        root = str(Path(__file__).parents[3])
        start = (
            f"import sys; sys.path.insert(0, {root!r}); "
            "from lamina.backends.cuda import compile_worker; compile_worker.serve()"
        )
        process = subprocess.Popen(
            [sys.executable, "-c", start],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            process_group=0,  # Ctrl-C is for this process, which ends the workers itself
            env=worker_environment(),
        )
        self._processes.append(process)
        self._idle.put(process)

    def compile(self, requests: list[KernelRequest]) -> Iterable[tuple[KernelRequest, Outcome]]:
        """Yield requests with their outcomes as they come."""
        with ThreadPoolExecutor(len(self._processes)) as threads:
            done: SimpleQueue[tuple[KernelRequest, Outcome]] = SimpleQueue()
            for r in requests:
                threads.submit(lambda r=r: done.put((r, self._ask(r))))  # type: ignore[misc]
            for _ in requests:
                yield done.get()

    def _ask(self, request: KernelRequest) -> Outcome:
        process = self._idle.get()
        try:
            assert process.stdin is not None and process.stdout is not None
            question = {"arch": self.arch, "request": dataclasses.asdict(request)}
            process.stdin.write(json.dumps(question).encode() + b"\n")
            process.stdin.flush()
            line = process.stdout.readline()
            if not line:
                return f"the compiler of {request.function} ended with status {process.wait()}"
            return _outcome(json.loads(line))
        except (OSError, ValueError) as e:
            return f"the compiler of {request.function} failed: {e}"
        finally:
            if process.poll() is None:
                self._idle.put(process)
            else:
                self._processes.remove(process)
                self._start()

    def close(self) -> None:
        """End the processes, also in the midst of their work."""
        for process in self._processes:
            process.send_signal(signal.SIGKILL)
            process.wait()
        self._processes = []


def _outcome(answer: Mapping[str, Any]) -> Outcome:
    if "error" in answer:
        return str(answer["error"])
    return MachineCode(**{**answer, "cubin": base64.b64decode(answer["cubin"])})
