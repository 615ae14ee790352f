"""Inputs and outputs of a run, in host memory or copied to a GPU and back."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from lamina.backends.cuda.arrays import DeviceArray
from lamina.backends.cuda.device import Device, current
from lamina.backends.cuda.memory import Memory, Stream
from lamina.cli.trtexec import specs
from lamina.cli.trtexec.arguments import Arguments
from lamina.cli.trtexec.console import Console
from lamina.cli.trtexec.trace import Run
from lamina.errors import ConfigError, InputError
from lamina.ir.attributes import attribute_symbols
from lamina.ir.graph import Array
from lamina.ir.types import DType, TensorType
from lamina.runtime.engine import Engine
from lamina.runtime.lent import ALIGN_BYTES, LentMemory
from lamina.tensorrt.engine.cuda_engine import ICudaEngine

_SEED = 0


def host_inputs(
    console: Console, a: Arguments, engine: ICudaEngine, pair: int = 0
) -> dict[str, Array]:
    """Return the inputs: from the files of ``--loadInputs``, else random; raises InputError."""
    number = a.integer("useProfile")
    profiles = engine._metadata.profiles
    if not 0 <= number < len(profiles):
        raise ConfigError(f"--useProfile={number}: the engine has {len(profiles)} profiles")
    ranges = profiles[number].shapes
    shapes = specs.shapes(a.text("shapes") or a.text("optShapes", number))
    files = specs.pairs(a.text("loadInputs", pair))
    names = [port.name for port in engine._engine.inputs]
    specs.require_inputs("shapes", shapes, names)
    specs.require_inputs("loadInputs", files, names)
    generator = np.random.default_rng(_SEED)
    found = {}
    for port in engine._engine.inputs:
        assert isinstance(port.type, TensorType)
        tensor = engine._rules.types[port.name]
        shape = _shape(console, port.name, tensor, shapes, ranges.get(port.name))
        shape = _memory(engine, port.name, shape)
        if port.name in files:
            found[port.name] = read_raw(port.name, files[port.name], port.type.dtype, shape)
        else:
            found[port.name] = _random(generator, port.type.dtype, shape)
    return found


def _memory(engine: ICudaEngine, name: str, shape: specs.Shape) -> specs.Shape:
    """Return the shape of the memory of a tensor, which depends on its format."""
    return tuple(int(str(d)) for d in engine._rules.formats[name].physical(shape))


def _shape(
    console: Console,
    name: str,
    type: TensorType,
    given: Mapping[str, specs.Shape],
    ranges: tuple[specs.Shape, specs.Shape, specs.Shape] | None,
) -> specs.Shape:
    """Return the shape of an input: the given one, else the profile's likeliest."""
    shape = specs.matching(given, name)
    if shape is None:
        likeliest = ranges[1] if ranges else tuple(1 for _ in type.shape)
        shape = tuple(
            d if isinstance(d, int) else n for d, n in zip(type.shape, likeliest, strict=True)
        )
        if not type.is_static:
            console.warning(
                f"Dynamic dimensions required for input: {name}, but no shapes were provided. "
                f"Automatically overriding shape to: {specs.text_of(shape)}"
            )
    if ranges is not None and len(shape) == len(ranges[0]):
        low, _, high = ranges
        if not all(a <= n <= b for a, n, b in zip(low, shape, high, strict=True)):
            raise InputError(
                f"input {name!r} of {specs.text_of(shape)} is outside the profile: "
                f"{specs.text_of(low)} to {specs.text_of(high)}",
                hint="--useProfile chooses another profile",
            )
    return shape


def read_raw(name: str, path: str, dtype: DType, shape: specs.Shape) -> Array:
    """Return the raw contents of a file in a shape; raises InputError."""
    try:
        raw = Path(path).read_bytes()
    except OSError as e:
        raise InputError(f"cannot read {path!r} for {name!r}: {e.strerror}") from e
    expected = int(np.prod(shape, dtype=np.int64)) * dtype.numpy.itemsize
    if len(raw) != expected:
        raise InputError(
            f"{path!r} has {len(raw)} bytes, {name!r} of {specs.text_of(shape)} needs {expected}"
        )
    return np.frombuffer(raw, dtype.numpy).reshape(shape)


def _random(generator: np.random.Generator, dtype: DType, shape: specs.Shape) -> Array:
    if dtype.is_float:
        return generator.uniform(-1, 1, shape).astype(dtype.numpy)
    high = 2 if dtype is DType.BOOL else 128
    return generator.integers(0, high, shape).astype(dtype.numpy)


class HostRuns:
    """Runs on the CPU, which reads and writes arrays where they are: nothing is copied.

    Activations lie in one block of ``arena_bytes``, or where the context puts them.
    """

    starts_early = False
    """Whether a call returns before its work is done."""

    def __init__(
        self, engine: Engine, inputs: Mapping[str, Array], *, arena_bytes: int | None = None
    ) -> None:
        self._context = engine.create_context()
        self._inputs = dict(inputs)
        self._results: Mapping[str, Any] = {}
        if arena_bytes is not None:
            self._block = np.empty(arena_bytes + ALIGN_BYTES, np.uint8)
            begin = self._block.ctypes.data
            self._context.lend(LentMemory(begin + -begin % ALIGN_BYTES, arena_bytes))

    def run(self, zero: float) -> Run:
        """Run once; times count from ``zero``, in milliseconds."""
        begin = _now() - zero
        self._results = self._context.run(self._inputs)
        end = _now() - zero
        return Run(begin, end, begin, begin, begin, end, end, end)

    def outputs(self) -> dict[str, Array]:
        """Return the outputs of the last run."""
        return {name: np.asarray(value) for name, value in self._results.items()}

    def profile(self) -> list[float]:
        """Run once and return the microseconds of each step."""
        return self._context.profile(self._inputs)


