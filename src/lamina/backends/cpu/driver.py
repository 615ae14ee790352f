"""Runtime half of the CPU backend; imports no compiler."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache

from lamina.backends.cpu.features import cpu_features
from lamina.backends.cpu.instance import arena_of
from lamina.backends.cpu.onednn import library as onednn
from lamina.backends.cpu.resources import Resources
from lamina.backends.cpu.runner import CpuRunner
from lamina.config import default_threads, onednn_path, shorten_spinning
from lamina.errors import DeviceError
from lamina.plan.plan import Section, StepKind
from lamina.runtime.driver import Allocator


@lru_cache(maxsize=1)
def find_library() -> tuple[onednn.Library | None, str]:
    """Return oneDNN, or None and the reason why it is absent."""
    shorten_spinning()
    try:
        return onednn.load(onednn_path()), ""
    except DeviceError as e:
        return None, str(e)


class CpuDriver:
    """The cores of this machine."""

    name = "cpu"
    missing = ""

    def __init__(self, threads: int | None = None, allocator: Allocator | None = None) -> None:
        self._allocator = allocator
        self.threads = threads or default_threads()
        self.library, self.why_not = find_library()

    def target(self) -> tuple[tuple[str, str], ...]:
        """Return the instruction sets and the library of this machine."""
        library = self.library
        version = ".".join(map(str, library.version)) if library else "none"
        return (
            ("device", "cpu"),
            ("features", ",".join(sorted(cpu_features()))),
            ("onednn", f"{version} {library.isa}" if library else "none"),
        )

    def refusal(self, section: Section) -> str | None:
        """Return why ``section`` cannot run here, or None.

        Code needs its instruction sets; packed weights need the library that packed them.
        """
        needs, here = dict(section.target), dict(self.target())
        if needs.get("device") != "cpu":
            return f"it is for {needs.get('device')}"
        missing = set(needs.get("features", "").split(",")) - {*cpu_features(), ""}
        if missing:
            return f"it needs {', '.join(sorted(missing))}, which this CPU lacks"
        if _uses_library(section) and needs.get("onednn") != here["onednn"]:
            why = f" ({self.why_not.splitlines()[0]})" if self.why_not else ""
            return f"it needs oneDNN {needs.get('onednn')}, here is {here['onednn']}{why}"
        return None

    def load(self, section: Section, resident_bytes: int | None = None) -> LoadedSection:
        """Map the section's code and constants, which lie in host memory anyway."""
        return LoadedSection(Resources(section, self.library, self.threads, self._allocator))


class LoadedSection:
    """A section ready to run; contexts share its code and constants."""

    def __init__(self, resources: Resources) -> None:
        self.resources = resources

    def runner(self) -> CpuRunner:
        """Return a runner with buffers of its own."""
        return CpuRunner(self.resources, self.resources.section.program)

    def refitted(self, section: Section) -> LoadedSection:
        """Return the section with other contents of some constants."""
        return LoadedSection(self.resources.refitted(section))

    def weight_memory(self, size_bytes: int) -> None:
        """Return nothing: weights are read where they are."""

    def arena_bytes(self, sizes: Mapping[str, int]) -> int:
        """Return the bytes of the arena for these sizes of symbols."""
        return arena_of(self.resources.section.program, sizes)[1].size_bytes


def _uses_library(section: Section) -> bool:
    programs = [section.program]
    while programs:
        for step in programs.pop().steps:
            if step.kind is StepKind.PRIMITIVE:
                return True
            programs += step.programs
    return False


def driver(
    threads: int | None = None, device: str = "cpu", *, allocator: Allocator | None = None
) -> CpuDriver:
    """Return the driver of this machine's CPU, of which there is one.

    ``allocator`` gives contexts their memory.
    """
    return CpuDriver(threads, allocator)
