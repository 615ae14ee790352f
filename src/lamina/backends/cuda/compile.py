"""Compiled kernels: from the cache on disk, or compiled in worker processes.

A cached kernel is a pair of files, ``NAME.cubin`` and ``NAME.json``; the name is a digest of the
request, the compute capability, Triton's version and, for kernels that stand in a module, the
sources of all such modules.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.metadata
import json
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, as_completed
from contextlib import suppress
from functools import cache
from itertools import chain
from pathlib import Path

from lamina.backends.cuda.request import MODULE, KernelRequest
from lamina.codegen.workers import Message, Workers
from lamina.config import cache_folder, worker_environment
from lamina.errors import BuildError
from lamina.tactics.toolchain import package_versions, sources_digest

_KERNELS = Path(__file__).parent / "kernels"
_SOURCES = (_KERNELS, Path(__file__).parent / "tactics", Path(__file__).parents[2] / "codegen")
_WORKER = "lamina.backends.cuda.compile_worker"
_LIBRARY_PACKAGES = (
    "nvidia-cudnn-cu13",
    "nvidia-cudnn-cu12",
    "nvidia-cudnn-frontend",
    "nvidia-cublas",
    "nvidia-cublas-cu12",
)


@dataclasses.dataclass(frozen=True)
class MachineCode:
    """A compiled kernel: an ELF image and what a launch of its ``function`` needs.

    ``scratch_bytes`` is global memory for each program of a launch; ``driver_version`` is that of
    the oldest driver that loads the image, 1000 for each major version of CUDA.
    """

    cubin: bytes
    function: str
    warps: int
    shared_bytes: int
    scratch_bytes: int
    scratch_align: int
    driver_version: int = 0


Outcome = MachineCode | str
"""A kernel, or the reason why it does not compile."""


class Compiler:
    """Compiles kernels for one compute capability; workers start when the first is missing."""

    def __init__(self, arch: int, workers: int) -> None:
        self.arch, self.workers = arch, workers
        self.known: dict[KernelRequest, Outcome] = {}
        self._pool: Workers | None = None
        self._running: dict[KernelRequest, Future[Message]] = {}
        self._ahead: set[KernelRequest] = set()
        """What runs though nothing waits for it."""

    def compile(
        self, requests: Iterable[KernelRequest], progress: Callable[[int, int], None] | None = None
    ) -> Mapping[KernelRequest, Outcome]:
        """Return what became of each request; ``progress`` hears how many are known."""
        wanted = list(dict.fromkeys(requests))
        for done, _ in enumerate(self.begin(wanted), 1):
            if progress is not None:
                progress(done, len(wanted))
        return self.known

    def begin(
        self, requests: Iterable[KernelRequest], enough: Callable[[], bool] = lambda: False
    ) -> Iterator[KernelRequest]:
        """Begin to compile, and return the requests in the order in which they become ``known``.

        Those that were compiled before come first.  Once there is ``enough``, no other is begun,
        and the rest does not come.
        """
        wanted = list(dict.fromkeys(requests))
        missing = [r for r in wanted if r not in self.known and not self._find(r)]
        late = set(missing)
        self._ahead -= late
        for r in [r for r in self._ahead if self._running[r].cancel()]:
            self._ahead.remove(r)
            del self._running[r]
        begun = {self._submitted(r): r for r in missing}
        return chain((r for r in wanted if r not in late), self._kept(begun, enough))

    def prepare(self, requests: Iterable[KernelRequest]) -> None:
        """Compile what may be asked for next, behind what was asked for; nothing waits for it.

        What was not begun until something else is asked for is given up.
        """
        for r in dict.fromkeys(requests):
            if r not in self.known and r not in self._running and not self._find(r):
                self._submitted(r)
                self._ahead.add(r)

    def _kept(
        self, begun: Mapping[Future[Message], KernelRequest], enough: Callable[[], bool]
    ) -> Iterator[KernelRequest]:
        for future in as_completed(begun):
            r = begun[future]
            self._running.pop(r, None)
            if future.cancelled():
                continue
            self.known[r] = outcome = _outcome(r, future)
            if isinstance(outcome, MachineCode):
                _write(self._path(r), outcome)
            yield r
            if enough():
                for other in begun:
                    other.cancel()

    def _find(self, request: KernelRequest) -> bool:
        """Look for a kernel on disk."""
        found = _read(self._path(request))
        if found is not None:
            self.known[request] = found
        return found is not None

    def code(self, request: KernelRequest) -> MachineCode:
        """Return one kernel; raises BuildError with the reason why there is none."""
        outcome = self.compile([request])[request]
        if isinstance(outcome, str):
            raise BuildError(outcome)
        return outcome

    def _submitted(self, request: KernelRequest) -> Future[Message]:
        """Return the answer to come for a kernel, which is asked for once."""
        if request not in self._running:
            if self._pool is None:
                self._pool = Workers(_WORKER, self.workers, worker_environment())
            question = {"arch": self.arch, "request": dataclasses.asdict(request)}
            self._running[request] = self._pool.submit(question)
        return self._running[request]

    def close(self) -> None:
        """End the workers."""
        if self._pool is not None:
            self._pool.close()
            self._pool = None
            self._running.clear()
            self._ahead.clear()

    def __enter__(self) -> Compiler:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _path(self, request: KernelRequest) -> Path:
        parts = [request.key(), str(self.arch), triton_version()]
        if request.source.startswith(MODULE):
            parts.append(sources_digest(_KERNELS))
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
def toolchain() -> str:
    """Return the versions that decide which kernels can be made, those of libraries included."""
    sources = sources_digest(*_SOURCES)[:8]
    versions = package_versions(_LIBRARY_PACKAGES)
    return ", ".join([f"triton {triton_version()}", f"sources {sources}", *versions])


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


def _outcome(request: KernelRequest, begun: Future[Message]) -> Outcome:
    try:
        fields, cubin = begun.result()
    except BuildError as e:
        return f"{request.function}: {e}"
    return str(fields["error"]) if "error" in fields else MachineCode(cubin=cubin, **fields)
