"""Asks cuDNN for the engines of a problem and for their plans."""

from __future__ import annotations

import contextlib
import importlib
import json
from collections.abc import Iterator, Sequence
from typing import Any, Final

from lamina.backends.cuda.library.cudnn_graphs import describe, forbidden
from lamina.backends.cuda.library.shared_objects import open_shared_object
from lamina.backends.cuda.primitive import Problem
from lamina.errors import DeviceError

FIX: Final = "install cuDNN and its front end: pip install 'lamina[cuda-libraries]'"
_HELPERS: Final = (
    ("libcublasLt", (13, 12), ("nvidia-cublas", "nvidia-cublas-cu12")),
    ("libnvrtc", (13, 12), ("nvidia-cuda-nvrtc", "nvidia-cuda-nvrtc-cu12")),
)
"""What cuDNN itself looks for where only the loader does."""


def load_cudnn() -> Any:
    """Return cuDNN's front end; DeviceError says what is missing."""
    for stem, versions, packages in _HELPERS:
        with contextlib.suppress(DeviceError):  # not every engine needs them
            open_shared_object(stem, versions, packages, FIX)
    open_shared_object("libcudnn", (9,), ("nvidia-cudnn-cu13", "nvidia-cudnn-cu12"), FIX)
    try:
        return importlib.import_module("cudnn")
    except ImportError as e:
        raise DeviceError(f"nvidia-cudnn-frontend cannot be loaded: {e}", hint=FIX) from e


@contextlib.contextmanager
def asked(module: Any, what: str) -> Iterator[None]:
    """Say what the library could not do."""
    try:
        yield
    except (RuntimeError, ValueError, module.cudnnGraphNotSupportedError) as e:
        raise DeviceError(f"cuDNN does not {what}: {first_line(e)}") from e


def first_line(e: BaseException) -> str:
    """Return what an exception says in short."""
    return (str(e).strip() or type(e).__name__).splitlines()[0]


def key(problem: Problem, names: Sequence[str]) -> str:
    """Return what tells problems apart."""
    return json.dumps([dict(problem), list(names)], sort_keys=True)


class Planner:
    """Plans for the device of a handle; used by one thread at a time."""

    def __init__(self, module: Any, handle: int) -> None:
        self._module, self._handle = module, handle

    def engines(self, problem: Problem, names: Sequence[str]) -> list[str]:
        """Return the engines for a problem with their settings, the most promising first."""
        with asked(self._module, "propose plans"):
            return list(dict.fromkeys(_engines(self.proposals(problem, names))))

    def plan(self, problem: Problem, names: Sequence[str], engine: str) -> tuple[bytes, int]:
        """Return an engine's plan as it can be stored, and the bytes of workspace that it needs.

        The graph is a new one: what is written down also tells of plans that it had before.
        """
        with asked(self._module, f"build a plan for {engine}"):
            graph = self.proposals(problem, names)
            found = [i for i, name in enumerate(_engines(graph)) if name == engine]
            if not found:
                raise DeviceError(f"cuDNN does not propose {engine}")
            graph.build_plan_at_index(found[0])
            return bytes(graph.serialize()), int(graph.get_workspace_size())

    def proposals(self, problem: Problem, names: Sequence[str]) -> Any:
        """Return a new graph with the library's proposals, less those that results forbid."""
        graph = describe(self._module, self._handle, problem, names)
        modes = self._module.heur_mode
        graph.create_execution_plans([modes.A, modes.FALLBACK])
        graph.deselect_numeric_notes(forbidden(self._module, problem))
        return graph


def _engines(graph: Any) -> list[str]:
    count = int(graph.get_execution_plan_count())
    return [str(graph.get_plan_name_at_index(i)) for i in range(count)]
