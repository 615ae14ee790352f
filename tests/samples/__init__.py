"""Samples of every operator, one module per module of lamina.ops."""

from __future__ import annotations

import importlib
import pkgutil

from lamina.ir.graph import Op
from tests.samples.sample import Sample


def all_samples() -> dict[type[Op], list[Sample]]:
    """Return the samples of all modules here, by operator."""
    found: dict[type[Op], list[Sample]] = {}
    for info in pkgutil.iter_modules(__path__):
        module = importlib.import_module(f"{__name__}.{info.name}")
        for op, samples in getattr(module, "SAMPLES", {}).items():
            found.setdefault(op, []).extend(samples)
    return found
