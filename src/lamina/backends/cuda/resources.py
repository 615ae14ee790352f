"""Code and constants of one loaded section on a device; shared by all contexts of an engine."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from lamina.backends.cuda.device import Device, Handle, current
from lamina.backends.cuda.launches import KernelStep, read_steps
from lamina.backends.cuda.library.steps import LibraryStep, read_library_steps
from lamina.backends.cuda.memory import Buffer, Memory, Stream, aligned
from lamina.backends.cuda.primitive import Library, Operation
from lamina.backends.cuda.residency import base_of, groups, on_device, programs_of
from lamina.errors import DeviceError, where
from lamina.plan.halves import restore
from lamina.plan.plan import CodeImage, Place, Program, Section


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """How programs run.

    ``graphs`` collects the launches between two steps of the host in CUDA graphs, in which with
    ``branches`` steps that do not depend on each other run at the same time.  ``check`` waits after
    each step, so that a fault names its step.
    """

    graphs: bool = True
    branches: bool = True
    check: bool = False


@dataclass(frozen=True)
class ProgramFacts:
    """What is known of a program before its sizes are."""

    kernels: dict[int, KernelStep]
    primitives: dict[int, LibraryStep]
    resident: frozenset[int]
    groups: list[tuple[int, int]]


class Resources:
    """Modules, loaded once, and constants in one allocation."""

    def __init__(
        self, section: Section, device: Device, memory: Memory, options: RunOptions
    ) -> None:
        self.section, self.device, self.memory, self.options = section, device, memory, options
        self.facts: dict[int, ProgramFacts] = {}
        for program in programs_of(section.program):
            self.facts[id(program)] = ProgramFacts(
                kernels=read_steps(program),
                primitives=read_library_steps(section, program),
                resident=on_device(program),
                groups=groups(program.steps),
            )
        self._host: dict[int, npt.NDArray[Any]] = {}
        self._halves = frozenset(section.halves)
        self._lock = threading.Lock()
        with current(device):
            self._stream = Stream(device)
            self._upload()
            self._load()
            self._libraries = self._load_libraries()

    @property
    def constant_bytes(self) -> int:
        """Bytes of the constants on the device."""
        return self._constants.size_bytes

    def of(self, program: Program) -> ProgramFacts:
        """Return what is known of a program of this section."""
        return self.facts[id(program)]

    def constant(self, blob: int) -> int:
        """Return the address of a constant."""
        return self._constants.pointer + self._offsets[blob]

    def host_constant(self, blob: int) -> npt.NDArray[Any]:
        """Return a constant in host memory."""
        if blob not in self._halves:
            return self.section.blobs[blob].array
        with self._lock:
            if blob not in self._host:
                self._host[blob] = restore(self.section.blobs[blob].array)
            return self._host[blob]

    def function(self, kernel: str, name: str, shared_bytes: int) -> Handle:
        """Return a kernel that can be launched."""
        return self._functions[kernel, name, shared_bytes]

    def operation(self, step: LibraryStep, env: Mapping[str, int]) -> Operation:
        """Return what a library does for a step at known sizes."""
        return self._libraries[step.library].operation(step.sized(env), step.names, step.plan)

    def _used_blobs(self) -> list[int]:
        used: set[int] = set()
        for program in programs_of(self.section.program):
            for tensor in self.of(program).resident:
                t = program.tensors[base_of(program, tensor)]
                if t.place is Place.CONSTANT:
                    used.add(t.index)
        return sorted(used)

    def _upload(self) -> None:
        blobs, at = self._used_blobs(), 0
        self._offsets: dict[int, int] = {}
        for number in blobs:
            self._offsets[number] = at
            held = self.section.blobs[number].array.nbytes
            at += aligned(2 * held if number in self._halves else held)
        self._constants: Buffer = self.memory.buffer(at, "the constants", self._stream)
        for number in blobs:
            array = self.section.blobs[number].array
            dense = restore(array) if number in self._halves else np.ascontiguousarray(array)
            if dense.nbytes:
                source = dense.__array_interface__["data"][0]
                self.device.copy(self.constant(number), source, dense.nbytes, self._stream.handle)
                # The array may go as soon as its bytes are on their way.
                self.device.synchronize(self._stream.handle)

    def _load(self) -> None:
        """Load the modules that steps launch from, and their functions."""
        self._functions: dict[tuple[str, str, int], Handle] = {}
        self._modules: dict[str, Handle] = {}
        weakref.finalize(self, _unload, self.device, self._modules).atexit = False
        images = _images(self.section.image)
        for facts in self.facts.values():
            for step in facts.kernels.values():
                for launch in step.launches:
                    key = (launch.kernel, launch.function, launch.shared_bytes)
                    if key in self._functions:
                        continue
                    with where(f"while loading kernel {launch.function} ({launch.kernel})"):
                        if launch.kernel not in self._modules:
                            image = images[launch.kernel]
                            self._modules[launch.kernel] = self.device.load(image)
                        module = self._modules[launch.kernel]
                        self._functions[key] = self.device.function(module, *key[1:])

    def _load_libraries(self) -> dict[str, Library]:
        """Load the libraries that steps name."""
        names = {s.library for f in self.facts.values() for s in f.primitives.values()}
        return {name: self.device.library(name) for name in sorted(names)}


def _unload(device: Device, modules: dict[str, Handle]) -> None:
    try:
        with current(device):
            for module in modules.values():
                device.unload(module)
    except DeviceError:  # a lost device has lost its modules too
        return


def _images(image: CodeImage) -> dict[str, bytes]:
    """Return each kernel's machine code: it ends where the next one begins."""
    starts = [*sorted(set(image.symbols.values())), len(image.code)]
    ends = dict(pairwise(starts))
    return {name: bytes(image.code[at : ends[at]]) for name, at in image.symbols.items()}
