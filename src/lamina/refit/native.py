"""Kernels that a section of a CPU holds for refits."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any, Final, Protocol

import numpy as np

from lamina.ir.movement import Measure, Movement
from lamina.ir.recipe import Array
from lamina.plan.plan import Section

_NATIVE: Final = "lamina.backends.cpu.weights.native"


class Native(Protocol):
    """Kernels that a section holds for refits."""

    def moved(self, movements: Sequence[Movement], out: Array) -> bool:
        """Compute what movements give together into bytes; False, and nothing, if it cannot."""

    def measured(self, movement: Movement) -> Measure | None:
        """Return what is known of the numbers of a movement; None for what it cannot."""

    def sums(self, movement: Movement) -> Array | None:
        """Return the sums of 8-bit integers with the same first index; None without a kernel."""

    def winograd(
        self, w: Array, factor: Array | None, arguments: Sequence[Any], out: Array
    ) -> bool:
        """Compute a transform into bytes; False, having done nothing, for what it cannot."""

    def winograd_of(self, movement: Movement, arguments: Sequence[Any], out: Array) -> bool:
        """Compute a transform of what a movement gives."""

    def converted(self, a: Array, dtype: np.dtype[Any]) -> Array:
        """Return ``a.astype(dtype)``."""


def native_of(section: Section) -> Native | None:
    """Return the kernels of a section; None for one of another device, or without any."""
    if dict(section.target).get("device") != "cpu":
        return None
    found: Native | None = importlib.import_module(_NATIVE).native_functions(section)
    return found
