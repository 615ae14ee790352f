"""A network as a graph of the IR, with what its engine must remember."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod

from lamina.errors import ConfigError, GraphError
from lamina.ir.dims import Expr
from lamina.ir.graph import Graph, Value
from lamina.tensorrt.foundation.dtype import from_ir, to_ir
from lamina.tensorrt.lowering.emitter import LayerEmitter
from lamina.tensorrt.lowering.walk import key
from lamina.tensorrt.metadata import LayerInfo, ProfileInfo, Range, TensorInfo, WeightInfo
from lamina.tensorrt.nesting.assertions import asserted
from lamina.tensorrt.nesting.build_walk import BuildWalk
from lamina.tensorrt.network.layer import ILayer
from lamina.tensorrt.network.state import NetworkState
from lamina.tensorrt.network.tensor import ITensor


@dataclass(frozen=True)
class Lowered:
    """A graph, and what TensorRT's API says about it."""

    graph: Graph
    tensors: tuple[TensorInfo, ...]
    layers: tuple[LayerInfo, ...]
    weights: tuple[WeightInfo, ...]
    debug_tensors: tuple[str, ...]
    values: Mapping[str, Value]
    """Value of each tensor by name, as far as it is in the outermost graph."""


def lower(state: NetworkState) -> Lowered:
    """Lower all outputs of a network; raises LaminaError that names the layer at fault."""
    outputs = [*state.outputs, *(t for t in state.shape_outputs if t not in state.outputs)]
    if not outputs:
        raise GraphError("the network has no output", hint="call mark_output on a tensor")
    walk = BuildWalk(state)
    for tensor in outputs:
        walk.graph.output(_typed(walk, tensor), tensor._name)
    debug = [t for t in state.debug_tensors if t not in outputs]
    for tensor in debug:
        walk.graph.output(walk.value(tensor), tensor._name)
    outputs_of = walk.graph.outputs
    # The host hands on what is behind an assertion: the smallest output.
    smallest = min(range(len(outputs_of)), key=lambda i: _likely_size(outputs_of[i]))
    outputs_of[smallest] = asserted(walk, walk.root, outputs_of[smallest])
    names = walk.graph.output_names
    if twice := {n for n in names if names.count(n) > 1}:
        raise GraphError(f"several outputs are called {sorted(twice)}")
    walk.session.release_dead(walk.graph)
    return Lowered(
        graph=walk.graph,
        tensors=tuple(_tensors(state, walk)),
        layers=tuple(map(_layer, state.layers)),
        weights=tuple(walk.weights.values()),
        debug_tensors=tuple(t._name for t in state.debug_tensors),
        values={
            t._name: walk.root.values[key(t)]
            for layer in state.layers
            for t in layer._outputs
            if key(t) in walk.root.values
        },
    )


def _likely_size(v: Value) -> int:
    """Return the elements of a value, where each size that is not known counts as a hundred."""
    return prod(100 if isinstance(d, Expr) else d for d in v.tensor.shape)


def _typed(walk: BuildWalk, tensor: ITensor) -> Value:
    """Return an output in the type that the user wants it in."""
    value = walk.value(tensor)
    wanted = tensor._given_dtype
    if wanted is None or to_ir(wanted) is value.tensor.dtype or tensor._producer is None:
        return value
    e = LayerEmitter(tensor._producer, walk, walk.root)
    return e.cast(value, to_ir(wanted))


def _tensors(state: NetworkState, walk: BuildWalk) -> list[TensorInfo]:
    found = []
    drop = 1 if state.implicit_batch else 0
    for v in walk.graph.inputs:
        tensor = next(t for t in state.inputs if t._name == v.name)
        found.append(_tensor(state, v, v.name, "INPUT", tensor, drop))
    outputs = [*state.outputs, *(t for t in state.shape_outputs if t not in state.outputs)]
    for tensor, v in zip(outputs, walk.graph.outputs, strict=False):
        found.append(_tensor(state, v, tensor._name, "OUTPUT", tensor, drop))
    return found


def _tensor(
    state: NetworkState, v: Value, name: str, mode: str, tensor: ITensor, drop: int
) -> TensorInfo:
    shape = tuple(-1 if isinstance(d, Expr) else d for d in v.tensor.shape)[drop:]
    shape_io = tensor in state.shape_outputs or (mode == "INPUT" and state.feeds_shapes(tensor))
    try:
        dtype = from_ir(v.tensor.dtype).name
    except KeyError as e:
        raise GraphError(f"{name!r} is {v.type}: TensorRT has no such type") from e
    return TensorInfo(
        name=name,
        mode=mode,
        dtype=dtype,
        shape=shape,
        location="HOST" if shape_io else "DEVICE",
        shape_io=shape_io,
    )


def _layer(layer: ILayer) -> LayerInfo:
    return LayerInfo(
        name=layer._name,
        type=layer._kind,
        inputs=tuple(t._name for t in layer._inputs if t is not None),
        outputs=tuple(t._name for t in layer._outputs),
        metadata=layer._metadata,
        precision=layer._precision.name if layer._precision is not None else "",
    )


def union_of_profiles(state: NetworkState, profiles: list[ProfileInfo]) -> dict[str, Range]:
    """Return shapes for ``lamina.build``: what any profile allows, tuned for the first one.

    Raises ConfigError, naming the input, for a dynamic input that a profile leaves out or whose
    known sizes it contradicts.
    """
    shapes: dict[str, Range] = {}
    for tensor in state.inputs:
        declared = tensor._given_shape
        if -1 not in declared:
            continue
        if not profiles:
            raise ConfigError(
                f"input {tensor._name!r} has the dynamic shape {declared}, but the configuration "
                f"has no optimization profile",
                hint="call builder.create_optimization_profile, set_shape and "
                "config.add_optimization_profile",
            )
        shapes[tensor._name] = _joined(tensor, profiles)
    return shapes


def _joined(tensor: ITensor, profiles: list[ProfileInfo]) -> Range:
    ranges = []
    for i, profile in enumerate(profiles):
        found = profile.shapes.get(tensor._name)
        if found is None:
            raise ConfigError(
                f"input {tensor._name!r} is dynamic, but optimization profile {i} gives no shapes "
                f"for it",
                hint=f"call profile.set_shape({tensor._name!r}, min, opt, max)",
            )
        for shape in found:
            _check(tensor, shape, i)
        ranges.append(found)
    low = tuple(map(min, zip(*(r[0] for r in ranges), strict=True)))
    high = tuple(map(max, zip(*(r[2] for r in ranges), strict=True)))
    return low, ranges[0][1], high


def _check(tensor: ITensor, shape: tuple[int, ...], profile: int) -> None:
    declared = tensor._given_shape
    fits = len(shape) == len(declared) and all(
        d in (-1, s) for d, s in zip(declared, shape, strict=True)
    )
    if not fits:
        raise ConfigError(
            f"input {tensor._name!r} has the shape {declared}, optimization profile {profile} says "
            f"{shape}"
        )
