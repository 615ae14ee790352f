"""The ways to run a node on the CPU; each file is one source of kernels."""

from __future__ import annotations

from lamina.backends.cpu.tactics.counted import Counted
from lamina.backends.cpu.tactics.generated import Generated
from lamina.backends.cpu.tactics.library_convolution import LibraryConvolution
from lamina.backends.cpu.tactics.library_gemm_convolution import LibraryGemmConvolution
from lamina.backends.cpu.tactics.library_matmul import LibraryMatmul
from lamina.backends.cpu.tactics.library_normalization import LibraryNormalization
from lamina.backends.cpu.tactics.library_pooling import LibraryPooling
from lamina.backends.cpu.tactics.library_quantized import LibraryQuantized
from lamina.backends.cpu.tactics.library_recurrent import LibraryRecurrent
from lamina.backends.cpu.tactics.own_attention import OwnAttention
from lamina.backends.cpu.tactics.own_average import OwnAverage
from lamina.backends.cpu.tactics.own_convolution import OwnConvolution
from lamina.backends.cpu.tactics.own_matmul import OwnMatmul
from lamina.backends.cpu.tactics.own_quantize import OwnQuantize
from lamina.backends.cpu.tactics.own_quantized import OwnQuantized
from lamina.backends.cpu.tactics.own_recurrent import OwnRecurrent
from lamina.backends.cpu.tactics.plain_matmul import PlainMatmul
from lamina.backends.cpu.tactics.shapes import ShapeValues
from lamina.backends.cpu.target import CpuTarget
from lamina.tactics.candidate import Tactic
from lamina.tactics.relaid import Relaid

TACTICS: tuple[Tactic[CpuTarget], ...] = (
    LibraryConvolution(),
    LibraryGemmConvolution(),
    OwnConvolution(),
    LibraryMatmul(),
    OwnMatmul(),
    PlainMatmul(),
    LibraryPooling(),
    LibraryNormalization(),
    LibraryQuantized(),
    OwnQuantized(),
    OwnAverage(),
    OwnQuantize(),
    OwnAttention(),
    LibraryRecurrent(),
    OwnRecurrent(),
    ShapeValues(),
    Counted(),
    Relaid(),
    Generated(),
)
