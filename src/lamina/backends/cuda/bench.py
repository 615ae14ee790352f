"""Times one candidate on the device, on random data, in the circumstances of a real run.

A graph of many launches of the candidate, each dependent on the one before as in a network, is
timed by events.  Weights come from memory in every launch, as in a network whose weights are larger
than the cache: each launch has a copy of its own, and the cache is emptied before the graph runs.
Activations stay where they are, as what an earlier kernel wrote a moment ago; those that are parts
of larger values have the gaps between their rows that they have in the network.

A library's kernels are a graph of their own inside the graph: no kernel of ours starts early behind
them.  What the next kernel loses by that counts as the library's.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from lamina.backends.cuda.compile import Compiler, MachineCode
from lamina.backends.cuda.device import Device, Handle, KernelLaunch
from lamina.backends.cuda.graph import add_node, start
from lamina.backends.cuda.library.steps import sized
from lamina.backends.cuda.primitive import LibraryCall, Operation
from lamina.backends.cuda.request import (
    AnyDraft,
    Counters,
    KernelRequest,
    Launch,
    LibraryDraft,
    Scalar,
)
from lamina.backends.cuda.tactics.reorder import reorder_draft
from lamina.backends.cuda.target import CudaTarget
from lamina.codegen.layout import Layout
from lamina.ir.dims import evaluate
from lamina.ir.graph import Graph, Node, Value, emit_node
from lamina.ir.types import DType, TensorType
from lamina.ops import Transpose
from lamina.tactics.candidate import (
    Blob,
    Candidate,
    Packed,
    Placement,
    Read,
    Scratch,
    Write,
    constant,
)
from lamina.tactics.form import Form, layout

_WARP: Final = 32
_ALIGN: Final = 256
_SEED_BYTES: Final = 4 << 20
_FEWEST, _MOST = 5, 40
"""Launches in the graph that is timed."""
_ENOUGH_MICROSECONDS: Final = 400.0
_REPLAYS: Final = 5
_HOPELESS: Final = 2.0
"""A candidate that takes this many times the best so far in a first look is not looked at again."""
_REST_SECONDS: Final = 0.02
_WAKE_SECONDS: Final = 0.05
_SMALL: Final = TensorType(DType.F16, (1, 64, 8, 8))
"""What the kernel copies whose early start is timed."""


@dataclass(frozen=True)
class Trial:
    """A step to be timed: a candidate of a node, where its operands and results lie, its draft."""

    node: Node
    candidate: Candidate
    placement: Placement
    draft: AnyDraft


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
    ) -> None:
        """Let a time be the median of ``replays`` graphs or more, of ``launches`` steps or more."""
        self.device, self.target, self.compiler = device, target, compiler
        self._early_start: float | None = None
        self.fewest, self.replays = max(_FEWEST, launches), max(_REPLAYS, replays)
        self.env = dict(target.env)
        self.stream = device.stream()
        self.begin, self.end = device.event(timing=True), device.event(timing=True)
        self.flush_bytes = 2 * target.l2_bytes
        self._pools: dict[str, tuple[int, int]] = {}
        self._used: dict[str, int] = {}
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
        self._used = {}
        step = _Step(self, trial, code)
        self._wake()
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

    def _wake(self) -> None:
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

    def _gained(self) -> float:
        forms = (Form.PLAIN, Form.CHANNELS_LAST)
        read, write = (layout(_SMALL, form) for form in forms)
        placement = Placement((read,), (write,), "")
        draft = reorder_draft(_SMALL, placement, self.target)
        compiled = self.compiler.compile([launch.kernel for launch in draft.launches])
        code = {k: c for k, c in compiled.items() if isinstance(c, MachineCode)}
        if any(launch.kernel not in code for launch in draft.launches):
            return 0.0
        x = Graph().input("x", _SMALL)
        node = emit_node(Transpose(perm=(0, 1, 2, 3)), [x], loc=x.loc)
        copy = Candidate("copy", forms[:1], forms[1:], 0.0, lambda _: draft)  # type: ignore[arg-type, return-value]
        self._used = {}
        step = _Step(self, Trial(node, copy, placement, draft), code)
        self._wake()
        one_by_one = self._run(step, _MOST, _REPLAYS, early=False)
        return max(0.0, one_by_one - self._run(step, _MOST, _REPLAYS))

    def _run(self, step: _Step, count: int, replays: int, *, early: bool = True) -> float:
        device, stream = self.device, self.stream
        graph = device.graph()
        executable = None
        try:
            node: list[Handle] = []
            for number in range(count):
                for launch in step.launches(number):
                    node = [add_node(device, graph, launch, node, early=early and bool(node))]
            executable = device.instantiate(graph)
            times = []
            for _ in range(replays + 1):
                device.clear(self._flush, self.flush_bytes, stream)
                device.record(self.begin, stream)
                device.launch_graph(executable, stream)
                device.record(self.end, stream)
                device.synchronize(stream)
                times.append(device.microseconds(self.begin, self.end) / count)
            return statistics.median(times[1:])
        finally:
            device.destroy_graph(graph, executable)

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
        at = self._used.get(kind, 0)
        self._used[kind] = at + -(-size // _ALIGN) * _ALIGN
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
        elif kind != "scratch":
            seed = random_bytes(DType(kind), min(size, _SEED_BYTES))
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


def random_bytes(dtype: DType, size: int) -> np.ndarray:
    """Return the bytes of small random numbers; zeros for integers of 32 bits and more.

    Those are indices and lengths, which must stay valid.
    """
    count = -(-size // dtype.itemsize)
    rng = np.random.default_rng(0)
    if dtype.is_float:
        numbers: Any = rng.standard_normal(count).astype(np.float32).astype(dtype.numpy)
    elif dtype in (DType.I8, DType.U8):
        numbers = rng.integers(0, 100, count).astype(dtype.numpy)
    else:
        numbers = np.zeros(count, dtype.numpy)
    result: np.ndarray = numbers.view(np.uint8)[:size]
    return result


def _roles(draft: AnyDraft) -> list[object]:
    """Return the arguments of a draft that are memory, each once."""
    if isinstance(draft, LibraryDraft):
        return [*dict.fromkeys(role for _, role in draft.operands), Scratch()]
    arguments = dict.fromkeys(a for x in draft.launches for a in x.arguments)
    return [a for a in arguments if not isinstance(a, Scalar)]


def _span_bytes(v: Value, at: Layout, env: Mapping[str, int]) -> int:
    """Return the bytes from a value's first element to its last."""
    if not evaluate(v.tensor.size, env):
        return 0
    return evaluate(at.span(v.tensor.shape), env) * v.tensor.dtype.itemsize


