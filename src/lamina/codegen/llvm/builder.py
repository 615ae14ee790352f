"""The names that kernel generators import: module, builders, values and types."""

from __future__ import annotations

from lamina.codegen.llvm.control import Branch, Loop
from lamina.codegen.llvm.irtypes import (
    BF16,
    F16,
    F32,
    F64,
    I1,
    I8,
    I16,
    I32,
    I64,
    PTR,
    VOID,
    Type,
)
from lamina.codegen.llvm.module import Builder, Kernel, Module
from lamina.codegen.llvm.values import Function, Operand, Value

__all__ = [
    "BF16",
    "F16",
    "F32",
    "F64",
    "I1",
    "I8",
    "I16",
    "I32",
    "I64",
    "PTR",
    "VOID",
    "Branch",
    "Builder",
    "Function",
    "Kernel",
    "Loop",
    "Module",
    "Operand",
    "Type",
    "Value",
]
