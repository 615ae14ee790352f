"""How element types are called in the signature of a Triton kernel."""

from __future__ import annotations

from typing import Final

from lamina.codegen.triton.text import TYPES
from lamina.ir.types import DType

TRITON_TYPES: Final = {**TYPES, DType.F8E4M3: "fp8e4nv", DType.F8E5M2: "fp8e5"}
"""Booleans lie in bytes that are 0 or 1.  Types without an entry have no kernels."""

BOXES: Final = "tensordesc"
"""Begins the type of a parameter that is a tensor map, as ``tensordesc<fp16[64,32]>``."""
