"""Specifications as JSON: written into plans, read back at load time."""

from __future__ import annotations

from dataclasses import MISSING, fields, is_dataclass
from functools import cache
from typing import Any, Final

from lamina.backends.cpu.onednn import (
    attributes,
    convolution,
    elementwise,
    matmul,
    memory,
    normalization,
    pooling,
    reorder,
    rnn,
)
from lamina.backends.cpu.onednn.primitives import Specification
from lamina.errors import DeviceError, PlanError

FAMILIES: Final[tuple[type[Specification], ...]] = (
    convolution.Convolution,
    convolution.Deconvolution,
    matmul.MatMul,
    matmul.InnerProduct,
    pooling.Pooling,
    pooling.Resampling,
    reorder.Reorder,
    rnn.Recurrent,
    normalization.Softmax,
    normalization.LayerNormalization,
    normalization.BatchNormalization,
    normalization.LocalResponseNormalization,
    elementwise.Binary,
    elementwise.Eltwise,
    elementwise.PRelu,
    elementwise.Sum,
    elementwise.Concat,
    elementwise.Reduction,
    elementwise.Shuffle,
)
_PARTS: Final = (
    memory.Layout,
    attributes.Attributes,
    attributes.EltwisePostOp,
    attributes.SumPostOp,
    attributes.BinaryPostOp,
    attributes.PReluPostOp,
    attributes.DepthwisePostOp,
    attributes.Scale,
    attributes.ZeroPoint,
)
_CLASSES: Final[dict[str, Any]] = {c.__name__: c for c in (*FAMILIES, *_PARTS)}


def to_json(spec: Specification) -> dict[str, Any]:
    """Return a JSON-ready dictionary; fields at their defaults are left out."""
    encoded: dict[str, Any] = _encode(spec)
    return encoded


def from_json(encoded: dict[str, Any]) -> Specification:
    """Return the specification that ``to_json`` wrote; raises PlanError for anything else."""
    try:
        spec = _decode(encoded)
    except (KeyError, TypeError, ValueError, DeviceError) as e:
        raise PlanError(f"not a oneDNN specification: {e}") from e
    if not isinstance(spec, FAMILIES):
        raise PlanError(f"not a oneDNN specification but {type(spec).__name__}")
    return spec


def _encode(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        result: dict[str, Any] = {"kind": type(value).__name__}
        for name, default in _fields(type(value)):
            item = getattr(value, name)
            if item != default:
                result[name] = _encode(item)
        return result
    if isinstance(value, tuple):
        return [_encode(item) for item in value]
    return value


def _decode(value: Any) -> Any:
    if isinstance(value, dict):
        named = {name: _decode(item) for name, item in value.items() if name != "kind"}
        return _CLASSES[value["kind"]](**named)
    if isinstance(value, list):
        return tuple(_decode(item) for item in value)
    return value


@cache
def _fields(kind: type[Any]) -> tuple[tuple[str, Any], ...]:
    return tuple((f.name, MISSING if f.default is MISSING else f.default) for f in fields(kind))
