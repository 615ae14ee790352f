"""Layouts as oneDNN is asked for them."""

from __future__ import annotations

from lamina.backends.cpu.onednn.memory import Layout as LibraryLayout
from lamina.codegen.layout import Layout
from lamina.ir.dims import Dim
from lamina.ir.types import TensorType
from lamina.tactics.form import BLOCK


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
