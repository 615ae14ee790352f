"""The forms that values take on the CPU, and where their elements lie."""

from __future__ import annotations

from enum import StrEnum

from lamina.backends.cpu.onednn.memory import Layout as LibraryLayout
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
    if type.dtype in (DType.I8, DType.U8):
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


def library_layout(type: TensorType, where: Layout) -> LibraryLayout:
    """Return a layout as a request to oneDNN; dimensions may be expressions."""
    dims: tuple[int, ...] = type.shape  # type: ignore[assignment]
    dtype = type.dtype.value
    if not where.is_blocked:
        return LibraryLayout(dims, dtype, strides=_canonical_strides(type, where))  # type: ignore[arg-type]
    dense = LibraryLayout.blocked(dims, where.block, dtype)
    own = Layout.blocked(type.shape, where.block).strides
    # The stride of a batch of one does not matter, and generic strides would cost the fast code.
    if where.strides == own or (dims[0] == 1 and where.strides[1:] == own[1:]):
        return dense
    return dense.within((dims[0], where.strides[0] // where.strides[1] * BLOCK, *dims[2:]))  # type: ignore[arg-type]


def _canonical_strides(type: TensorType, where: Layout) -> tuple[Dim, ...]:
    """Return the strides of a dense layout where axes of size 1 are all that differ from it.

    The stride of such an axis does not matter, but oneDNN knows its fast layouts by it.
    """
    dense_layouts = [Layout.dense(type.shape)]
    if type.rank > 2:
        dense_layouts.append(Layout.channels_last(type.shape))
    if any(where.strides == dense.strides for dense in dense_layouts):
        return where.strides
    for dense in dense_layouts:
        rows = zip(type.shape, where.strides, dense.strides, strict=True)
        if all(d == 1 or have == want for d, have, want in rows):
            return dense.strides
    return where.strides
