"""A CUDA device in host memory whose kernels run in Triton's interpreter.

A module's "machine code" is the text of a :class:`KernelRequest`'s key.  Work is done when it is
enqueued, in the order of the calls; the nodes of a graph run in a different order at each launch,
any that their edges allow, so that a missing edge shows as a wrong result.
"""

from __future__ import annotations

import ctypes
import importlib
import itertools
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np

from lamina.backends.cuda.device import DeviceFacts, Handle, KernelLaunch, OutOfMemory
from lamina.backends.cuda.primitive import Library
from lamina.backends.cuda.tensor_maps import Described, Passed
from lamina.errors import DeviceError

_ALIGNMENT: Final = 256
_HIDDEN_ARGUMENTS: Final = 2
"""Pointers to global scratch memory that compiled kernels take behind their parameters."""

Kernel = Callable[[tuple[int, int, int], Sequence[Passed]], None]
"""Runs all programs of a grid on addresses, numbers and tensor maps."""


@dataclass
class _Module:
    run: Kernel
    loaded: bool = True


@dataclass(frozen=True)
class _Function:
    name: str
    module: _Module
    shared_bytes: int


_Work = Callable[[int], None]


@dataclass
class _Graph:
    """Nodes are launches, or what was captured."""

    nodes: list[KernelLaunch | _Work] = field(default_factory=list)
    after: list[tuple[int, ...]] = field(default_factory=list)


@dataclass
class _Executable:
    nodes: list[KernelLaunch | _Work]
    after: list[tuple[int, ...]]


