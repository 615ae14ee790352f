"""Generators of contraction kernels; each module offers the same five functions."""

from __future__ import annotations

from types import ModuleType

from lamina.backends.cpu.kernels import depthwise, winograd

KERNELS: tuple[ModuleType, ...] = (winograd, depthwise)
