"""From a plugin to the operator that stands for it."""

from __future__ import annotations

import json
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any
from weakref import WeakValueDictionary

from lamina.errors import GraphError, LaminaError
from lamina.ir.dims import Dim
from lamina.ir.types import TensorType
from lamina.ops import PluginCall
from lamina.tensorrt.enums import DataType, PluginCapabilityType
from lamina.tensorrt.foundation.dtype import from_ir, to_ir
from lamina.tensorrt.plugin_api.descriptions import described, dynamic
from lamina.tensorrt.plugin_api.expressions import DimsExprs, Fresh, IDimensionExpr, IExprBuilder
from lamina.tensorrt.plugin_api.fields import encode
from lamina.tensorrt.plugin_api.v3_quick import adapted, output_types

V2, V3 = "tensorrt.v2", "tensorrt.v3"


@dataclass(frozen=True)
class Results:
    """Types of a plugin's results; ``sizes`` says which scalar result tells which size."""

    types: tuple[TensorType, ...]
    sizes: dict[int, Dim]


@contextmanager
def asking(plugin: object, what: str) -> Iterator[None]:
    """Turn what a plugin raises while it is asked something into a GraphError with traceback."""
    try:
        yield
    except LaminaError:
        raise
    except Exception as e:
        lines = "".join(traceback.format_exception(e)).rstrip()
        raise GraphError(f"plugin {type(plugin).__name__} raised in {what}\n{lines}") from e


def call_v2(plugin: Any, inputs: Sequence[TensorType]) -> PluginCall:
    """Return the operator of a plugin of the second generation; raises GraphError."""
    found = results_v2(plugin, inputs)
    pairs = [described(t) for t in (*inputs, *found.types)]
    _check_formats(plugin, plugin, pairs, inputs, found.types)
    with asking(plugin, "configure_plugin"):
        plugin.configure_plugin([dynamic(t) for t in inputs], [dynamic(t) for t in found.types])
    with asking(plugin, "serialize"):
        settings = bytes(plugin.serialize())
    name = (plugin.plugin_type, str(plugin.plugin_version), plugin.plugin_namespace)
    op = PluginCall(kind=V2, key=key(*name), settings=settings, output_types=found.types)
    return _remembered(op, plugin)


_MADE: WeakValueDictionary[tuple[str, str, bytes], Any] = WeakValueDictionary()


def _remembered(op: PluginCall, plugin: Any) -> PluginCall:
    with suppress(TypeError):  # some classes cannot be referred to weakly
        _MADE[op.kind, op.key, op.settings] = plugin
    return op


def made(op: PluginCall) -> Any:
    """Return the user's plugin that an operator stands for, None where it is gone."""
    return _MADE.get((op.kind, op.key, op.settings))


def results_v2(plugin: Any, inputs: Sequence[TensorType]) -> Results:
    """Return the types of the results of a plugin of the second generation."""
    builder = IExprBuilder()
    kinds = [from_ir(t.dtype) for t in inputs]
    types = []
    for i in range(int(plugin.num_outputs)):
        with asking(plugin, "get_output_dimensions"):
            shape = plugin.get_output_dimensions(i, _exprs(inputs), builder)
        with asking(plugin, "get_output_datatype"):
            kind = plugin.get_output_datatype(i, kinds)
        types.append(_type(plugin, kind, shape))
    return Results(tuple(types), {})


def call_v3(
    plugin: Any,
    inputs: Sequence[TensorType],
    shape_inputs: Sequence[tuple[Dim, ...]],
    fresh: Fresh,
) -> PluginCall:
    """Return the operator of a plugin of the third generation; raises GraphError."""
    core, build, runtime = (capability(plugin, c) for c in ("CORE", "BUILD", "RUNTIME"))
    found = results_v3(plugin, inputs, shape_inputs, fresh)
    pairs = [dynamic(t) for t in (*inputs, *found.types)]
    _check_formats(plugin, build, pairs, inputs, found.types)
    with asking(plugin, "configure_plugin"):
        build.configure_plugin(pairs[: len(inputs)], pairs[len(inputs) :])
    with asking(plugin, "get_fields_to_serialize"):
        fields = encode(runtime.get_fields_to_serialize())
    settings = {
        "fields": fields.decode(),
        "tactic": 0,
        "inputs": len(inputs),
        "aliases": _aliases(plugin, build, len(found.types)),
        "sizes": size_order(found),
    }
    name = (core.plugin_name, str(core.plugin_version), core.plugin_namespace)
    text = json.dumps(settings, sort_keys=True).encode()
    op = PluginCall(kind=V3, key=key(*name), settings=text, output_types=found.types)
    return _remembered(op, plugin)


