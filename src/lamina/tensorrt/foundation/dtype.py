"""Element types of TensorRT, NumPy and the IR."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np

from lamina.ir.types import DType
from lamina.tensorrt.enums import DataType

_IR = {
    "FLOAT": DType.F32,
    "HALF": DType.F16,
    "BF16": DType.BF16,
    "INT8": DType.I8,
    "INT32": DType.I32,
    "INT64": DType.I64,
    "BOOL": DType.BOOL,
    "UINT8": DType.U8,
    "FP8": DType.F8E4M3,
    "INT4": DType.I4,
    "FP4": DType.F4E2M1,
    "E8M0": DType.F8E8M0,
}
_NAMES = {dtype: name for name, dtype in _IR.items()}
_WITHOUT_NUMPY = ("BF16", "FP8", "INT4", "FP4", "E8M0")

ALIASES = {
    "float32": "FLOAT",
    "float16": "HALF",
    "bfloat16": "BF16",
    "int8": "INT8",
    "int32": "INT32",
    "int64": "INT64",
    "bool": "BOOL",
    "uint8": "UINT8",
    "fp8": "FP8",
    "int4": "INT4",
    "fp4": "FP4",
    "e8m0": "E8M0",
}
"""Names of element types in the module."""


def to_ir(dtype: DataType) -> DType:
    """Return the IR's element type."""
    return _IR[dtype.name]


def has_dtype(dtype: DType) -> bool:
    """Whether TensorRT has an element type."""
    return dtype in _NAMES


def from_ir(dtype: DType) -> DataType:
    """Return TensorRT's element type; raises KeyError for types that it does not have."""
    return DataType.named(_NAMES[dtype])


def from_numpy(dtype: np.dtype[Any]) -> DataType:
    """Return the element type of an array; raises TypeError for types TensorRT does not have."""
    try:
        return from_ir(DType.of(dtype))
    except KeyError as e:
        raise TypeError(
            f"Could not implicitly convert NumPy data type: {dtype} to TensorRT."
        ) from e


def nptype(trt_type: DataType) -> type:
    """Return NumPy's type for an element type; raises TypeError where NumPy has none."""
    if not isinstance(trt_type, DataType):
        raise TypeError(f"expected a DataType, got {type(trt_type).__name__}")
    if trt_type.name in _WITHOUT_NUMPY:
        raise TypeError(
            f"Could not resolve TensorRT datatype {trt_type} to an equivalent NumPy one."
        )
    found: type = to_ir(trt_type).numpy.type
    return found


def volume(iterable: Iterable[int]) -> int:
    """Return the product of the sizes, 1 for none."""
    return math.prod(iterable)


__all__ = ["nptype", "volume"]
