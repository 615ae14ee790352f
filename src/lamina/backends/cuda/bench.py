"""Times one candidate on the device, on random data, in the circumstances of a real run.

A graph of many launches of the candidate, each dependent on the one before as in a network, is
timed by events that are nodes of it: what else the processor does meanwhile, such as compiling,
delays the start of a graph and does not count.  Weights come from memory in every launch, as in a
network whose weights are larger than the cache: each launch has a copy of its own, and the cache is
emptied before the graph runs.  Activations stay where they are, as what an earlier kernel wrote a
moment ago; those that are parts of larger values have the gaps between their rows that they have in
the network.

A library's kernels are a graph of their own inside the graph: no kernel of ours starts early behind
them.  What the next kernel loses by that counts as the library's.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any, Final

import numpy as np

from lamina.backends.cuda.compile import Compiler, MachineCode
from lamina.backends.cuda.device import Device, Handle
from lamina.backends.cuda.graph import add_node, start
from lamina.backends.cuda.request import AnyDraft, KernelRequest, LibraryDraft
from lamina.backends.cuda.tactics.reorder import reorder_draft
from lamina.backends.cuda.target import CudaTarget
from lamina.backends.cuda.timed_step import MOST_COPIES, OWN, TimedStep, Trial, aligned
from lamina.errors import DeviceError
from lamina.ir.graph import Graph, emit_node
from lamina.ir.types import DType, TensorType
from lamina.ops import Transpose
from lamina.tactics.candidate import Candidate, Placement
from lamina.tactics.form import Form, layout

_SEED_BYTES: Final = 4 << 20
_FEWEST, _MOST = 5, MOST_COPIES
"""Launches in the graph that is timed."""
_ENOUGH_MICROSECONDS: Final = 400.0
_REPLAYS: Final = 5
_HOPELESS: Final = 2.0
"""A candidate that takes this many times the best so far in a first look is not looked at again."""
_REST_SECONDS: Final = 0.02
_WAKE_SECONDS: Final = 0.05
_SMALL: Final = TensorType(DType.F16, (1, 64, 8, 8))
"""What the kernel copies whose early start is timed."""


class TimedGraph:
    """An executable graph between two events, which happen as parts of it.

    ``add`` puts nodes into a graph behind first ones, and returns the last ones.
    """

    def __init__(
        self, bench: Bench, add: Callable[[Handle, list[Handle]], Sequence[Handle]]
    ) -> None:
        self._bench, self._device = bench, bench.device
        self._graph = self._device.graph()
        self._executable: Handle | None = None
        try:
            first = [self._device.add_record(self._graph, bench.begin, [])]
            self._device.add_record(self._graph, bench.end, add(self._graph, first))
            self._executable = self._device.instantiate(self._graph)
        except DeviceError:
            self.close()
            raise

    def run(self, times: int = 1) -> float:
        """Run some times in a row and return the microseconds between the last one's events."""
        bench, device = self._bench, self._device
        for _ in range(times):
            device.launch_graph(self._executable, bench.stream)
        device.synchronize(bench.stream)
        return device.microseconds(bench.begin, bench.end)

    def close(self) -> None:
        """Give the graph back."""
        if not self._device.lost:
            self._device.destroy_graph(self._graph, self._executable)


