"""Plugins before an engine is built: configured for the profiles' sizes, tactics chosen by time."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from lamina.errors import GraphError, LaminaError
from lamina.ir.attributes import attribute_symbols
from lamina.ir.dims import Expr
from lamina.ir.graph import Array, Graph, Node
from lamina.ir.types import TensorType
from lamina.ops import PluginCall
from lamina.ops.plugin import PROVIDERS
from lamina.tactics.cache import TimingCache
from lamina.tensorrt.enums import TensorRTPhase
from lamina.tensorrt.error_reporting import Reporter
from lamina.tensorrt.metadata import Range
from lamina.tensorrt.plugin_api.calls import V2, V3, asking, capability, made
from lamina.tensorrt.plugin_api.descriptions import DynamicPluginTensorDesc, SizeRanges, dynamic
from lamina.tensorrt.plugin_api.device_timing import DeviceTimer
from lamina.tensorrt.plugin_api.fields import decode, encode
from lamina.tensorrt.plugin_api.quick import JIT, KIND, PLUGINS
from lamina.tensorrt.plugin_api.running import creator_of
from lamina.tensorrt.plugin_api.v3_quick import create, kernel_part

_WARM, _RUNS = 2, 5
Timer = Callable[[Any, Sequence[Array], Sequence[TensorType]], float]
"""Returns the microseconds of a computation on operands, with results of these types."""


@dataclass(frozen=True)
class PluginBuild:
    """What plugins are built with: ranges of sizes, a cache of times, and where they run."""

    sizes: SizeRanges
    cache: TimingCache
    reporter: Reporter
    on_gpu: bool


def finish_plugins(graph: Graph, build: PluginBuild) -> None:
    """Configure every plugin of a graph and choose its tactic, in place; raises GraphError."""
    for node in _plugins(graph):
        finish = {V2: _finish_v2, V3: _finish_v3, KIND: _finish_quick}.get(_op(node).kind)
        if finish is not None:
            node.op = replace(_op(node), settings=finish(node, build))
    build.cache.save()


def size_ranges(graph: Graph, shapes: Mapping[str, Range]) -> SizeRanges:
    """Return smallest, likeliest and largest value of each symbol of the inputs."""
    found: dict[str, tuple[int, int, int]] = {}
    for v in graph.inputs:
        if v.name in shapes and isinstance(v.type, TensorType):
            for d, *sizes in zip(v.type.shape, *shapes[v.name], strict=True):
                if isinstance(d, Expr):
                    found[str(d)] = (int(sizes[0]), int(sizes[1]), int(sizes[2]))
    return found


def _op(node: Node) -> PluginCall:
    assert isinstance(node.op, PluginCall)
    return node.op


def _plugins(graph: Graph) -> Iterator[Node]:
    for node in graph.nodes():
        if isinstance(node.op, PluginCall):
            yield node
        for value in vars(node.op).values():
            if isinstance(value, Graph):
                yield from _plugins(value)


def _types(node: Node) -> tuple[list[TensorType], list[TensorType]]:
    return [v.tensor for v in node.inputs], [v.tensor for v in node.outputs]


def _described(types: Sequence[TensorType], build: PluginBuild) -> list[DynamicPluginTensorDesc]:
    return [dynamic(t, build.sizes) for t in types]


def _finish_v2(node: Node, build: PluginBuild) -> bytes:
    op = _op(node)
    plugin = made(op)
    if plugin is None:
        creator = creator_of(op.key)
        with asking(creator, "deserialize_plugin"):
            plugin = creator.deserialize_plugin(creator.name, op.settings)
    inputs, outputs = (_described(types, build) for types in _types(node))
    with asking(plugin, "configure_plugin"):
        plugin.configure_plugin(inputs, outputs)
    with asking(plugin, "serialize"):
        return bytes(plugin.serialize())


def _finish_v3(node: Node, build: PluginBuild) -> bytes:
    op = _op(node)
    settings = json.loads(op.settings)
    plugin = made(op)
    if plugin is None:
        creator = creator_of(op.key)
        fields = decode(settings["fields"].encode())
        with asking(creator, "create_plugin"):
            plugin = create(creator, creator.name, fields, TensorRTPhase.named("BUILD"))
    part, runtime = capability(plugin, "BUILD"), capability(plugin, "RUNTIME")
    inputs, outputs = _types(node)
    with asking(plugin, "configure_plugin"):
        data = inputs[: settings["inputs"]]
        part.configure_plugin(_described(data, build), _described(outputs, build))
    with asking(plugin, "get_fields_to_serialize"):
        settings["fields"] = encode(runtime.get_fields_to_serialize()).decode()
    with asking(plugin, "get_valid_tactics"):
        tactics = [int(t) for t in part.get_valid_tactics() or ()]
    if kernel_part(part) is not None:
        if not build.on_gpu:
            raise GraphError(
                f"plugin {op.key!r} has kernels for a GPU only, and the engine is for a CPU",
                hint="subclass IPluginV3QuickRuntime in place of IPluginV3QuickAOTBuild",
            )
        return _encoded(settings)  # kernels are timed as any others
    identity = str(part.timing_cache_id)
    settings["tactic"] = _fastest(node, build, settings, tactics, identity)
    return _encoded(settings)


def _finish_quick(node: Node, build: PluginBuild) -> bytes:
    op = _op(node)
    settings, plugin = json.loads(op.settings), PLUGINS[op.key]
    if plugin.implement is None or (build.on_gpu and settings["way"] != JIT):
        return op.settings  # kernels that are compiled ahead of time are timed as any others
    inputs, outputs = _types(node)
    tactics = plugin.tactics(inputs, plugin.decoded(settings["attributes"]), outputs)
    settings["tactic"] = _fastest(node, build, settings, tactics, "decorated")
    return _encoded(settings)


def _encoded(settings: Mapping[str, Any]) -> bytes:
    return json.dumps(settings, sort_keys=True).encode()


def _fastest(
    node: Node,
    build: PluginBuild,
    settings: Mapping[str, Any],
    tactics: Sequence[int],
    identity: str,
) -> int:
    """Return the tactic that takes the least time; 0 for a plugin without any.

    Times are kept in the timing cache, unless the plugin's ``identity`` there is empty.  A tactic
    that fails is left out with a warning; raises its error when all do.
    """
    if len(tactics) < 2:
        return tactics[0] if tactics else 0
    inputs = [v.tensor for v in node.inputs]
    env = {name: likely for name, (_, likely, _) in build.sizes.items()}
    if any(s not in env for t in inputs for s in attribute_symbols(t)):
        return tactics[0]  # sizes that only a run tells
    concrete = [t.substitute(dict(env)) for t in inputs]
    problem = f"plugin {_op(node).key} {identity}({', '.join(map(str, concrete))})"
    times: dict[int, float] = {}
    for tactic in tactics:
        known = build.cache.get(problem, str(tactic)) if identity else None
        try:
            times[tactic] = known or _time(node, {**settings, "tactic": tactic}, build, env)
        except LaminaError as e:
            build.reporter.warning(f"tactic {tactic} of plugin {_op(node).key} fails: {e}")
            if tactic == tactics[-1] and not times:
                raise
            continue
        if identity and known is None:
            build.cache.put(problem, str(tactic), times[tactic])
    return min(times, key=lambda t: times[t])


def _time(
    node: Node, settings: Mapping[str, Any], build: PluginBuild, env: Mapping[str, int]
) -> float:
    """Return the microseconds of a plugin on random operands of the likeliest sizes."""
    op, (inputs, outputs) = _op(node), _types(node)
    rng = np.random.default_rng(0)
    operands = [_random(t.substitute(dict(env)), rng) for t in inputs]
    for shape in operands[settings.get("inputs", len(operands)) :]:
        shape[...] = 1  # sizes
    types = [t.substitute(dict(env)) for t in outputs]
    with asking(op, f"a tactic of {op.key}"):
        computation = PROVIDERS[op.kind](op.key, _encoded(settings))
        if build.on_gpu:
            with DeviceTimer(operands) as timer:
                return timer.microseconds(computation, types, _WARM, _RUNS)
        times = []
        for _ in range(_WARM + _RUNS):
            begin = time.perf_counter()
            computation(operands, types)
            times.append(1e6 * (time.perf_counter() - begin))
        return statistics.median(times[_WARM:])


def _random(type: TensorType, rng: np.random.Generator) -> Array:
    """Return normal numbers; zeros where they may be places, which must be valid."""
    if not type.dtype.is_float:
        return np.zeros(type.static_shape, type.dtype.numpy)
    return rng.standard_normal(type.static_shape).astype(type.dtype.numpy)
