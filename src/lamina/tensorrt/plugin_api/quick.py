"""Plugins made of decorated functions: registering, calling and building them."""

from __future__ import annotations

import base64
import inspect
import json
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np

from lamina.errors import GraphError
from lamina.ir.dims import Dim
from lamina.ir.graph import Value
from lamina.ir.types import TensorType
from lamina.ops import PluginCall
from lamina.ops.plugin import forget_plugins
from lamina.tensorrt import platform
from lamina.tensorrt.foundation.dtype import from_ir
from lamina.tensorrt.lowering.emitter import LayerEmitter
from lamina.tensorrt.network.layer import ILayer
from lamina.tensorrt.network.state import NetworkState
from lamina.tensorrt.network.tensor import ITensor
from lamina.tensorrt.plugin_api.calls import Results, asking, size_order
from lamina.tensorrt.plugin_api.combinations import valid_tactics
from lamina.tensorrt.plugin_api.expressions import Fresh
from lamina.tensorrt.plugin_api.quick_types import FRESH, SizeTensorDesc, TensorDesc

KIND = "tensorrt.quick"
AOT, JIT, EITHER = "aot", "jit", ""
"""Which implementation a call asks for."""


@dataclass
class QuickPlugin:
    """The functions that were decorated for one ``namespace::name``.

    ``attributes`` are their defaults by name, ``arrays`` the element types of those that are
    arrays.
    """

    name: str
    describe: Callable[..., Any]
    operands: tuple[str, ...]
    attributes: dict[str, Any]
    arrays: dict[str, np.dtype[Any]]
    implement: Callable[..., Any] | None = None
    compile: Callable[..., Any] | None = None
    autotune: Callable[..., Any] | None = None

    def descriptions(
        self,
        inputs: Sequence[TensorType],
        attributes: Mapping[str, Any],
        fresh: Fresh | None,
    ) -> tuple[list[TensorDesc], tuple[TensorDesc, ...]]:
        """Return what describes operands and results; raises GraphError."""
        operands = [TensorDesc._of(t) for t in inputs]
        token = FRESH.set(fresh)
        try:
            with asking(self.describe, f"the description of {self.name!r}"):
                found = self.describe(*operands, **attributes)
        finally:
            FRESH.reset(token)
        several = tuple(found) if isinstance(found, tuple | list) else (found,)
        if not several or not all(isinstance(d, TensorDesc) for d in several):
            raise GraphError(
                f"plugin {self.name!r} described its results as {found!r}, not by TensorDesc"
            )
        return operands, several

    def results(
        self, inputs: Sequence[TensorType], attributes: Mapping[str, Any], fresh: Fresh | None
    ) -> tuple[Results, list[int]]:
        """Return the results' types, and for each the operand that it overwrites or -1."""
        operands, several = self.descriptions(inputs, attributes, fresh)
        sizes: dict[int, Dim] = {
            i: d._size for i, d in enumerate(several) if isinstance(d, SizeTensorDesc)
        }
        aliases = [
            next((i for i, x in enumerate(operands) if x is d._aliased), -1) for d in several
        ]
        return Results(tuple(d._type() for d in several), sizes), aliases

    def tactics(
        self,
        inputs: Sequence[TensorType],
        attributes: Mapping[str, Any],
        types: Sequence[TensorType],
    ) -> list[int]:
        """Return the tactics that autotuning may choose from; raises GraphError for wrong types."""
        if self.autotune is None:
            return []
        operands, results = self.descriptions(inputs, attributes, None)
        with asking(self.autotune, f"autotune of {self.name!r}"):
            offered = list(call(self.autotune, operands, attributes, [results]))
            kinds = [from_ir(t.dtype) for t in (*inputs, *types)]
            found = valid_tactics(offered, kinds)
        if found is None:
            raise GraphError(
                f"plugin {self.name!r} does not support linear tensors of the types "
                f"{', '.join(k.name for k in kinds)}",
                hint="add them to what its autotune function returns, or cast",
            )
        return found

    def decoded(self, attributes: Mapping[str, Any]) -> dict[str, Any]:
        """Return attributes as the functions take them, from plain values."""
        return {k: _decoded(v, self.arrays.get(k)) for k, v in attributes.items()}


PLUGINS: dict[str, QuickPlugin] = {}


@dataclass(frozen=True)
class QuickCall:
    """A call of a plugin on tensors of a network, before it is added.

    ``attributes`` are plain values: numbers, text and lists.
    """

    plugin: QuickPlugin
    inputs: tuple[ITensor, ...]
    attributes: dict[str, Any] = field(default_factory=dict)


