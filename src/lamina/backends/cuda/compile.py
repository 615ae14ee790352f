"""Compiled kernels: from the cache on disk, or compiled in worker processes.

A cached kernel is a pair of files, ``NAME.cubin`` and ``NAME.json``; the name is a digest of the
request, the compute capability, Triton's version and, for kernels that stand in a module, the
sources of that module and of those that it takes from.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.metadata
import json
import os
import tempfile
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import suppress
from functools import cache
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from lamina.backends.cuda.kernel_sources import module_digest
from lamina.backends.cuda.request import MODULE, KernelRequest
from lamina.codegen.workers import Message, Workers
from lamina.config import cache_folder, folder_in_memory, worker_environment
from lamina.errors import BuildError
from lamina.tactics.spent import Spent
from lamina.tactics.toolchain import package_versions, sources_digest

_KERNELS = Path(__file__).parent / "kernels"
_SOURCES = (_KERNELS, Path(__file__).parent / "tactics", Path(__file__).parents[2] / "codegen")
_WORKER = "lamina.backends.cuda.compile_worker"
_PLANNER = "lamina.backends.cuda.plan_worker"
_MOST_PLANNERS = 4
"""Processes that plan engines of a library: the context of each takes memory on the device."""
_MOST_PER_CORE = 2
"""Processes for each core, where they wait much."""
_WORTH_MORE = 1.25
"""How many times the processes there are must be wanted for more to be started."""
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
    the oldest driver that loads the image, 1000 for each major version of CUDA.  ``boxes`` has, for
    each parameter that is a tensor map, the box that a copy moves and the bytes it is swizzled in.
    """

    cubin: bytes
    function: str
    warps: int
    shared_bytes: int
    scratch_bytes: int
    scratch_align: int
    driver_version: int = 0
    boxes: tuple[tuple[tuple[int, ...], int], ...] = ()


Outcome = MachineCode | str
"""A kernel, or the reason why it does not compile."""

Awaited = KernelRequest | Hashable
"""What somebody waits for: a kernel, or something else by a name."""


class Compiler:
    """Compiles kernels for one compute capability; workers start when the first is missing."""

    def __init__(self, arch: int, workers: int) -> None:
        self.arch, self.workers = arch, workers
        self.spent = Spent()
        self.known: dict[KernelRequest, Outcome] = {}
        self._pool: Workers | None = None
        self._planners: Workers | None = None
        self._running: dict[KernelRequest, Future[Message]] = {}
        self._answers, self._busy, self._seconds = 0, 0.0, 0.0
        self._writer = ThreadPoolExecutor(1, "kernels")
        self._written: list[Future[None]] = []

    def compile(
        self, requests: Iterable[KernelRequest], progress: Callable[[int, int], None] | None = None
    ) -> Mapping[KernelRequest, Outcome]:
        """Return what became of each request; ``progress`` hears how many are known."""
        wanted = list(dict.fromkeys(requests))
        for done, _ in enumerate(self.begin(wanted).finished(), 1):
            if progress is not None:
                progress(done, len(wanted))
        return self.known

    def begin(self, requests: Iterable[KernelRequest] = ()) -> Batch:
        """Begin to compile; the batch tells when which request is known, and takes more."""
        batch = Batch(self)
        batch.add(requests)
        return batch

    def future(self, request: KernelRequest) -> Future[Message] | None:
        """Return the answer to come for a kernel; None where it is known, if only on disk."""
        if request in self.known or self._find(request):
            return None
        return self._submitted(request)

    def plan(self, question: dict[str, Any]) -> Future[Message]:
        """Begin to make a library's plan, which a few processes of their own do."""
        if self._planners is None:
            self._planners = Workers(_PLANNER, min(_MOST_PLANNERS, self.workers))
        self.spent.add("engines planned", 1)
        return self._planners.submit(question)

    def settle(self, request: KernelRequest) -> bool:
        """Keep the answer that came for a kernel; return whether there was one."""
        future = self._running.pop(request, None)
        if future is not None and not future.cancelled():
            self.known[request] = outcome = self._outcome(request, future)
            if isinstance(outcome, MachineCode):  # a slow disk holds nobody up
                self._written.append(self._writer.submit(_write, self._path(request), outcome))
        return request in self.known

    def give_up(self, requests: Iterable[KernelRequest]) -> None:
        """Do not compile what was not begun yet."""
        for r in list(requests):
            if r in self._running:
                self._running[r].cancel()

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
        running = self._running.get(request)
        if running is None or running.cancelled():
            if self._pool is None:
                most = _MOST_PER_CORE * self.workers
                self._files = tempfile.TemporaryDirectory(prefix="lamina", dir=folder_in_memory())
                environment = worker_environment(self._files.name)
                self._pool = Workers(_WORKER, self.workers, environment, most=most)
            question = {"arch": self.arch, "request": dataclasses.asdict(request)}
            self._running[request] = self._pool.submit(question)
        return self._running[request]

    def _outcome(self, request: KernelRequest, begun: Future[Message]) -> Outcome:
        try:
            fields, cubin = begun.result()
        except BuildError as e:
            return f"{request.function}: {e}"
        self.spent.add("kernels compiled", 1)
        busy, seconds = fields.pop("processor_seconds"), fields.pop("seconds")
        self.spent.add("processor seconds for that", busy)
        self._watch(busy, seconds)
        return str(fields["error"]) if "error" in fields else MachineCode(cubin=cubin, **fields)

    def _watch(self, busy: float, seconds: float) -> None:
        """Let more processes compile where those that do leave their cores idle half of the time.

        They wait for files and for memory, on virtual machines most of all.
        """
        self._answers, self._busy, self._seconds = (
            self._answers + 1,
            self._busy + busy,
            self._seconds + seconds,
        )
        if self._answers == self.workers and self._pool is not None:
            share = self._busy / max(self._seconds, 1e-9)
            more = min(_MOST_PER_CORE, 1 / max(share, 1e-9))
            if more >= _WORTH_MORE:
                self._pool.grow(round(more * self.workers))

    def close(self) -> None:
        """End the workers, and wait until what they made is stored."""
        wait(self._written)
        self._written.clear()
        if self._pool is not None:
            self._pool.close()
            self._files.cleanup()
            self._pool = None
            self._running.clear()
        if self._planners is not None:
            self._planners.close()
            self._planners = None

    def __enter__(self) -> Compiler:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _path(self, request: KernelRequest) -> Path:
        parts = [request.key(), str(self.arch), triton_version()]
        if request.source.startswith(MODULE):
            parts.append(module_digest(request.source) or sources_digest(_KERNELS))
        name = hashlib.blake2b("\n".join(parts).encode(), digest_size=16).hexdigest()
        return cache_folder() / "kernels" / name


