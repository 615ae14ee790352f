"""Specifications as JSON: written into plans, read back at load time.

A family's module is imported when a plan names it: making a frozen dataclass costs as much time as
generating a primitive's machine code.
"""

from __future__ import annotations

import importlib
from dataclasses import MISSING, fields, is_dataclass
from functools import cache
from typing import Any, Final, cast

from lamina.backends.cpu.onednn.primitives import Specification
from lamina.errors import DeviceError, PlanError

FAMILIES: Final = {
    "Convolution": "convolution",
    "Deconvolution": "convolution",
    "MatMul": "matmul",
    "InnerProduct": "matmul",
    "Pooling": "pooling",
    "Resampling": "pooling",
    "Reorder": "reorder",
    "Recurrent": "rnn",
    "Softmax": "normalization",
    "LayerNormalization": "normalization",
    "BatchNormalization": "normalization",
    "LocalResponseNormalization": "normalization",
    "Binary": "elementwise",
    "Eltwise": "elementwise",
    "PRelu": "elementwise",
    "Sum": "elementwise",
    "Concat": "elementwise",
    "Reduction": "elementwise",
    "Shuffle": "elementwise",
}
_PARTS: Final = {
    "Layout": "memory",
    "Attributes": "attributes",
    "EltwisePostOp": "attributes",
    "SumPostOp": "attributes",
    "BinaryPostOp": "attributes",
    "PReluPostOp": "attributes",
    "DepthwisePostOp": "attributes",
    "Scale": "attributes",
    "ZeroPoint": "attributes",
}
_KINDS: Final = FAMILIES.keys() | _PARTS.keys()
_PACKAGE: Final = __name__.rpartition(".")[0]


def to_json(spec: Specification) -> dict[str, Any]:
    """Return a JSON-ready dictionary; fields at their defaults are left out.

    Symbolic dimensions stay what they are: whoever writes the JSON gives them a form.
    """
    encoded: dict[str, Any] = _encode(spec)
    return encoded


def from_json(encoded: dict[str, Any]) -> Specification:
    """Return the specification that ``to_json`` wrote; raises PlanError for anything else."""
    try:
        if encoded["kind"] not in FAMILIES:
            raise PlanError(f"not a oneDNN specification but {encoded['kind']}")
        return cast(Specification, _decode(encoded))
    except (AttributeError, KeyError, TypeError, ValueError, RecursionError, DeviceError) as e:
        raise PlanError(f"not a oneDNN specification: {e}") from e


def _encode(value: Any) -> Any:
    known = type(value).__name__ in _KINDS
    if known and is_dataclass(value) and not isinstance(value, type):
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
        return _class(value["kind"])(**named)
    if isinstance(value, list):
        return tuple(_decode(item) for item in value)
    return value


@cache
def _class(kind: str) -> Any:
    module = FAMILIES.get(kind) or _PARTS[kind]
    return getattr(importlib.import_module(f"{_PACKAGE}.{module}"), kind)


@cache
def _fields(kind: type[Any]) -> tuple[tuple[str, Any], ...]:
    return tuple((f.name, MISSING if f.default is MISSING else f.default) for f in fields(kind))
