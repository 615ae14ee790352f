"""The forms that values take, and where their elements lie."""

from __future__ import annotations

from enum import StrEnum

from lamina.codegen.layout import Layout
from lamina.ir.dims import Dim, ceildiv, divides, product
from lamina.ir.types import DType, TensorType

BLOCK = 16


class Form(StrEnum):
    """A family of layouts: row-major, channels last (NHWC), or blocks of 16 channels (nChw16c)."""

    PLAIN = "plain"
    CHANNELS_LAST = "channels_last"
    BLOCKED = "blocked"


_BLOCKED_TYPES = (DType.F32, DType.BF16)


def possible_forms(type: object) -> tuple[Form, ...]:
    """Return the forms that a value of this type may have, the default first."""
    if not isinstance(type, TensorType) or not 3 <= type.rank <= 5:
        return (Form.PLAIN,)
    if type.dtype in (DType.I8, DType.U8, DType.F16):
        return (Form.PLAIN, Form.CHANNELS_LAST)
    if type.dtype not in _BLOCKED_TYPES:
        return (Form.PLAIN,)
    return (Form.PLAIN, Form.CHANNELS_LAST, Form.BLOCKED)


def layout(type: TensorType, form: Form | str) -> Layout:
    """Return where the elements of a dense tensor of this form lie."""
    if form == Form.CHANNELS_LAST:
        return Layout.channels_last(type.shape)
    if form == Form.BLOCKED:
        return Layout.blocked(type.shape, BLOCK)
    return Layout.dense(type.shape)


def size_bytes(type: TensorType, form: Form | str) -> Dim:
    """Return the bytes of a dense tensor of this form, the padding of blocks included."""
    if form == Form.BLOCKED:
        n, c, *rest = type.shape
        return product((n, ceildiv(c, BLOCK) * BLOCK, *rest)) * type.dtype.itemsize
    return type.size * type.dtype.itemsize


def same_bytes(type: TensorType, a: Form | str, b: Form | str) -> bool:
    """Whether two forms of a type put every element at the same place."""
    if a == b:
        return True
    whole_blocks = divides(BLOCK, type.shape[1])
    pixels = product(type.shape[2:])
    if Form.BLOCKED not in (a, b):
        return pixels == 1 or type.shape[1] == 1
    if not whole_blocks:
        return False
    return pixels == 1 if Form.PLAIN in (a, b) else type.shape[1] == BLOCK or pixels == 1