class DeviceRuns:
    """Runs on a GPU; inputs are copied to it and outputs back unless ``transfers`` is off.

    Host memory is page-locked, so that copies take their place on the stream, and times are those
    of events on it.
    """

    starts_early = True

    def __init__(
        self,
        engine: Engine,
        inputs: Mapping[str, Array],
        *,
        transfers: bool = True,
        arena_bytes: int | None = None,
    ) -> None:
        device = _device_of(engine)
        assert device is not None
        self._device: Device = device
        self._results: dict[str, Any] = {}
        self._context = engine.create_context()
        self._transfers = transfers
        self._zero, self._offset = -1.0, 0.0
        with current(device):
            self._memory = Memory(device)
            self._own = Stream(device)
            self._stream = self._own.handle
            self._events = [device.event(timing=True) for _ in range(5)]
            self._host = {name: self._pinned(x) for name, x in inputs.items()}
            self._feed = {name: self._upload(x) for name, x in self._host.items()}
            if arena_bytes is not None:
                self._arena = self._memory.buffer(arena_bytes, "activations", self._own)
            device.synchronize(self._stream)
        if arena_bytes is not None:
            self._context.lend(LentMemory(self._arena.pointer, arena_bytes))
        known = {s for p in engine.inputs for s in attribute_symbols(p.type)}
        self._fixed = [p.name for p in engine.outputs if known >= set(attribute_symbols(p.type))]
        self._back: dict[str, Array] = {}

    def __del__(self) -> None:
        """Drop the results before the stream, in the order of which their memory goes."""
        self._results = {}

    def run(self, zero: float) -> Run:
        """Copy, run and copy back once; times count from ``zero``, in milliseconds."""
        device, stream = self._device, self._stream
        anchor, *events = self._events
        out = {n: self._results[n] for n in self._fixed if n in self._results}
        with current(device):
            if zero != self._zero:
                device.record(anchor, stream)
                device.synchronize(stream)
                self._zero, self._offset = zero, _now() - zero
            device.record(events[0], stream)
            if self._transfers:
                for name, x in self._host.items():
                    self._copy(self._feed[name].pointer, x.ctypes.data, x.nbytes)
            device.record(events[1], stream)
            begin = _now() - zero
            self._results = self._context.run(self._feed, out or None, stream)
            end = _now() - zero
            device.record(events[2], stream)
            if self._transfers:
                self._download()
            device.record(events[3], stream)
            device.synchronize(stream)
            at = [self._offset + device.microseconds(anchor, e) / 1000 for e in events]
        return Run(begin, end, at[0], at[1], at[1], at[2], at[2], at[3])

    def outputs(self) -> dict[str, Array]:
        """Return the outputs of the last run."""
        with current(self._device):
            self._download()
            self._device.synchronize(self._stream)
        return {name: x.copy() for name, x in self._back.items()}

    def profile(self) -> list[float]:
        """Run once and return the microseconds of each step."""
        return self._context.profile(self._feed)

    def _pinned(self, x: Array) -> Array:
        copy = self._empty(x.shape, x.dtype)
        copy[...] = x
        return copy

    def _empty(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
        size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        found: Array = self._memory.pinned(size).view(dtype).reshape(shape)
        return found

    def _upload(self, x: Array) -> DeviceArray:
        buffer = self._memory.buffer(max(x.nbytes, 1), "an input", self._own)
        self._copy(buffer.pointer, x.ctypes.data, x.nbytes)
        dtype = next(t for t in DType if t.numpy == x.dtype)
        return DeviceArray(self._device, buffer.pointer, dtype, x.shape, buffer)

    def _copy(self, destination: int, source: int, size_bytes: int) -> None:
        if size_bytes:
            self._device.copy(destination, source, size_bytes, self._stream)

    def _download(self) -> None:
        for name, value in self._results.items():
            if not isinstance(value, DeviceArray):
                self._back[name] = np.asarray(value)
                continue
            have = self._back.get(name)
            if have is None or have.shape != value.shape:
                have = self._back[name] = self._empty(value.shape, value.type.numpy)
            self._copy(have.ctypes.data, value.pointer, value.nbytes)


def runs_of(
    engine: Engine,
    inputs: Mapping[str, Array],
    *,
    transfers: bool,
    arena_bytes: int | None = None,
    profile: int = 0,
) -> HostRuns | DeviceRuns:
    """Return what runs an engine on arrays, whose shapes lie within a profile."""
    runs: HostRuns | DeviceRuns
    if _device_of(engine) is None:
        runs = HostRuns(engine, inputs, arena_bytes=arena_bytes)
    else:
        runs = DeviceRuns(engine, inputs, transfers=transfers, arena_bytes=arena_bytes)
    engine.use_profile(runs._context, profile)
    return runs


def arena_bytes(a: Arguments, engine: ICudaEngine, inputs: Mapping[str, Array]) -> int | None:
    """Return how much memory ``--allocationStrategy`` gives a context; None to leave it to it."""
    strategy = a.text("allocationStrategy")
    if strategy == "static":
        return None
    if strategy == "profile":
        return engine.get_device_memory_size_for_profile_v2(a.integer("useProfile"))
    if strategy == "runtime":
        rules = engine._rules
        sizes = rules.bind({name: rules.of_memory(name, x.shape) for name, x in inputs.items()})
        return engine._engine.arena_bytes(sizes, a.integer("useProfile"))
    raise ConfigError(
        f"--allocationStrategy={strategy} is not known", hint="static, profile or runtime"
    )


def _device_of(engine: Engine) -> Device | None:
    device: Device | None = getattr(engine.driver, "device", None)
    return device


def _now() -> float:
    return time.perf_counter() * 1000
