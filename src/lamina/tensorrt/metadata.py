"""What an engine built through this API stores beside its plan: ``notes["tensorrt"]``."""

from __future__ import annotations

import json
import types
import typing
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, is_dataclass, replace
from typing import Any

from lamina.errors import PlanError
from lamina.ir.dims import Expr
from lamina.ir.types import TensorType
from lamina.plan.plan import Plan, Port
from lamina.tensorrt.foundation.dtype import from_ir

NOTE = "tensorrt"
Shape = tuple[int, ...]
Range = tuple[Shape, Shape, Shape]


@dataclass(frozen=True, kw_only=True)
class TensorInfo:
    """An input or output as this API shows it; sizes of -1 are dynamic."""

    name: str
    mode: str
    dtype: str
    shape: Shape
    location: str = "DEVICE"
    shape_io: bool = False
    formats: tuple[str, ...] = ("LINEAR",)
    vectorized_dim: int = -1


@dataclass(frozen=True, kw_only=True)
class ProfileInfo:
    """Smallest, likeliest and largest shape of each input, and values of each shape tensor."""

    shapes: Mapping[str, Range] = field(default_factory=dict)
    values: Mapping[str, Range] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class LayerInfo:
    """A layer of the network."""

    name: str
    type: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    metadata: str = ""
    precision: str = ""


@dataclass(frozen=True, kw_only=True)
class WeightInfo:
    """Constant data that a refit may replace."""

    name: str
    layer: str
    role: str
    dtype: str
    shape: Shape


@dataclass(frozen=True, kw_only=True)
class EngineMetadata:
    """Everything about an engine that its plan does not say.

    ``max_batch_size`` is 0 unless the network had an implicit batch; ``debug_tensors`` and
    ``unfused_tensors`` are outputs of the plan that do not count as outputs of the engine.
    """

    version: str = ""
    name: str = "Unnamed Network 0"
    tensors: tuple[TensorInfo, ...] = ()
    profiles: tuple[ProfileInfo, ...] = ()
    layers: tuple[LayerInfo, ...] = ()
    weights: tuple[WeightInfo, ...] = ()
    debug_tensors: tuple[str, ...] = ()
    unfused_tensors: tuple[str, ...] = ()
    max_batch_size: int = 0
    refittable: bool = False
    capability: str = "STANDARD"
    verbosity: str = "LAYER_NAMES_ONLY"
    tactic_sources: int = 0
    hardware_compatibility: str = "NONE"
    device_types: Mapping[str, str] = field(default_factory=dict)
    plugins: tuple[str, ...] = ()
    aliased: Mapping[str, str] = field(default_factory=dict)
    weight_streaming: bool = False


def encode(metadata: EngineMetadata) -> str:
    """Return metadata as JSON text."""
    return json.dumps(asdict(metadata), sort_keys=True, separators=(",", ":"))


def decode(text: str) -> EngineMetadata:
    """Return metadata from JSON text; raises PlanError when it is damaged."""
    try:
        found: EngineMetadata = _read(EngineMetadata, json.loads(text))
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as e:
        raise PlanError(f"the engine's metadata is damaged: {e}") from e
    return found


def of_plan(plan: Plan) -> EngineMetadata:
    """Return a plan's metadata, made up from its inputs and outputs when it has none."""
    notes = dict(plan.notes)
    if NOTE in notes:
        return decode(notes[NOTE])
    program = plan.sections[0].program
    tensors = [_tensor(p, "INPUT") for p in program.inputs]
    tensors += [_tensor(p, "OUTPUT") for p in program.outputs]
    ranges = {name: (low, opt, high) for name, low, opt, high in plan.ranges}
    shapes = {p.name: _range(p, ranges) for p in program.inputs}
    return EngineMetadata(tensors=tuple(tensors), profiles=(ProfileInfo(shapes=shapes),))


def with_metadata(plan: Plan, metadata: EngineMetadata) -> Plan:
    """Return a plan with other metadata."""
    others = [(name, text) for name, text in plan.notes if name != NOTE]
    return replace(plan, notes=(*others, (NOTE, encode(metadata))))


def _tensor(port: Port, mode: str) -> TensorInfo:
    if not isinstance(port.type, TensorType):
        raise PlanError(f"{port.name!r} is {port.type}: TensorRT's API knows tensors only")
    try:
        dtype = from_ir(port.type.dtype).name
    except KeyError as e:
        raise PlanError(f"{port.name!r} is {port.type}: TensorRT has no such type") from e
    shape = tuple(-1 if isinstance(d, Expr) else d for d in port.type.shape)
    return TensorInfo(name=port.name, mode=mode, dtype=dtype, shape=shape)


def _range(port: Port, ranges: Mapping[str, tuple[int, int, int]]) -> Range:
    assert isinstance(port.type, TensorType)
    low, opt, high = (
        tuple(
            ranges.get(str(d), (1, 1, 1))[i] if isinstance(d, Expr) else d for d in port.type.shape
        )
        for i in range(3)
    )
    return low, opt, high


def _read(hint: Any, data: Any) -> Any:
    """Rebuild a value by its annotation; raises TypeError and the like for data that misfits."""
    if is_dataclass(hint) and isinstance(hint, type):
        hints = typing.get_type_hints(hint)
        known = {f.name for f in fields(hint)}
        return hint(**{k: _read(hints[k], v) for k, v in data.items() if k in known})
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is tuple:
        if len(arguments) == 2 and arguments[1] is Ellipsis:
            return tuple(_read(arguments[0], v) for v in data)
        return tuple(_read(a, v) for a, v in zip(arguments, data, strict=True))
    if origin is not None and not isinstance(origin, types.UnionType):
        return {str(k): _read(arguments[1], v) for k, v in data.items()}
    if not isinstance(data, hint) or (hint is int and isinstance(data, bool)):
        raise TypeError(f"{str(data)[:40]!r} is no {hint.__name__}")
    return data
