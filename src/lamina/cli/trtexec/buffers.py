"""Inputs and outputs of a run, in host memory or copied to a GPU and back."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from lamina.backends.cuda.arrays import DeviceArray
from lamina.backends.cuda.device import Device, current
from lamina.cli.trtexec import specs
from lamina.cli.trtexec.arguments import Arguments
from lamina.cli.trtexec.console import Console
from lamina.cli.trtexec.trace import Run
from lamina.errors import InputError
from lamina.ir.graph import Array
from lamina.ir.types import DType, TensorType
from lamina.runtime.engine import Engine

_SEED = 0


def host_inputs(console: Console, a: Arguments, engine: Engine, pair: int = 0) -> dict[str, Array]:
    """Return the inputs: from the files of ``--loadInputs``, else random; raises InputError."""
    shapes = specs.shapes(a.text("shapes") or a.text("optShapes"))
    files = specs.pairs(a.text("loadInputs", pair))
    generator = np.random.default_rng(_SEED)
    found = {}
    for port in engine.inputs:
        assert isinstance(port.type, TensorType)
        shape = _shape(console, port.name, port.type, shapes)
        if port.name in files:
            found[port.name] = _read(port.name, files[port.name], port.type.dtype, shape)
        else:
            found[port.name] = _random(generator, port.type.dtype, shape)
    return found


def read_raw(name: str, path: str, dtype: DType, shape: specs.Shape) -> Array:
    """Return the raw contents of a file in a shape; raises InputError."""
    return _read(name, path, dtype, shape)


def _shape(
    console: Console, name: str, type: TensorType, given: Mapping[str, specs.Shape]
) -> specs.Shape:
    wanted = specs.matching(given, name)
    if wanted is not None:
        return wanted
    shape = tuple(d if isinstance(d, int) else 1 for d in type.shape)
    if not type.is_static:
        console.warning(
            f"Dynamic dimensions required for input: {name}, but no shapes were provided. "
            f"Automatically overriding shape to: {specs.text_of(shape)}"
        )
    return shape


def _read(name: str, path: str, dtype: DType, shape: specs.Shape) -> Array:
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
    """Runs on the CPU, which reads and writes arrays where they are: nothing is copied."""

    starts_early = False
    """Whether a call returns before its work is done."""

    def __init__(self, engine: Engine, inputs: Mapping[str, Array]) -> None:
        self._context = engine.create_context()
        self._inputs = dict(inputs)
        self._results: Mapping[str, Any] = {}

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
    """Runs on a GPU; inputs are copied to it and outputs back unless ``transfers`` is off."""

    starts_early = True

    def __init__(
        self, engine: Engine, inputs: Mapping[str, Array], *, transfers: bool = True
    ) -> None:
        self._device: Device = engine.driver.device  # type: ignore[attr-defined]
        self._context = engine.create_context()
        self._transfers = transfers
        self._host = {name: np.ascontiguousarray(x) for name, x in inputs.items()}
        with current(self._device):
            self._stream = self._device.stream()
            self._feed = {name: self._upload(x) for name, x in self._host.items()}
            self._device.synchronize(self._stream)
        self._results: Mapping[str, Any] = {}
        self._outputs: dict[str, Array] = {}

    def run(self, zero: float) -> Run:
        """Copy, run and copy back once; times count from ``zero``, in milliseconds."""
        with current(self._device):
            stamps = [_now() - zero]
            if self._transfers:
                for name, x in self._host.items():
                    self._copy(self._feed[name].pointer, x)
                self._device.synchronize(self._stream)
            stamps.append(_now() - zero)
            self._results = self._context.run(self._feed, None, self._stream)
            enqueued = _now() - zero
            self._device.synchronize(self._stream)
            stamps.append(_now() - zero)
            if self._transfers:
                self._outputs = self._download()
            stamps.append(_now() - zero)
        return Run(stamps[1], enqueued, stamps[0], stamps[1], *stamps[1:3], *stamps[2:4])

    def outputs(self) -> dict[str, Array]:
        """Return the outputs of the last run."""
        with current(self._device):
            return self._outputs if self._transfers else self._download()

    def profile(self) -> list[float]:
        """Run once and return the microseconds of each step."""
        return self._context.profile(self._feed)

    def _upload(self, x: Array) -> DeviceArray:
        pointer = self._device.allocate(max(x.nbytes, 1), self._stream)
        self._copy(pointer, x)
        dtype = next(t for t in DType if t.numpy == x.dtype)
        return DeviceArray(self._device, pointer, dtype, x.shape, self)

    def _copy(self, pointer: int, x: Array) -> None:
        if x.nbytes:
            self._device.copy(pointer, x.ctypes.data, x.nbytes, self._stream)

    def _download(self) -> dict[str, Array]:
        return {
            name: v.numpy() if isinstance(v, DeviceArray) else np.asarray(v)
            for name, v in self._results.items()
        }


def runs_of(engine: Engine, inputs: Mapping[str, Array], *, transfers: bool) -> Any:
    """Return what runs an engine on arrays."""
    if getattr(engine.driver, "device", None) is None:
        return HostRuns(engine, inputs)
    return DeviceRuns(engine, inputs, transfers=transfers)


def _now() -> float:
    return time.perf_counter() * 1000
