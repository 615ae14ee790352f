"""Copies between layouts."""

from __future__ import annotations

from lamina.backends.cpu.form import library_layout
from lamina.backends.cpu.onednn.reorder import Reorder
from lamina.backends.cpu.tactics.candidate import CpuTarget, Draft, Placement, Read, Write
from lamina.backends.cpu.tactics.library_step import library_draft
from lamina.errors import BuildError
from lamina.ir.types import TensorType


def reorder_draft(type: TensorType, placement: Placement, target: CpuTarget) -> Draft:
    """Return the step that copies a value from one layout into another."""
    source = library_layout(type, placement.operands[0])
    destination = library_layout(type, placement.results[0])
    if target.library is None:
        raise BuildError(f"cannot reorder {type} without oneDNN")
    return library_draft(
        target, Reorder(source, destination), {"src": Read(0), "dst": Write(0)}, {}
    )
