"""The types of LLVM values that kernels use, with their text and constants."""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass, replace

_FLOAT_TEXT = {16: "half", 32: "float", 64: "double"}


@dataclass(frozen=True, slots=True)
class Type:
    """An LLVM scalar (``lanes == 0``) or vector type.

    ``kind`` is "float", "bfloat", "int", "ptr" or "void"; integers have no sign.
    """

    kind: str
    bits: int
    lanes: int = 0

    def __str__(self) -> str:
        text = self.scalar_text
        return f"<{self.lanes} x {text}>" if self.lanes else text

    @property
    def scalar_text(self) -> str:
        """Return the LLVM text of one lane."""
        if self.kind == "float":
            return _FLOAT_TEXT[self.bits]
        if self.kind == "int":
            return f"i{self.bits}"
        return self.kind

    @property
    def mangled(self) -> str:
        """Return the type's name in LLVM's overloaded intrinsics, such as ``v16f32``."""
        code = {"float": "f", "bfloat": "bf", "int": "i", "ptr": "p"}[self.kind]
        name = "p0" if self.kind == "ptr" else f"{code}{self.bits}"
        return f"v{self.lanes}{name}" if self.lanes else name

    @property
    def scalar(self) -> Type:
        """Return the type of one lane."""
        return replace(self, lanes=0)

    def vector(self, lanes: int) -> Type:
        """Return the vector of ``lanes`` values of this scalar type; 0 or 1 lanes mean a scalar."""
        return replace(self, lanes=lanes if lanes > 1 else 0)

    def like(self, other: Type) -> Type:
        """Return this scalar type with the lanes of ``other``."""
        return replace(self, lanes=other.lanes)

    @property
    def is_float(self) -> bool:
        """Tell whether lanes are floating-point numbers."""
        return self.kind in ("float", "bfloat")

    @property
    def is_int(self) -> bool:
        """Tell whether lanes are integers."""
        return self.kind == "int"

    @property
    def nbytes(self) -> int:
        """Return the bytes that one value takes in memory."""
        return max(1, self.bits // 8) * max(1, self.lanes)

    def constant(self, value: float) -> str:
        """Return the LLVM text of a constant, repeated in each lane of a vector."""
        text = self._scalar_constant(value)
        return f"splat ({self.scalar_text} {text})" if self.lanes else text

    def _scalar_constant(self, value: float) -> str:
        if self.kind == "ptr":
            if value:
                raise ValueError("the only pointer constant is null")
            return "null"
        if self.kind == "int":
            return str(int(value))
        if self.kind == "bfloat":
            return f"0xR{_f32_bits(value) >> 16:04X}"
        if self.bits == 16:
            return f"0xH{struct.unpack('<H', struct.pack('<e', value))[0]:04X}"
        if self.bits == 32:
            value = struct.unpack("<f", struct.pack("<I", _f32_bits(value)))[0]
        return f"0x{struct.unpack('<Q', struct.pack('<d', value))[0]:016X}"


def _f32_bits(value: float) -> int:
    try:
        packed = struct.pack("<f", value)
    except OverflowError:
        packed = struct.pack("<f", math.copysign(math.inf, value))
    bits: int = struct.unpack("<I", packed)[0]
    return bits


VOID = Type("void", 0)
PTR = Type("ptr", 64)
I1 = Type("int", 1)
I8 = Type("int", 8)
I16 = Type("int", 16)
I32 = Type("int", 32)
I64 = Type("int", 64)
F16 = Type("float", 16)
BF16 = Type("bfloat", 16)
F32 = Type("float", 32)
F64 = Type("float", 64)