class SimulatedDevice:
    """A device whose memory is this process's; ``compile`` turns a module's text into a kernel."""

    name = "cuda:simulated"
    model = "simulated"
    driver_version = 13000

    def __init__(
        self,
        compile: Callable[[str], Kernel] | None = None,
        *,
        arch: int = 90,
        total_bytes: int = 4 << 30,
        ordinal: int = 0,
        libraries: Mapping[str, Library] | None = None,
    ) -> None:
        self.arch, self.ordinal, self.lost = arch, ordinal, ""
        self.total_bytes, self.used_bytes = total_bytes, 0
        self.libraries = dict(libraries or {})
        self.capturing: set[int] = set()
        """Streams that a user is recording."""
        self._compile = compile or _interpreted
        self._blocks: dict[int, Any] = {}
        self._sizes: dict[int, int] = {}
        self._streams = itertools.count(16)
        self._ended: set[int] = set()
        self.faults: list[str] = []
        """Uses of what was given back before, at which a real driver may crash."""
        self._random = random.Random(0)

    def enter(self) -> bool:
        """Make the device current in this thread; raises DeviceError when it is lost."""
        if self.lost:
            raise DeviceError(f"{self.name} is lost to this process: {self.lost}")
        return False

    def leave(self, entered: bool) -> None:
        """Make the device current that was so before ``enter``."""

    def allocate(self, size_bytes: int, stream: int) -> int:
        """Return memory; raises OutOfMemory beyond ``total_bytes``."""
        if self.used_bytes + size_bytes > self.total_bytes:
            raise OutOfMemory(f"allocate failed on {self.name}: out of memory")
        pointer = self._block(size_bytes)
        self._sizes[pointer] = size_bytes
        self.used_bytes += size_bytes
        return pointer

    def _block(self, size_bytes: int) -> int:
        block = np.full(size_bytes + _ALIGNMENT, 0xCD, np.uint8)  # as unset memory is: garbage
        begin = int(block.__array_interface__["data"][0])
        pointer = begin + -begin % _ALIGNMENT
        self._blocks[pointer] = block
        return pointer

    def free(self, pointer: int, size_bytes: int, stream: int) -> None:
        """Give memory back."""
        self._check_stream("free", stream)
        self.used_bytes -= self._sizes.pop(pointer)
        del self._blocks[pointer]

    def allocate_host(self, size_bytes: int) -> int:
        """Return host memory."""
        return self._block(size_bytes)

    def free_host(self, pointer: int) -> None:
        """Give host memory back."""
        del self._blocks[pointer]

    def copy(self, destination: int, source: int, size_bytes: int, stream: int) -> None:
        """Copy between any two places."""
        self._check_stream("copy", stream)
        ctypes.memmove(destination, source, size_bytes)

    def clear(self, pointer: int, size_bytes: int, stream: int) -> None:
        """Set memory to zero."""
        ctypes.memset(pointer, 0, size_bytes)

    def facts(self) -> DeviceFacts:
        """Return numbers of a small device."""
        return DeviceFacts(
            multiprocessors=1,
            shared_bytes=1 << 17,
            bus_bits=64,
            clock_khz=1_000_000,
            memory_clock_khz=1_000_000,
            ecc=False,
        )

    def memory_info(self) -> tuple[int, int]:
        """Return free and total bytes."""
        return self.total_bytes - self.used_bytes, self.total_bytes

    def ordinal_of(self, pointer: int) -> int | None:
        """Return the number of this device for addresses in its memory."""
        inside = (p <= pointer < p + n for p, n in list(self._sizes.items()))
        return self.ordinal if any(inside) else None

    def reaches(self, pointer: int) -> bool:
        """Whether an address lies in memory that was allocated here."""
        blocks = list(self._blocks.items())
        return any(p <= pointer < p + max(b.nbytes - _ALIGNMENT, 1) for p, b in blocks)

    def stream(self) -> int:
        """Return a new stream."""
        return next(self._streams)

    def destroy_stream(self, stream: int) -> None:
        """Give a stream back."""
        self._check_stream("destroy_stream", stream)
        self._ended.add(stream)

    def _check_stream(self, call: str, stream: int) -> None:
        if stream in self._ended:
            self.faults.append(f"{call} on stream {stream}, which was destroyed before")

    def synchronize(self, stream: int) -> None:
        """Wait for nothing: all work is done when it is enqueued."""
        self._check_stream("synchronize", stream)

    def is_capturing(self, stream: int) -> bool:
        """Whether the user is recording a stream."""
        return stream in self.capturing

    def event(self, *, timing: bool = False) -> Handle:
        """Return a new event: a list that holds the time at which it happened."""
        return [0.0]

    def destroy_event(self, event: Handle) -> None:
        """Give an event back."""
        event.clear()

    def record(self, event: Handle, stream: int) -> None:
        """Let an event happen now."""
        event[0] = time.perf_counter()

    def wait(self, stream: int, event: Handle) -> None:
        """Wait for nothing."""
        self._check_stream("wait", stream)
        if not event:
            self.faults.append("wait for an event that was destroyed before")

    def microseconds(self, begin: Handle, end: Handle) -> float:
        """Return the time between two events."""
        return 1e6 * float(end[0] - begin[0])

    def load(self, image: bytes) -> Handle:
        """Return the kernel that a module's text describes."""
        return _Module(self._compile(image.rstrip(b"\0").decode()))

    def unload(self, module: Handle) -> None:
        """Give a module back."""
        module.loaded = False

    def function(self, module: Handle, name: str, shared_bytes: int) -> Handle:
        """Return the module's one kernel."""
        return _Function(name, module, shared_bytes)

    def launch(self, launch: KernelLaunch, stream: int) -> None:
        """Run a kernel."""
        if launch.shared_bytes > launch.function.shared_bytes or min(launch.grid) < 1:
            raise DeviceError(f"launch failed on {self.name}: invalid value")
        self._check_stream("launch", stream)
        self._check_code("launch", launch)
        maps = iter(launch.maps)
        values = [
            Described(v, next(maps)) if t == "m" else v
            for v, t in zip(launch.values, launch.types, strict=True)
        ]
        launch.function.module.run(launch.grid, values[:-_HIDDEN_ARGUMENTS])

    def _check_code(self, call: str, launch: KernelLaunch | _Work) -> None:
        if isinstance(launch, KernelLaunch) and not launch.function.module.loaded:
            self.faults.append(f"{call} of {launch.function.name}, which was unloaded before")

    def graph(self) -> Handle:
        """Return an empty graph."""
        return _Graph()

    def add_kernel(
        self, graph: Handle, launch: KernelLaunch, after: Sequence[Handle], *, programmatic: bool
    ) -> Handle:
        """Add a launch behind other nodes and return its node."""
        return self._add(graph, launch, after)

    def _add(self, graph: _Graph, node: KernelLaunch | _Work, after: Sequence[int]) -> int:
        graph.nodes.append(node)
        graph.after.append(tuple(after))
        return len(graph.nodes) - 1

    def capture(self, work: Callable[[int], None]) -> Handle:
        """Return a graph that does the work when it is launched."""
        return _Graph([work], [()])

    def add_graph(self, graph: Handle, part: Handle, after: Sequence[Handle]) -> Handle:
        """Add a captured graph behind other nodes and return its node."""
        return self._add(graph, part.nodes[0], after)

    def add_record(self, graph: Handle, event: Handle, after: Sequence[Handle]) -> Handle:
        """Let an event happen in each run of a graph and return its node."""
        return self._add(graph, lambda stream: self.record(event, stream), after)

    def instantiate(self, graph: Handle) -> Handle:
        """Return an executable form of a graph."""
        return _Executable(list(graph.nodes), list(graph.after))

    def update_kernel(self, executable: Handle, node: Handle, launch: KernelLaunch) -> None:
        """Give a node of an executable graph other arguments."""
        executable.nodes[node] = launch

    def update_graph(self, executable: Handle, node: Handle, part: Handle) -> None:
        """Put a captured graph in the place of another."""
        executable.nodes[node] = part.nodes[0]

    def launch_graph(self, executable: Handle, stream: int) -> None:
        """Run a graph in a random order that its edges allow."""
        waiting = set(range(len(executable.nodes)))
        while waiting:
            ready = sorted(n for n in waiting if not waiting.intersection(executable.after[n]))
            number = self._random.choice(ready)
            node = executable.nodes[number]
            if isinstance(node, KernelLaunch):
                self.launch(node, stream)
            else:
                node(stream)
            waiting.remove(number)

    def destroy_graph(self, graph: Handle, executable: Handle | None) -> None:
        """Give a graph and its executable form back."""
        for node in graph.nodes:
            self._check_code("destroy_graph", node)

    def library(self, name: str) -> Library:
        """Return a library that the device was made with; raises DeviceError for others."""
        if name not in self.libraries:
            raise DeviceError(f"{self.name} has no library {name}", hint="build without it")
        return self.libraries[name]


def _interpreted(text: str) -> Kernel:
    """Return the kernel of a request, run in Triton's interpreter."""
    # Loaded late: a process that runs plans on a GPU imports no Triton.
    interpret: Any = importlib.import_module("lamina.backends.cuda.interpret")
    request = importlib.import_module("lamina.backends.cuda.request").read_key(text)
    return lambda grid, values: interpret.run_kernel(request, grid, values)
