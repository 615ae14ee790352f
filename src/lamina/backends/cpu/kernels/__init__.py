"""Generators of contraction kernels; each module offers the same five functions."""

from __future__ import annotations

from types import ModuleType

from lamina.backends.cpu.kernels import depthwise, direct, fft, winograd

KERNELS: tuple[ModuleType, ...] = (winograd, fft, depthwise)

WITHOUT_LIBRARY: tuple[ModuleType, ...] = (direct,)
"""Kernels that oneDNN's beat or equal: they serve where there is no oneDNN."""
