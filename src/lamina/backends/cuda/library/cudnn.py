"""cuDNN's engines for whole graphs of operations, through ``nvidia-cudnn-frontend``.

Problems are described in :mod:`lamina.backends.cuda.library.cudnn_graphs`; besides, ``version`` is
that of the library that wrote the plan down, and ``workspace_bytes`` what the plan may use.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

from lamina.backends.cuda.device import Device, current
from lamina.backends.cuda.library.cudnn_graphs import describe, forbidden, uid
from lamina.backends.cuda.library.plan_store import PlanStore
from lamina.backends.cuda.library.shared_objects import open_shared_object
from lamina.backends.cuda.primitive import Problem
from lamina.errors import DeviceError

NAME: Final = "cudnn"
FIX: Final = "install cuDNN and its front end: pip install 'lamina[cuda-libraries]'"
_KEPT_GRAPHS: Final = 32
_DEFAULT_STREAM: Final = 0
_HELPERS: Final = (
    ("libcublasLt", (13, 12), ("nvidia-cublas", "nvidia-cublas-cu12")),
    ("libnvrtc", (13, 12), ("nvidia-cuda-nvrtc", "nvidia-cuda-nvrtc-cu12")),
)
"""What cuDNN itself looks for where only the loader does."""


def open_library(device: Device) -> Cudnn:
    """Load cuDNN for a device; DeviceError says what is missing."""
    for stem, versions, packages in _HELPERS:
        with contextlib.suppress(DeviceError):  # not every engine needs them
            open_shared_object(stem, versions, packages, FIX)
    open_shared_object("libcudnn", (9,), ("nvidia-cudnn-cu13", "nvidia-cudnn-cu12"), FIX)
    try:
        module = importlib.import_module("cudnn")
    except ImportError as e:
        raise DeviceError(f"nvidia-cudnn-frontend cannot be loaded: {e}", hint=FIX) from e
    about = (device.model, str(device.driver_version))
    return Cudnn(device, module, lambda version: PlanStore((version, *about)))


class Cudnn:
    """The library with a handle for one device; may be used from any thread."""

    def __init__(
        self, device: Device, module: Any, store: Callable[[str], PlanStore] | None = None
    ) -> None:
        """``store`` returns what a version answered before; None remembers nothing."""
        self.device, self._module = device, module
        self.version = str(module.backend_version())
        self._graphs: OrderedDict[str, Any] = OrderedDict()
        self._store = store and store(self.version)
        self.lock = threading.RLock()  # a handle has one stream
        with self._asked("create a handle"):
            self._handle = module.create_handle()

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
                graph = self._planned(problem, names)
                graph.deselect_workspace_greater_than(int(problem["workspace_bytes"]))
                graph.check_support()
                graph.build_plans(self._module.build_plan_policy.HEURISTICS_CHOICE)
            first = {uid(names, n): int(problem.get(f"{n}_first_bytes", 0)) for n in names}
            return CudnnOperation(self, graph, first, int(graph.get_workspace_size()))

    def engines(self, problem: Problem, names: Sequence[str]) -> list[str]:
        """Return the engines for a problem with their settings, the most promising first."""
        question = _key(problem, names)
        found = self._store.engines(question) if self._store else None
        if found is None:
            with self._asked("propose plans"):
                graph = self._known(problem, names)
                count = int(graph.get_execution_plan_count())
                listed = (str(graph.get_plan_name_at_index(i)) for i in range(count))
                found = list(dict.fromkeys(listed))
            if self._store:
                self._store.keep_engines(question, found)
        return found

    def plan(self, problem: Problem, names: Sequence[str], engine: str) -> tuple[bytes, int]:
        """Return an engine's plan as it can be stored, and the bytes of workspace that it needs."""
        question = f"{_key(problem, names)} {engine}"
        kept = self._store.plan(question) if self._store else None
        if kept is None:
            kept = self._planned_by(problem, names, engine)
            if self._store:
                self._store.keep_plan(question, *kept)
        return kept

    def _planned_by(self, problem: Problem, names: Sequence[str], engine: str) -> tuple[bytes, int]:
        with self._asked(f"build a plan for {engine}"):
            graph = self._known(problem, names)
            count = int(graph.get_execution_plan_count())
            found = [i for i in range(count) if graph.get_plan_name_at_index(i) == engine]
            if not found:
                raise DeviceError(f"cuDNN {self.version} does not propose {engine}")
            graph.build_plan_at_index(found[0])
            return bytes(graph.serialize()), int(graph.get_workspace_size())

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
                raise DeviceError(f"cuDNN failed: {_first_line(e)}") from e

    def _known(self, problem: Problem, names: Sequence[str]) -> Any:
        """Return the graph of a problem with proposals: asking for them takes a while."""
        key = _key(problem, names)
        graph = self._graphs.pop(key, None)
        if graph is None:
            graph = self._planned(problem, names)
            while len(self._graphs) >= _KEPT_GRAPHS:
                self._graphs.popitem(last=False)
        self._graphs[key] = graph
        return graph

    def _planned(self, problem: Problem, names: Sequence[str]) -> Any:
        graph = describe(self._module, self._handle, problem, names)
        modes = self._module.heur_mode
        graph.create_execution_plans([modes.A, modes.FALLBACK])
        graph.deselect_numeric_notes(forbidden(self._module, problem))
        return graph

    @contextlib.contextmanager
    def _asked(self, what: str) -> Iterator[None]:
        """Use the library, and say what it could not do."""
        with self.lock, current(self.device):
            try:
                yield
            except (RuntimeError, ValueError, self._module.cudnnGraphNotSupportedError) as e:
                raise DeviceError(f"cuDNN does not {what}: {_first_line(e)}") from e


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


def _key(problem: Problem, names: Sequence[str]) -> str:
    return json.dumps([dict(problem), list(names)], sort_keys=True)


def _first_line(e: BaseException) -> str:
    return (str(e).strip() or type(e).__name__).splitlines()[0]