class Batch:
    """Kernels that somebody waits for; more may be added while they are compiled."""

    def __init__(self, compiler: Compiler) -> None:
        self._compiler = compiler
        self._ready: SimpleQueue[Awaited] = SimpleQueue()
        self._open: set[Awaited] = set()
        self._others: dict[Awaited, Future[Message]] = {}

    def add(self, requests: Iterable[KernelRequest]) -> None:
        """Begin to compile, behind what was begun before, what is not compiled yet."""
        for r in dict.fromkeys(requests):
            if r in self._open:
                continue
            self._open.add(r)
            future = self._compiler.future(r)
            if future is None:
                self._ready.put(r)
            else:
                future.add_done_callback(lambda _, r=r: self._ready.put(r))  # type: ignore[misc]

    def expect(self, what: Hashable, answer: Future[Message]) -> None:
        """Wait for something that is no kernel as well."""
        self._open.add(what)
        self._others[what] = answer
        answer.add_done_callback(lambda _: self._ready.put(what))

    def finished(self, enough: Callable[[], bool] = lambda: False) -> Iterator[Awaited]:
        """Return the requests in the order in which they become ``known``, until none is left.

        Once there is ``enough``, no other is begun, and those that were not do not come.
        """
        while self._open:
            r = self._ready.get()
            self._open.discard(r)
            if self._settle(r):
                yield r
            if enough():
                self._give_up()

    def _settle(self, what: Awaited) -> bool:
        if isinstance(what, KernelRequest):
            return self._compiler.settle(what)
        return not self._others.pop(what).cancelled()

    def _give_up(self) -> None:
        self._compiler.give_up(r for r in self._open if isinstance(r, KernelRequest))
        for answer in list(self._others.values()):
            answer.cancel()


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


def library_versions(library: str) -> list[str]:
    """Return the packages of a library of the device, each with its version."""
    return package_versions([name for name in _LIBRARY_PACKAGES if library[:6] in name])


def _read(path: Path) -> MachineCode | None:
    """Return a cached kernel; a missing or damaged one is compiled again."""
    try:
        fields = json.loads(path.with_suffix(".json").read_text())
        cubin = path.with_suffix(".cubin").read_bytes()
        if hashlib.blake2b(cubin, digest_size=16).hexdigest() != fields.pop("digest"):
            return None
        boxes = tuple((tuple(box), swizzle) for box, swizzle in fields.pop("boxes", ()))
        return MachineCode(cubin=cubin, boxes=boxes, **fields)
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