def results_v3(
    plugin: Any,
    inputs: Sequence[TensorType],
    shape_inputs: Sequence[tuple[Dim, ...]],
    fresh: Fresh | None,
) -> Results:
    """Return the types of the results of a plugin of the third generation."""
    build = capability(plugin, "BUILD")
    builder = IExprBuilder(fresh)
    elements = [DimsExprs(map(IDimensionExpr, v)) for v in shape_inputs]
    with asking(plugin, "get_output_data_types"):
        types_given = [from_ir(t.dtype) for t in inputs]
        kinds = output_types(build, types_given, [t.rank for t in inputs])
    with asking(plugin, "get_output_shapes"):
        shapes = build.get_output_shapes(_exprs(inputs), elements, builder)
    if not len(shapes) == len(kinds) == int(build.num_outputs):
        raise GraphError(
            f"plugin {type(plugin).__name__} has {build.num_outputs} results, but "
            f"{len(shapes)} shapes and {len(kinds)} types"
        )
    types = tuple(_type(plugin, k, s) for k, s in zip(kinds, shapes, strict=True))
    return Results(types, builder._sizes)


def size_order(found: Results) -> list[int]:
    """Return the scalar results that tell sizes in the order in which their sizes appear.

    Symbols may be renamed until a plan is made; their order stays.
    """
    tellers = {size: i for i, size in found.sizes.items()}
    dims = [d for t in found.types for d in t.shape if d in tellers]
    return [tellers[d] for d in dict.fromkeys(dims)]


def capability(plugin: Any, name: str) -> Any:
    """Return a part of a plugin of the third generation; GraphError for none."""
    with asking(plugin, "get_capability_interface"):
        part = plugin.get_capability_interface(PluginCapabilityType.named(name))
    if part is None:
        raise GraphError(f"plugin {type(plugin).__name__} has no part {name}")
    return adapted(part, name)


def key(name: str, version: str, namespace: str) -> str:
    """Return how plans name a plugin; :func:`parts` reads it."""
    return f"{namespace}::{name}::{version}"


def parts(key: str) -> tuple[str, str, str]:
    """Return name, version and namespace of a plugin."""
    rest, _, version = key.rpartition("::")
    namespace, _, name = rest.rpartition("::")
    return name, version, namespace


def _exprs(inputs: Sequence[TensorType]) -> list[DimsExprs]:
    return [DimsExprs(map(IDimensionExpr, t.shape)) for t in inputs]


def _type(plugin: Any, kind: Any, shape: Any) -> TensorType:
    if not isinstance(kind, DataType):
        raise GraphError(f"plugin {type(plugin).__name__} gave {kind!r} as an element type")
    dims = tuple(d._dim if isinstance(d, IDimensionExpr) else int(d) for d in shape)
    return TensorType(to_ir(kind), dims)


def _check_formats(
    plugin: Any,
    build: Any,
    descriptions: list[Any],
    inputs: Sequence[TensorType],
    outputs: Sequence[TensorType],
) -> None:
    """Ask whether linear tensors of these types are supported; raises GraphError when not."""
    for position in range(len(descriptions)):
        with asking(plugin, "supports_format_combination"):
            supported = build.supports_format_combination(position, descriptions, len(inputs))
        if not supported:
            kinds = ", ".join(str(t.dtype.value) for t in (*inputs, *outputs))
            raise GraphError(
                f"plugin {type(plugin).__name__} does not support linear tensors of the types "
                f"{kinds}: it refuses number {position}",
                hint="let supports_format_combination accept TensorFormat.LINEAR, or cast",
            )


def _aliases(plugin: Any, build: Any, count: int) -> dict[str, int]:
    ask = getattr(build, "get_aliased_input", None)
    if ask is None:
        return {}
    with asking(plugin, "get_aliased_input"):
        found = {str(i): int(ask(i)) for i in range(count)}
    return {i: source for i, source in found.items() if source >= 0}
