"""How element types are called in the signature of a Triton kernel."""

from __future__ import annotations

from typing import Final

from lamina.ir.types import DType

TRITON_TYPES: Final = {
    DType.F64: "fp64",
    DType.F32: "fp32",
    DType.F16: "fp16",
    DType.BF16: "bf16",
    DType.I8: "i8",
    DType.U8: "u8",
    DType.I16: "i16",
    DType.U16: "u16",
    DType.I32: "i32",
    DType.U32: "u32",
    DType.I64: "i64",
    DType.U64: "u64",
    DType.BOOL: "i8",
    DType.F8E4M3: "fp8e4nv",
    DType.F8E5M2: "fp8e5",
}
"""Booleans lie in bytes that are 0 or 1.  Types without an entry have no kernels."""
