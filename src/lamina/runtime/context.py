"""Execution contexts: check what comes in, run, hand out results."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import numpy as np

from lamina.errors import GraphError, InputError
from lamina.ir.attributes import attribute_symbols
from lamina.ir.interpret import bind_shape
from lamina.ir.types import DType, TensorType, ValueType
from lamina.plan.plan import Plan, Port
from lamina.runtime.driver import Allocator, DeviceRunner, Runner
from lamina.runtime.lent import LentMemory


class ExecutionContext:
    """Buffers of its own for one engine; cheap to create; used by one thread at a time.

    Any number of contexts may run in parallel.
    """

    def __init__(
        self, plan: Plan, inputs: tuple[Port, ...], outputs: tuple[Port, ...], runner: Runner
    ) -> None:
        self._inputs, self._outputs = inputs, outputs
        self._ranges = {name: (low, high) for name, low, _, high in plan.ranges}
        self._names = [p.name for p in inputs]
        self._output_names = [p.name for p in outputs]
        self._dtypes = [
            p.type.dtype.numpy if isinstance(p.type, TensorType) else None for p in inputs
        ]
        self._shapes: tuple[Any, ...] = ()
        self._none: list[Any] = [None] * len(outputs)
        self._lent: LentMemory | None = None
        self._allocator: Allocator | None = None
        self._checks = False
        self.adopt(runner)

    def adopt(self, runner: Runner) -> None:
        """Use the runner of another section with the same inputs and outputs from now on."""
        self._runner = runner
        if self._allocator is not None:
            runner.allocate_with(self._allocator)
        if self._lent is not None:
            runner.lend(self._lent)
        if self._checks:
            runner.check_steps(wanted=True)
        self._on_device: DeviceRunner | None = None
        if hasattr(runner, "admit"):
            self._on_device = cast("DeviceRunner", runner)

    def lend(self, memory: LentMemory | None) -> None:
        """Place activations in the user's memory from the next run on; None for the context's own.

        It must stay there until that work is done.  :meth:`Engine.arena_bytes` says how much it is.
        """
        if memory != self._lent:
            self._lent = memory
            self._runner.lend(memory)

    def check_steps(self, *, wanted: bool = True) -> None:
        """Wait after each step from the next run on, so that a fault names its step, or no longer.

        That is slow, and for a GPU only: on a CPU every step is done before the next one.
        """
        self._checks = wanted
        self._runner.check_steps(wanted=wanted)

    def allocate_with(self, allocator: Allocator | None) -> None:
        """Take memory from an allocator from the next run on; None for that of the engine."""
        self._allocator = allocator
        self._runner.allocate_with(allocator)

    def run(
        self,
        inputs: Mapping[str, Any],
        out: Mapping[str, Any] | None = None,
        stream: int | None = None,
    ) -> dict[str, Any]:
        """Run once and return the outputs by name.

        Arrays may be NumPy's or anything with DLPack or the array interface; C-contiguous ones of
        the right type are read in place.  ``out`` gives arrays to write into.

        On a GPU, arrays in its memory are read in place too, and results are then arrays there.
        With ``stream`` (the raw handle of a CUDA stream) such a run is only put on the stream.
        Raises InputError for a wrong name, element type, rank or a shape outside the profile, and
        for an array on another GPU or with gaps between its elements.
        """
        arrays = self._by_name(inputs)
        if out is not None and self._on_device is not None:
            written = [out.get(name) for name in self._output_names]
            if len(out) == len(written) and self._on_device.repeat([*arrays, *written], stream):
                return dict(zip(self._output_names, written, strict=True))
        outputs = list(self._none) if out is None else self._results(out)
        results = self._run(arrays, outputs, stream)
        named = dict(zip(self._output_names, results, strict=True))
        if out is not None:  # the caller's own objects, whatever the runner made of them
            for name in out:
                if out[name] is not None:
                    named[name] = out[name]
        return named

    def __call__(self, *args: Any) -> Any:
        """Run on arrays in the order of the inputs; one output comes alone, several as a tuple."""
        if len(args) != len(self._names):
            raise InputError(f"expected {len(self._names)} inputs {self._names}, got {len(args)}")
        results = self._run(list(args), list(self._none))
        return results[0] if len(results) == 1 else tuple(results)

    def profile(self, inputs: Mapping[str, Any]) -> list[float]:
        """Run once and return the microseconds of each step."""
        return self._runner.profile(self._prepared(self._by_name(inputs)))

    def memory(self) -> dict[str, int]:
        """Return bytes by use for the sizes of the last run."""
        return dict(self._runner.memory())

    def _run(self, arrays: list[Any], outputs: list[Any], stream: int | None = None) -> list[Any]:
        if stream is None:
            return self._runner.run(self._prepared(arrays), outputs)
        if self._on_device is None:
            raise InputError("a CPU has no streams", hint='load the plan with device="cuda"')
        return self._on_device.run(self._prepared(arrays), outputs, stream)

    def _prepared(self, arrays: list[Any]) -> list[Any]:
        for x, dtype in zip(arrays, self._dtypes, strict=True):
            if type(x) is not np.ndarray or x.dtype != dtype or not x.flags.c_contiguous:
                arrays = self._checked(arrays)
                break
        shapes = tuple([getattr(x, "shape", None) for x in arrays])
        if shapes != self._shapes:
            self._check_shapes(arrays)
            self._shapes = shapes
        return arrays

    def _checked(self, arrays: list[Any]) -> list[Any]:
        device = self._on_device
        if device is None:
            return [_as_input(p, x) for p, x in zip(self._inputs, arrays, strict=True)]
        checked = []
        for i, (port, x) in enumerate(zip(self._inputs, arrays, strict=True)):
            admitted = device.admit(i, port, x)
            checked.append(_as_input(port, x) if admitted is None else admitted)
        return checked

    def _check_shapes(self, arrays: list[Any]) -> None:
        env: dict[str, int] = {}
        for port, x in zip(self._inputs, arrays, strict=True):
            if not isinstance(port.type, TensorType):
                continue
            try:
                bind_shape(port.type, x.shape, env, "it")
            except GraphError as e:
                raise InputError(
                    f"input {port.name!r} has shape {tuple(x.shape)}: {e.args[0]}",
                    hint=f"expected {self.expected(port.type)}",
                ) from e
            for axis, d in enumerate(port.type.shape):
                for name in attribute_symbols(d):
                    self._check_range(port, tuple(x.shape), axis, name, env[name])

    def _check_range(
        self, port: Port, shape: tuple[int, ...], axis: int, name: str, value: int
    ) -> None:
        low, high = self._ranges.get(name, (0, value))
        if not low <= value <= high:
            wider = f"a smallest {name} of {value}" if value < low else f"{name} up to {value}"
            raise InputError(
                f"input {port.name!r} has shape {shape}: {name} = {value} on axis {axis} is "
                f"outside the profile's {low}..{high}",
                hint=f"expected {self.expected(port.type)}; shapes= of the build may allow {wider}",
            )

    def expected(self, type: ValueType) -> str:
        """Return a type for people, with the allowed range of each symbol."""
        used = dict.fromkeys(attribute_symbols(type))
        ranges = [
            f"{n} in {self._ranges[n][0]}..{self._ranges[n][1]}" for n in used if n in self._ranges
        ]
        return f"{type}" + (f" with {', '.join(ranges)}" if ranges else "")

    def _by_name(self, inputs: Mapping[str, Any]) -> list[Any]:
        """Return the arrays in the order of the inputs."""
        try:
            arrays = [inputs[name] for name in self._names]
        except KeyError:
            raise self._wrong_names(inputs) from None
        except TypeError as e:
            raise InputError(
                f"the inputs are a {type(inputs).__name__}, not arrays by name",
                hint=f"give a dict with {self._names}, or call the engine with the arrays",
            ) from e
        if len(inputs) != len(arrays):
            raise self._wrong_names(inputs)
        return arrays

    def _wrong_names(self, inputs: Mapping[str, Any]) -> InputError:
        missing = [n for n in self._names if n not in inputs]
        unknown = [n for n in inputs if n not in self._names]
        parts = [f"input {missing} is missing"] if missing else []
        parts += [f"there is no input {unknown}"] if unknown else []
        return InputError("; ".join(parts), hint=f"the inputs are {self._names}")

    def _results(self, out: Mapping[str, Any]) -> list[Any]:
        if unknown := [n for n in out if n not in self._output_names]:
            raise InputError(f"there is no output {unknown}", hint=f"outputs: {self._output_names}")
        results = list(self._none)
        for i, port in enumerate(self._outputs):
            array = out.get(port.name)
            if array is None:
                continue
            if self._on_device is not None:
                results[i] = self._on_device.admit(len(self._inputs) + i, port, array)
            if results[i] is None:
                _check_output(port, array)
                results[i] = array
        return results


def _as_input(port: Port, x: Any) -> Any:
    """Return ``x`` as the C-contiguous array that the program reads; raises InputError."""
    if not isinstance(port.type, TensorType):
        return x
    array = _as_array(port, x)
    if array.dtype != port.type.dtype.numpy:
        if port.type.dtype is DType.STR and array.dtype.kind in "US":
            return array.astype(object)
        raise InputError(
            f"input {port.name!r} has element type {array.dtype}, expected {port.type.dtype.numpy}",
            hint=f"convert it: x.astype({str(port.type.dtype.numpy)!r})",
        )
    if array.ndim != port.type.rank:
        raise InputError(
            f"input {port.name!r} has {array.ndim} dimensions, expected {port.type.rank}",
            hint=f"its type is {port.type}",
        )
    return np.asarray(array, order="C")


def _as_array(port: Port, x: Any) -> np.ndarray:
    if isinstance(x, np.ndarray | np.generic):
        return np.asarray(x)
    try:
        if hasattr(x, "__dlpack__") and not hasattr(x, "__array_interface__"):
            return np.from_dlpack(x)
        return np.asarray(x)
    except (TypeError, ValueError, RuntimeError, BufferError) as e:
        raise InputError(f"input {port.name!r} is a {type(x).__name__}, not an array: {e}") from e


def _check_output(port: Port, array: Any) -> None:
    if not isinstance(array, np.ndarray):
        raise InputError(f"output {port.name!r} must be written to a NumPy array")
    if isinstance(port.type, TensorType):
        wanted = port.type.dtype.numpy
        if array.dtype != wanted or array.ndim != port.type.rank:
            raise InputError(
                f"the array for output {port.name!r} is {array.dtype}{list(array.shape)}, expected "
                f"{port.type}"
            )
    if not (array.flags.c_contiguous and array.flags.writeable):
        raise InputError(f"the array for output {port.name!r} must be C-contiguous and writable")