class Bench:
    """Buffers and streams for timing; closed when done."""

    def __init__(
        self,
        device: Device,
        target: CudaTarget,
        compiler: Compiler,
        *,
        launches: int = 1,
        replays: int = 1,
        spread: float = 1.0,
    ) -> None:
        """Let a time be the median of ``replays`` graphs or more, of ``launches`` steps or more.

        ``spread`` is the standard deviation of the random numbers that kernels work on.
        """
        self._spread = spread
        self.device, self.target, self.compiler = device, target, compiler
        self._early_start: float | None = None
        self.fewest, self.replays = max(_FEWEST, launches), max(_REPLAYS, replays)
        self.env = dict(target.env)
        self.stream = device.stream()
        self.begin, self.end = device.event(timing=True), device.event(timing=True)
        self.flush_bytes = 2 * target.l2_bytes
        self._pools: dict[str, tuple[int, int]] = {}
        self.used: dict[str, int] = {}
        """How many bytes of each kind of memory have been given out."""
        self._functions: dict[KernelRequest, tuple[Handle, Handle]] = {}
        self._flush = device.allocate(self.flush_bytes, self.stream)
        self._last = -math.inf

    def __enter__(self) -> Bench:
        return self

    def __exit__(self, *_: object) -> None:
        device = self.device
        if device.lost:
            return
        device.synchronize(self.stream)
        for pointer, size in (*self._pools.values(), (self._flush, self.flush_bytes)):
            device.free(pointer, size, self.stream)
        for module, _ in self._functions.values():
            device.unload(module)
        for event in (self.begin, self.end):
            device.destroy_event(event)
        device.destroy_stream(self.stream)

    def time(
        self, trial: Trial, code: Mapping[KernelRequest, MachineCode], best: float | None
    ) -> float:
        """Return the microseconds of one step; raises DeviceError when it cannot run."""
        lost = self.early_start() if isinstance(trial.draft, LibraryDraft) else 0.0
        self.used = {}
        step = TimedStep(self, trial, code)
        self.wake()
        if isinstance(trial.draft, LibraryDraft):  # its first call may load code: that takes long
            for call in step.launches(0):
                start(self.device, call, self.stream)
            self.device.synchronize(self.stream)
        us = lost + self._run(step, self.fewest, 2)
        if best is None or us <= _HOPELESS * best:
            enough = math.ceil(_ENOUGH_MICROSECONDS / max(us, 0.1))
            us = lost + self._run(step, max(self.fewest, min(_MOST, enough)), self.replays)
        self._last = time.perf_counter()
        return us

    def wake(self) -> None:
        """Keep a device that rested busy for a while, so that its clocks rise before it is timed.

        An H200 at rest runs at 345 MHz, at work at up to 1,980.
        """
        now = time.perf_counter()
        if now - self._last < _REST_SECONDS:
            return
        while time.perf_counter() < now + _WAKE_SECONDS:
            self.device.clear(self._flush, self.flush_bytes, self.stream)
            self.device.synchronize(self.stream)

    def early_start(self) -> float:
        """Return the microseconds that a kernel gains when it may start before another's end."""
        if self._early_start is None:
            self._early_start = self._gained() if self.target.dependent else 0.0
        return self._early_start

    def begin_early_start(self) -> None:
        """Begin to compile what :meth:`early_start` needs, ahead of other kernels."""
        if self._early_start is None and self.target.dependent:
            _, draft = self._copy()
            self.compiler.begin(launch.kernel for launch in draft.launches)

    def _copy(self) -> tuple[Placement, AnyDraft]:
        read, write = (layout(_SMALL, form) for form in (Form.PLAIN, Form.CHANNELS_LAST))
        placement = Placement((read,), (write,), "")
        return placement, reorder_draft(_SMALL, placement, self.target)

    def _gained(self) -> float:
        placement, draft = self._copy()
        compiled = self.compiler.compile([launch.kernel for launch in draft.launches])
        code = {k: c for k, c in compiled.items() if isinstance(c, MachineCode)}
        if any(launch.kernel not in code for launch in draft.launches):
            return 0.0
        self.used = {}
        step = TimedStep(self, copy_trial(_SMALL, placement, draft), code)
        self.wake()
        one_by_one = self._run(step, _MOST, _REPLAYS, early=False)
        return max(0.0, one_by_one - self._run(step, _MOST, _REPLAYS))

    def _run(self, step: TimedStep, count: int, replays: int, *, early: bool = True) -> float:
        device = self.device

        def add(graph: Handle, last: list[Handle]) -> list[Handle]:
            launches = [x for number in range(count) for x in step.launches(number)]
            for i, launch in enumerate(launches):
                last = [add_node(device, graph, launch, last, early=early and i > 0)]
            return last

        graph = TimedGraph(self, add)
        try:
            times = []
            for _ in range(replays + 1):
                device.clear(self._flush, self.flush_bytes, self.stream)
                times.append(graph.run() / count)
            return statistics.median(times[1:])
        finally:
            graph.close()

    def function(self, request: KernelRequest, code: MachineCode) -> Handle:
        """Return a kernel ready to launch."""
        if request not in self._functions:
            module = self.device.load(code.cubin)
            function = self.device.function(module, code.function, code.shared_bytes)
            self._functions[request] = (module, function)
        return self._functions[request][1]

    def memory(self, kind: str, size: int) -> int:
        """Return memory of a kind: ``scratch``, ``zeros``, or random numbers of an element type.

        Memory of one kind is kept between candidates; a pool that is too small is made anew, so
        all sizes of a candidate are asked for with ``reserve`` first.
        """
        at = self.used.get(kind, 0)
        self.used[kind] = at + aligned(size)
        return self._pools[kind][0] + at

    def reserve(self, sizes: Mapping[str, int]) -> None:
        """Make pools large enough."""
        for kind, size in sizes.items():
            have = self._pools.get(kind)
            if have is not None and have[1] >= size:
                continue
            if have is not None:
                self.device.free(*have, self.stream)
            self._pools.pop(kind, None)
            pointer = self.device.allocate(size, self.stream)
            self._pools[kind] = (pointer, size)
            self._fill(kind, pointer, size)

    def _fill(self, kind: str, pointer: int, size: int) -> None:
        if kind == "zeros":
            self.device.clear(pointer, size, self.stream)
        elif kind not in ("scratch", OWN):
            seed = random_bytes(DType(kind), self._spread)[:size]
            self.upload(pointer, seed)
            done = seed.size
            while done < size:
                part = min(done, size - done)
                self.device.copy(pointer + done, pointer, part, self.stream)
                done += part

    def upload(self, pointer: int, array: np.ndarray) -> None:
        """Copy an array to the device and wait for it."""
        raw = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
        if raw.size:
            self.device.copy(pointer, raw.ctypes.data, raw.size, self.stream)
            self.device.synchronize(self.stream)


def copy_trial(type: TensorType, placement: Placement, draft: AnyDraft) -> Trial:
    """Return the trial of a copy from one layout into another."""
    x = Graph().input("x", type)
    node = emit_node(Transpose(perm=tuple(range(type.rank))), [x], loc=x.loc)
    copy = Candidate("copy", (Form.PLAIN,), (Form.PLAIN,), 0.0, lambda _: draft)  # type: ignore[arg-type, return-value]
    return Trial(node, copy, placement, draft)


@lru_cache(maxsize=4)  # a build has a handful of benches, each of which would make them anew
def random_bytes(dtype: DType, spread: float) -> np.ndarray:
    """Return the bytes of random numbers around 0; zeros for integers of 32 bits and more.

    Those are indices and lengths, which must stay valid.
    """
    count = _SEED_BYTES // dtype.itemsize
    rng = np.random.default_rng(0)
    if dtype.is_float:
        numbers: Any = rng.normal(0.0, spread, count).astype(np.float32).astype(dtype.numpy)
    elif dtype in (DType.I8, DType.U8):
        numbers = rng.integers(0, 100, count).astype(dtype.numpy)
    else:
        numbers = np.zeros(count, dtype.numpy)
    result: np.ndarray = numbers.view(np.uint8)
    return result
