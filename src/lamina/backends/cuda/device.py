"""What the runtime needs from a CUDA device: a narrow protocol with two implementations.

``bindings`` talks to the driver; ``simulated`` keeps everything in host memory, so that whole plans
run in tests on a machine without a GPU.  Pointers and streams are integers, as in CUDA's own
interface; the other handles are opaque.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

from lamina.backends.cuda.primitive import Library
from lamina.backends.cuda.tensor_maps import TensorMap
from lamina.errors import DeviceError

Handle = Any

LEGACY_STREAM = 1
"""The handle of the default stream that all threads share (``CU_STREAM_LEGACY``)."""


class OutOfMemory(DeviceError):
    """The device has too little free memory for one allocation."""


@dataclass(frozen=True, kw_only=True)
class KernelLaunch:
    """One launch of a kernel: a grid of blocks and an argument for each parameter.

    ``types`` names the type of each value: ``p`` for pointers, ``m`` for pointers that are passed
    as tensor maps (``maps`` has these in turn), else ``i32``, ``i64`` and so on.
    With ``dependent`` the kernel may start before the launch ahead of it in the stream has ended;
    it then waits by itself.
    """

    function: Handle
    grid: tuple[int, int, int]
    threads: int
    shared_bytes: int
    values: tuple[int, ...]
    types: tuple[str, ...]
    dependent: bool = False
    cluster: tuple[int, int, int] | None = None
    more_threads: tuple[int, int] = (1, 1)
    """Threads of a block along its second and third axis; ``threads`` are those along the first."""
    maps: tuple[TensorMap, ...] = ()


@dataclass(frozen=True, kw_only=True)
class DeviceFacts:
    """Numbers that a GPU tells of itself."""

    multiprocessors: int
    shared_bytes: int
    """Shared memory of a multiprocessor."""
    bus_bits: int
    clock_khz: int
    memory_clock_khz: int
    ecc: bool


class Device(Protocol):
    """One GPU; every method may be called from any thread between ``enter`` and ``leave``.

    All methods raise DeviceError for what the driver refuses.  After an error that leaves the
    process's state on the device unusable, ``lost`` says why and ``enter`` raises.
    """

    name: str
    """As the user writes it, such as ``cuda:0``."""
    model: str
    ordinal: int
    arch: int
    """Compute capability times ten."""
    driver_version: int
    lost: str

    def enter(self) -> bool:
        """Make the device current in this thread; returns whether ``leave`` has to undo it."""

    def leave(self, entered: bool) -> None:
        """Make the device current that was so before ``enter``."""

    def allocate(self, size_bytes: int, stream: int) -> int:
        """Return memory that work on ``stream`` may use; raises OutOfMemory."""

    def free(self, pointer: int, size_bytes: int, stream: int) -> None:
        """Give memory back once the work on ``stream`` so far is done."""

    def allocate_host(self, size_bytes: int) -> int:
        """Return page-locked host memory."""

    def free_host(self, pointer: int) -> None:
        """Give page-locked memory back."""

    def copy(self, destination: int, source: int, size_bytes: int, stream: int) -> None:
        """Copy between any two places of device or host memory, in the order of the stream."""

    def clear(self, pointer: int, size_bytes: int, stream: int) -> None:
        """Set memory to zero, in the order of the stream."""

    def facts(self) -> DeviceFacts:
        """Return what the device tells of itself."""

    def memory_info(self) -> tuple[int, int]:
        """Return free and total bytes of the device."""

    def ordinal_of(self, pointer: int) -> int | None:
        """Return the number of the device that an address belongs to, None for host memory."""

    def reaches(self, pointer: int) -> bool:
        """Whether kernels can read an address: of a device, of page-locked or managed memory."""

    def stream(self) -> int:
        """Return a new stream; it waits for the default stream, and that one for it."""

    def destroy_stream(self, stream: int) -> None:
        """Give a stream back."""

    def synchronize(self, stream: int) -> None:
        """Wait until the work on a stream is done."""

    def is_capturing(self, stream: int) -> bool:
        """Whether work on a stream goes into a graph that the user records."""

    def event(self, *, timing: bool = False) -> Handle:
        """Return a new event."""

    def destroy_event(self, event: Handle) -> None:
        """Give an event back."""

    def record(self, event: Handle, stream: int) -> None:
        """Let an event stand for the work on a stream so far."""

    def wait(self, stream: int, event: Handle) -> None:
        """Let later work on a stream wait for an event."""

    def microseconds(self, begin: Handle, end: Handle) -> float:
        """Return the time between two events that have happened."""

    def load(self, image: bytes) -> Handle:
        """Load a module of machine code."""

    def unload(self, module: Handle) -> None:
        """Give a module back."""

    def function(self, module: Handle, name: str, shared_bytes: int) -> Handle:
        """Return a kernel that may be launched with this much dynamic shared memory."""

    def launch(self, launch: KernelLaunch, stream: int) -> None:
        """Start a kernel in the order of a stream."""

    def graph(self) -> Handle:
        """Return an empty graph."""

    def add_kernel(
        self, graph: Handle, launch: KernelLaunch, after: Sequence[Handle], *, programmatic: bool
    ) -> Handle:
        """Add a launch behind other nodes and return its node.

        ``programmatic`` lets it start as soon as all of its one predecessor's blocks allow it.
        """

    def capture(self, work: Callable[[int], None]) -> Handle:
        """Return a graph of what ``work`` puts on the stream that it is given, which does not run.

        ``work`` must neither wait nor allocate memory.
        """

    def add_graph(self, graph: Handle, part: Handle, after: Sequence[Handle]) -> Handle:
        """Add a copy of a graph behind other nodes and return its node."""

    def add_record(self, graph: Handle, event: Handle, after: Sequence[Handle]) -> Handle:
        """Let an event happen in each run of a graph, behind other nodes; return its node."""

    def instantiate(self, graph: Handle) -> Handle:
        """Return an executable form of a graph, which must live as long as it."""

    def update_kernel(self, executable: Handle, node: Handle, launch: KernelLaunch) -> None:
        """Give a node of an executable graph other arguments from its next launch on."""

    def update_graph(self, executable: Handle, node: Handle, part: Handle) -> None:
        """Put a graph of the same shape in the place of an added one from the next launch on."""

    def launch_graph(self, executable: Handle, stream: int) -> None:
        """Run an executable graph in the order of a stream."""

    def destroy_graph(self, graph: Handle, executable: Handle | None) -> None:
        """Give a graph and its executable form back."""

    def library(self, name: str) -> Library:
        """Return a library of kernels for this device; DeviceError says what is missing."""


@contextmanager
def current(device: Device) -> Iterator[None]:
    """Make a device current in this thread for a while."""
    entered = device.enter()
    try:
        yield
    finally:
        device.leave(entered)
