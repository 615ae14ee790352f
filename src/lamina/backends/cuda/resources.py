"""Code and constants of one loaded section on a device; shared by all contexts of an engine."""

from __future__ import annotations

import copy
import json
import threading
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from lamina.backends.cuda.device import Device, Handle, current
from lamina.backends.cuda.launches import KernelStep, read_steps
from lamina.backends.cuda.library.steps import LibraryStep, read_library_steps
from lamina.backends.cuda.memory import (
    Buffer,
    Bytes,
    Memory,
    PinnedPool,
    Stream,
    aligned,
    at_end,
)
from lamina.backends.cuda.packing import Delivery, WeightMemory, can_pack, function_of
from lamina.backends.cuda.primitive import Library, Operation
from lamina.backends.cuda.residency import base_of, groups, on_device, programs_of
from lamina.errors import DeviceError, where
from lamina.ir.movement import is_kernel_name, kernel_name
from lamina.plan.halves import restore
from lamina.plan.plan import CodeImage, Place, Program, Section

_REFITS_AT_ONCE: Final = 2
"""Refits whose weights may be on their way to the device."""

_KEPT_OPERATIONS: Final = 512
"""Operations of libraries that are kept: making one reads its plan, which takes milliseconds."""


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """How programs run.

    ``graphs`` collects the launches between two steps of the host in CUDA graphs, in which with
    ``branches`` steps that do not depend on each other run at the same time.  ``check`` waits after
    each step, so that a fault names its step.  With ``ranges`` runs and steps have NVTX ranges, for
    which steps are launched one by one.
    """

    graphs: bool = True
    branches: bool = True
    check: bool = False
    ranges: bool = False


@dataclass(frozen=True)
class ProgramFacts:
    """What is known of a program before its sizes are."""

    kernels: dict[int, KernelStep]
    primitives: dict[int, LibraryStep]
    resident: frozenset[int]
    groups: list[tuple[int, int]]


class Modules:
    """Machine code on a device; who may still run it refers to this, and the last one unloads."""

    def __init__(self, device: Device) -> None:
        self._device = device
        self._loaded: dict[str, Handle] = {}
        at_end(self, _unload, device, self._loaded)

    def load(self, name: str, image: bytes) -> Handle:
        """Return the module of a name, loaded once."""
        if name not in self._loaded:
            self._loaded[name] = self._device.load(image)
        return self._loaded[name]