class _Step:
    """The launches of a candidate, with memory for what they read and write."""

    def __init__(
        self, bench: Bench, trial: Trial, code: Mapping[KernelRequest, MachineCode]
    ) -> None:
        self.bench, self.node, self.code = bench, trial.node, code
        self.placement, self.draft = trial.placement, trial.draft
        draft = trial.draft
        self.sizes = {r: self._size(r) for r in _roles(draft)}
        weights = sum(n for r, (kind, n) in self.sizes.items() if self._is_weight(r))
        self.copies = max(1, min(_MOST, math.ceil(bench.flush_bytes / max(1, weights))))
        total: dict[str, int] = {}
        for r, (kind, n) in self.sizes.items():
            count = self.copies if self._is_weight(r) else 1
            total[kind] = total.get(kind, 0) + count * (-(-n // _ALIGN) * _ALIGN)
        scratch = max((self._scratch(x) for x in draft.launches), default=0)
        total["scratch"] = total.get("scratch", 0) + scratch + _ALIGN
        bench.reserve(total)
        self.scratch = bench.memory("scratch", scratch)
        self.pointers = {r: self._place(r, *size) for r, size in self.sizes.items()}
        self.operation: Operation | None = None
        if isinstance(draft, LibraryDraft):
            names = [name for name, _ in draft.operands]
            problem = sized(draft.problem, bench.env)
            library = bench.device.library(draft.library)
            self.operation = library.operation(problem, names, draft.plan)

    def _is_weight(self, role: object) -> bool:
        if isinstance(role, Read):
            return constant(self.node.inputs[role.index]) is not None
        return isinstance(role, Blob | Packed)

    def _size(self, role: object) -> tuple[str, int]:
        """Return the kind of memory and the bytes of an argument."""
        env = self.bench.env
        match role:
            case Blob(weight):
                return DType.of(weight.contents.dtype).value, weight.contents.nbytes
            case Packed(dtype, size, _):
                return dtype.value, size
            case Counters(count):
                return "zeros", 4 * count
            case Scratch():
                return "scratch", evaluate(self.draft.workspace_bytes, env)
            case Read(i):
                v = self.node.inputs[i]
                return v.tensor.dtype.value, _span_bytes(v, self.placement.operands[i], env)
            case Write(i):
                return "scratch", _span_bytes(self.node.outputs[i], self.placement.results[i], env)
        raise AssertionError(role)

    def _scratch(self, launch: Launch) -> int:
        grid = math.prod(evaluate(n, self.bench.env) for n in launch.grid)
        return self.code[launch.kernel].scratch_bytes * grid

    def _place(self, role: object, kind: str, size: int) -> list[int]:
        count = self.copies if self._is_weight(role) else 1
        places = [self.bench.memory(kind, size) for _ in range(count)]
        integers = isinstance(role, Read) and not DType(kind).is_float
        if isinstance(role, Read) and integers and self._is_weight(role):
            weight = constant(self.node.inputs[role.index])
            assert weight is not None
            for place in places:  # indices must be those of the model
                self.bench.upload(place, weight.contents)
        return places

    def launches(self, number: int) -> list[KernelLaunch | LibraryCall]:
        """Return the launches of run ``number``."""
        if isinstance(self.draft, LibraryDraft):
            assert self.operation is not None
            values = tuple(self._pointer(role, number) for _, role in self.draft.operands)
            return [LibraryCall(self.operation, values, self._pointer(Scratch(), number))]
        return [self._launch(x, number) for x in self.draft.launches]

    def _pointer(self, role: object, number: int) -> int:
        places = self.pointers[role]
        return places[number % len(places)]

    def _launch(self, launch: Launch, number: int) -> KernelLaunch:
        code, env = self.code[launch.kernel], self.bench.env
        values: list[int] = []
        types: list[str] = []
        for argument, (_, type) in zip(launch.arguments, launch.kernel.parameters, strict=True):
            if isinstance(argument, Scalar):
                values.append(evaluate(argument.value, env))
                types.append(type)
            else:
                values.append(self._pointer(argument, number))
                types.append("p")
        x, y, z = (evaluate(n, env) for n in launch.grid)
        threads, *more = launch.block or (code.warps * _WARP, 1, 1)
        return KernelLaunch(
            function=self.bench.function(launch.kernel, code),
            grid=(x, y, z),
            threads=threads,
            more_threads=(more[0], more[1]),
            shared_bytes=code.shared_bytes,
            values=(*values, self.scratch if code.scratch_bytes else 0, 0),
            types=(*types, "p", "p"),
            dependent=launch.kernel.dependent,
        )
