"""Plugins made of decorated functions: registering, calling, building and running them."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from lamina.errors import ExecutionError, GraphError
from lamina.ir.dims import Dim
from lamina.ir.graph import Array, Value
from lamina.ir.types import TensorType
from lamina.ops import PluginCall
from lamina.ops.plugin import PROVIDERS, Computation, forget_plugins
from lamina.tensorrt.lowering.emitter import LayerEmitter
from lamina.tensorrt.network.layer import ILayer
from lamina.tensorrt.network.state import NetworkState
from lamina.tensorrt.network.tensor import ITensor
from lamina.tensorrt.plugin_api.calls import Fresh, Results, asking, size_order
from lamina.tensorrt.plugin_api.quick_types import FRESH, SizeTensorDesc, Tensor, TensorDesc
from lamina.tensorrt.plugin_api.running import DeviceMemory, cut, memory, type_of

KIND = "tensorrt.quick"


@dataclass
class QuickPlugin:
    """The functions that were decorated for one ``namespace::name``."""

    name: str
    describe: Callable[..., Any]
    operands: tuple[str, ...]
    attributes: dict[str, Any]
    implement: Callable[..., Any] | None = None
    compile: Callable[..., Any] | None = None
    autotune: Callable[..., Any] | None = None

    def results(
        self, inputs: Sequence[TensorType], attributes: dict[str, Any], fresh: Fresh | None
    ) -> tuple[Results, list[int]]:
        """Return the results' types, and for each the operand that it overwrites or -1."""
        descriptions = [TensorDesc._of(t) for t in inputs]
        token = FRESH.set(fresh)
        try:
            with asking(self.describe, f"the description of {self.name!r}"):
                found = self.describe(*descriptions, **attributes)
        finally:
            FRESH.reset(token)
        several = tuple(found) if isinstance(found, tuple | list) else (found,)
        if not several or not all(isinstance(d, TensorDesc) for d in several):
            raise GraphError(
                f"plugin {self.name!r} described its results as {found!r}, not by TensorDesc"
            )
        sizes: dict[int, Dim] = {
            i: d._size for i, d in enumerate(several) if isinstance(d, SizeTensorDesc)
        }
        aliases = [
            next((i for i, x in enumerate(descriptions) if x is d._aliased), -1) for d in several
        ]
        return Results(tuple(d._type() for d in several), sizes), aliases


PLUGINS: dict[str, QuickPlugin] = {}


@dataclass(frozen=True)
class QuickCall:
    """A call of a plugin on tensors of a network, before it is added."""

    plugin: QuickPlugin
    inputs: tuple[ITensor, ...]
    attributes: dict[str, Any] = field(default_factory=dict)


def described(name: str, function: Callable[..., Any]) -> QuickPlugin:
    """Return a plugin of the function that describes it; TypeError for missing annotations."""
    hints = inspect.get_annotations(function, eval_str=True)
    operands, attributes = [], {}
    for p in inspect.signature(function).parameters.values():
        if p.name not in hints:
            raise TypeError(f"{name}: parameter {p.name!r} has no annotation")
        if hints[p.name] is TensorDesc:
            operands.append(p.name)
        else:
            attributes[p.name] = p.default
    return QuickPlugin(name, function, tuple(operands), attributes)


def bound(plugin: QuickPlugin, args: tuple[Any, ...], kwargs: dict[str, Any]) -> QuickCall:
    """Return a call with its arguments checked; TypeError for wrong ones."""
    given = inspect.signature(plugin.describe).bind(*args, **kwargs)
    given.apply_defaults()
    inputs = tuple(given.arguments[name] for name in plugin.operands)
    for name, tensor in zip(plugin.operands, inputs, strict=True):
        if not isinstance(tensor, ITensor):
            raise TypeError(f"{plugin.name}: {name} must be an ITensor, got {tensor!r}")
    attributes = {name: _plain(given.arguments[name]) for name in plugin.attributes}
    return QuickCall(plugin, inputs, attributes)


def operator(
    plugin: QuickPlugin, types: Sequence[TensorType], attributes: dict[str, Any], fresh: Fresh
) -> PluginCall:
    """Return the operator of a plugin on operands of these types; raises GraphError."""
    found, aliases = plugin.results(types, attributes, fresh)
    if plugin.implement is None:
        raise GraphError(
            f"plugin {plugin.name!r} has no implementation in Python",
            hint="decorate a function with tensorrt.plugin.impl",
        )
    settings = {"attributes": attributes, "aliases": aliases, "sizes": size_order(found)}
    text = json.dumps(settings, sort_keys=True).encode()
    return PluginCall(kind=KIND, key=plugin.name, settings=text, output_types=found.types)


class QuickLayer(ILayer):
    """A plugin made of decorated functions."""

    _kind = "PLUGIN_V3"

    def __init__(self, state: NetworkState, call: QuickCall) -> None:
        super().__init__(state, call.inputs)
        self._call = call
        types = [state.type_of(t).tensor for t in call.inputs]
        found, _ = call.plugin.results(types, call.attributes, lambda hint: 1)
        self.count = len(found.types)

    def _lower(self, e: LayerEmitter, *inputs: Value | None) -> Sequence[Value]:
        present = [v for v in inputs if v is not None]
        types = [v.tensor for v in present]
        op = operator(self._call.plugin, types, self._call.attributes, e.count)
        return e.emit_all(op, *present)


def _provide(key: str, settings: bytes) -> Computation:
    plugin = PLUGINS.get(key)
    if plugin is None or plugin.implement is None:
        raise ExecutionError(
            f"the engine needs plugin {key!r}, which has no implementation in this process",
            hint="import the module that decorates it with tensorrt.plugin.impl",
        )
    return RunningQuick(plugin, json.loads(settings))


class RunningQuick:
    """A decorated plugin that runs."""

    def __init__(self, plugin: QuickPlugin, settings: dict[str, Any]) -> None:
        self._plugin = plugin
        self._settings = settings
        assert plugin.implement is not None
        self._implement = plugin.implement
        parameters = inspect.signature(self._implement).parameters
        self._takes_tactic = "tactic" in parameters

    def __call__(self, operands: Sequence[Array], types: Sequence[TensorType]) -> list[Array]:
        """Compute the results."""
        attributes = self._settings["attributes"]
        inputs = [np.ascontiguousarray(x) for x in operands]
        upper = types
        if not all(t.is_static for t in types):
            known = [type_of(x) for x in inputs]
            upper = self._plugin.results(known, attributes, None)[0].types
        results = [np.empty(t.static_shape, t.dtype.numpy) for t in upper]
        aliases = self._settings["aliases"]
        for i, source in enumerate(aliases):
            if source >= 0:
                results[i] = inputs[source] = inputs[source].copy()
        space = memory([*inputs, *results], 0)
        on_gpu = isinstance(space, DeviceMemory)
        places = space.addresses
        tensors = [Tensor(x, p, on_gpu=on_gpu) for x, p in zip(inputs, places, strict=False)]
        outputs = tuple(
            Tensor(x, p, on_gpu=on_gpu, aliased=a >= 0)
            for x, p, a in zip(results, places[len(inputs) :], aliases, strict=True)
        )
        extra = {"tactic": 0} if self._takes_tactic else {}
        given = {**attributes, **extra}
        try:
            self._implement(*tensors, **given, outputs=outputs, stream=space.stream)
        finally:
            space.finish(results)
        return cut(results, types, self._settings["sizes"])


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return value.tolist()
    return value.item() if isinstance(value, np.generic) else value


def replaced() -> None:
    """Let plugins that were decorated anew take effect."""
    forget_plugins()


PROVIDERS[KIND] = _provide
