"""NumPy broadcasting of shapes that may hold symbols."""

from __future__ import annotations

from lamina.errors import TypeMismatch
from lamina.ir.dims import Dim, always_equal, dim_max, is_static, never_equal


def broadcast_dims(a: Dim, b: Dim) -> Dim:
    """Return the size that ``a`` and ``b`` broadcast to; raises TypeMismatch when they cannot.

    A symbol next to a number above one takes that number: the symbol is then either one or equal
    to it.  Two expressions that may differ give their maximum, which is exact because one of them
    must then be one.
    """
    if always_equal(a, b) or b == 1:
        return a
    if a == 1:
        return b
    if is_static(a) and is_static(b):
        raise TypeMismatch(f"sizes {a} and {b} do not broadcast")
    if is_static(a):
        return _with_number(b, a)
    if is_static(b):
        return _with_number(a, b)
    return dim_max(a, b)


def broadcast_shapes(*shapes: tuple[Dim, ...]) -> tuple[Dim, ...]:
    """Return the shape that all ``shapes`` broadcast to; raises TypeMismatch when they cannot."""
    rank = max((len(s) for s in shapes), default=0)
    result: list[Dim] = [1] * rank
    for shape in shapes:
        offset = rank - len(shape)
        for axis, d in enumerate(shape):
            try:
                result[offset + axis] = broadcast_dims(result[offset + axis], d)
            except TypeMismatch:
                text = " and ".join(f"[{','.join(map(str, s))}]" for s in shapes)
                raise TypeMismatch(
                    f"shapes {text} do not broadcast: sizes {result[offset + axis]} and {d} meet "
                    f"on axis {offset + axis - rank}",
                    hint="broadcasting aligns the last axes; sizes must be equal or 1",
                ) from None
    return tuple(result)


def _with_number(symbolic: Dim, number: Dim) -> Dim:
    if never_equal(symbolic, number) and never_equal(symbolic, 1):
        raise TypeMismatch(f"sizes {symbolic} and {number} do not broadcast")
    return number
