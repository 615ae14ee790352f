"""Copies between layouts."""

from __future__ import annotations

import dataclasses
from typing import Final

from lamina.backends.cpu.library_layout import library_layout
from lamina.backends.cpu.onednn.enums import DTYPE
from lamina.backends.cpu.onednn.reorder import Reorder
from lamina.backends.cpu.tactics.generated import generated_draft
from lamina.backends.cpu.tactics.library_step import library_draft
from lamina.backends.cpu.target import CpuTarget
from lamina.codegen.kernels import Reject, copy_kernel
from lamina.codegen.layout import Layout
from lamina.errors import BuildError
from lamina.ir.attributes import attribute_symbols
from lamina.ir.types import TensorType
from lamina.tactics.candidate import Draft, Placement, Read, Write

_ALONE_BYTES: Final = 1 << 16
"""A smaller copy is done before a second thread wakes."""


def reorder_draft(type: TensorType, placement: Placement, target: CpuTarget) -> Draft:
    """Return the step that copies a value from one layout into another."""
    source, destination = placement.operands[0], placement.results[0]
    known = all(s in target.env for s in attribute_symbols(type))
    foreign = target.library is None or type.dtype.value not in DTYPE or not known
    if foreign or _keeps_rows(source, destination):
        kernel = copy_kernel(type, source, destination)
        if isinstance(kernel, Reject):
            raise BuildError(f"cannot reorder {type}: {kernel.reason}")
        return generated_draft(kernel, target, placement.name, 1, 1)
    spec = Reorder(library_layout(type, source), library_layout(type, destination))
    draft = library_draft(target, spec, {"src": Read(0), "dst": Write(0)}, {})
    size = type.substitute(dict(target.env)).size * type.dtype.itemsize
    alone = isinstance(size, int) and size < _ALONE_BYTES
    return dataclasses.replace(draft, threads=1) if alone else draft


def _keeps_rows(source: Layout, destination: Layout) -> bool:
    """Whether neighbours stay neighbours; the library may move such elements one by one."""
    if source.is_blocked or destination.is_blocked:
        return False
    return any(a == b == 1 for a, b in zip(source.strides, destination.strides, strict=True))