class Resources:
    """Modules, loaded once, and constants in one allocation."""

    def __init__(
        self,
        section: Section,
        device: Device,
        memory: Memory,
        options: RunOptions,
        resident_bytes: int | None = None,
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
        self._operations: dict[tuple[int, str], Operation] = {}
        self._operations_lock = threading.Lock()
        self._halves = frozenset(section.halves)
        self._lock = threading.Lock()
        self.pinned = PinnedPool(memory)
        self._on_their_way: deque[WeightMemory] = deque(maxlen=_REFITS_AT_ONCE)
        with current(device):
            self._stream = Stream(device)
            self._load()
            self._place(resident_bytes)
            self._libraries = self._load_libraries()

    def allocating(self, memory: Memory) -> Resources:
        """Return the same code and constants, with other memory for what runs need."""
        other = copy.copy(self)
        other.memory = memory
        return other

    def refitted(self, section: Section) -> Resources:
        """Return the same code with the constants of ``section``.

        Those that are equal are shared; the others get memory of their own, so that runs that have
        begun end with what they began with.
        """
        other = copy.copy(self)
        changed = [n for n in self._addresses if section.blobs[n] is not self.section.blobs[n]]
        other.section, other._halves = section, frozenset(section.halves)
        other._host, other._lock = {}, threading.Lock()
        other._addresses, other._owners = dict(self._addresses), dict(self._owners)
        with current(self.device):
            other._upload(changed, list(self._on_their_way))
        self._on_their_way.clear()
        return other

    def weight_memory(self, size_bytes: int) -> WeightMemory | None:
        """Return page-locked memory for the weights of a refit; None where there is no more."""
        parts = (self.device, self.memory, self.pinned, self._stream)
        try:
            with current(self.device):
                found = WeightMemory(size_bytes, *parts)
        except DeviceError:
            return None
        self._on_their_way.append(found)
        return found

    @property
    def constant_bytes(self) -> int:
        """Bytes of the constants on the device."""
        return sum(aligned(self._restored_bytes(n)) for n in self._resident)

    def of(self, program: Program) -> ProgramFacts:
        """Return what is known of a program of this section."""
        return self.facts[id(program)]

    def constant(self, blob: int) -> int:
        """Return the address of a constant, which kernels can read."""
        return self._addresses[blob]

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
        """Return what a library does for a step at known sizes.

        The last ones are kept: contexts share them, and a refit goes on with them.
        """
        problem = step.sized(env)
        key = (id(step), json.dumps(problem, sort_keys=True))
        with self._operations_lock:
            found = self._operations.pop(key, None)
            if found is None:
                library = self._libraries[step.library]
                found = library.operation(problem, step.names, step.plan)
            while len(self._operations) >= _KEPT_OPERATIONS:
                del self._operations[next(iter(self._operations))]
            self._operations[key] = found
            return found

    def _used_blobs(self) -> list[int]:
        used: set[int] = set()
        for program in programs_of(self.section.program):
            for tensor in self.of(program).resident:
                t = program.tensors[base_of(program, tensor)]
                if t.place is Place.CONSTANT:
                    used.add(t.index)
        return sorted(used)

    def _place(self, resident_bytes: int | None) -> None:
        """Decide which constants are kept on the device, and upload all."""
        used = self._used_blobs()
        self._resident = _fitting({n: self._restored_bytes(n) for n in used}, resident_bytes)
        self._addresses: dict[int, int] = {}
        self._owners: dict[int, Buffer | Bytes] = {}
        self._upload(used)

    def _upload(self, blobs: Sequence[int], weights: Sequence[WeightMemory] = ()) -> None:
        """Bring constants to the device, and those that find no room there to pinned memory.

        Page-locked memory has addresses that kernels can read, over the bus in every run.
        """
        sizes = {n: aligned(self._restored_bytes(n)) for n in blobs}
        resident = sum(size for n, size in sizes.items() if n in self._resident)
        buffer = self.memory.buffer(resident, "the constants", self._stream)
        pinned = self.memory.pinned(sum(sizes.values()) - resident)
        at, host = buffer.pointer, pinned.__array_interface__["data"][0]
        delivery = Delivery(
            self.device, self.memory, self.pinned, self._stream, self._pack, weights=weights
        )
        # What the host sends lies side by side.
        for number in sorted(sizes, key=lambda n: bool(self.section.blobs[n].movements)):
            size, is_resident = sizes[number], number in self._resident
            self._addresses[number] = target = at if is_resident else host
            self._owners[number] = buffer if is_resident else pinned
            movements = self.section.blobs[number].movements
            if is_resident and can_pack(movements, self._packing):
                delivery.moved += [(target, movement) for movement in movements]
            else:
                delivery.arrays.append((target, self._bytes(number)))
            at, host = (at + size, host) if is_resident else (at, host + size)
        delivery.deliver()

    def _bytes(self, blob: int) -> Bytes:
        """Return a constant as kernels read it."""
        array = self.section.blobs[blob].contents
        dense = restore(array) if blob in self._halves else np.ascontiguousarray(array)
        return dense.reshape(-1).view(np.uint8)

    def _pack(self, chain: str) -> Handle:
        """Return the kernel that makes constants by a chain."""
        name = kernel_name(chain)
        module = self.modules.load(name, self._packing[name])
        return self.device.function(module, function_of(chain), 0)

    def _restored_bytes(self, blob: int) -> int:
        held = self.section.blobs[blob].nbytes
        return 2 * held if blob in self._halves else held

    def _load(self) -> None:
        """Load the modules that steps launch from, and their functions."""
        self._functions: dict[tuple[str, str, int], Handle] = {}
        self.modules = Modules(self.device)
        images = _images(self.section.image)
        self._packing = {n: i for n, i in images.items() if is_kernel_name(n)}
        for facts in self.facts.values():
            for step in facts.kernels.values():
                for launch in step.launches:
                    key = (launch.kernel, launch.function, launch.shared_bytes)
                    if key in self._functions:
                        continue
                    with where(f"while loading kernel {launch.function} ({launch.kernel})"):
                        module = self.modules.load(launch.kernel, images[launch.kernel])
                        self._functions[key] = self.device.function(module, *key[1:])

    def _load_libraries(self) -> dict[str, Library]:
        """Load the libraries that steps name."""
        names = {s.library for f in self.facts.values() for s in f.primitives.values()}
        return {name: self.device.library(name) for name in sorted(names)}


def _fitting(sizes: Mapping[int, int], limit: int | None) -> frozenset[int]:
    """Return which constants are kept on the device: as many bytes as fit, the largest first."""
    if limit is None:
        return frozenset(sizes)
    chosen, left = [], limit
    for number in sorted(sizes, key=lambda n: -sizes[n]):
        if aligned(sizes[number]) <= left:
            chosen.append(number)
            left -= aligned(sizes[number])
    return frozenset(chosen)


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
