"""Runs plugins: makes them from the plan and gives them addresses of operands and results."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from lamina.backends.cuda.device import LEGACY_STREAM, Device, current
from lamina.errors import ExecutionError
from lamina.ir.dims import Expr
from lamina.ir.graph import Array
from lamina.ir.types import DType, TensorType
from lamina.ops.plugin import PROVIDERS, Computation
from lamina.runtime.engine import find_driver
from lamina.tensorrt import platform
from lamina.tensorrt.enums import TensorRTPhase
from lamina.tensorrt.plugin_api.calls import V2, V3, capability, parts, results_v3
from lamina.tensorrt.plugin_api.descriptions import PluginTensorDesc, described, dynamic
from lamina.tensorrt.plugin_api.fields import decode
from lamina.tensorrt.plugin_api.registry import REGISTRY
from lamina.tensorrt.plugin_api.v2 import IPluginCreator
from lamina.tensorrt.plugin_api.v3 import IPluginResourceContext

Descriptions = list[PluginTensorDesc]


class HostMemory:
    """Operands and results where they are, in host memory."""

    def __init__(self, arrays: Sequence[Array], workspace_bytes: int) -> None:
        self.addresses = [a.__array_interface__["data"][0] for a in arrays]
        self._workspace = np.empty(max(workspace_bytes, 1), np.uint8)
        self.workspace = int(self._workspace.ctypes.data)
        self.stream = 0

    def finish(self, results: Sequence[Array]) -> None:
        """Nothing is left to do: results are in place."""


class DeviceMemory:
    """Copies of operands and results on the GPU, for plugins that compute there."""

    def __init__(self, arrays: Sequence[Array], workspace_bytes: int) -> None:
        self._device: Device = find_driver("cuda", 0).device  # type: ignore[attr-defined]
        self._arrays = list(arrays)
        self._workspace_bytes = max(workspace_bytes, 1)
        self.stream = LEGACY_STREAM
        with current(self._device):
            sizes = [max(a.nbytes, 1) for a in arrays]
            self.addresses = [self._device.allocate(n, self.stream) for n in sizes]
            self.workspace = self._device.allocate(self._workspace_bytes, self.stream)
            for address, a in zip(self.addresses, arrays, strict=True):
                self._device.copy(address, a.ctypes.data, a.nbytes, self.stream)
            self._device.synchronize(self.stream)

    def finish(self, results: Sequence[Array]) -> None:
        """Copy results, which are the last arrays, back, and give the memory back."""
        with current(self._device):
            last = self.addresses[len(self.addresses) - len(results) :]
            for address, a in zip(last, results, strict=True):
                self._device.copy(a.ctypes.data, address, a.nbytes, self.stream)
            for address, a in zip(self.addresses, self._arrays, strict=True):
                self._device.free(address, max(a.nbytes, 1), self.stream)
            self._device.free(self.workspace, self._workspace_bytes, self.stream)
            self._device.synchronize(self.stream)


def memory(arrays: Sequence[Array], workspace_bytes: int) -> HostMemory | DeviceMemory:
    """Return operands and results where plugins of this process expect them."""
    kind = DeviceMemory if platform.device() == "cuda" else HostMemory
    return kind(arrays, workspace_bytes)


def _creator(key: str) -> Any:
    name, version, namespace = parts(key)
    found = REGISTRY._creators.get((name, version, namespace))
    if found is None:
        raise ExecutionError(
            f"the engine needs plugin {name!r}, version {version}, of the namespace "
            f"{namespace!r}, and no creator of it is registered",
            hint="register the creator with get_plugin_registry().register_creator first",
        )
    return found


class RunningV2:
    """A plugin of the second generation that runs."""

    def __init__(self, key: str, settings: bytes) -> None:
        creator = _creator(key)
        assert isinstance(creator, IPluginCreator)
        self.plugin = creator.deserialize_plugin(creator.name, settings)
        self.plugin.initialize()
        self._shapes: list[tuple[int, ...]] = []

    def __call__(self, operands: Sequence[Array], types: Sequence[TensorType]) -> list[Array]:
        """Compute the results."""
        inputs = [np.ascontiguousarray(x) for x in operands]
        results = [np.empty(t.static_shape, t.dtype.numpy) for t in types]
        given, wanted = _described(inputs), [described(t) for t in types]
        shapes = [x.shape for x in inputs]
        if shapes != self._shapes:
            self.plugin.configure_plugin(_dynamic(inputs), [dynamic(t) for t in types])
            self._shapes = shapes
        size = int(self.plugin.get_workspace_size(given, wanted) or 0)
        _enqueue(self.plugin, given, wanted, inputs, results, size)
        return results


class RunningV3:
    """A plugin of the third generation that runs."""

    def __init__(self, key: str, settings: bytes) -> None:
        creator = _creator(key)
        self._settings: Mapping[str, Any] = json.loads(settings)
        fields = decode(self._settings["fields"].encode())
        self.plugin = creator.create_plugin(creator.name, fields, TensorRTPhase.named("RUNTIME"))
        runtime = capability(self.plugin, "RUNTIME")
        self.plugin = runtime.attach_to_context(IPluginResourceContext()) or self.plugin
        self._runtime = capability(self.plugin, "RUNTIME")
        self._runtime.set_tactic(self._settings["tactic"])
        self._shapes: list[tuple[int, ...]] = []

    def __call__(self, operands: Sequence[Array], types: Sequence[TensorType]) -> list[Array]:
        """Compute the results; sizes that only the run tells are cut to what it told."""
        count = self._settings["inputs"]
        inputs = [np.ascontiguousarray(x) for x in operands[:count]]
        upper = self._upper(inputs, operands[count:], types)
        results = [np.empty(t.static_shape, t.dtype.numpy) for t in upper]
        for i, source in self._settings["aliases"].items():
            results[int(i)] = inputs[source] = inputs[source].copy()
        given, wanted = _described(inputs), [described(t) for t in upper]
        shapes = [x.shape for x in inputs]
        if shapes != self._shapes:
            self._runtime.on_shape_change(given, wanted)
            self._shapes = shapes
        _enqueue(self._runtime, given, wanted, inputs, results, self._workspace(inputs, upper))
        return cut(results, types, self._settings["sizes"])

    def _workspace(self, inputs: Sequence[Array], types: Sequence[TensorType]) -> int:
        build = capability(self.plugin, "BUILD")
        ask = getattr(build, "get_workspace_size", None)
        size = ask(_dynamic(inputs), [dynamic(t) for t in types]) if ask else 0
        return int(size or 0)

    def _upper(
        self, inputs: Sequence[Array], shape_inputs: Sequence[Array], types: Sequence[TensorType]
    ) -> Sequence[TensorType]:
        """Return the largest types of the results."""
        if all(t.is_static for t in types):
            return types
        known = [type_of(x) for x in inputs]
        elements = [tuple(int(v) for v in x.reshape(-1)) for x in shape_inputs]
        return results_v3(self.plugin, known, elements, None).types


def cut(results: list[Array], types: Sequence[TensorType], tellers: Sequence[int]) -> list[Array]:
    """Cut results at the sizes that scalar results tell, by the order in which they appear."""
    told = iter([int(results[i].reshape(-1)[0]) for i in tellers])
    names: dict[Expr, int] = {}
    found = []
    for array, type_ in zip(results, types, strict=True):
        index = []
        for d in type_.shape:
            if isinstance(d, Expr):
                if d not in names:
                    names[d] = next(told)
                index.append(slice(names[d]))
            else:
                index.append(slice(None))
        found.append(np.ascontiguousarray(array[tuple(index)]) if index else array)
    return found


def _enqueue(
    plugin: Any,
    given: Descriptions,
    wanted: Descriptions,
    inputs: Sequence[Array],
    results: Sequence[Array],
    workspace_bytes: int,
) -> None:
    space = memory([*inputs, *results], workspace_bytes)
    addresses = space.addresses
    try:
        status = plugin.enqueue(
            given,
            wanted,
            addresses[: len(inputs)],
            addresses[len(inputs) :],
            space.workspace,
            space.stream,
        )
    finally:
        space.finish(results)
    if status:
        raise ExecutionError(f"plugin {type(plugin).__name__}.enqueue returned {status}")


def type_of(x: Array) -> TensorType:
    """Return the type of an array."""
    return TensorType(next(t for t in DType if t.numpy == x.dtype), x.shape)


def _described(inputs: Sequence[Array]) -> Descriptions:
    return [described(type_of(x)) for x in inputs]


def _dynamic(inputs: Sequence[Array]) -> list[Any]:
    return [dynamic(type_of(x)) for x in inputs]


def _provide_v2(key: str, settings: bytes) -> Computation:
    return RunningV2(key, settings)


def _provide_v3(key: str, settings: bytes) -> Computation:
    return RunningV3(key, settings)


PROVIDERS[V2] = _provide_v2
PROVIDERS[V3] = _provide_v3
