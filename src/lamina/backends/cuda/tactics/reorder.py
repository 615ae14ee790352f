"""Copies between layouts."""

from __future__ import annotations

from lamina.backends.cuda.request import CudaDraft
from lamina.backends.cuda.tactics.generated import copy_draft
from lamina.backends.cuda.target import CudaTarget
from lamina.codegen.kernels import Reject, copy_kernel
from lamina.errors import BuildError
from lamina.ir.types import TensorType
from lamina.tactics.candidate import Placement


def reorder_draft(type: TensorType, placement: Placement, target: CudaTarget) -> CudaDraft:
    """Return the step that copies a value from one layout into another."""
    kernel = copy_kernel(type, placement.operands[0], placement.results[0])
    if isinstance(kernel, Reject):
        raise BuildError(f"cannot reorder {type}: {kernel.reason}")
    return copy_draft(kernel, target)
