"""The ways to run a node on the CPU; each file is one source of kernels."""

from __future__ import annotations

from lamina.backends.cpu.tactics.candidate import Tactic
from lamina.backends.cpu.tactics.generated import Generated
from lamina.backends.cpu.tactics.library_convolution import LibraryConvolution
from lamina.backends.cpu.tactics.library_matmul import LibraryMatmul
from lamina.backends.cpu.tactics.library_pooling import LibraryPooling
from lamina.backends.cpu.tactics.library_quantized import LibraryQuantized
from lamina.backends.cpu.tactics.own_convolution import OwnConvolution

TACTICS: tuple[Tactic, ...] = (
    LibraryConvolution(),
    OwnConvolution(),
    LibraryMatmul(),
    LibraryPooling(),
    LibraryQuantized(),
    Generated(),
)
