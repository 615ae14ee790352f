"""Checks that typing rules share; every failure is a TypeMismatch that states both facts."""

from __future__ import annotations

from lamina.errors import TypeMismatch
from lamina.ir.dims import Dim, never_equal
from lamina.ir.types import DType, TensorType

STORAGE_TYPES = frozenset(
    {
        DType.F8E4M3,
        DType.F8E4M3FNUZ,
        DType.F8E5M2,
        DType.F8E5M2FNUZ,
        DType.F8E8M0,
        DType.F4E2M1,
        DType.I4,
        DType.U4,
        DType.I2,
        DType.U2,
    }
)
"""Types without arithmetic: they are only cast, quantized, dequantized and moved."""


def same_dtype(name: str, a: TensorType, other: str, b: TensorType) -> None:
    """Require equal element types."""
    if a.dtype is not b.dtype:
        raise TypeMismatch(
            f"{name} is {a.dtype} but {other} is {b.dtype}",
            hint="insert a cast before the operator",
        )


def arithmetic(name: str, x: TensorType) -> None:
    """Require a float or integer type that has arithmetic."""
    if not (x.dtype.is_float or x.dtype.is_integer) or x.dtype in STORAGE_TYPES:
        raise TypeMismatch(f"{name} must hold numbers with arithmetic, got {x}", hint=_cast_hint(x))


def floating(name: str, x: TensorType) -> None:
    """Require f64, f32, f16 or bf16."""
    if not x.dtype.is_float or x.dtype in STORAGE_TYPES:
        raise TypeMismatch(f"{name} must be a float tensor, got {x}", hint=_cast_hint(x))


def integral(name: str, x: TensorType) -> None:
    """Require an integer type of at least 8 bits."""
    if not x.dtype.is_integer or x.dtype in STORAGE_TYPES:
        raise TypeMismatch(f"{name} must be an integer tensor, got {x}")


def boolean(name: str, x: TensorType) -> None:
    """Require bool."""
    if x.dtype is not DType.BOOL:
        raise TypeMismatch(f"{name} must be bool, got {x}")


def has_dtype(name: str, x: TensorType, *allowed: DType) -> None:
    """Require one of the ``allowed`` element types."""
    if x.dtype not in allowed:
        raise TypeMismatch(f"{name} must be {' or '.join(map(str, allowed))}, got {x}")


def rank_is(name: str, x: TensorType, rank: int) -> None:
    """Require exactly ``rank`` dimensions."""
    if x.rank != rank:
        raise TypeMismatch(f"{name} must have {rank} dimensions, got {x.rank} ({x})")


def rank_at_least(name: str, x: TensorType, rank: int) -> None:
    """Require at least ``rank`` dimensions."""
    if x.rank < rank:
        raise TypeMismatch(f"{name} must have at least {rank} dimensions, got {x.rank} ({x})")


def axis_in(axis: int, x: TensorType) -> None:
    """Require ``0 <= axis < rank``."""
    if not 0 <= axis < x.rank:
        raise TypeMismatch(
            f"axis {axis} is not one of the {x.rank} axes of {x}",
            hint="axes are counted from 0; negative axes must be resolved first",
        )


def same_size(name: str, a: Dim, other: str, b: Dim) -> None:
    """Require sizes that can be equal."""
    if never_equal(a, b):
        raise TypeMismatch(f"{name} is {a} but {other} is {b}")


def shape_is(name: str, x: TensorType, shape: tuple[Dim, ...]) -> None:
    """Require a shape that can be equal to ``shape``."""
    wanted = f"[{','.join(map(str, shape))}]"
    if x.rank != len(shape) or any(never_equal(a, b) for a, b in zip(x.shape, shape, strict=True)):
        raise TypeMismatch(f"{name} must have the shape {wanted}, got {x}")


def broadcasts_to(name: str, x: TensorType, shape: tuple[Dim, ...]) -> None:
    """Require a shape that broadcasts to ``shape`` without changing it."""
    offset = len(shape) - x.rank
    fits = offset >= 0 and all(
        d == 1 or not never_equal(d, shape[offset + i]) for i, d in enumerate(x.shape)
    )
    if not fits:
        raise TypeMismatch(f"{name} {x} does not broadcast to [{','.join(map(str, shape))}]")


def entries(name: str, values: tuple[object, ...], count: int) -> None:
    """Require one attribute entry per axis."""
    if len(values) != count:
        raise TypeMismatch(f"{name} has {len(values)} entries for {count} axes")


def _cast_hint(x: TensorType) -> str | None:
    return "cast or dequantize it first" if x.dtype in STORAGE_TYPES else None
