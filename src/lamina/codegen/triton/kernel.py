"""A Triton kernel of one or more nests, as text with everything that a launch needs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lamina.codegen.nest import LoopNest, Table
from lamina.codegen.triton.nest_triton import NestPrinter
from lamina.codegen.triton.text import TYPES, Text
from lamina.codegen.triton.tile import Tile
from lamina.codegen.triton.tile_values import Pointers
from lamina.ir.dims import Dim

_HEAD = """import triton
import triton.language as tl
from triton.language.extra import libdevice
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait
"""


@dataclass(frozen=True)
class Operand:
    """The address of an argument of the nests."""

    number: int


@dataclass(frozen=True)
class Size:
    """A size that is known when the shapes of the inputs are."""

    value: Dim


Argument = Operand | Table | Size


@dataclass(frozen=True, kw_only=True)
class TritonKernel:
    """One launch: the text of a module, its function, and how to call it.

    ``parameters`` are (name, Triton type), in step with ``arguments``; pointers are aligned to 16
    bytes.  The function also takes ``DEPENDENT``, a constant that says whether it may start before
    the kernel ahead of it has ended.  Equal kernels have equal text.
    """

    source: str
    function: str
    parameters: tuple[tuple[str, str], ...]
    arguments: tuple[Argument, ...]
    divisible: tuple[str, ...]
    programs: Dim
    warps: int


def nest_kernel(
    nests: Sequence[tuple[LoopNest, Tile]],
    name: str,
    *,
    wide: bool = False,
    constants: frozenset[int] = frozenset(),
) -> TritonKernel:
    """Return one kernel that runs independent nests side by side; raises Refusal.

    With ``wide``, places are counted in 64 bits.  The warps are those of the first tile.
    ``constants`` are operands that no kernel writes: a row of them is read while the kernel ahead
    still runs.
    """
    text, pointers = Text(), Pointers()
    if len(nests) > 1:
        text.wait()
    program = text.name("tl.program_id(0).to(tl.int64)" if wide else "tl.program_id(0)")
    total: Dim = 0
    for number, (nest, tile) in enumerate(nests):
        count = tile.programs(nest)
        last = number == len(nests) - 1
        own = program if number == 0 else text.name(f"{program} - {text.dim(total)}")
        printer = NestPrinter(text, nest, tile, pointers, number, wide)
        if len(nests) == 1:
            printer.print(own, constants)
        else:
            inside = f"{own} >= 0" if last else f"({own} >= 0) & ({own} < {text.dim(count)})"
            with text.block(f"if {inside}:"):
                printer.print(own)
        total = total + count
    return _assemble(text, pointers, nests, name, total, wide)


def _assemble(
    text: Text,
    pointers: Pointers,
    nests: Sequence[tuple[LoopNest, Tile]],
    name: str,
    programs: Dim,
    wide: bool,
) -> TritonKernel:
    parameters: list[tuple[str, str]] = []
    arguments: list[Argument] = []
    for (number, operand), dtype in sorted(pointers.types.items(), key=lambda item: item[0]):
        known = operand >= 0
        parameters.append(
            (f"p{operand}" if known else f"t{number}_{-1 - operand}", f"*{TYPES[dtype]}")
        )
        arguments.append(Operand(operand) if known else nests[number][0].tables[-1 - operand])
    divisible = [p for p, _ in parameters]
    for d, parameter in text.dims.items():
        parameters.append((parameter, "i64" if wide else "i32"))
        arguments.append(Size(d))
    signature = ", ".join([*(p for p, _ in parameters), "DEPENDENT: tl.constexpr"])
    lines = [
        _HEAD,
        *sorted(text.helpers),
        f"\n@triton.jit\ndef {name}({signature}):",
        *text.lines,
        "",
    ]
    return TritonKernel(
        source="\n".join(lines),
        function=name,
        parameters=tuple(parameters),
        arguments=tuple(arguments),
        divisible=(*divisible, *text.divisible()),
        programs=programs,
        warps=max(tile.warps for _, tile in nests),
    )
