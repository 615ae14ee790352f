"""Element types and the types of values."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

import ml_dtypes
import numpy as np

from lamina.ir.dims import Dim, is_static, substitute


class DType(Enum):
    """Element type of a tensor; the value is its name in the text form.

    Arithmetic is defined on f64, f32, f16, bf16, the integers and bool.  The 8-bit floats and the
    4- and 2-bit types are storage types: they are only cast, quantized, dequantized and moved.
    ``STR`` exists for values that pass through host calls.
    """

    F64 = "f64"
    F32 = "f32"
    F16 = "f16"
    BF16 = "bf16"
    I8 = "i8"
    U8 = "u8"
    I16 = "i16"
    U16 = "u16"
    I32 = "i32"
    U32 = "u32"
    I64 = "i64"
    U64 = "u64"
    BOOL = "bool"
    F8E4M3 = "f8e4m3"
    F8E4M3FNUZ = "f8e4m3fnuz"
    F8E5M2 = "f8e5m2"
    F8E5M2FNUZ = "f8e5m2fnuz"
    F8E8M0 = "f8e8m0"
    F4E2M1 = "f4e2m1"
    I4 = "i4"
    U4 = "u4"
    I2 = "i2"
    U2 = "u2"
    C64 = "c64"
    C128 = "c128"
    STR = "str"

    @property
    def is_float(self) -> bool:
        """Whether arithmetic on this type rounds (storage floats included)."""
        return self.value[0] == "f" or self is DType.BF16

    @property
    def is_integer(self) -> bool:
        """Whether this is a signed or unsigned integer type (bool is not)."""
        return self.value[0] in "iu"

    @property
    def is_signed(self) -> bool:
        """Whether negative values exist."""
        return self.is_float or self.value[0] == "i"

    @property
    def bits(self) -> int:
        """Size of one element in a packed buffer, in bits; 0 for strings."""
        return _BITS[self]

    @property
    def numpy(self) -> np.dtype[np.generic]:
        """Return the NumPy type that holds one element (sub-byte types take a byte each)."""
        return _NUMPY[self]

    @property
    def itemsize(self) -> int:
        """Size of one element in an array, in bytes."""
        return _NUMPY[self].itemsize

    @staticmethod
    def of(dtype: np.dtype[np.generic]) -> DType:
        """Return the element type of a NumPy array; raises KeyError for none of ours."""
        if dtype.kind in "UST":
            return DType.STR
        return _FROM_NUMPY[dtype]

    def __str__(self) -> str:
        return self.value


_NUMPY: dict[DType, np.dtype[np.generic]] = {
    DType.F64: np.dtype(np.float64),
    DType.F32: np.dtype(np.float32),
    DType.F16: np.dtype(np.float16),
    DType.BF16: np.dtype(ml_dtypes.bfloat16),
    DType.I8: np.dtype(np.int8),
    DType.U8: np.dtype(np.uint8),
    DType.I16: np.dtype(np.int16),
    DType.U16: np.dtype(np.uint16),
    DType.I32: np.dtype(np.int32),
    DType.U32: np.dtype(np.uint32),
    DType.I64: np.dtype(np.int64),
    DType.U64: np.dtype(np.uint64),
    DType.BOOL: np.dtype(np.bool_),
    DType.F8E4M3: np.dtype(ml_dtypes.float8_e4m3fn),
    DType.F8E4M3FNUZ: np.dtype(ml_dtypes.float8_e4m3fnuz),
    DType.F8E5M2: np.dtype(ml_dtypes.float8_e5m2),
    DType.F8E5M2FNUZ: np.dtype(ml_dtypes.float8_e5m2fnuz),
    DType.F8E8M0: np.dtype(ml_dtypes.float8_e8m0fnu),
    DType.F4E2M1: np.dtype(ml_dtypes.float4_e2m1fn),
    DType.I4: np.dtype(ml_dtypes.int4),
    DType.U4: np.dtype(ml_dtypes.uint4),
    DType.I2: np.dtype(ml_dtypes.int2),
    DType.U2: np.dtype(ml_dtypes.uint2),
    DType.C64: np.dtype(np.complex64),
    DType.C128: np.dtype(np.complex128),
    DType.STR: np.dtype(object),
}
_FROM_NUMPY = {v: k for k, v in _NUMPY.items()}
_SMALL_BITS = {DType.I4: 4, DType.U4: 4, DType.F4E2M1: 4, DType.I2: 2, DType.U2: 2, DType.STR: 0}
_BITS = {d: _SMALL_BITS.get(d, n.itemsize * 8) for d, n in _NUMPY.items()}


@dataclass(frozen=True)
class TensorType:
    """Element type and shape; a dimension is an int or an integer expression over symbols."""

    dtype: DType
    shape: tuple[Dim, ...]

    @property
    def rank(self) -> int:
        """Number of dimensions."""
        return len(self.shape)

    @property
    def is_static(self) -> bool:
        """Whether every dimension is a number."""
        return all(is_static(d) for d in self.shape)

    @property
    def static_shape(self) -> tuple[int, ...]:
        """Return the shape as numbers; an assertion fails when it has symbols."""
        assert self.is_static, f"{self} is not static"
        return tuple(int(d) for d in self.shape)  # type: ignore[arg-type]

    @property
    def size(self) -> Dim:
        """Number of elements."""
        n: Dim = 1
        for d in self.shape:
            n = n * d
        return n

    def with_shape(self, shape: tuple[Dim, ...]) -> TensorType:
        """Return the same element type with another shape."""
        return TensorType(self.dtype, shape)

    def with_dtype(self, dtype: DType) -> TensorType:
        """Return the same shape with another element type."""
        return TensorType(dtype, self.shape)

    def substitute(self, env: dict[str, Dim]) -> TensorType:
        """Replace symbols by other dimensions."""
        return TensorType(self.dtype, tuple(substitute(d, env) for d in self.shape))

    def __str__(self) -> str:
        return f"{self.dtype.value}[{','.join(map(str, self.shape))}]"


@dataclass(frozen=True)
class SequenceType:
    """A list of values of one type; only host calls and control flow handle it."""

    element: ValueType

    def substitute(self, env: dict[str, Dim]) -> SequenceType:
        """Replace symbols by other dimensions."""
        return SequenceType(self.element.substitute(env))

    def __str__(self) -> str:
        return f"seq<{self.element}>"


@dataclass(frozen=True)
class OptionalType:
    """A value of a type, or nothing; only host calls and control flow handle it."""

    element: ValueType

    def substitute(self, env: dict[str, Dim]) -> OptionalType:
        """Replace symbols by other dimensions."""
        return OptionalType(self.element.substitute(env))

    def __str__(self) -> str:
        return f"optional<{self.element}>"


ValueType = TensorType | SequenceType | OptionalType