def described(name: str, function: Callable[..., Any]) -> QuickPlugin:
    """Return a plugin of the function that describes it; TypeError for missing annotations."""
    hints = inspect.get_annotations(function, eval_str=True)
    operands, attributes, arrays = [], {}, {}
    for p in inspect.signature(function).parameters.values():
        if p.name not in hints:
            raise TypeError(f"{name}: parameter {p.name!r} has no annotation")
        if hints[p.name] is TensorDesc:
            operands.append(p.name)
            continue
        attributes[p.name] = p.default
        origin: Any = typing.get_origin(hints[p.name])
        if origin is np.ndarray:
            (element,) = typing.get_args(typing.get_args(hints[p.name])[1])
            arrays[p.name] = np.dtype(element)
    return QuickPlugin(name, function, tuple(operands), attributes, arrays)


def bound(plugin: QuickPlugin, args: tuple[Any, ...], kwargs: dict[str, Any]) -> QuickCall:
    """Return a call with its arguments checked; TypeError for wrong ones."""
    given = inspect.signature(plugin.describe).bind(*args, **kwargs)
    given.apply_defaults()
    inputs = tuple(given.arguments[name] for name in plugin.operands)
    for name, tensor in zip(plugin.operands, inputs, strict=True):
        if not isinstance(tensor, ITensor):
            raise TypeError(f"{plugin.name}: {name} must be an ITensor, got {tensor!r}")
    attributes = {name: plain(given.arguments[name]) for name in plugin.attributes}
    return QuickCall(plugin, inputs, attributes)


def call(
    function: Callable[..., Any],
    operands: Sequence[Any],
    attributes: Mapping[str, Any],
    rest: Sequence[Any],
) -> Any:
    """Call a decorated function: operands, then the attributes that it names, then the rest.

    A function with fewer parameters gets less of the rest; more parameters keep their defaults.
    """
    values: list[Any] = []
    others = list(rest)
    for name in _parameters(function)[len(operands) :]:
        if name in attributes:
            values.append(attributes[name])
        elif others:
            values.append(others.pop(0))
    return function(*operands, *values)


@lru_cache(maxsize=256)
def _parameters(function: Callable[..., Any]) -> tuple[str, ...]:
    return tuple(inspect.signature(function).parameters)


def operator(
    plugin: QuickPlugin,
    types: Sequence[TensorType],
    attributes: Mapping[str, Any],
    fresh: Fresh,
    way: str = EITHER,
) -> PluginCall:
    """Return the operator of a plugin on operands of these types; raises GraphError.

    ``way`` is the implementation to use where there are both.
    """
    found, aliases = plugin.results(types, plugin.decoded(attributes), fresh)
    chosen = _way(plugin, way)
    settings = {
        "attributes": dict(attributes),
        "aliases": aliases,
        "sizes": size_order(found),
        "way": chosen,
        "tactic": 0,
    }
    text = json.dumps(settings, sort_keys=True).encode()
    return PluginCall(kind=KIND, key=plugin.name, settings=text, output_types=found.types)


def _way(plugin: QuickPlugin, wanted: str) -> str:
    """Return the implementation to use; raises GraphError where there is none.

    Kernels that are compiled ahead of time are a GPU's: on a CPU the one in Python runs.
    """
    on_gpu = platform.device() == "cuda"
    if wanted == AOT and plugin.compile is None:
        raise GraphError(
            f"plugin {plugin.name!r} has no implementation that is compiled ahead of time",
            hint="decorate a function with tensorrt.plugin.aot_impl",
        )
    if plugin.implement is None and (wanted == JIT or plugin.compile is None or not on_gpu):
        raise GraphError(
            f"plugin {plugin.name!r} has no implementation in Python",
            hint="decorate a function with tensorrt.plugin.impl",
        )
    if plugin.compile is None or wanted == JIT:
        return JIT
    return AOT if plugin.implement is None else wanted


class QuickLayer(ILayer):
    """A plugin made of decorated functions."""

    _kind = "PLUGIN_V3"

    def __init__(self, state: NetworkState, call: QuickCall, way: str = EITHER) -> None:
        super().__init__(state, call.inputs)
        self._call, self._way = call, way
        types = [state.type_of(t).tensor for t in call.inputs]
        attributes = call.plugin.decoded(call.attributes)
        found, _ = call.plugin.results(types, attributes, lambda hint: 1)
        self.count = len(found.types)

    def _lower(self, e: LayerEmitter, *inputs: Value | None) -> Sequence[Value]:
        present = [v for v in inputs if v is not None]
        types = [v.tensor for v in present]
        op = operator(self._call.plugin, types, self._call.attributes, e.count, self._way)
        return e.emit_all(op, *present)


def plain(value: Any) -> Any:
    """Return an attribute as a value that JSON has."""
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, bytes):
        return {"bytes": base64.b64encode(value).decode()}
    return value.item() if isinstance(value, np.generic) else value


def _decoded(value: Any, element: np.dtype[Any] | None) -> Any:
    if element is not None:
        return np.atleast_1d(np.asarray(value, element))
    return base64.b64decode(value["bytes"]) if isinstance(value, dict) else value


def replaced() -> None:
    """Let plugins that were decorated anew take effect."""
    forget_plugins()
