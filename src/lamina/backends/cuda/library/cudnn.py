"""cuDNN's engines for whole graphs of operations, through ``nvidia-cudnn-frontend``.

Problems are described in :mod:`lamina.backends.cuda.library.cudnn_graphs`; besides, ``version`` is
that of the library that wrote the plan down, and ``workspace_bytes`` what the plan may use.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from typing import Any, Final

from lamina.backends.cuda.device import Device, current
from lamina.backends.cuda.library.cudnn_graphs import uid
from lamina.backends.cuda.library.cudnn_planner import (
    Planner,
    asked,
    first_line,
    key,
    load_cudnn,
)
from lamina.backends.cuda.library.plan_store import PlanStore
from lamina.backends.cuda.primitive import Answer, Ask, Problem
from lamina.errors import BuildError, DeviceError

NAME: Final = "cudnn"
_DEFAULT_STREAM: Final = 0


def open_library(device: Device) -> Cudnn:
    """Load cuDNN for a device; DeviceError says what is missing."""
    about = (device.model, str(device.driver_version))
    return Cudnn(device, load_cudnn(), lambda version: PlanStore((version, *about)))


class Cudnn:
    """The library with a handle for one device; may be used from any thread."""

    def __init__(
        self, device: Device, module: Any, store: Callable[[str], PlanStore] | None = None
    ) -> None:
        """``store`` returns what a version answered before; None remembers nothing."""
        self.device, self._module = device, module
        self.version = str(module.backend_version())
        self._begun: dict[str, Future[Answer]] = {}
        self._store = store and store(self.version)
        self.lock = threading.RLock()  # a handle has one stream
        with self._asked("create a handle"):
            self._handle = module.create_handle()
        self._planner = Planner(module, self._handle)

    def operation(self, problem: Problem, names: Sequence[str], plan: bytes) -> CudnnOperation:
        """Return a problem with the stored plan.

        Where another version of the library wrote it down, it is the first plan that the library
        proposes now and that has enough workspace.
        """
        with self._asked("load a plan"):
            if plan and problem["version"] == self.version:
                graph = self._module.pygraph(handle=self._handle)
                graph.deserialize(self._handle, list(plan))  # it takes no bytes
            else:
                graph = self._planner.proposals(problem, names)
                graph.deselect_workspace_greater_than(int(problem["workspace_bytes"]))
                graph.check_support()
                graph.build_plans(self._module.build_plan_policy.HEURISTICS_CHOICE)
            first = {uid(names, n): int(problem.get(f"{n}_first_bytes", 0)) for n in names}
            return CudnnOperation(self, graph, first, int(graph.get_workspace_size()))

    def engines(self, problem: Problem, names: Sequence[str]) -> list[str]:
        """Return the engines for a problem with their settings, the most promising first."""
        question = key(problem, names)
        found = self._store.engines(question) if self._store else None
        if found is None:
            with self.lock, current(self.device):
                found = self._planner.engines(problem, names)
            if self._store:
                self._store.keep_engines(question, found)
        return found

    def begin(
        self, problem: Problem, names: Sequence[str], engine: str, ask: Ask
    ) -> Future[Answer] | None:
        """Have an engine planned by another process, beside what this one does.

        None where the plan is known.
        """
        question = f"{key(problem, names)} {engine}"
        if self._store and self._store.plan(question):
            return None
        running = self._begun.get(question)
        if running is None or running.cancelled():
            head = {"problem": dict(problem), "names": list(names), "engine": engine}
            running = self._begun[question] = ask(head | {"device": self.device.ordinal})
        return running

    def plan(self, problem: Problem, names: Sequence[str], engine: str) -> tuple[bytes, int]:
        """Return an engine's plan as it can be stored, and the bytes of workspace that it needs.

        One that was begun is waited for; where that came to nothing, it is made here.
        """
        question = f"{key(problem, names)} {engine}"
        kept = self._store.plan(question) if self._store else None
        if kept is None:
            kept = self._finished(question)
            if kept is None:
                with self.lock, current(self.device):
                    kept = self._planner.plan(problem, names, engine)
            if self._store:
                self._store.keep_plan(question, *kept)
        return kept

    def _finished(self, question: str) -> tuple[bytes, int] | None:
        """Return the plan that another process made, None where it made none."""
        running = self._begun.pop(question, None)
        if running is None or running.cancelled():
            return None
        with contextlib.suppress(BuildError, KeyError):  # it died, or says what went wrong
            said, plan = running.result()
            return plan, int(said["workspace"])
        return None

    def execute(self, graph: Any, pointers: dict[int, int], workspace: int, stream: int) -> None:
        """Put a planned graph on a stream."""
        with self.lock:
            try:
                self._module.set_stream(handle=self._handle, stream=stream)
                try:
                    graph.execute(pointers, workspace, handle=self._handle)
                finally:
                    # Plans are loaded through the handle, perhaps when this stream is gone.
                    self._module.set_stream(handle=self._handle, stream=_DEFAULT_STREAM)
            except RuntimeError as e:
                raise DeviceError(f"cuDNN failed: {first_line(e)}") from e

    @contextlib.contextmanager
    def _asked(self, what: str) -> Iterator[None]:
        """Use the library, and say what it could not do."""
        with self.lock, current(self.device), asked(self._module, what):
            yield


class CudnnOperation:
    """A graph with its plan; ``first`` has for each operand where it begins in its tensor."""

    def __init__(
        self, library: Cudnn, graph: Any, first: dict[int, int], workspace_bytes: int
    ) -> None:
        self._library, self._graph, self._first = library, graph, first
        self.workspace_bytes = workspace_bytes

    def run(self, pointers: Sequence[int], workspace: int, stream: int) -> None:
        """Put the graph on a stream; see :class:`lamina.backends.cuda.primitive.Operation`."""
        at = {i: p + self._first[i] for i, p in zip(self._first, pointers, strict=True)}
        self._library.execute(self._graph, at, workspace, stream)
